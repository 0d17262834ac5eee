#!/usr/bin/env python3
"""Headstart against PyTorch, case by case, as a Markdown table.

    python tools/compare.py --headstart target/release/headstart --python venv/bin/python --mirror datasets --model runs/trec --lm runs/trunk
    python tools/compare.py --cases train-bf16 forward-bf16 --rounds 2 --steps 6 --out compare.jsonl

Ours is `headstart bench`, the peer tools/torch_peers.py or tools/torch_baseline.py under --python, which needs torch,
numpy, safetensors and tokenizers. The two run in turn (ours, peer, ours, peer), never together; a row holds the medians
of the rounds and how many times as fast ours is. tcmalloc is preloaded for PyTorch where it is found. Every raw
JSON line goes to --out. --mirror names the folder with `trec`, `aclImdb`, `wikitext-2` and `vocab/bert-base-cased`
(docs/data.md has its layout); --model a classifier of the naacl2019 sizes (predict, cold), --lm a language model of them (generate). A case
that fails is told on stderr, the others go on, and the exit code is 1. Needs the standard library only; leave the
machine alone while it runs.
"""
import argparse, ctypes.util, glob, json, os, pathlib, platform, statistics, subprocess, sys, tempfile, time
from collections import namedtuple

TOOLS = pathlib.Path(__file__).resolve().parent
QUESTION = "Who wrote Hamlet ?"
COLD_STARTS, PEER_COLD_STARTS = 9, 3

# What is compared is `key` of both JSON lines. Flags in braces are filled from the command line.
Case = namedtuple("Case", "title key ours script peer needs", defaults=[()])


def cases():
    all_cases = {}
    for shape, prefix, batch, seq in [("naacl2019", "", 8, 256), ("gpt2", "gpt2-", 4, 512)]:
        for precision in "bf16", "f32":
            for attention, suffix in [("0.1", ""), ("0", "-no-attention-dropout")]:
                if suffix and (shape, precision) != ("naacl2019", "bf16"):
                    continue
                all_cases[f"{prefix}train-{precision}{suffix}"] = Case(
                    f"{shape} training, {precision}, attention dropout {attention}", "tokens_per_s",
                    f"train --preset {shape} --precision {precision} --batch {batch} --seq {seq} --attention_dropout {attention} "
                    "--steps {steps}",
                    "torch_peers.py",
                    f"lm --shape {shape} --precision {precision} --batch {batch} --attn-dropout {attention} " "--steps {steps}")
    for precision in "bf16", "f32":
        model = f"--precision {precision}"
        all_cases |= {
            f"forward-{precision}": Case(
                f"naacl2019 forward, {precision}", "tokens_per_s",
                f"forward --preset naacl2019 {model} --batch 8 --seq 256 " "--steps {steps}", "torch_baseline.py",
                f"--shape naacl2019 {model} --batch 8 --forward-only " "--steps {steps}"),
            f"predict-{precision}": Case(
                f"one question, warm, p50, {precision}", "p50_ms", f"predict {model} " "--model {model}", "torch_peers.py",
                f"predict {model} --cold 0 " "--vocab {vocab}", ("mirror", "model")),
            f"generate-{precision}": Case(
                f"greedy generation, {precision}", "tokens_per_s", f"generate {model} --steps 240 " "--model {lm}",
                "torch_peers.py", f"generate {model}", ("lm",)),
            f"cold-{precision}": Case(
                f"one question, new process, {precision}", "cold_s", None, "torch_peers.py",
                f"predict {model} --texts 1 --cold {PEER_COLD_STARTS} " "--vocab {vocab}", ("mirror", "model")),
        }
        for way, data in [("padded", "trec"), ("tutorial", "trec"), ("padded", "imdb")]:
            all_cases[f"finetune-{data}-{way}-{precision}"] = Case(
                f"{data} fine-tuning, peer {way}, {precision}", "examples_per_s",
                f"finetune --preset naacl2019 --data {data} --tokenizer bert-base-cased {model} "
                "--steps {finetune_steps} --mirror {mirror}", "torch_peers.py",
                f"finetune --data {data} {model} --way {way} " "--steps {finetune_steps} --vocab {vocab} {" + data + "}",
                ("mirror",))
    all_cases["tokenise"] = Case("WikiText-2's training text to ids", "seconds", None, "torch_peers.py",
                                 "tokenise {wikitext} --vocab {vocab}", ("mirror",))
    return all_cases


class Failed(Exception):
    pass


def tcmalloc():
    """What to preload, or nothing."""
    if not sys.platform.startswith("linux"):
        return None
    for name in "tcmalloc_minimal", "tcmalloc":
        places = [f"{root}/lib{name}.so*" for root in ("/usr/lib", "/usr/lib64", "/usr/lib/*", "/usr/local/lib")]
        found = ctypes.util.find_library(name) or next((path for p in places for path in sorted(glob.glob(p))), None)
        if found:
            return found
    return None


def output(command, env=None):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    except OSError as e:
        raise Failed(f"{command[0]}: {e}") from e
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout.strip()


def json_line(command, env=None):
    printed = output(command, env)
    try:
        return json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError) as e:
        raise Failed(f"{' '.join(command)}\nprinted no JSON line:\n{printed}") from e


def seconds_to_first_line(command, text=""):
    """Seconds from the start of a process that is given `text` to its first line."""
    start = time.perf_counter()
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as e:
        raise Failed(f"{command[0]}: {e}") from e
    try:
        process.stdin.write(text)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended early, and says why on stderr
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    process.stdout.read()
    errors = process.stderr.read()
    if process.wait() != 0 or not line:
        raise Failed(f"{' '.join(command)}\nended with {process.returncode}:\n{errors.strip()}")
    return seconds


def cold(command, text=""):
    return statistics.median(seconds_to_first_line(command, text) for _ in range(COLD_STARTS))


def cpu():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(a):
    script = ("import importlib.metadata as m, platform; print('Python ', platform.python_version(), "
              "*(f', {n} {m.version(n)}' for n in ('torch', 'tokenizers', 'safetensors')), sep='')")
    return f"{output([a.headstart, '--version'])}; {output([a.python, '-c', script])}"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main():
    known = cases()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", nargs="+", choices=[*known, "help"], default=[*known, "help"], metavar="CASE",
                   help=f"of: {', '.join([*known, 'help'])}")
    p.add_argument("--headstart", default="headstart")
    p.add_argument("--python", default=sys.executable, help="the Python that has torch")
    p.add_argument("--mirror", help="the folder with trec, aclImdb, wikitext-2 and vocab/bert-base-cased")
    p.add_argument("--model", help="a classifier of the naacl2019 sizes")
    p.add_argument("--lm", help="a language model of the naacl2019 sizes")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--steps", type=int, default=6, help="timed steps of training and forward")
    p.add_argument("--finetune-steps", type=int, default=20, help="timed steps of fine-tuning")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--out", help="file that the raw JSON lines are appended to")
    a = p.parse_args()
    fill = dict(steps=a.steps, finetune_steps=a.finetune_steps, mirror=a.mirror, model=a.model, lm=a.lm)
    if a.mirror:
        inside = lambda *parts: os.path.join(a.mirror, *parts)
        fill |= dict(vocab=inside("vocab", "bert-base-cased", "vocab.txt"), trec=inside("trec"), imdb=inside("aclImdb"),
                     wikitext=inside("wikitext-2", "wiki.train.tokens"))
    library = tcmalloc()
    env = {**os.environ, "LD_PRELOAD": library} if library else None

    def flags(text):
        return [part.format(**fill) for part in text.split()] + ["--threads", str(a.threads)]

    def record(case, side, line):
        if a.out:
            with open(a.out, "a", encoding="utf-8") as f:
                f.write(json.dumps(dict(case=case, side=side, commit=commit, **line)) + "\n")
        return line

    def ours(name, case):
        if case.ours:
            return json_line([a.headstart, "bench", *flags(case.ours), "--json"])
        if name == "tokenise":
            return tokenise()
        precision = name.rpartition("-")[2]
        command = [a.headstart, "predict", a.model, "--precision", precision, "--threads", str(a.threads)]
        return dict(what="cold", precision=precision, cold_s=cold(command, QUESTION + "\n"))

    def tokenise():
        """Whole processes: to a new cache, with the validation and test texts, and once more."""
        with tempfile.TemporaryDirectory() as cache:
            command = [a.headstart, "data", "prepare", "wikitext-2", "--tokenizer", "bert-base-cased", "--mirror", a.mirror,
                       "--offline", "--cache_dir", cache]
            times = []
            for _ in range(2):
                start = time.perf_counter()
                output(command)
                times.append(time.perf_counter() - start)
        return dict(what="tokenise", seconds=times[0], again_s=times[1])

    def row(name, case):
        missing = [f"--{need}" for need in case.needs if not getattr(a, need)]
        if missing:
            raise Failed(f"needs {' and '.join(missing)}")
        pairs = []
        for _ in range(a.rounds):
            mine = record(name, "headstart", ours(name, case))
            peer = [a.python, str(TOOLS / case.script), *flags(case.peer)]
            pairs.append((mine, record(name, "pytorch", json_line(peer, env))))
        try:
            mine, peer = (statistics.median(line[case.key] for line in side) for side in zip(*pairs))
        except KeyError as e:
            raise Failed(f"no {e} in {pairs[0]}") from e
        memory = ["-" if any("peak_mib" not in line for line in side)
                  else number(statistics.median(line["peak_mib"] for line in side)) for side in zip(*pairs)]
        ratio = mine / peer if case.key.endswith("per_s") else peer / mine
        return f"| {case.title} | {case.key} | {number(mine)} | {number(peer)} | {ratio:.2f} | {' | '.join(memory)} |"

    def help_row():
        line = record("help", "headstart", dict(what="help", seconds=cold([a.headstart, "--help"])))
        return f"| headstart --help | seconds | {number(line['seconds'])} | - | - | - | - |"

    try:
        commit = output(["git", "-C", str(TOOLS), "rev-parse", "--short", "HEAD"])
        print(f"{cpu()}, {os.cpu_count()} cores, {a.threads} threads; commit {commit}; {versions(a)}; "
              f"tcmalloc {'preloaded for PyTorch: ' + library if library else 'not found'}; {a.rounds} rounds in turn\n")
    except Failed as e:
        sys.exit(f"compare: {e}")
    print("| case | what | Headstart | PyTorch | times as fast | MiB | PyTorch's MiB |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    failed = False
    for name in a.cases:
        try:
            print(help_row() if name == "help" else row(name, known[name]), flush=True)
        except Failed as e:
            failed = True
            print(f"compare: {name}: {e}", file=sys.stderr, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
