#!/usr/bin/env python3
"""Gives a model with factorised embeddings embeddings as wide as its layers.

    python tools/widen_embeddings.py FOLDER OUT TEXT [--packed model.int8.safetensors]

FOLDER is an exported ELECTRA encoder (`headstart export --to sentence-transformers`) whose embeddings are narrower than its layers. What it
computes is y = P LN(w + p + t) + c, with the norm over the narrow columns. The wide model has no P: its rows are P diag(gain) (row - mean of row), and its
norm, over the wide columns, gets the gain and bias that bring it nearest to y (least squares, column by column, over the words of the first
lines of TEXT). It is near, not the same, so learning has to go on afterwards (docs/shipped-model.md). `--packed` takes the weights from a file at a
byte each instead of the folder's own. Needs numpy, safetensors and tokenizers.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

LINES, LONGEST = 2000, 128
SCALE = ".scale"


def unpacked(name, tensors):
    scale = tensors.get(name + SCALE)
    return tensors[name] if scale is None else tensors[name].astype(np.float32) * scale[:, None]


def normalised(x, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("text", type=pathlib.Path)
    p.add_argument("--packed", type=pathlib.Path)
    a = p.parse_args()
    config = json.loads((a.folder / "config.json").read_text(encoding="utf8"))
    tensors = load_file(a.packed or a.folder / "model.safetensors")
    tensors = {name: unpacked(name, tensors) for name in tensors if not name.endswith(SCALE)}
    start = "electra." if any(name.startswith("electra.") for name in tensors) else ""
    get = lambda name: tensors[start + name].astype(np.float64)  # noqa: E731
    words, positions, types = (get(f"embeddings.{part}_embeddings.weight") for part in ("word", "position", "token_type"))
    gain, bias = get("embeddings.LayerNorm.weight"), get("embeddings.LayerNorm.bias")
    project, constant = get("embeddings_project.weight"), get("embeddings_project.bias")
    eps = config["layer_norm_eps"]

    def wide(rows):
        return (rows - rows.mean(-1, keepdims=True)) * gain @ project.T

    tokenizer = Tokenizer.from_file(str(a.folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    with open(a.text, encoding="utf8") as lines:
        ids = [tokenizer.encode(line.split("\t")[0].strip()).ids for _, line in zip(range(LINES), lines)]
    at = np.concatenate([np.arange(len(line)) for line in ids])
    ids = np.concatenate(ids)
    wanted = (normalised(words[ids] + positions[at] + types[0], eps) * gain + bias) @ project.T + constant
    made = normalised(wide(words)[ids] + wide(positions)[at] + wide(types)[0], eps)
    mean = made.mean(0)
    new_gain = ((made - mean) * (wanted - wanted.mean(0))).sum(0) / ((made - mean) ** 2).sum(0)
    new_bias = wanted.mean(0) - new_gain * mean
    missed = ((made * new_gain + new_bias - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()

    for part, rows in (("word", words), ("position", positions), ("token_type", types)):
        tensors[f"{start}embeddings.{part}_embeddings.weight"] = wide(rows)
    tensors[start + "embeddings.LayerNorm.weight"], tensors[start + "embeddings.LayerNorm.bias"] = new_gain, new_bias
    for part in ("weight", "bias"):
        del tensors[f"{start}embeddings_project.{part}"]
    a.out.mkdir(parents=True)
    tensors = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    save_file(tensors, a.out / "model.safetensors", {"format": "pt"})
    config["embedding_size"] = len(constant)
    (a.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    shutil.copy(a.folder / "tokenizer.json", a.out / "tokenizer.json")
    print(f"embeddings of {words.shape[1]} columns made {len(constant)} wide; {100 * missed:.1f} % of what they give the layers varies otherwise")


main()
