"""Writes the goldens: small models computed by PyTorch in f64, which the tests hold Headstart against.

    python tools/golden.py            writes tests/golden/<case>.safetensors
    python tools/golden.py --check    computes them again and compares with the files
    python tools/golden.py --floor    also prints how far PyTorch's own f32 and bf16 are from its f64

Needs torch, numpy and safetensors. What is in a file: `docs/goldens.md`.

Owns: the cases, their random parameters and inputs, the training steps, the file layout.
Never: the formulas (`torch_reference.py`), the dropout masks (`counter_rng.py`).
"""

import argparse
import copy
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import torch_reference as reference
from counter_rng import dropout_sites, dropper

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
STEPS = 10


# The cases. -----------------------------------------------------------------------------------


def case(name, seed, arch, sizes, lengths, *, causal=True, positions="learned", lm=None, head=None,
         adapters_dim=0, frozen_trunk=False, dropout=0.0, lr=1e-3, weight_decay=0.0, layout=None,
         adapters=None):
    """One case as the JSON that its file carries. `sizes` is (heads, head_dim, F, V, P, L), `layout` what differs from
    the family's, `adapters` where they stand and what they compute, if not as Houlsby et al. have them."""
    heads, head_dim, hidden_dim, vocab_size, num_max_positions, num_layers = sizes
    changes = {"layout": layout} if layout else {}
    changes |= {"adapters": adapters} if adapters else {}
    options = reference.layout({"arch": arch} | changes)
    uses_cls = head is not None and "cls" in head["pooling"]
    config = {
        "case": name,
        "arch": arch,
        **changes,
        "causal": causal,
        "positions": positions,
        "vocab_size": vocab_size,
        "num_max_positions": num_max_positions,
        "embed_dim": heads * head_dim,
        "num_heads": heads,
        "head_dim": head_dim,
        "hidden_dim": hidden_dim,
        "num_layers": num_layers,
        "activation": options["activation"],
        "layer_norm_eps": options["norm_eps"],
        "adapters_dim": adapters_dim,
        "adapter_activation": (adapters or {}).get("activation", options["activation"]),
        "cls_offset": frozen_trunk,
        "cls_id": vocab_size - 1 if uses_cls else None,
        "mask_id": vocab_size - 2 if lm and lm["targets"] == "masked" else None,
        "lm": lm,
        "head": head,
        "dropout": None,
        "optimizer": {
            "name": "adam", "lr": lr, "betas": [0.9, 0.999], "eps": 1e-8,
            "weight_decay": weight_decay, "max_norm": 0.25, "steps": STEPS,
        },
        "seed": seed,
        "lengths": lengths,
    }
    if dropout > 0:
        config["dropout"] = {"p": dropout, "seed": 2019, "first_step": 0, "sites": dropout_sites(config)}
    names = reference.parameter_shapes(config)
    pairs = head is not None and head["problem"] == "pairs"
    trains_when_frozen = ("adapter_", "classification_head", "cls_offset")
    config["trainable"] = [
        n for n in names
        if not (positions == "sinusoidal" and n.endswith("position_embedding.weight"))
        and (not frozen_trunk or any(part in n for part in trains_when_frozen))
        and not (pairs and n.startswith("classification_head"))
    ]
    return config


def lm(targets, coef=1.0):
    return {"targets": targets, "coef": coef}


def head(pooling, num_classes, problem="single_label", coef=1.0, **shape):
    """`shape`: a `hidden` layer's width and activation, and whether a `layer_mix` is read."""
    return {"pooling": pooling, "num_classes": num_classes, "problem": problem, "coef": coef} | shape


# Sizes are odd on purpose: head dims that no vector width divides, hidden sizes and vocabularies
# that are primes. Sequences of one token are among the lengths where the task allows them.
CASES = [
    case("lm_naacl2019", 34, "naacl2019", (2, 41, 67, 97, 24, 1), [24, 7, 1, 12], lm=lm("next_token"), lr=2.5e-4),
    case("mlm_naacl2019", 2, "naacl2019", (3, 8, 29, 97, 13, 2), [13, 9, 4, 1], causal=False, lm=lm("masked"),
         lr=2.5e-4),
    case("clf_naacl2019", 3, "naacl2019", (3, 7, 33, 53, 17, 2), [17, 5, 1, 9, 2], head=head("cls", 4), lr=2.5e-4),
    case("clf_lm_naacl2019", 4, "naacl2019", (4, 5, 31, 59, 16, 2), [11, 6, 1, 16], head=head("cls", 3, coef=0.75),
         lm=lm("next_token", 0.5), lr=5e-4, weight_decay=0.01),
    case("clf_mlm_naacl2019", 5, "naacl2019", (2, 9, 27, 61, 14, 2), [14, 6, 3], causal=False,
         head=head("cls", 3), lm=lm("masked", 0.5)),
    case("adapters_naacl2019", 6, "naacl2019", (5, 5, 37, 43, 14, 2), [14, 3, 8], head=head("cls", 6),
         adapters_dim=7, lr=5e-4),
    case("adapters_frozen", 7, "naacl2019", (5, 5, 37, 43, 14, 2), [6, 14, 1, 9], head=head("cls", 6),
         adapters_dim=7, frozen_trunk=True),
    case("lm_gpt2", 8, "gpt2", (2, 16, 47, 131, 15, 3), [15, 15, 4], lm=lm("next_token"), lr=2.5e-4,
         weight_decay=0.01),
    case("clf_gpt2", 9, "gpt2", (3, 7, 40, 51, 12, 2), [12, 1, 7], head=head("last", 3)),
    case("adapters_gpt2", 10, "gpt2", (3, 5, 23, 41, 11, 2), [5, 11, 2], head=head("last", 5), adapters_dim=3),
    case("mlm_sinusoidal", 11, "naacl2019", (3, 7, 26, 67, 18, 2), [18, 11], causal=False, positions="sinusoidal",
         lm=lm("masked"), lr=5e-4),
    case("clf_multi_label", 41, "naacl2019", (2, 11, 25, 37, 10, 2), [10, 4, 7],
         head=head("cls", 5, "multi_label")),
    case("clf_regression", 13, "gpt2", (2, 9, 29, 45, 10, 2), [3, 10, 8, 1], head=head("last", 1, "regression")),
    case("clf_mean_pool", 14, "naacl2019", (1, 13, 34, 39, 11, 2), [11, 2, 6], causal=False, head=head("mean", 3)),
    case("clf_max_pool", 15, "gpt2", (4, 4, 31, 35, 9, 2), [9, 5, 1], head=head("max", 3)),
    case("lm_dropout", 26, "naacl2019", (2, 17, 39, 61, 37, 2), [37, 1, 20, 5], lm=lm("next_token"), dropout=0.2,
         lr=2.5e-4),
    case("clf_dropout_gpt2", 17, "gpt2", (2, 7, 33, 41, 12, 2), [12, 8, 3], head=head("last", 3), adapters_dim=3,
         dropout=0.1),
    # A layout that no family has by name: post-norm, a norm after the embeddings, positions from the third row on.
    case("post_norm", 18, "gpt2", (3, 7, 31, 47, 12, 2), [12, 5, 1, 8], causal=False, head=head("mean", 4),
         lm=lm("masked", 0.5), adapters_dim=3,
         layout={"norm": "after", "norm_eps": 1e-12, "embedding_norm": True, "final_norm": False,
                 "position_offset": 2}),
    # Linears without biases, post-norm with dropout, ReLU.
    case("no_bias", 19, "naacl2019", (2, 11, 29, 41, 13, 2), [13, 6, 1], lm=lm("next_token"), dropout=0.1, lr=5e-4,
         layout={"norm": "after", "bias": False}),
    # BERT's layout: token types, and dropout behind the norm after the embeddings.
    case("bert", 20, "gpt2", (3, 7, 33, 43, 13, 2), [13, 4, 9], causal=False, head=head("cls", 3), lm=lm("masked", 0.5),
         dropout=0.1,
         layout={"norm": "after", "norm_eps": 1e-12, "embedding_norm": True, "final_norm": False, "activation": "gelu",
                 "token_types": 2}),
    # Gated feed-forwards, no bias but the head's, a norm after the embeddings.
    case("geglu", 21, "gpt2", (2, 9, 25, 47, 12, 2), [12, 3, 8, 1], causal=False, head=head("mean", 3),
         lm=lm("masked", 0.5),
         layout={"embedding_norm": True, "activation": "gelu", "gated": True, "bias": False, "norm_bias": False}),
    case("swiglu", 22, "gpt2", (2, 7, 29, 41, 12, 2), [12, 5, 7], lm=lm("next_token"), dropout=0.1, lr=5e-4,
         layout={"activation": "silu", "gated": True, "bias": False}),
    # ModernBERT's attention: rotary positions, windows in some layers. Without biases: here the key bias would have a gradient.
    case("rotary", 23, "gpt2", (2, 8, 27, 43, 14, 3), [14, 4, 9, 1], causal=False, positions="rotary", head=head("mean", 3),
         lm=lm("masked", 0.5),
         layout={"window": 2, "global_every": 2, "rotary_theta": 160.0, "local_rotary_theta": 10.0, "bias": False}),
    case("rotary_causal", 24, "gpt2", (3, 6, 25, 41, 13, 2), [13, 5, 8], positions="rotary", lm=lm("next_token"),
         dropout=0.1, layout={"window": 4, "bias": False}),
    # Several rows side by side, and pairs of sequences whose rows are compared.
    case("clf_side_by_side", 25, "gpt2", (3, 7, 29, 43, 12, 2), [12, 4, 1, 7], causal=False, head=head("cls+mean+max", 3)),
    case("pairs", 27, "gpt2", (2, 9, 31, 47, 13, 2), [13, 4, 1, 9, 6, 6], causal=False, head=head("mean", 1, "pairs"),
         dropout=0.1),
    # Adapters behind the feed-forward alone; beside it, in each place that norms may have.
    case("adapters_pfeiffer", 25, "gpt2", (3, 7, 33, 43, 13, 2), [13, 4, 9], causal=False, head=head("mean", 3), adapters_dim=5,
         layout={"norm": "after", "norm_eps": 1e-12, "embedding_norm": True, "final_norm": False, "activation": "gelu"},
         adapters={"kind": "pfeiffer", "activation": "relu"}),
    case("adapters_parallel", 28, "gpt2", (3, 5, 23, 41, 11, 2), [5, 11, 2], head=head("last", 5), adapters_dim=3,
         adapters={"kind": "parallel", "scale": 4.0}),
    case("adapters_parallel_frozen", 29, "naacl2019", (5, 5, 37, 43, 14, 2), [6, 14, 1, 9], head=head("cls", 6),
         adapters_dim=4, frozen_trunk=True, dropout=0.1,
         adapters={"kind": "parallel", "scale": 0.5, "activation": "silu"}),
    # A hidden layer over several rows side by side; a mix of all layers beside another loss; both on a frozen trunk.
    case("clf_hidden", 30, "gpt2", (3, 5, 23, 41, 12, 2), [12, 4, 1, 7], causal=False,
         head=head("cls+mean", 3, hidden={"width": 11, "activation": "gelu"})),
    case("clf_layer_mix", 31, "gpt2", (2, 9, 25, 43, 13, 3), [13, 4, 9, 1], causal=False,
         head=head("mean", 4, layer_mix=True), lm=lm("masked", 0.5)),
    case("clf_mix_frozen", 32, "naacl2019", (5, 5, 37, 43, 14, 2), [6, 14, 1, 9], frozen_trunk=True, dropout=0.1,
         head=head("cls", 6, hidden={"width": 7, "activation": "tanh"}, layer_mix=True)),
]


# Parameters and inputs. -----------------------------------------------------------------------


def draw_parameters(config):
    """Parameters as f32 values: far from zero, so that every gradient is well conditioned.

    `RandomState` is NumPy's frozen generator: the same numbers in every release.
    """
    random = np.random.RandomState(config["seed"])
    params = {}
    for name, shape in reference.parameter_shapes(config).items():
        values = random.standard_normal(shape)
        if "norm" in name:
            values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("mix.scale"):
            values = 1.0 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        elif len(shape) == 1:
            pass
        else:
            values = values / math.sqrt(shape[1])
        params[name] = torch.from_numpy(values.astype(np.float32))
    if config["positions"] == "sinusoidal":
        table = reference.sinusoidal_table(config["num_max_positions"], config["embed_dim"])
        params["transformer.position_embedding.weight"] = table.to(torch.float32)
    return params


def draw_inputs(config):
    """Packed ids, lengths, and the labels and targets the case's losses need."""
    random = np.random.RandomState(1000 + config["seed"])
    lengths = config["lengths"]
    ids = random.randint(0, config["vocab_size"] - 2, sum(lengths))  # the last two may be [MASK] and [CLS]
    ends = np.cumsum(lengths)
    if config["cls_id"] is not None:
        ids[ends - 1] = config["cls_id"]
    inputs = {"lengths": torch.tensor(lengths)}
    if config["lm"] is not None:
        positions, targets, ids = lm_targets(config, random, ids, ends)
        inputs["target_positions"] = torch.from_numpy(positions)
        inputs["target_ids"] = torch.from_numpy(targets)
    inputs["input_ids"] = torch.from_numpy(ids)
    types = reference.layout(config)["token_types"]
    if types > 0:
        inputs["token_type_ids"] = torch.from_numpy(random.randint(0, types, len(ids)))
    if config["head"] is not None:
        inputs["labels"] = draw_labels(config["head"], random, len(lengths))
    return inputs


def lm_targets(config, random, ids, ends):
    """Packed rows that predict, what each shall predict, and the ids after masking."""
    if config["lm"]["targets"] == "next_token":
        # Every row but the last of each sequence predicts the row after it.
        positions = np.setdiff1d(np.arange(len(ids)), ends - 1)
        return positions, ids[positions + 1], ids
    # About a quarter of the rows, never [CLS]; four in five become [MASK], then one random id, one kept.
    candidates = np.flatnonzero(ids != config["cls_id"]) if config["cls_id"] is not None else np.arange(len(ids))
    positions = np.sort(random.permutation(candidates)[: max(6, len(ids) // 4)])
    targets, masked = ids[positions].copy(), ids.copy()
    masked[positions] = config["mask_id"]
    masked[positions[1]] = random.randint(0, config["vocab_size"] - 2)
    masked[positions[4]] = targets[4]
    return positions, targets, masked


def draw_labels(config, random, count):
    classes = config["num_classes"]
    if config["problem"] == "single_label":
        return torch.from_numpy(random.randint(0, classes, count))
    if config["problem"] == "pairs":
        return torch.tensor([1.0, 0.0] * count)[: count // 2]
    if config["problem"] == "multi_label":
        return torch.from_numpy(random.randint(0, 2, (count, classes)).astype(np.float32))
    return torch.from_numpy(random.standard_normal(count).astype(np.float32))


# Computing. ---------------------------------------------------------------------------------------


def compute(config, values, inputs, dtype=torch.float64, autocast=False):
    """Everything a file holds beside parameters and inputs: one backward, then ten steps of Adam."""
    params = {n: v.to(dtype).clone().requires_grad_(n in config["trainable"]) for n, v in values.items()}
    trainable = [params[n] for n in config["trainable"]]
    o = config["optimizer"]
    adam = torch.optim.Adam(trainable, o["lr"], betas=tuple(o["betas"]), eps=o["eps"], weight_decay=o["weight_decay"])
    result, losses, norms, margins = {}, [], [], []
    for step in range(o["steps"]):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out, run = reference.forward(config, params, inputs, dropper(config, step))
        adam.zero_grad()
        out["loss"].backward()
        if step == 0:
            result |= {n: t.detach().clone() for n, t in out.items()}
            result |= {f"grad.{n}": params[n].grad.clone() for n in config["trainable"]}
            margins.append(smallest_margin(config, out, run))
        norms.append(torch.nn.utils.clip_grad_norm_(trainable, o["max_norm"]))
        losses.append(out["loss"].detach())
        adam.step()
    result["losses10"], result["grad_norms10"] = torch.stack(losses), torch.stack(norms)
    result |= {f"after10.{n}": params[n].detach() for n in config["trainable"]}
    return result, min(margins)


def smallest_margin(config, out, run):
    """How near the batch comes to a kink (ReLU at 0, two equal maxima), where f32 could take the other side."""
    near = [x.abs().min().item() for x in run.relu_inputs]
    if config["head"] is not None and "max" in config["head"]["pooling"]:
        for h in torch.split(out["hidden"].detach(), config["lengths"]):
            if len(h) > 1:
                top = h.topk(2, 0).values
                near.append((top[0] - top[1]).min().item())
    return min(near, default=math.inf)


def self_check(config, values, inputs, result, margin):
    """What must hold of the oracle itself."""
    name = config["case"]
    wide = {n: v.double() for n, v in values.items()}
    assert margin > 2e-5, f"{name}: {margin:.1e} from a kink; take another seed"
    # PyTorch's own modules neither turn queries and keys nor have a window for each layer.
    if config["dropout"] is None and config["positions"] != "rotary" and reference.layout(config)["window"] == 0:
        again = reference.padded_trunk(config, wide, inputs)
        distance = (again - result["hidden"]).abs().max().item()
        assert distance < 1e-12, f"{name}: packed and padded differ by {distance:.1e}"
    c = config["embed_dim"]
    for n in config["trainable"]:
        gradient = result[f"grad.{n}"]
        assert torch.isfinite(gradient).all(), f"{name}: {n}"
        if n.endswith("in_proj.bias"):
            # softmax(q (k + b)') does not depend on b: each row's scores all move by the same q b'.
            largest = gradient[c : 2 * c].abs().max().item()
            assert largest < 1e-14, f"{name}: the key bias has a gradient of {largest:.1e}"
            assert gradient[:c].abs().max() > 1e-6 and gradient[2 * c :].abs().max() > 1e-6, f"{name}: {n}"
        else:
            assert gradient.abs().max() > 1e-6, f"{name}: {n} has no gradient"
    # The derivative along one random direction, by central differences.
    random = np.random.RandomState(5)
    direction = {n: torch.from_numpy(random.standard_normal(values[n].shape)) for n in config["trainable"]}
    loss = []
    for step in (1e-6, -1e-6):
        moved = {n: v + step * direction[n] if n in direction else v for n, v in wide.items()}
        loss.append(reference.forward(config, moved, inputs, dropper(config, 0))[0]["loss"].item())
    numeric = (loss[0] - loss[1]) / 2e-6
    exact = sum((result[f"grad.{n}"] * d).sum().item() for n, d in direction.items())
    assert abs(numeric - exact) < 1e-6 * max(1.0, abs(exact)), f"{name}: {numeric} against {exact}"
    assert result["losses10"][-1] < result["losses10"][0] or config["dropout"], f"{name}: the loss does not fall"


# Files. --------------------------------------------------------------------------------------------


def to_file(config, values, inputs, result):
    """The tensors of one file: f32, i32, and f64 for the scalars of the losses."""
    tensors = dict(values)
    for name, t in inputs.items():
        tensors[name] = t if t.is_floating_point() else t.to(torch.int32)
    for name, t in result.items():
        scalar = name in ("loss", "lm_loss", "clf_loss", "losses10", "grad_norms10")
        tensors[name] = torch.atleast_1d(t.double() if scalar else t.float())
    if config["dropout"] is not None:
        drop, c = dropper(config, 0), config["embed_dim"]
        rows = [drop(torch.ones(t, c), "embedding", 0, s) for s, t in enumerate(config["lengths"])]
        tensors["dropout.embedding"] = torch.cat(rows)
    return {n: t.contiguous() for n, t in tensors.items()}


def compare(path, config, tensors):
    """Lists what differs from the stored file: text and inputs exactly, results by a part in a million."""
    with safe_open(path, "pt") as f:
        problems = [] if json.loads(f.metadata()["case"]) == config else ["the case's JSON"]
        if set(f.keys()) != set(tensors):
            problems.append("the list of tensors")
        computed = ("grad.", "after10.", "hidden", "loss", "lm_l", "clf_l")
        for name in sorted(set(f.keys()) & set(tensors)):
            stored, fresh = f.get_tensor(name), tensors[name]
            if stored.shape != fresh.shape or stored.dtype != fresh.dtype:
                problems.append(f"{name}: shape or type")
            elif name.startswith(computed) or name == "grad_norms10":
                # The key bias: zero but for rounding, so the scale has a floor.
                if (stored.double() - fresh.double()).abs().max() > 1e-6 * max(fresh.abs().max().item(), 1e-6):
                    problems.append(f"{name}: values")
            elif not torch.equal(stored, fresh):
                problems.append(f"{name}: values")
    return problems


def floor(config, values, inputs, result):
    """One line per type: the errors of PyTorch itself against its f64, as `docs/goldens.md` lists them.

    Per group the largest max|a - b| / max|b| of a tensor, and for the gradient as a whole also
    |a - b| / |b| in the L2 norm. The key bias is left out.
    """
    c = config["embed_dim"]
    for label, autocast in (("f32", False), ("bf16", True)):
        narrow, _ = compute(config, values, inputs, torch.float32, autocast)
        worst, difference, size = {}, 0.0, 0.0
        for name, exact in result.items():
            group = name.split(".")[0] if name.split(".")[0] in ("grad", "after10") else "forward"
            a, b = narrow[name].double(), exact.double()
            if name.endswith("in_proj.bias"):
                a, b = (torch.cat([t[:c], t[2 * c :]]) for t in (a, b))
            worst[group] = max(worst.get(group, (0.0, "")), (((a - b).abs().max() / b.abs().max()).item(), name))
            if group == "grad":
                difference, size = difference + (a - b).square().sum(), size + b.square().sum()
        print(f"  {label:4} whole gradient {(difference / size).sqrt().item():.1e}  "
              + "  ".join(f"{g} {e:.1e} ({n})" for g, (e, n) in worst.items()))


def check_parameter_count():
    """The full-size model has the number of parameters the design states."""
    full = case("full", 0, "naacl2019", (10, 41, 2100, 28996, 256, 16), [1], positions="sinusoidal")
    shapes = reference.parameter_shapes(full)
    assert sum(math.prod(s) for s in shapes.values()) == 50_396_360
    assert sum(math.prod(shapes[n]) for n in full["trainable"]) == 50_291_400


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    parser.add_argument("--floor", action="store_true", help="print the errors of PyTorch's own f32 and bf16")
    parser.add_argument("--only", help="one case by name")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder of the files")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    check_parameter_count()
    failed = False
    for config in CASES:
        if args.only not in (None, config["case"]):
            continue
        values, inputs = draw_parameters(config), draw_inputs(config)
        result, margin = compute(copy.deepcopy(config), values, inputs)
        self_check(config, values, inputs, result, margin)
        tensors = to_file(config, values, inputs, result)
        path = args.out / f"{config['case']}.safetensors"
        if args.check:
            problems = compare(path, config, tensors) if path.exists() else ["no such file"]
            failed |= bool(problems)
            print(f"{config['case']}: " + ("; ".join(problems) or "equal"))
        else:
            args.out.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path, metadata={"case": json.dumps(config)})
            path.chmod(0o644)
            losses = result["losses10"]
            print(f"{config['case']}: {path.stat().st_size:,} bytes, loss {losses[0]:.4f} -> {losses[-1]:.4f}, "
                  f"gradient norm {result['grad_norms10'][0]:.3f}, kink margin {margin:.0e}")
        if args.floor:
            floor(config, values, inputs, result)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
