"""Writes the goldens of published families: small models with random weights, computed by `transformers` in f64.

    python tools/golden_hf.py            writes tests/golden/hf/<case>.safetensors and <case>.json
    python tools/golden_hf.py --check    computes them again and compares with the files
    python tools/golden_hf.py --floor    also prints how far PyTorch's own f32 and bf16 are from its f64

Needs torch, transformers and safetensors. What is in a file: `docs/goldens.md`.

Owns: the cases, their random weights and inputs, the training steps, the file layout.
Never: the formula of a model; all of them are those of `transformers`.
"""

import argparse
import copy
import json
import math
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.models.modernbert import modeling_modernbert

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "hf"
STEPS, LR = 10, 1e-3
IGNORED = -100  # a label that counts for nothing
ROTATION = modeling_modernbert.apply_rotary_pos_emb


# The cases. -----------------------------------------------------------------------------------

# Sizes are odd on purpose, and none is another's multiple. A padding id is never among the inputs.
BERT = dict(vocab_size=97, hidden_size=27, num_hidden_layers=2, num_attention_heads=3, intermediate_size=41,
            max_position_embeddings=39, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
ROBERTA = BERT | dict(max_position_embeddings=33, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
DISTILBERT = dict(vocab_size=97, dim=27, n_layers=2, n_heads=3, hidden_dim=41, max_position_embeddings=39, dropout=0.0,
                  attention_dropout=0.0, seq_classif_dropout=0.0)
ELECTRA = BERT | dict(embedding_size=14)
GPT2 = dict(vocab_size=97, n_embd=27, n_layer=2, n_head=3, n_inner=41, n_positions=39, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=1)
# Four layers, so that both the second global one and local ones come; a window of three tokens on each side.
MODERNBERT = dict(vocab_size=97, hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=23,
                  max_position_embeddings=39, local_attention=6, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                  cls_token_id=1, sep_token_id=2)


def case(name, seed, architecture, config, lengths, num_labels=None, pairs=False):
    """`num_labels` for a classifier; else the model is a language model. `pairs`: both token types occur."""
    if num_labels is not None:
        config = config | {"num_labels": num_labels}
    return {"name": name, "seed": seed, "architecture": architecture, "config": config, "lengths": lengths,
            "pairs": pairs}


CASES = [
    case("bert_clf", 1, "BertForSequenceClassification", BERT, [17, 5, 1, 29], 3),
    case("bert_pairs", 2, "BertForSequenceClassification", BERT, [12, 31, 4], 4, pairs=True),
    case("bert_mlm", 3, "BertForMaskedLM", BERT, [19, 8, 3]),
    case("roberta_clf", 4, "RobertaForSequenceClassification", ROBERTA, [31, 6, 1, 14], 3),
    case("roberta_mlm", 5, "RobertaForMaskedLM", ROBERTA, [16, 7, 4]),
    case("distilbert_clf", 6, "DistilBertForSequenceClassification", DISTILBERT, [13, 2, 33, 7], 5),
    case("distilbert_mlm", 7, "DistilBertForMaskedLM", DISTILBERT, [15, 9, 6]),
    case("electra_clf", 8, "ElectraForSequenceClassification", ELECTRA, [11, 39, 1, 6], 3),
    case("electra_mlm", 9, "ElectraForMaskedLM", ELECTRA, [14, 10, 5]),
    case("gpt2_lm", 10, "GPT2LMHeadModel", GPT2, [18, 1, 9, 4]),
    case("gpt2_clf", 11, "GPT2ForSequenceClassification", GPT2, [8, 35, 1, 15], 3),
    case("modernbert_clf", 12, "ModernBertForSequenceClassification", MODERNBERT | {"classifier_pooling": "mean"},
         [26, 1, 13, 7], 3),
    case("modernbert_mlm", 13, "ModernBertForMaskedLM", MODERNBERT, [22, 9, 3]),
]


# Weights and inputs. --------------------------------------------------------------------------


def build(case):
    """The model in f64, in evaluation mode, its weights far from zero and exact in f32."""
    architecture = getattr(transformers, case["architecture"])
    config = architecture.config_class(**case["config"], architectures=[case["architecture"]])
    model = architecture(config).double().eval()
    # Softmax and all in f64; "eager" has parts in f32 for some families.
    model.set_attn_implementation("sdpa")
    random = np.random.RandomState(case["seed"])
    for name, parameter in model.named_parameters():
        values = random.standard_normal(parameter.shape)
        if "norm" in name.lower() or ".ln_" in name:
            values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
        elif parameter.dim() == 1:
            values = 0.1 * values
        else:
            values = values / math.sqrt(parameter.shape[1])
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    return model


def parameters(model):
    """What a file of the model has, under its names there: each tied parameter once."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "pt") as f:
            names = sorted(f.keys())
        # The files have the weights in f32.
        config = json.loads((Path(folder) / "config.json").read_text()) | {"dtype": "float32"}
    tensors = model.state_dict(keep_vars=True)
    found = {name: tensors[name] for name in names}
    assert {id(p) for p in found.values()} == {id(p) for p in model.parameters()} and len(found) == len(
        list(model.parameters())), "a parameter is missing, or stands twice"
    return found, config


def draw_inputs(case, config):
    """A padded batch, as `transformers` takes it."""
    random = np.random.RandomState(1000 + case["seed"])
    lengths = case["lengths"]
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]
    ids = torch.from_numpy(random.randint(3, config.vocab_size, shape))
    inputs = {"input_ids": ids.where(mask, config.pad_token_id), "attention_mask": mask.long()}
    if case["pairs"]:
        second = torch.arange(shape[1])[None] >= torch.tensor(lengths)[:, None] // 2
        inputs["token_type_ids"] = (second & mask).long()
    if "num_labels" in case["config"]:
        inputs["labels"] = torch.from_numpy(random.randint(0, config.num_labels, len(lengths)))
    elif case["architecture"] == "GPT2LMHeadModel":
        inputs["labels"] = ids.where(mask, IGNORED)
    else:
        # About a third of the tokens, each of which is to be told from what stands there.
        chosen = torch.from_numpy(random.random_sample(shape) < 0.35) & mask
        targets = torch.from_numpy(random.randint(3, config.vocab_size, shape))
        inputs["labels"] = targets.where(chosen, IGNORED)
    return inputs


# Computing. -----------------------------------------------------------------------------------


def turned(q, k, cos, sin, unsqueeze_dim=1):
    """ModernBERT's rotation of queries and keys in their own type; `transformers` has it in f32."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + modeling_modernbert.rotate_half(q) * sin, k * cos + modeling_modernbert.rotate_half(k) * sin


def loss_of(case, logits, labels):
    """The loss of `transformers`, which computes GPT-2's in f32 whatever the model's type."""
    if case["architecture"] == "GPT2LMHeadModel":
        logits, labels = logits[:, :-1], labels[:, 1:]
    if logits.dim() == 3:
        logits, labels = logits.flatten(0, 1), labels.flatten()
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)


def compute(case, model, inputs, autocast=False):
    """Everything a file holds beside parameters and inputs: one backward, then ten steps of AdamW."""
    named, _ = parameters(model)
    adam = torch.optim.AdamW(model.parameters(), LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    mask = inputs["attention_mask"].bool()
    result, losses, norms, hidden = {}, [], [], []
    model.base_model.register_forward_hook(lambda _module, _inputs, out: hidden.append(out[0]))
    for step in range(STEPS):
        hidden.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(**inputs)
            loss = loss_of(case, out.logits, inputs["labels"])
        assert abs(loss.item() - out.loss.item()) < (1e-2 if autocast else 1e-6), f"{case['name']}: another loss"
        adam.zero_grad()
        loss.backward()
        if step == 0:
            result["hidden"] = hidden[0][mask].detach().clone()
            logits = out.logits.detach()
            result["logits"] = (logits[mask] if logits.dim() == 3 else logits).clone()
            result["loss"] = loss.detach().clone()
            result |= {f"grad.{name}": parameter.grad.clone() for name, parameter in named.items()}
        losses.append(loss.detach())
        norms.append(torch.nn.utils.get_total_norm([parameter.grad for parameter in named.values()]))
        adam.step()
    result["losses10"], result["grad_norms10"] = torch.stack(losses), torch.stack(norms)
    result |= {f"after10.{name}": parameter.detach().clone() for name, parameter in named.items()}
    return result


def self_check(case, model, inputs, result):
    """What must hold of the oracle itself: padding counts for nothing, gradients are slopes, the loss falls."""
    name = case["name"]
    model = copy.deepcopy(model)
    with torch.no_grad():
        for length, ids, row in zip(case["lengths"], inputs["input_ids"], range(99)):
            alone = {"input_ids": ids[None, :length], "attention_mask": torch.ones(1, length, dtype=torch.long)}
            if case["pairs"]:
                alone["token_type_ids"] = inputs["token_type_ids"][None, row, :length]
            logits = model(**alone).logits[0]
            before = sum(case["lengths"][:row])
            padded = result["logits"][before : before + length] if logits.dim() == 2 else result["logits"][row]
            assert (padded - logits).abs().max() < 1e-10, f"{name}: padding changes the logits"
        with mock.patch.object(modeling_modernbert, "apply_rotary_pos_emb", ROTATION):
            loss = model(**inputs).loss
        assert abs(loss - result["loss"]) < 1e-6, f"{name}: the loss of `transformers` as it is is {loss}"
    named, _ = parameters(model)
    random = np.random.RandomState(5)
    direction = {n: torch.from_numpy(random.standard_normal(p.shape)) for n, p in named.items()}
    loss = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for n, p in named.items():
                p += step * direction[n]
            loss.append(loss_of(case, model(**inputs).logits, inputs["labels"]).item())
    numeric = (loss[0] - loss[1]) / 2e-6
    exact = sum((result[f"grad.{n}"] * d).sum().item() for n, d in direction.items())
    assert abs(numeric - exact) < 1e-6 * max(1.0, abs(exact)), f"{name}: {numeric} against {exact}"
    assert result["losses10"][-1] < result["losses10"][0], f"{name}: the loss does not fall"
    for n in named:
        key_bias = n.endswith(("key.bias", "k_lin.bias"))
        largest = result[f"grad.{n}"].abs().max()
        assert largest < 1e-14 if key_bias else largest > 1e-6, f"{name}: {n} has a gradient of {largest:.1e}"


# Files. ---------------------------------------------------------------------------------------


def pack(case, inputs):
    """The inputs without padding."""
    mask = inputs["attention_mask"].bool()
    packed = {"lengths": torch.tensor(case["lengths"])}
    for name, values in inputs.items():
        if name != "attention_mask":
            packed[name] = values[mask] if values.dim() == 2 else values
    return packed


def to_file(values, packed, result):
    """The tensors of one file: f32, i32, and f64 for losses and norms."""
    tensors = {name: value.float() for name, value in values.items()}
    tensors |= {name: value.to(torch.int32) for name, value in packed.items()}
    for name, value in result.items():
        scalar = name in ("loss", "losses10", "grad_norms10")
        tensors[name] = torch.atleast_1d(value.double() if scalar else value.float())
    return {name: value.contiguous() for name, value in tensors.items()}


def is_key_bias(name, size):
    """The rows of a bias whose gradient is zero: attention does not see what all its keys have in common."""
    if name.endswith(("key.bias", "k_lin.bias")):
        return slice(0, size)
    return slice(size // 3, 2 * size // 3) if name.endswith("c_attn.bias") else slice(0, 0)


def errors(narrow, result):
    """Per group the largest max|a - b| / max|b| of a tensor, and |a - b| / |b| of the whole gradient in the L2 norm.
    The key bias is left out."""
    worst, difference, size = {}, 0.0, 0.0
    for name, exact in result.items():
        group = name.split(".")[0] if name.startswith(("grad.", "after10.")) else name
        a, b = narrow[name].double().clone(), exact.double().clone()
        if a.dim() == 1:
            rows = is_key_bias(name, len(a))
            a[rows], b[rows] = 0.0, 0.0
        if group == "grad":
            difference, size = difference + (a - b).square().sum(), size + b.square().sum()
        error = ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()
        worst[group] = max(worst.get(group, 0.0), error)
    return {"whole": (difference / size).sqrt().item()} | worst


def floor(case, inputs, result):
    """The errors of PyTorch itself, in f32 and with autocast in bf16, against its f64."""
    found = {}
    for label, autocast in (("f32", False), ("bf16", True)):
        found[label] = errors(compute(case, build(case).float(), inputs, autocast), result)
    return {label: {name: float(f"{error:.2e}") for name, error in of.items()} for label, of in found.items()}


def compare(path, case, config, tensors):
    """Lists what differs from the stored files: texts and inputs exactly, results by a part in a million."""
    problems = [] if json.loads(path.with_suffix(".json").read_text()) == config else ["the configuration"]
    with safe_open(path, "pt") as f:
        if json.loads(f.metadata()["case"]) != case:
            problems.append("the case")
        if set(f.keys()) != set(tensors):
            problems.append("the list of tensors")
        for name in sorted(set(f.keys()) & set(tensors)):
            stored, fresh = f.get_tensor(name), tensors[name]
            if stored.shape != fresh.shape or stored.dtype != fresh.dtype:
                problems.append(f"{name}: shape or type")
                continue
            # The key bias: zero but for rounding, so the scale has a floor.
            distance = (stored.double() - fresh.double()).abs().max()
            if distance > 1e-6 * max(fresh.double().abs().max().item(), 1e-6):
                problems.append(f"{name}: values")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    parser.add_argument("--floor", action="store_true", help="print the errors of PyTorch's own f32 and bf16")
    parser.add_argument("--only", help="one case by name")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder of the files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failed = False
    for case in CASES:
        if args.only not in (None, case["name"]):
            continue
        model = build(case)
        named, config = parameters(model)
        values = {name: value.detach().clone() for name, value in named.items()}
        inputs = draw_inputs(case, model.config)
        with mock.patch.object(modeling_modernbert, "apply_rotary_pos_emb", turned):
            result = compute(case, copy.deepcopy(model), inputs)
            self_check(case, model, inputs, result)
        tensors = to_file(values, pack(case, inputs), result)
        path = args.out / f"{case['name']}.safetensors"
        of_pytorch = floor(case, inputs, result)
        about = {"name": case["name"], "architecture": case["architecture"], "seed": case["seed"],
                 "optimizer": {"name": "adamw", "lr": LR, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0,
                               "steps": STEPS}}
        if args.check:
            problems = compare(path, about, config, tensors) if path.exists() else ["no such file"]
            failed |= bool(problems)
            print(f"{case['name']}: " + ("; ".join(problems) or "equal"))
        else:
            args.out.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path, metadata={"case": json.dumps(about), "floor": json.dumps(of_pytorch)})
            path.with_suffix(".json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            path.chmod(0o644)
            losses = result["losses10"]
            print(f"{case['name']}: {path.stat().st_size:,} bytes, loss {losses[0]:.4f} -> {losses[-1]:.4f}")
        if args.floor:
            for label, of in of_pytorch.items():
                print(f"  {label:4} " + "  ".join(f"{name} {error:.1e}" for name, error in of.items()))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
