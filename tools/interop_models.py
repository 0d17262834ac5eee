"""Holds the program against `transformers` and sentence-transformers, on real models and real texts.

    python tools/interop_models.py features MODEL TEXTS...    vectors of a sentence-transformers folder
    python tools/interop_models.py roundtrip MODEL TEXTS...   models out of this program, into `transformers`, and back

MODEL is the folder of a published model; TEXTS are files of lines, or folders of .txt files, of which a sample is taken.
Needs torch, transformers, sentence-transformers, safetensors, and the program (--binary). Nothing is downloaded.

Owns: the comparisons and their limits. Never: small goldens for the tests (`golden_hf.py`).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LIMIT = 1e-5
# What people write and files hold: nothing, spaces, one letter, other scripts, what normalisation changes, one long word.
ODD = ["", " ", "a", "\t tabs\tand  spaces ", "Ünïcödé çà et là", "日本語のテキスト", "Привет, мир!", "😀 emoji 👩‍👩‍👧",
       "ﬁ ﬂ ① Å é", "x" * 300, "?!...", "don't can't won't", "1,234.56 % $ €", "مرحبا بالعالم", "שלום", "\u200bzero\u00adwidth\u2060"]


def sample(paths, count, seed=1):
    """Lines of files, and whole files of folders, in a random order; the odd ones first."""
    texts = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.rglob("*.txt"))
            random.Random(seed).shuffle(files)
            texts += [file.read_text(encoding="utf-8", errors="replace") for file in files[:count]]
        else:
            texts += path.read_text(encoding="utf-8", errors="replace").splitlines()
    random.Random(seed).shuffle(texts)
    if len(texts) < count - len(ODD):
        sys.exit(f"only {len(texts)} texts were found")
    return ODD + texts[: count - len(ODD)]


def call(binary, *args):
    """Runs the program; what it says goes to standard error."""
    subprocess.run([str(binary), *map(str, args)], check=True)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def judge(what, difference, limit=LIMIT):
    """Prints a figure and says whether it is within its limit."""
    good = difference <= limit
    print(f"{what}: largest difference {difference:.1e}, limit {limit:.0e}: {'good' if good else 'BAD'}", flush=True)
    return good


# features -------------------------------------------------------------------------------------


def features(args):
    import numpy as np
    from sentence_transformers import SentenceTransformer

    texts = sample(args.texts, args.count)
    model = SentenceTransformer(args.model, device="cpu")
    expected = model.encode(texts, batch_size=32, convert_to_numpy=True, show_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "texts.jsonl", Path(folder) / "vectors.npy"
        write_lines(source, [{"text": text} for text in texts])
        call(args.binary, "features", args.model, "--input", source, "--output", output)
        ours = np.load(output)
    assert ours.shape == expected.shape, (ours.shape, expected.shape)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in texts]
    print(f"{len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, {ours.shape[1]} numbers each")
    return [judge("features", float(np.abs(ours - expected).max()))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in [("features", features)]:
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("model", help="the folder of a published model")
        command.add_argument("texts", nargs="+", help="files of lines, or folders of .txt files")
        command.add_argument("--count", type=int, default=2000, help="texts that are compared")
        command.add_argument("--binary", default="target/release/headstart")
    args = parser.parse_args()
    sys.exit(0 if all(args.run(args)) else 1)


if __name__ == "__main__":
    main()
