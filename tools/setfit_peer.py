#!/usr/bin/env python3
"""SetFit on the same few examples as ours, for BENCHMARKS.md.

    python tools/setfit_peer.py shots trec DATASETS/trec OUT --shots 8 16 64 --seeds 3    # or: imdb DATASETS/aclImdb
    python tools/setfit_peer.py run MODEL OUT/8-1                                         # SetFit
    headstart finetune --model MODEL --data OUT/8-1 --method contrastive                  # ours

`shots` draws so many examples of each class and writes train.csv, valid.csv (300 others of the training data, which `headstart` fits its
temperature on and SetFit does not read) and test.csv. `run` leaves every argument of SetFit at its default but for --steps; it
prints one JSON line. Needs setfit; its examples are cut to --max_length tokens, which ours are with the flag of that name.
"""
import argparse
import csv
import json
import pathlib
import random
import time


def examples(task, folder):
    """Lists of (text, label): the training split, the test split."""
    folder = pathlib.Path(folder)
    if task == "trec":
        def rows(name):
            lines = (folder / name).read_text(encoding="latin1").splitlines()
            return [(line.split(" ", 1)[1], line.split(":", 1)[0]) for line in lines]

        return rows("train_5500.label"), rows("TREC_10.label")

    def texts(split):
        return [(path.read_text(encoding="utf8"), label) for label in ("neg", "pos") for path in sorted((folder / split / label).glob("*.txt"))]

    # Every sixteenth review to test on, as elsewhere in BENCHMARKS.md.
    return texts("train"), texts("test")[::16]


def shots(a):
    train, test = examples(a.task, a.folder)
    for count in a.shots:
        for seed in range(1, a.seeds + 1):
            order = list(range(len(train)))
            random.Random(seed).shuffle(order)
            taken, rest = {}, []
            for i in order:
                few = taken.setdefault(train[i][1], [])
                (few if len(few) < count else rest).append(i)
            out = pathlib.Path(a.out) / f"{count}-{seed}"
            out.mkdir(parents=True, exist_ok=True)
            parts = {"train": [train[i] for few in taken.values() for i in few], "valid": [train[i] for i in rest[:300]], "test": test}
            for name, rows in parts.items():
                with (out / f"{name}.csv").open("w", newline="", encoding="utf8") as f:
                    writer = csv.writer(f)
                    writer.writerow(["text", "label"])
                    writer.writerows(rows)


def run(a):
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    def split(name):
        with (pathlib.Path(a.folder) / f"{name}.csv").open(newline="", encoding="utf8") as f:
            return list(csv.DictReader(f))

    train, test = split("train"), split("test")
    model = SetFitModel.from_pretrained(a.model)
    if a.max_length:
        model.model_body.max_seq_length = a.max_length
    arguments = TrainingArguments(max_steps=a.steps, report_to="none", seed=a.seed)
    began = time.perf_counter()
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(train))
    trainer.train()
    trained = time.perf_counter() - began
    answers = [str(label) for label in model.predict([row["text"] for row in test])]
    right = sum(answer == row["label"] for answer, row in zip(answers, test))
    return {"examples": len(train), "accuracy": round(100 * right / len(test), 2), "train_s": round(trained, 1)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    one = sub.add_parser("shots")
    one.add_argument("task", choices=["trec", "imdb"])
    one.add_argument("folder")
    one.add_argument("out")
    one.add_argument("--shots", type=int, nargs="+", default=[8, 16, 64])
    one.add_argument("--seeds", type=int, default=3)
    one = sub.add_parser("run")
    one.add_argument("model")
    one.add_argument("folder")
    one.add_argument("--steps", type=int, default=-1)
    one.add_argument("--max_length", type=int)
    one.add_argument("--seed", type=int, default=42)
    a = p.parse_args()
    if a.what == "shots":
        shots(a)
    else:
        print(json.dumps(run(a)))


if __name__ == "__main__":
    main()
