#!/usr/bin/env python3
"""Headstart against compiled PyTorch on one GPU, over batch sizes, as a Markdown table.

    python tools/gpu_compare.py train --headstart bin/headstart --batches 64 128 256 512
    python tools/gpu_compare.py finetune-trec --headstart bin/headstart --mirror data --batches 16 64 256

The two run in turn (ours, peer, ours, peer), each in a process of its own; a row holds the medians of the rounds. What
does not fit into the memory is a row without numbers. The last line compares the best batch of each. The peer is
tools/torch_baseline.py or torch_peers.py with --compile; it needs torch. Every raw JSON line goes to --out. The exit
code is 1 if a side has no number at all.
"""
import argparse, json, statistics, subprocess, sys
from compare import TOOLS, Failed, json_line, number

# Our bench, the peer, and what is compared. {batch} and {steps} are filled in.
CASES = {
    "train": ("train --preset naacl2019 --precision bf16", "torch_baseline.py --train-only --shape naacl2019", "tokens_per_s"),
    "train-no-attention-dropout": ("train --preset naacl2019 --precision bf16 --attention_dropout 0",
                                   "torch_baseline.py --train-only --shape naacl2019 --attn-dropout 0", "tokens_per_s"),
    "train-f32": ("train --preset naacl2019 --precision f32", "torch_baseline.py --train-only --shape naacl2019 --precision f32", "tokens_per_s"),
    "gpt2": ("train --preset gpt2 --precision bf16 --num_max_positions 1024 --seq 1024", "torch_baseline.py --train-only --shape gpt2 --seq 1024",
             "tokens_per_s"),
    "gpt2-no-dropout": ("train --preset gpt2 --precision bf16 --num_max_positions 1024 --seq 1024 --dropout 0",
                        "torch_baseline.py --train-only --shape gpt2 --seq 1024 --dropout 0", "tokens_per_s"),
    "finetune-trec": ("finetune --preset naacl2019 --precision bf16 --data trec --tokenizer bert-base-cased --mirror {mirror} --offline",
                      "torch_peers.py finetune --data trec --vocab {mirror}/vocab/bert-base-cased/vocab.txt {mirror}/trec", "examples_per_s"),
    "finetune-imdb": ("finetune --preset naacl2019 --precision bf16 --data imdb --tokenizer bert-base-cased --mirror {mirror} --offline",
                      "torch_peers.py finetune --data imdb --vocab {mirror}/vocab/bert-base-cased/vocab.txt {mirror}/aclImdb",
                      "examples_per_s"),
}


def gpu():
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no nvidia-smi"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("case", choices=CASES)
    p.add_argument("--headstart", default="headstart")
    p.add_argument("--python", default=sys.executable, help="the Python that has torch")
    p.add_argument("--mirror", default="data", help="the folder with trec, aclImdb and vocab/bert-base-cased")
    p.add_argument("--batches", type=int, nargs="+", required=True)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--warmup", type=int, default=5)
    p.add_argument("--device", default="cuda")
    p.add_argument("--only", choices=["ours", "peer"], help="leave the other side out")
    p.add_argument("--out", help="file that the raw JSON lines are appended to")
    a = p.parse_args()
    ours, peer, key = CASES[a.case]
    sides = {
        "ours": [a.headstart, "bench", *ours.format(mirror=a.mirror).split(), "--device", a.device, "--json"],
        "peer": [a.python, str(TOOLS / peer.split()[0]), *peer.format(mirror=a.mirror).split()[1:], "--device", a.device, "--compile"],
    }
    sides = {side: command for side, command in sides.items() if a.only in (None, side)}
    print(f"{a.case}, {a.device}: {gpu()}; {a.rounds} rounds in turn, {a.steps} steps each after {a.warmup}\n")
    print("| batch | " + " | ".join(f"{side} {key} | MiB" for side in sides) + " | times as fast | share of the GPU's peak |")
    print("|---:|" + "---:|---:|" * len(sides) + "---:|---:|", flush=True)
    best, said = {}, set()
    for batch in a.batches:
        found = {side: [] for side in sides}
        for _ in range(a.rounds):
            for side, command in sides.items():
                try:
                    line = json_line([*command, "--batch", str(batch), "--steps", str(a.steps), "--warmup", str(a.warmup)])
                except Failed as e:
                    if (side, batch) not in said:
                        print(f"gpu_compare: {a.case}, {batch}: {side}: {str(e)[-600:]}", file=sys.stderr, flush=True)
                    said.add((side, batch))
                    continue
                found[side].append(line)
                if a.out:
                    with open(a.out, "a", encoding="utf-8") as f:
                        f.write(json.dumps({"case": a.case, "side": side, **line}) + "\n")
        cells, medians = [], {}
        for side, lines in found.items():
            if lines:
                medians[side] = statistics.median(line[key] for line in lines)
                best[side] = max(best.get(side, (0, 0)), (medians[side], batch))
                # Ours is what the device held; PyTorch's, what its allocator did.
                cells += [number(medians[side]), number(statistics.median(l.get("device_peak_mib", l["peak_mib"]) for l in lines))]
            else:
                cells += ["-", "-"]
        ratio = f"{medians['ours'] / medians['peer']:.2f}" if len(medians) == 2 else "-"
        shares = [line["share_of_peak"] for line in found.get("ours", []) if line.get("share_of_peak")]
        share = f"{100 * statistics.median(shares):.0f} %" if shares else "-"
        print(f"| {batch} | {' | '.join(cells)} | {ratio} | {share} |", flush=True)
    said_best = ", ".join(f"{side} {number(value)} at batch {batch}" for side, (value, batch) in best.items())
    print(f"\nbest of each: {said_best}" + (f": {best['ours'][0] / best['peer'][0]:.2f} times" if len(best) == 2 else ""))
    return 0 if len(best) == len(sides) else 1


if __name__ == "__main__":
    sys.exit(main())
