"""Writes the golden of distillation: a small BERT learns the hidden states of one of tools/golden_hf.py, in f64.

    python tools/golden_distill.py            writes tests/golden/distill/bert.safetensors
    python tools/golden_distill.py --check    computes it again and compares with the file

Needs torch, transformers and safetensors. The teacher is the model of `tests/golden/hf/bert_clf`; the file has the student's weights under
the names of Headstart, and what comes of them.

Owns: the student, the loss (two means of squared distances), the steps. Never: the formula of a model.
"""

import argparse
import json
import sys
from pathlib import Path

import golden_hf
import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = golden_hf.FOLDER.parent / "distill"
CASE = {"name": "bert", "teacher": "bert_clf", "seed": 201, "embed_dim": 12, "hidden_dim": 17, "num_heads": 3, "num_layers": 3,
        "layers": "1:1,3:2", "token_loss": 0.7, "sentence_loss": 1.3}
BLOCK = {"attention.in_proj": ["attention.self.query", "attention.self.key", "attention.self.value"],
         "attention.out_proj": ["attention.output.dense"], "norm_1": ["attention.output.LayerNorm"],
         "feed_forward.up": ["intermediate.dense"], "feed_forward.down": ["output.dense"], "norm_2": ["output.LayerNorm"]}
TABLES = {"token_embedding": ["word_embeddings"], "position_embedding": ["position_embeddings"],
          "token_type_embedding": ["token_type_embeddings"], "embedding_norm": ["LayerNorm"]}


def students(case):
    """The student and its linears, and its parameters: our name to parts from above to below."""
    random = np.random.RandomState(case["seed"])
    width, teacher = case["embed_dim"], golden_hf.BERT["hidden_size"]
    config = transformers.BertConfig(**(golden_hf.BERT | dict(
        hidden_size=width, num_hidden_layers=case["num_layers"], num_attention_heads=case["num_heads"],
        intermediate_size=case["hidden_dim"])))
    model = transformers.BertModel(config, add_pooling_layer=False).double().eval()
    model.set_attn_implementation("sdpa")
    pairs = [tuple(map(int, pair.split(":"))) for pair in case["layers"].split(",")]
    heads = {f"teacher_heads.{layer}": torch.nn.Linear(width, teacher).double() for layer, _ in pairs}
    heads["teacher_heads.sentences"] = torch.nn.Linear(width, teacher).double()
    named = {}
    found = dict(model.named_parameters())
    for kind in ("weight", "bias"):
        for ours, parts in TABLES.items():
            theirs = [found.get(f"embeddings.{part}.{kind}") for part in parts]
            if theirs[0] is not None:
                named[f"transformer.{ours}.{kind}"] = theirs
        for layer in range(case["num_layers"]):
            for ours, parts in BLOCK.items():
                named[f"transformer.layers.{layer}.{ours}.{kind}"] = [found[f"encoder.layer.{layer}.{p}.{kind}"] for p in parts]
        for ours, linear in heads.items():
            named[f"{ours}.{kind}"] = [getattr(linear, kind)]
    assert len({id(p) for parts in named.values() for p in parts}) == len(found) + 2 * len(heads)
    with torch.no_grad():
        for name, parts in named.items():
            for p in parts:
                values = random.standard_normal(p.shape)
                if "norm" in name:
                    values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
                elif p.dim() == 1:
                    values = 0.1 * values
                else:
                    values = values / np.sqrt(p.shape[1])
                p.copy_(torch.from_numpy(values.astype(np.float32)))
    return model, heads, named, pairs


def mean_distance(rendered, target):
    """The mean of squared distances to rows of root mean square 1."""
    target = target / target.pow(2).mean(-1, keepdim=True).sqrt()
    return (rendered - target).pow(2).mean()


def compute(case):
    base = next(c for c in golden_hf.CASES if c["name"] == case["teacher"])
    teacher = golden_hf.build(base)
    inputs = golden_hf.draw_inputs(base, teacher.config)
    inputs.pop("labels")
    model, heads, named, pairs = students(case)
    mask = inputs["attention_mask"].bool()
    count = mask.sum(1, keepdim=True)
    with torch.no_grad():
        there = teacher.bert(**inputs, output_hidden_states=True).hidden_states

    def pooled(hidden):
        return (hidden * mask.unsqueeze(-1)).sum(1) / count

    whole = {name: torch.cat([p.detach() for p in parts]).float() for name, parts in named.items()}
    tensors = {**whole, "lengths": torch.tensor(base["lengths"], dtype=torch.int32), "input_ids": inputs["input_ids"][mask].to(torch.int32)}
    parameters = [p for parts in named.values() for p in parts]
    adam = torch.optim.AdamW(parameters, golden_hf.LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, norms, distances = [], [], None
    for step in range(golden_hf.STEPS):
        own = model(**inputs, output_hidden_states=True).hidden_states
        tokens = [mean_distance(heads[f"teacher_heads.{s}"](own[s][mask]), there[t][mask]) for s, t in pairs]
        tokens = sum(tokens) / len(tokens)
        sentences = mean_distance(heads["teacher_heads.sentences"](pooled(own[-1])), pooled(there[-1]))
        loss = case["token_loss"] * tokens + case["sentence_loss"] * sentences
        adam.zero_grad()
        loss.backward()
        if step == 0:
            tensors |= {"hidden": own[-1][mask].detach().float(), "loss": loss.detach().reshape(1)}
            distances = torch.stack([tokens.detach(), sentences.detach()])
            for name, parts in named.items():
                tensors[f"grad.{name}"] = torch.cat([p.grad for p in parts]).float()
        losses.append(loss.detach())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        adam.step()
    assert losses[-1] < losses[0], "the loss does not fall"
    tensors |= {f"after10.{name}": torch.cat([p.detach() for p in parts]).float() for name, parts in named.items()}
    tensors |= {"losses10": torch.stack(losses), "grad_norms10": torch.stack(norms), "distances": distances}
    return {name: value.contiguous() for name, value in tensors.items()}


def compare(path, tensors):
    with safe_open(path, "pt") as f:
        problems = [] if json.loads(f.metadata()["case"]) == CASE else ["the case"]
        if set(f.keys()) != set(tensors):
            return problems + ["the list of tensors"]
        for name, fresh in tensors.items():
            stored = f.get_tensor(name).double()
            if (stored - fresh.double()).abs().max() > 1e-6 * max(fresh.abs().max().item(), 1e-6):
                problems.append(f"{name}: values")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored file, write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    tensors, path = compute(CASE), FOLDER / f"{CASE['name']}.safetensors"
    if args.check:
        problems = compare(path, tensors) if path.exists() else ["no such file"]
        print("; ".join(problems) or "equal")
        sys.exit(1 if problems else 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"case": json.dumps(CASE)})
    path.chmod(0o644)
    losses = tensors["losses10"]
    print(f"{path.stat().st_size:,} bytes, loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
