#!/usr/bin/env python3
"""PyTorch's best plain way of the things people do with Headstart, one JSON line each; tools/compare.py runs them.

The model is tools/torch_baseline.py's (SDPA, fused Adam, bf16 autocast in training, bf16 weights in inference), the
tokenizer Hugging Face's `tokenizers`, the data the real texts. Training (lm, finetune, train) also runs with --device cuda.

    pip install torch numpy safetensors tokenizers
    python torch_peers.py lm --precision bf16 --steps 6                     # training steps, random ids
    python torch_peers.py lm --ids CACHE/tokens/lm-....tokens               # the ids of Headstart's own token cache
    python torch_peers.py finetune --data trec TREC --vocab vocab.txt --way padded --steps 20
    python torch_peers.py train --ids TRAIN.tokens --valid VALID.tokens --device cuda --compile --seconds 480
    python torch_peers.py predict --vocab vocab.txt --texts 200 --precision bf16
    python torch_peers.py generate --new-tokens 240 --precision bf16
    python torch_peers.py tokenise wiki.train.tokens --vocab vocab.txt
    LD_PRELOAD=libtcmalloc_minimal.so.4 python torch_peers.py ...           # faster on CPU: preload it for a fair peer

train     one JSON line per evaluation: seconds of training (compiling and evaluating are not counted) and the mean loss on
          whole held-out blocks; warm-up, then a constant rate, Adam, clip at --max-norm.
lm        optimizer steps on blocks of consecutive ids; seconds is the median step.
finetune  TREC-6 or IMDb, every text with a final [CLS] that the head reads; tokenising is not counted. Seconds is the
          median step, total_seconds their sum, from which an epoch (of the 90 % that Headstart trains on) is projected.
          --way padded: each batch to its longest text, no LM logits. --way tutorial: all to the longest of the data
          set (at most the positions), with LM logits that no loss uses, as the NAACL tutorial's code does it.
          Both pad on the right: behind a causal mask no padding is ever looked at, so neither needs a mask.
predict   one question at a time, tokenising included: p50_ms and p95_ms over warm texts; cold_s is a new process from
          its start to its first answer.
generate  greedy, one stream, keys and values cached (checked against the full forward).
tokenise  every core, ids without offsets; seconds is the median of three. Headstart's count has one more a line, its end.

peak_mib is the process's largest resident memory, data and Python included. Weights are random: speed is all that is
measured.
"""
import argparse, json, os, pathlib, random, subprocess, sys, tempfile, time
import torch, torch.nn as nn, torch.nn.functional as F
from torch_baseline import SHAPES, LanguageModel, autocast, median, optimize, peak_mib, report, timed

TEXTS = [
    "Who wrote Hamlet ?", "What is the capital of Yugoslavia ?", "How many people live in Falls Creek ?",
    "When did Hawaii become a state ?", "What does the abbreviation AIDS stand for ?",
    "What is the highest waterfall in the United States ?", "How far is it from Denver to Aspen ?",
    "Why do heavier objects travel downhill faster ?",
]
HEADER_BYTES = 64  # crates/headstart/src/data/cache.rs describes the file
HELD_OUT = 0.1  # of the training data, as headstart keeps for validation


class Classifier(LanguageModel):
    def __init__(self, shape, dropout, attn_dropout, classes):
        super().__init__(shape, dropout, attn_dropout)
        self.head = nn.Linear(shape["embed"], classes)

    def classify(self, ids, last):
        return self.read(self.trunk(ids), last)

    def read(self, hidden, last):
        return self.head(hidden[torch.arange(len(last)), last])


class KeysAndValues:
    """One block's cache, allocated once."""

    def __init__(self, shape, dtype):
        size = 1, shape["heads"], shape["positions"], shape["embed"] // shape["heads"]
        self.length, self.k, self.v = 0, torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)

    def extend(self, k, v):
        first, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, first : self.length] = k
        self.v[:, :, first : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


def tokenizer(vocab):
    # BERT's as `tokenizers` has it; importing `transformers` alone would take a second of a cold start.
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    tok = Tokenizer(models.WordPiece.from_file(vocab, unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=False)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tok


def encode(tok, texts):
    return [e.ids for e in tok.encode_batch_fast(texts, add_special_tokens=False)]


def dropouts(a):
    return a.dropout, a.dropout if a.attn_dropout is None else a.attn_dropout


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=2.5e-4, fused=True)


def blocks(path, shape, batch):
    """Batches of consecutive blocks of a token cache, in random order, without end."""
    import numpy as np
    header = np.fromfile(path, dtype=np.uint64, count=3)
    if len(header) < 3 or int(header[0]).to_bytes(8, "big") != b"HEADTOK\x01":
        raise SystemExit(f"{path}: not a token cache of headstart (tokens/lm-*.tokens in its cache folder)")
    t = shape["positions"]
    count = int(header[1]) // t
    if count < batch:
        raise SystemExit(f"{path}: {count} blocks of {t} ids, fewer than a batch of {batch}")
    ids = np.memmap(path, dtype=np.uint32, mode="r", offset=HEADER_BYTES, shape=(count, t))
    while True:
        for rows in torch.randperm(count).split(batch):
            if len(rows) == batch:
                yield torch.from_numpy(ids[rows.numpy()].astype(np.int64))


def lm(a):
    shape = SHAPES[a.shape]
    batch = a.batch or shape["batch"]
    model = LanguageModel(shape, *dropouts(a)).to(a.device)
    run = torch.compile(model) if a.compile else model
    optimizer = adam(model)
    fixed = torch.randint(0, shape["vocab"], (batch, shape["positions"]))
    batches = blocks(a.ids, shape, batch) if a.ids else iter(lambda: fixed, None)

    def step():
        ids = next(batches).to(a.device)
        with autocast(a.precision, a.device):
            loss = run(ids, ids)
        optimize(model, optimizer, loss, 0.25)

    seconds, tokens = median(timed(step, a.warmup, a.steps, a.device)), batch * shape["positions"]
    report(what="lm", shape=a.shape, precision=a.precision, threads=a.threads, device=a.device, dropout=a.dropout,
           attn_dropout=dropouts(a)[1], data="cache" if a.ids else "random", batch=batch, tokens=tokens,
           seconds=round(seconds, 4), tokens_per_s=round(tokens / seconds, 1), peak_mib=peak_mib(a.device))


def train(a):
    shape = SHAPES[a.shape]
    model = LanguageModel(shape, *dropouts(a)).to(a.device)
    run = torch.compile(model) if a.compile else model
    optimizer = torch.optim.Adam(model.parameters(), lr=a.lr, fused=True)
    batches, valid = blocks(a.ids, shape, a.batch), blocks(a.valid, shape, a.batch)
    held_out = [next(valid) for _ in range(a.valid_batches)]
    trained, step, due = 0.0, 0, 0.0

    def one():
        ids = next(batches).to(a.device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1.0, (step + 1) / a.warmup_steps)
        with autocast(a.precision, a.device):
            loss = run(ids, ids)
        optimize(model, optimizer, loss, a.max_norm)

    def evaluate():
        model.eval()
        with torch.no_grad(), autocast(a.precision, a.device):
            losses = [float(run(ids.to(a.device), ids.to(a.device))) for ids in held_out]
        model.train()
        report(what="train", shape=a.shape, precision=a.precision, batch=a.batch, step=step, seconds=round(trained, 1),
               tokens=step * a.batch * shape["positions"], nll=sum(losses) / len(losses), peak_mib=peak_mib(a.device))

    evaluate()
    while trained < a.seconds:
        # The first steps compile; the peer is not charged for that.
        took = sum(timed(one, 0, 1, a.device))
        step += 1
        trained += took if step > 3 else 0.0
        if trained >= due + a.eval_seconds:
            due = trained
            evaluate()
    evaluate()


def labelled(data, path):
    """The training texts with their labels."""
    path = pathlib.Path(path)
    if data == "trec":
        lines = (path / "train_5500.label").read_text(encoding="latin-1").split("\n")
        pairs = [(line.partition(" ")[2], line.partition(":")[0]) for line in lines if line]
    else:
        pairs = [(f.read_text(encoding="utf-8"), label) for label in ("neg", "pos")
                 for f in sorted((path / "train" / label).glob("*.txt"))]
    if not pairs:
        raise SystemExit(f"{path}: no training texts of {data}")
    return zip(*pairs)


def finetune(a):
    shape = SHAPES[a.shape]
    texts, labels = labelled(a.data, a.path)
    names = sorted(set(labels))
    tok = tokenizer(a.vocab)
    cls, pad = tok.token_to_id("[CLS]"), tok.token_to_id("[PAD]")
    examples = [(ids[: shape["positions"] - 1] + [cls], names.index(label))
                for ids, label in zip(encode(tok, list(texts)), labels)]
    random.Random(0).shuffle(examples)
    del examples[round(len(examples) * (1 - HELD_OUT)) :]
    longest = max(len(ids) for ids, _ in examples)
    tutorial = a.way == "tutorial"
    model = Classifier(shape, *dropouts(a), len(names)).to(a.device)
    # Lengths differ from batch to batch.
    trunk = torch.compile(model.trunk, dynamic=True) if a.compile else model.trunk
    optimizer = adam(model)

    def batches():
        while True:
            order = torch.randperm(len(examples)).tolist()
            for first in range(0, len(order), a.batch):
                yield [examples[i] for i in order[first : first + a.batch]]

    source, seen = batches(), []

    def step():
        rows = next(source)
        width = longest if tutorial else max(len(ids) for ids, _ in rows)
        lengths = [len(ids) for ids, _ in rows]
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]).to(a.device)
        last = torch.tensor(lengths).to(a.device) - 1
        labels = torch.tensor([label for _, label in rows]).to(a.device)
        with autocast(a.precision, a.device):
            hidden = trunk(ids)
            logits = model.logits(hidden) if tutorial else None
            loss = F.cross_entropy(model.read(hidden, last).float(), labels)
        optimize(model, optimizer, loss, 1.0)
        del logits
        seen.append((len(rows), sum(lengths), ids.numel()))

    epoch = -(-len(examples) // a.batch)
    timed(step, a.warmup, 0, a.device)
    for _ in range(4):
        # Where a width had to be compiled for, once more: the peer is not charged for that.
        seen.clear()
        before = compiled_graphs()
        times = timed(step, 0, a.steps or a.epochs * epoch, a.device)
        if compiled_graphs() == before:
            break
    total = sum(times)
    rows, tokens, padded = (sum(column) for column in zip(*seen))
    report(what="finetune", data=a.data, way=a.way, shape=a.shape, precision=a.precision, threads=a.threads,
           dropout=a.dropout, attn_dropout=dropouts(a)[1], batch=a.batch, steps=len(times), tokens=tokens,
           padded_tokens=padded, seconds=round(median(times), 4), total_seconds=round(total, 3),
           examples_per_s=round(rows / total, 2), tokens_per_s=round(tokens / total, 1), epoch_examples=len(examples),
           epoch_seconds=round(total / rows * len(examples), 1), epochs3_seconds=round(3 * total / rows * len(examples), 1),
           device=a.device, peak_mib=peak_mib(a.device))


def compiled_graphs():
    from torch._dynamo.utils import counters
    return counters["stats"]["unique_graphs"]


def answer_with(model, tok, text):
    ids = encode(tok, [text])[0] + [tok.token_to_id("[CLS]")]
    with torch.inference_mode():
        probabilities = model.classify(torch.tensor([ids]), torch.tensor([len(ids) - 1])).float().softmax(-1)[0]
    return dict(label=int(probabilities.argmax()), probabilities=[round(p, 4) for p in probabilities.tolist()])


def inference_model(kind, shape, precision, *more):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if precision == "bf16" else before)
    try:
        return kind(SHAPES[shape], 0.0, 0.0, *more).eval()
    finally:
        torch.set_default_dtype(before)


def answer(a):
    from safetensors.torch import load_file
    with torch.device("meta"):  # no initial weights that the file would replace
        model = inference_model(Classifier, a.shape, a.precision, 6)
    model.load_state_dict(load_file(a.state), assign=True)
    print(json.dumps(answer_with(model, tokenizer(a.vocab), a.text)), flush=True)


def predict(a):
    from safetensors.torch import save_file
    model, tok = inference_model(Classifier, a.shape, a.precision, 6), tokenizer(a.vocab)
    texts = iter([TEXTS[i % len(TEXTS)] for i in range(a.warmup + a.texts)])
    times = sorted(timed(lambda: answer_with(model, tok, next(texts)), a.warmup, a.texts))
    peak, colds = peak_mib(), []
    with tempfile.TemporaryDirectory() as folder:
        state = os.path.join(folder, "model.safetensors")
        save_file(model.state_dict(), state)
        command = [sys.executable, __file__, "answer", "--state", state, "--vocab", a.vocab, "--shape", a.shape,
                   "--precision", a.precision, "--threads", str(a.threads), "--text", TEXTS[0]]
        for _ in range(a.cold):
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            process.stdout.readline()
            colds.append(time.perf_counter() - start)
            if process.wait() != 0:
                raise SystemExit("the cold process failed")
    report(what="predict", shape=a.shape, precision=a.precision, threads=a.threads, texts=a.texts,
           tokens=sum(len(ids) + 1 for ids in encode(tok, TEXTS)) / len(TEXTS), seconds=round(median(times), 5),
           p50_ms=round(1e3 * median(times), 2), p95_ms=round(1e3 * times[int(0.95 * len(times))], 2),
           examples_per_s=round(len(times) / sum(times), 2), cold_s=round(median(colds), 3) if colds else None,
           peak_mib=peak)


@torch.inference_mode()
def stream(model, shape, prompt, new):
    """Greedy: the ids and each one's logits."""
    caches = [KeysAndValues(shape, model.tokens.weight.dtype) for _ in model.blocks]
    ids, fed, scores = prompt, prompt, []
    for _ in range(new):
        # Only the last row is worth logits.
        scores.append(model.logits(model.trunk(fed, caches)[:, -1]))
        fed = scores[-1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, fed], 1)
    return ids, scores


def generate(a):
    shape = SHAPES[a.shape]
    if a.prompt_tokens + a.new_tokens > shape["positions"]:
        raise SystemExit(f"--new-tokens: {shape['positions'] - a.prompt_tokens} at most with {a.shape}")
    prompt = torch.randint(0, shape["vocab"], (1, a.prompt_tokens))
    model = inference_model(LanguageModel, a.shape, a.precision)
    seconds = median(timed(lambda: stream(model, shape, prompt, a.new_tokens), 1, a.repeats))
    peak = peak_mib()
    check_stream(shape, inference_model(LanguageModel, a.shape, "f32"), prompt)
    report(what="generate", shape=a.shape, precision=a.precision, threads=a.threads, prompt=a.prompt_tokens,
           tokens=a.new_tokens, seconds=round(seconds, 4), tokens_per_s=round(a.new_tokens / seconds, 1), peak_mib=peak)


def check_stream(shape, model, prompt):
    """The cache must not change what is computed."""
    ids, scores = stream(model, shape, prompt, 8)
    with torch.inference_mode():
        full = model(ids)[:, prompt.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(scores, 1), full, rtol=1e-3, atol=1e-3)


def tokenise(a):
    os.environ.setdefault("RAYON_NUM_THREADS", str(a.threads))
    tok = tokenizer(a.vocab)
    text = pathlib.Path(a.path).read_text(encoding="utf-8").replace("<unk>", "[UNK]")  # as WikiText means it
    lines = text.removesuffix("\n").split("\n")[: a.lines]
    seconds = median(timed(lambda: tok.encode_batch_fast(lines, add_special_tokens=False), 0, 3))
    tokens = sum(map(len, encode(tok, lines)))
    report(what="tokenise", threads=a.threads, lines=len(lines), tokens=tokens, seconds=round(seconds, 3),
           tokens_per_s=round(tokens / seconds), peak_mib=peak_mib())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)

    def command(run, *parts):
        c = commands.add_parser(run.__name__)
        c.set_defaults(run=run)
        c.add_argument("--threads", type=int, default=os.cpu_count())
        if "model" in parts:
            c.add_argument("--shape", choices=SHAPES, default="naacl2019")
            c.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
        if "training" in parts:
            c.add_argument("--dropout", type=float, default=0.1)
            c.add_argument("--attn-dropout", type=float, help="default: --dropout")
            c.add_argument("--warmup", type=int, default=2)
            c.add_argument("--device", default="cpu")
            c.add_argument("--compile", action="store_true")
        if "vocab" in parts:
            c.add_argument("--vocab", required=True, help="the vocab.txt of bert-base-cased")
        return c

    c = command(lm, "model", "training")
    c.add_argument("--ids", help="a token cache of headstart; default: random ids")
    c.add_argument("--batch", type=int, help="sequences per step (default: the shape's own)")
    c.add_argument("--steps", type=int, default=6)
    c = command(train, "model", "training")
    c.add_argument("--ids", required=True, help="a token cache of headstart")
    c.add_argument("--valid", required=True, help="the token cache of the held-out text")
    c.add_argument("--valid-batches", type=int, default=16)
    c.add_argument("--batch", type=int, default=256)
    c.add_argument("--seconds", type=float, default=480)
    c.add_argument("--eval-seconds", type=float, default=60)
    c.add_argument("--lr", type=float, default=2.5e-4)
    c.add_argument("--warmup-steps", type=int, default=1000)
    c.add_argument("--max-norm", type=float, default=0.25)
    c = command(finetune, "model", "training", "vocab")
    c.add_argument("--data", choices=["trec", "imdb"], default="trec")
    c.add_argument("path", help="the folder with train_5500.label, or aclImdb")
    c.add_argument("--way", choices=["padded", "tutorial"], default="padded")
    c.add_argument("--batch", type=int, default=16)
    c.add_argument("--epochs", type=int, default=1)
    c.add_argument("--steps", type=int, help="measure so many steps instead of --epochs")
    c = command(predict, "model", "vocab")
    c.add_argument("--texts", type=int, default=100)
    c.add_argument("--warmup", type=int, default=10)
    c.add_argument("--cold", type=int, default=3, help="processes started for cold_s")
    c = command(answer, "model", "vocab")  # what `predict` starts
    c.add_argument("--state", required=True)
    c.add_argument("--text", required=True)
    c = command(generate, "model")
    c.add_argument("--new-tokens", type=int, default=240)
    c.add_argument("--prompt-tokens", type=int, default=16)
    c.add_argument("--repeats", type=int, default=3)
    c = command(tokenise, "vocab")
    c.add_argument("path", help="a text file")
    c.add_argument("--lines", type=int, help="only the first so many")

    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if getattr(a, "device", "cpu") == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as torch_baseline.py
    a.run(a)


if __name__ == "__main__":
    main()
