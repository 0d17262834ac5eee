"""Writes the goldens of distillation: small BERTs learn of one of tools/golden_hf.py, in f64.

    python tools/golden_distill.py            writes tests/golden/distill/<case>.safetensors
    python tools/golden_distill.py --check    computes them again and compares with the files

Needs torch, transformers and safetensors. The teacher is the model of `tests/golden/hf/bert_clf`; a file has the student's weights under
the names of Headstart, and what comes of them.

Owns: the students, the losses as their papers have them, the steps. Never: the formula of a model.
"""

import sys

import golden_files
import golden_hf
import numpy as np
import torch
import transformers

FOLDER = golden_hf.FOLDER.parent / "distill"
# Hidden states; relations of attention and of values, as many heads in both (MiniLM); of queries, keys and values each with itself, of an
# earlier layer (MiniLMv2); a student that reads other ids, of other number, and learns vectors and answers of whole inputs, or hidden states of
# those tokens that `meeting` says are the same; of single texts, and of pairs with their token types.
CASES = [
    {"name": "bert", "teacher": "bert_clf", "seed": 201, "embed_dim": 12, "hidden_dim": 17, "num_heads": 3, "num_layers": 3,
     "layers": "1:1,3:2", "token_loss": 0.7, "sentence_loss": 1.3},
    {"name": "relations", "teacher": "bert_clf", "seed": 202, "embed_dim": 12, "hidden_dim": 17, "num_heads": 3, "num_layers": 2,
     "relation_loss": 1.7, "sentence_loss": 0.6},
    {"name": "relation_heads", "teacher": "bert_clf", "seed": 203, "embed_dim": 18, "hidden_dim": 11, "num_heads": 2, "num_layers": 2,
     "layers": "2:2", "token_loss": 0.4, "relation_loss": 1.1, "relation_heads": 9, "relation_layer": 1},
    {"name": "vocabulary", "teacher": "bert_clf", "seed": 204, "embed_dim": 12, "hidden_dim": 17, "num_heads": 2, "num_layers": 2,
     "vocab_size": 61, "lengths": [9, 14, 3, 23], "sentence_loss": 1.3, "label_loss": 0.9, "temperature": 2.0},
    {"name": "meeting", "teacher": "bert_clf", "seed": 205, "embed_dim": 12, "hidden_dim": 17, "num_heads": 2, "num_layers": 3,
     "vocab_size": 61, "lengths": [9, 14, 3, 23], "layers": "2:1,3:2", "token_loss": 0.8, "sentence_loss": 0.5},
    {"name": "pairs", "teacher": "bert_clf", "seed": 206, "embed_dim": 12, "hidden_dim": 17, "num_heads": 2, "num_layers": 2,
     "vocab_size": 61, "lengths": [9, 14, 3, 23], "pairs": True, "layers": "2:2", "token_loss": 0.8, "sentence_loss": 0.5},
]
BLOCK = {"attention.in_proj": ["attention.self.query", "attention.self.key", "attention.self.value"],
         "attention.out_proj": ["attention.output.dense"], "norm_1": ["attention.output.LayerNorm"],
         "feed_forward.up": ["intermediate.dense"], "feed_forward.down": ["output.dense"], "norm_2": ["output.LayerNorm"]}
TABLES = {"token_embedding": ["word_embeddings"], "position_embedding": ["position_embeddings"],
          "token_type_embedding": ["token_type_embeddings"], "embedding_norm": ["LayerNorm"]}
HEADS = {"classification_head.dense": "bert.pooler.dense", "classification_head": "classifier"}


def students(case):
    """The student and its linears, and its parameters: our name to parts from above to below."""
    random = np.random.RandomState(case["seed"])
    width, teacher = case["embed_dim"], golden_hf.BERT["hidden_size"]
    classes = next(c for c in golden_hf.CASES if c["name"] == case["teacher"])["config"]["num_labels"]
    config = transformers.BertConfig(**(golden_hf.BERT | dict(
        hidden_size=width, num_hidden_layers=case["num_layers"], num_attention_heads=case["num_heads"],
        intermediate_size=case["hidden_dim"], vocab_size=case.get("vocab_size", golden_hf.BERT["vocab_size"]), num_labels=classes)))
    classifies = "label_loss" in case
    model = transformers.BertForSequenceClassification(config) if classifies else transformers.BertModel(
        config, add_pooling_layer=False)
    model = model.double().eval()
    model.set_attn_implementation("sdpa")
    heads = {f"teacher_heads.{layer}": torch.nn.Linear(width, teacher).double() for layer, _ in layers_of(case)}
    if "sentence_loss" in case:
        heads["teacher_heads.sentences"] = torch.nn.Linear(width, teacher).double()
    named = {}
    found = dict(model.named_parameters())
    trunk = "bert." if classifies else ""
    for kind in ("weight", "bias"):
        for ours, parts in TABLES.items():
            theirs = [found.get(f"{trunk}embeddings.{part}.{kind}") for part in parts]
            if theirs[0] is not None:
                named[f"transformer.{ours}.{kind}"] = theirs
        for layer in range(case["num_layers"]):
            for ours, parts in BLOCK.items():
                theirs = [found[f"{trunk}encoder.layer.{layer}.{p}.{kind}"] for p in parts]
                named[f"transformer.layers.{layer}.{ours}.{kind}"] = theirs
        for ours, linear in heads.items():
            named[f"{ours}.{kind}"] = [getattr(linear, kind)]
        for ours, theirs in HEADS.items() if classifies else []:
            named[f"{ours}.{kind}"] = [found[f"{theirs}.{kind}"]]
    assert len({id(p) for parts in named.values() for p in parts}) == len(found) + 2 * len(heads)
    for name, parts in named.items():
        for p in parts:
            values = random.standard_normal(p.shape)
            if "norm" in name:
                values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
            elif p.dim() == 1:
                values = 0.1 * values
            else:
                values = values / np.sqrt(p.shape[1])
            golden_files.fill(p, values)
    return model, heads, named


def layers_of(case):
    """Student's and teacher's layers whose hidden states are compared."""
    return [tuple(map(int, pair.split(":"))) for pair in case.get("layers", "").split(",") if pair]


class Reading:
    """What a model makes of its inputs: hidden states, the vectors of inputs, answers, and the queries, keys and values of a layer."""

    def __init__(self, model, inputs, layer):
        trunk = getattr(model, "bert", model)
        found, attention = {}, trunk.encoder.layer[layer - 1].attention.self
        hooks = [getattr(attention, part).register_forward_hook(
            lambda _module, _inputs, out, part=part: found.update({part: out})) for part in ("query", "key", "value")]
        out = model(**inputs, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        self.mask = inputs["attention_mask"].bool()
        self.rows = self.mask.nonzero(as_tuple=True)
        self.states, self.logits, self.parts = out.hidden_states, getattr(out, "logits", None), found
        self.pooled = (self.states[-1] * self.mask.unsqueeze(-1)).sum(1) / self.mask.sum(1, keepdim=True)

    def relation(self, a, b, heads):
        """For each input log softmax(a b^T / sqrt(d)) by heads (Wang et al. 2020, equations 4, 8 and 9; 2021, equation 3)."""
        for length, a, b in zip(self.mask.sum(1), self.parts[a], self.parts[b]):
            a, b = (x[:length].unflatten(-1, (heads, -1)).transpose(0, 1) for x in (a, b))
            yield torch.log_softmax(a @ b.transpose(1, 2) / a.shape[-1] ** 0.5, -1)


def mean_distance(rendered, target):
    """The mean of squared distances to rows of root mean square 1."""
    target = target / target.pow(2).mean(-1, keepdim=True).sqrt()
    return (rendered - target).pow(2).mean()


def divergence(case, own, there):
    """The sum over relations of the mean over tokens and heads of KL(teacher | student)."""
    pairs = [("query", "key"), ("value", "value")]
    if "relation_heads" in case:
        pairs = [(part, part) for part in ("query", "key", "value")]
    heads = case.get("relation_heads", case["num_heads"])
    terms = [torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")
             for pair in pairs for q, p in zip(own.relation(*pair, heads), there.relation(*pair, heads))]
    return sum(terms) / (own.mask.sum() * heads)


def losses_of(case, heads, own, there):
    """The parts of the loss by name."""
    found = {}
    if "token_loss" in case:
        tokens = [mean_distance(heads[f"teacher_heads.{s}"](own.states[s][own.rows]), there.states[t][there.rows])
                  for s, t in layers_of(case)]
        found["token_loss"] = sum(tokens) / len(tokens)
    if "relation_loss" in case:
        found["relation_loss"] = divergence(case, own, there)
    if "sentence_loss" in case:
        found["sentence_loss"] = mean_distance(heads["teacher_heads.sentences"](own.pooled), there.pooled)
    if "label_loss" in case:
        t = case["temperature"]
        q, p = (torch.log_softmax(reading.logits / t, -1) for reading in (own, there))
        found["label_loss"] = t * t * torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
    return found


def draw_meeting(case, lengths):
    """Of each input some rows of both models, in order: numbers of inputs, rows here, rows there."""
    random = np.random.RandomState(case["seed"] + 1000)
    pairs = []
    for i, (here, there) in enumerate(zip(*lengths)):
        count = min(here, there) // 2 + 1
        rows = [sorted(random.choice(length, count, replace=False)) for length in (here, there)]
        pairs += [(i, *pair) for pair in zip(*rows)]
    return torch.tensor(np.array(pairs)).T


def compute(case):
    base = next(c for c in golden_hf.CASES if c["name"] == case["teacher"])
    teacher = golden_hf.build(base)
    pairs = case.get("pairs", base["pairs"])
    for_teacher = golden_hf.draw_inputs(base | {"pairs": pairs}, teacher.config)
    for_teacher.pop("labels")
    model, heads, named = students(case)
    inputs = for_teacher
    if "lengths" in case:
        inputs = golden_hf.draw_inputs(case | {"config": {}, "pairs": pairs, "architecture": ""}, model.config)
        inputs.pop("labels")
    with torch.no_grad():
        there = Reading(teacher, for_teacher, case.get("relation_layer", teacher.config.num_hidden_layers))
    mask = inputs["attention_mask"].bool()
    tensors = {name: torch.cat([p.detach() for p in parts]).float() for name, parts in named.items()}
    tensors |= {"lengths": mask.sum(1).to(torch.int32), "input_ids": inputs["input_ids"][mask].to(torch.int32)}
    if "lengths" in case:
        tensors |= {"teacher_lengths": there.mask.sum(1).to(torch.int32),
                    "teacher_ids": for_teacher["input_ids"][there.mask].to(torch.int32)}
    if "pairs" in case:
        tensors |= {"token_types": inputs["token_type_ids"][mask].to(torch.int32),
                    "teacher_types": for_teacher["token_type_ids"][there.mask].to(torch.int32)}
    meeting = None
    if "lengths" in case and "token_loss" in case:
        meeting = draw_meeting(case, [mask.sum(1).tolist(), there.mask.sum(1).tolist()])
        there.rows = (meeting[0], meeting[2])
        tensors["meeting"] = meeting.T.flatten().to(torch.int32)
    parameters = [p for parts in named.values() for p in parts]
    adam = torch.optim.AdamW(parameters, golden_hf.LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, norms, distances = [], [], []
    for step in range(golden_hf.STEPS):
        own = Reading(model, inputs, case["num_layers"])
        if meeting is not None:
            own.rows = (meeting[0], meeting[1])
        parts = losses_of(case, heads, own, there)
        loss = sum(case[name] * part for name, part in parts.items())
        adam.zero_grad()
        loss.backward()
        if step == 0:
            tensors |= {"hidden": own.states[-1][mask].detach().float(), "loss": loss.detach().reshape(1)}
            distances = [part.detach() for part in parts.values()]
            if "label_loss" in case:
                distances.append((own.logits.argmax(-1) == there.logits.argmax(-1)).double().mean())
            for name, of in named.items():
                tensors[f"grad.{name}"] = torch.cat([p.grad for p in of]).float()
        losses.append(loss.detach())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        adam.step()
    assert losses[-1] < losses[0], "the loss does not fall"
    tensors |= {f"after10.{name}": torch.cat([p.detach() for p in parts]).float() for name, parts in named.items()}
    tensors |= {"losses10": torch.stack(losses), "grad_norms10": torch.stack(norms), "distances": torch.stack(distances)}
    return {name: value.contiguous() for name, value in tensors.items()}


def main():
    check = golden_files.arguments(__doc__)
    sys.exit(1 if golden_files.write_or_check(CASES, compute, FOLDER, check) else 0)


if __name__ == "__main__":
    main()
