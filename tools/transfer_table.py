#!/usr/bin/env python3
"""Fine-tunes a trunk by several methods over several seeds and prints the table of test accuracies.

    python tools/transfer_table.py --model runs/trunk --data trec --out runs/trec-table -- --mirror datasets

What stands after `--` goes to every `headstart finetune`. Every arm uses the same budget and seeds; each arm's
learning rate is the one of --rates with the best validation accuracy for the first seed. One JSON line per run goes to
OUT/results.jsonl, so an interrupted table goes on where it was. Needs the `headstart` program (--headstart) and nothing else.
"""
import argparse, json, pathlib, statistics, subprocess

ARMS = {
    "full": [],
    "full, from scratch": ["--from_scratch"],
    "head": ["--method", "head"],
    "adapters": ["--method", "adapters", "--adapters_dim", "32"],
    "full + LM loss": ["--lm_loss_coef", "0.5"],
    "full + LM loss, from scratch": ["--lm_loss_coef", "0.5", "--from_scratch"],
    "head, random trunk": ["--method", "head", "--from_scratch"],
    "adapters, random trunk": ["--method", "adapters", "--adapters_dim", "32", "--from_scratch"],
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--headstart", default="headstart")
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    p.add_argument("--arms", nargs="+", default=list(ARMS))
    p.add_argument("rest", nargs="*", help="flags for every run")
    a = p.parse_args()
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "results.jsonl"
    done = {}
    if log.exists():
        for line in log.read_text().splitlines():
            r = json.loads(line)
            done[r["arm"], r["lr"], r["seed"]] = r

    def run(arm, lr, seed):
        if (arm, lr, seed) not in done:
            folder = out / f"{arm.replace(' ', '-').replace(',', '').replace('+', 'and')}-{lr:g}-{seed}"
            command = [a.headstart, "finetune", "--model", a.model, "--data", a.data, "--out", str(folder), "--lr", str(lr),
                       "--seed", str(seed), "--json", *ARMS[arm], *a.rest]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
            metrics = json.loads(printed.splitlines()[-1])["metrics"]
            r = dict(arm=arm, lr=lr, seed=seed, valid=metrics["valid/accuracy"], test=metrics["test/accuracy"])
            done[arm, lr, seed] = r
            with log.open("a") as f:
                f.write(json.dumps(r) + "\n")
        return done[arm, lr, seed]

    print("| arm | test accuracy | spread | each seed | learning rate |\n|---|---:|---:|---|---:|", flush=True)
    for arm in a.arms:
        lr = max(a.rates, key=lambda lr: run(arm, lr, 1)["valid"])
        tests = [100 * run(arm, lr, seed)["test"] for seed in range(1, a.seeds + 1)]
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        print(f"| {arm} | {statistics.mean(tests):.1f} | {spread:.1f} | {', '.join(f'{t:.1f}' for t in tests)} | {lr:g} |", flush=True)


if __name__ == "__main__":
    main()
