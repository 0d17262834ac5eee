#!/usr/bin/env python3
"""Fine-tunes a trunk by several methods over several seeds and prints the table of what they reach.

    python tools/transfer_table.py --model runs/trunk --data trec --out runs/trec-table -- --mirror datasets
    python tools/transfer_table.py --model minilm-l6 --data SST-2 --split valid --arms full lora --out runs/sst2 -- --precision bf16

What stands after `--` goes to every `headstart finetune`. Every arm has the same seeds. Its learning rate is the program's default, or with
--rates the one with the best validation figure for the first seed. One JSON line per run goes to OUT/results.jsonl, so an
interrupted table goes on where it was. --at_once starts so many runs side by side, which is what a GPU is best used by; the seconds then
tell nothing. The bag of words is the one that stands beside every run. Figures are of --split, the
checkpoint being the best on validation. Needs the `headstart` program (--headstart) and nothing else.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ARMS = {
    "bag of words": None,
    "full, from scratch": ["--from_scratch"],
    "head": ["--method", "head"],
    "features": ["--method", "features"],
    "features, three poolings": ["--method", "features", "--pooling", "cls+mean+max"],
    "bitfit": ["--method", "bitfit"],
    "ia3": ["--method", "ia3"],
    "lora": ["--method", "lora"],
    "lora, all linears": ["--method", "lora", "--lora_targets", "all"],
    "adapters": ["--method", "adapters"],
    "full": ["--method", "full"],
    "full, gradual": ["--method", "full", "--unfreeze", "gradual", "--layer_decay", "0.95", "--schedule", "slanted-triangular"],
    "full, LM loss": ["--lm_loss_coef", "0.5"],
    "full, adapted": ["--adapt_on", "task"],
    "full, LM loss, from scratch": ["--lm_loss_coef", "0.5", "--from_scratch"],
    "head, random trunk": ["--method", "head", "--from_scratch"],
    "adapters, random trunk": ["--method", "adapters", "--from_scratch"],
}


class Table:
    def __init__(self, a):
        self.a, self.out = a, pathlib.Path(a.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.log, self.done, self.writing = self.out / "results.jsonl", {}, threading.Lock()
        if self.log.exists():
            records = [json.loads(line) for line in self.log.read_text().splitlines()]
            self.done = {(r["arm"], r["lr"], r["seed"]): r for r in records}

    def run(self, arm, lr, seed):
        """The record of a run, made where there is none; the bag of words is in that of any arm with the seed."""
        key = (arm, lr, seed)
        if key in self.done:
            return self.done[key]
        folder = self.out / "-".join([arm.replace(",", "").replace(" ", "-"), *([f"{lr:g}"] if lr else []), str(seed)])
        shutil.rmtree(folder, ignore_errors=True)
        rate = ["--lr", f"{lr:g}"] if lr else []
        command = [self.a.headstart, "finetune", "--model", self.a.model, "--data", self.a.data, "--out", str(folder),
                   "--seed", str(seed), "--json", *ARMS[arm], *rate, *self.a.rest]
        began = time.time()
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        summary = json.loads(printed.splitlines()[-1])
        # With adaptation the report is that of several runs, of which there is one.
        run = summary if "metrics" in summary else summary["runs"][0]
        kept = {name: value for name, value in run["metrics"].items() if name.count("/") == 1}
        record = dict(arm=arm, lr=lr, seed=seed, seconds=round(time.time() - began, 1), metrics=kept, bow=run.get("bow"))
        if not self.a.keep:
            shutil.rmtree(folder, ignore_errors=True)
        with self.writing:
            self.done[key] = record
            with self.log.open("a") as f:
                f.write(json.dumps(record) + "\n")
        return record

    def run_side_by_side(self):
        """All runs at the program's own rates, seed by seed."""
        keys = [(arm, None, seed) for seed in range(1, self.a.seeds + 1) for arm in self.a.arms if ARMS[arm] is not None]
        with ThreadPoolExecutor(self.a.at_once) as pool:
            list(pool.map(lambda key: self.run(*key), keys))

    def figure(self, record, split):
        return 100 * record["metrics"][f"{split}/{self.a.metric}"]

    def row(self, arm):
        a = self.a
        seeds = range(1, a.seeds + 1)
        if arm == "bag of words":
            beside = [next(r for (_, _, s), r in self.done.items() if s == seed and r["bow"]) for seed in seeds]
            return [100 * r["bow"][f"{a.split}_accuracy"] for r in beside], [r["bow"]["seconds"] for r in beside], None
        lr = max(a.rates, key=lambda lr: self.figure(self.run(arm, lr, 1), "valid")) if a.rates else None
        records = [self.run(arm, lr, seed) for seed in seeds]
        return [self.figure(r, a.split) for r in records], [r["seconds"] for r in records], lr


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--headstart", default="headstart")
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--rates", type=float, nargs="+", help="learning rates to choose from [default: the program's]")
    p.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    p.add_argument("--metric", default="accuracy")
    p.add_argument("--split", default="test", choices=["valid", "test"])
    p.add_argument("--at_once", type=int, default=1, help="runs side by side; not with --rates")
    p.add_argument("--keep", action="store_true", help="keep the run folders")
    p.add_argument("rest", nargs="*", help="flags for every run")
    a = p.parse_args()
    if a.at_once > 1 and a.rates:
        p.error("--at_once with --rates: which rate is best is known after the runs of the first seed")
    table, rows = Table(a), {}
    if a.at_once > 1:
        table.run_side_by_side()
    # The bag of words stands in the records of the others.
    for arm in sorted(table.a.arms, key=lambda arm: arm == "bag of words"):
        rows[arm] = table.row(arm)
    print(f"| arm | {table.a.split} {table.a.metric} | each seed | s | learning rate |\n|---|---:|---|---:|---:|")
    for arm in table.a.arms:
        figures, seconds, lr = rows[arm]
        spread = f" +- {statistics.stdev(figures):.1f}" if len(figures) > 1 else ""
        each, rate = ", ".join(f"{f:.1f}" for f in figures), f"{lr:g}" if lr else ""
        print(f"| {arm} | {statistics.mean(figures):.1f}{spread} | {each} | {statistics.median(seconds):.0f} | {rate} |")


if __name__ == "__main__":
    main()
