"""The bag of words beside scikit-learn's: golden probabilities, and both on the same data, one after the other.

    python tools/bag_of_words.py golden                    writes tests/golden/bag_of_words.json and bag_of_targets.json
    python tools/bag_of_words.py compare TRAIN.csv TEST.csv [--characters]
                                                           accuracy and seconds of both, on the same cores

The tables have the columns `text` and `label`. `compare` runs target/release/headstart (or --headstart). Needs scikit-learn.

Owns: the peer's recipe: words and pairs of words, characters 2 to 5 within words, sublinear tf-idf, logistic regression.
Never: Headstart's.
"""

import argparse
import csv
import json
import subprocess
import tempfile
import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union

ROOT = Path(__file__).resolve().parent.parent


def features(characters):
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    if not characters:
        return words
    return make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))


def golden():
    parts = [["who", "where", "how"], ["is", "was", "saw"], ["the", "an", "A"], ["mill", "Ärger", "sea-side", "x"], ["?", "!", ""]]
    texts, classes, number = [], [], 12345
    for _ in range(60):
        words = []
        for part in parts:
            number = (number * 1103515245 + 12345) % 2**31
            words.append(part[(number >> 16) % len(part)])
        texts.append(" ".join(words + words[:2] if number % 5 == 0 else words))
        # Mostly the first word's, so that there is something to learn and something that cannot be.
        classes.append(parts[0].index(words[0]) if (number >> 8) % 6 else (number >> 4) % 3)
    asked = ["who is the mill ?", "Where  was\tit", "how how how", "x", "", "nothing known", "sea-sides !"]
    cases = []
    for characters in False, True:
        for count in 2, 3:
            kept = [i for i, c in enumerate(classes) if c < count]
            for strength in 1.0, 20.0:
                # Its usual solver, lbfgs, ends a millionth or two away from the minimum.
                fit = LogisticRegression(C=strength, solver="newton-cg", tol=1e-14, max_iter=100_000)
                model = make_pipeline(features(characters), fit).fit([texts[i] for i in kept], [classes[i] for i in kept])
                cases.append({"characters": characters, "classes": count, "strength": strength, "probabilities": model.predict_proba(asked).tolist()})
    path = ROOT / "tests/golden/bag_of_words.json"
    path.write_text(json.dumps({"texts": texts, "classes": classes, "asked": asked, "cases": cases}, ensure_ascii=False) + "\n", encoding="utf8")
    golden_targets(texts, asked)


def golden_targets(texts, asked):
    """Several labels at once, each with a logistic regression, and a number, by ridge regression: of the same texts."""
    labels = ["who", "saw", "mill"]
    marks = [[int(label in text.split()) ^ int(n % 11 == k) for k, label in enumerate(labels)] for n, text in enumerate(texts)]
    numbers = [len(text.split()) / 4 + (n % 7) / 10 for n, text in enumerate(texts)]
    cases = []
    for characters in False, True:
        for strength in 0.5, 8.0:
            rows = features(characters).fit(texts)
            x, y = rows.transform(texts), rows.transform(asked)
            logits = []
            for k in range(len(labels)):
                fit = LogisticRegression(C=strength, solver="newton-cg", tol=1e-14, max_iter=100_000)
                logits.append(fit.fit(x, [row[k] for row in marks]).decision_function(y).tolist())
            ridge = Ridge(alpha=1 / strength, solver="cholesky").fit(x.toarray(), numbers)
            cases.append({"characters": characters, "strength": strength, "logits": [list(row) for row in zip(*logits)],
                          "numbers": ridge.predict(y.toarray()).tolist()})
    path = ROOT / "tests/golden/bag_of_targets.json"
    content = {"texts": texts, "marks": marks, "numbers": numbers, "asked": asked, "cases": cases}
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf8")


def compare(a):
    rows = [list(csv.DictReader(open(f, encoding="utf8", newline=""))) for f in (a.train, a.test)]
    (x, y), (xt, yt) = [([r["text"] for r in part], [r["label"] for r in part]) for part in rows]
    began = time.time()
    model = make_pipeline(features(a.characters), LogisticRegression(C=20, max_iter=2000)).fit(x, y)
    seconds = time.time() - began
    print(json.dumps({"scikit-learn": {"accuracy": round(model.score(xt, yt), 4), "fit_s": round(seconds, 1)}}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # All of the training data is fitted, as above: the validation data here is the test data.
        data = Path(folder, "data")
        data.mkdir()
        for name, file in ("train", a.train), ("valid", a.test), ("test", a.test):
            Path(data, name + ".csv").write_bytes(Path(file).read_bytes())
        began = time.time()
        command = [a.headstart, "finetune", "--method", "bow", "--data", data, "--out", Path(folder, "run"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        accuracy = json.loads(done.stdout)["metrics"]["test/accuracy"]
        print(json.dumps({"headstart": {"accuracy": round(accuracy, 4), "whole_s": round(time.time() - began, 1)}}))


parser = argparse.ArgumentParser()
commands = parser.add_subparsers(required=True)
commands.add_parser("golden").set_defaults(run=lambda a: golden())
other = commands.add_parser("compare")
other.set_defaults(run=compare)
other.add_argument("train")
other.add_argument("test")
other.add_argument("--characters", action="store_true", help="as Headstart does for up to 16 MB of text")
other.add_argument("--headstart", default=ROOT / "target/release/headstart")
arguments = parser.parse_args()
arguments.run(arguments)
