#!/usr/bin/env python3
"""Gives a model another vocabulary, each new piece's embedding from what the model knows of its letters.

    python tools/transfer_vocabulary.py FOLDER TOKENIZER.json OUT

FOLDER is an exported encoder (`headstart export --to sentence-transformers`), TOKENIZER.json a WordPiece vocabulary of `headstart tokenizer
train`. A piece that both vocabularies have keeps its row; the row of another is the mean of the rows of the old pieces that spell it. Learning has to go
on afterwards (docs/shipped-model.md). Needs numpy and safetensors.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

NAME = "electra.embeddings.word_embeddings.weight"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def spelled(piece, vocabulary):
    """The longest old pieces from the left that spell a piece; none where they cannot."""
    prefix = "##" if piece.startswith("##") else ""
    rest, found = piece.removeprefix("##"), []
    while rest:
        for end in range(len(rest), 0, -1):
            row = vocabulary.get(prefix + rest[:end])
            if row is not None:
                found.append(row)
                rest, prefix = rest[end:], "##"
                break
        else:
            return []
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("tokenizer", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    a = p.parse_args()
    old = json.loads((a.folder / "tokenizer.json").read_text(encoding="utf8"))["model"]["vocab"]
    new = json.loads(a.tokenizer.read_text(encoding="utf8"))["model"]["vocab"]
    tensors = load_file(a.folder / "model.safetensors")
    name = NAME if NAME in tensors else NAME.removeprefix("electra.")
    rows = tensors[name]
    made = np.zeros((len(new), rows.shape[1]), np.float32)
    kept = spelt = 0
    for piece, at in new.items():
        of = [old[piece]] if piece in old else spelled(piece, old)
        made[at] = rows[of].mean(0, dtype=np.float64) if of else rows[old["[UNK]"]]
        kept, spelt = kept + (piece in old), spelt + (piece not in old and bool(of))
    a.out.mkdir(parents=True)
    tensors[name] = made
    save_file(tensors, a.out / "model.safetensors", {"format": "pt"})
    config = json.loads((a.folder / "config.json").read_text(encoding="utf8"))
    config["vocab_size"], config["pad_token_id"] = len(new), new.get("[PAD]", 0)
    (a.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    shutil.copy(a.tokenizer, a.out / "tokenizer.json")
    missing = [token for token in SPECIAL if token not in new]
    print(f"{kept} pieces kept, {spelt} spelt, {len(new) - kept - spelt} neither; special tokens missing: {missing}")


main()
