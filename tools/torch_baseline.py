#!/usr/bin/env python3
"""The peer: PyTorch's best honest training step and forward pass on the tutorial's model.

Written from the description in docs/goldens.md, in the best PyTorch style of its day (SDPA, fused Adam,
optional bf16 autocast and torch.compile), so that a ratio against it means something. It prints one JSON
line per measurement: tokens per second (median of the timed steps), seconds per step, peak RSS or GPU memory.

    pip install torch                       # any recent version
    python torch_baseline.py --shape naacl2019 --precision bf16 --steps 6
    LD_PRELOAD=libtcmalloc_minimal.so.4 python torch_baseline.py ...      # faster on CPU: preload it for a fair peer
    python torch_baseline.py --device cuda --compile --batch 256 --steps 30

Shapes: naacl2019 = 50,396,360 parameters (vocab 28,996, d 410, ff 2,100, 10 heads, 16 layers, T 256);
gpt2 = GPT-2 small's sizes with T 512. --attn-dropout 0 is what PyTorch needs to take its fast attention path;
the tutorial trains with dropout 0.1 everywhere, attention included, and that is the default here.
"""
import argparse, contextlib, json, os, resource, time
import torch, torch.nn as nn, torch.nn.functional as F

SHAPES = {
    "naacl2019": dict(embed=410, hidden=2100, vocab=28996, positions=256, heads=10, layers=16, batch=8, prenorm=False),
    "gpt2": dict(embed=768, hidden=3072, vocab=50257, positions=512, heads=12, layers=12, batch=4, prenorm=True),
}


class Block(nn.Module):
    def __init__(self, s, dropout, attn_dropout):
        super().__init__()
        e = s["embed"]
        self.heads, self.prenorm, self.p, self.pa = s["heads"], s["prenorm"], dropout, attn_dropout
        self.norm1, self.norm2 = nn.LayerNorm(e, eps=1e-12), nn.LayerNorm(e, eps=1e-12)
        self.qkv, self.proj = nn.Linear(e, 3 * e), nn.Linear(e, e)
        self.up, self.down = nn.Linear(e, s["hidden"]), nn.Linear(s["hidden"], e)

    def attend(self, x, cache=None):
        b, t, e = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            k, v = cache.extend(k, v)  # one new token sees all that stands there
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1, dropout_p=self.pa if self.training else 0.0)
        return F.dropout(self.proj(y.transpose(1, 2).reshape(b, t, e)), self.p, self.training)

    def feed(self, x):
        act = F.gelu(self.up(x), approximate="tanh") if self.prenorm else F.relu(self.up(x))
        return F.dropout(self.down(act), self.p, self.training)

    def forward(self, h, cache=None):
        if self.prenorm:
            h = h + self.attend(self.norm1(h), cache)
            return h + self.feed(self.norm2(h))
        h = self.norm1(h)  # the tutorial's residual leaves after the norm
        h = h + self.attend(h, cache)
        h = self.norm2(h)
        return h + self.feed(h)


class LanguageModel(nn.Module):
    def __init__(self, s, dropout, attn_dropout):
        super().__init__()
        self.p = dropout
        self.tokens, self.positions = nn.Embedding(s["vocab"], s["embed"]), nn.Embedding(s["positions"], s["embed"])
        self.blocks = nn.ModuleList(Block(s, dropout, attn_dropout) for _ in range(s["layers"]))
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=0.02)
            if isinstance(m, nn.Linear):
                nn.init.zeros_(m.bias)

    def trunk(self, ids, caches=None):
        """The hidden states; `caches` (one a block) hold the keys and values of the tokens before."""
        first = caches[0].length if caches else 0
        places = self.positions.weight[first : first + ids.shape[1]]
        h = F.dropout(self.tokens(ids) + places, self.p, self.training)
        for i, block in enumerate(self.blocks):
            h = block(h, caches[i] if caches else None)
        return h

    def logits(self, h):
        return F.linear(h, self.tokens.weight)

    def forward(self, ids, labels=None):
        h = self.trunk(ids)
        if labels is None:
            return self.logits(h)
        logits = self.logits(h[:, :-1].reshape(-1, h.shape[-1]))
        return F.cross_entropy(logits.float(), labels[:, 1:].reshape(-1))


def autocast(precision, device="cpu"):
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def optimize(model, optimizer, loss, max_norm):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()


def timed(step, warmup, steps, device="cpu"):
    """The seconds of each of `steps` calls, after `warmup` more."""
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(warmup):
        step()
    times = []
    for _ in range(steps):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return times


def median(values):
    return sorted(values)[len(values) // 2]


def peak_mib(device="cpu"):
    return (torch.cuda.max_memory_allocated() if device == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) >> 20


def report(**result):
    print(json.dumps(dict(peer="pytorch " + torch.__version__, **result)), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES, default="naacl2019")
    p.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--batch", type=int, help="sequences per step (default: the shape's own)")
    p.add_argument("--seq", type=int, help="tokens per sequence, and positions (default: the shape's own)")
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--attn-dropout", type=float, help="default: --dropout")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--warmup", type=int, default=2)
    only = p.add_mutually_exclusive_group()
    only.add_argument("--forward-only", action="store_true")
    only.add_argument("--train-only", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.device == "cuda":
        torch.set_float32_matmul_precision("high")
    s = SHAPES[a.shape] | (dict(positions=a.seq) if a.seq else {})
    batch = a.batch or s["batch"]
    model = LanguageModel(s, a.dropout, a.dropout if a.attn_dropout is None else a.attn_dropout).to(a.device)
    run = torch.compile(model) if a.compile else model
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4, fused=True)
    ids = torch.randint(0, s["vocab"], (batch, s["positions"]), device=a.device)

    def train_step():
        model.train()
        with autocast(a.precision, a.device):
            loss = run(ids, ids)
        optimize(model, optimizer, loss, 0.25)

    @torch.no_grad()
    def forward():
        model.eval()
        with autocast(a.precision, a.device):
            return run(ids)

    def measure(name, step):
        seconds = median(timed(step, a.warmup, a.steps, a.device))
        report(what=name, shape=a.shape, precision=a.precision, compile=a.compile, dropout=a.dropout, device=a.device,
               attn_dropout=a.dropout if a.attn_dropout is None else a.attn_dropout, batch=batch, tokens=ids.numel(), seconds=round(seconds, 4), tokens_per_s=round(ids.numel() / seconds, 1),
               peak_mib=peak_mib(a.device))

    if not a.forward_only:
        measure("train_step", train_step)
    if not a.train_only:
        measure("forward", forward)


if __name__ == "__main__":
    main()
