#!/usr/bin/env python3
"""PyTorch doing what a step of `headstart distill` does, one JSON line: tokens a second, milliseconds a step, peak memory.

    python tools/distill_peer.py TEACHER_FOLDER LINES.txt --steps 30
    python tools/distill_peer.py TEACHER_FOLDER LINES.txt --embed_dim 256 --hidden_dim 1024 --num_heads 4 --num_layers 4 --batch 64
    python tools/distill_peer.py TEACHER_FOLDER LINES.txt --arch electra --embedding_size 128 --device cuda --compile
    headstart distill --teacher TEACHER_FOLDER --data LINES.txt --inputs lines --block_size 128 --arch bert --embed_dim 256 \\
      --hidden_dim 1024 --num_heads 4 --num_layers 4 --precision bf16 --train_batch_size 64 --lr 1e-3 --dropout 0 --max_steps 30

A student of random weights learns the last hidden states (token loss) and the mean vectors (sentence loss) of a teacher, each through
a linear, against targets of root mean square 1; the same lines, cut to --block_size pieces. Written as one would today: `transformers`
with SDPA, bf16 autocast for the student, bf16 weights for the teacher in inference mode, batches padded to their longest line, fused
AdamW, clipping at 1. Lines become ids before the clock starts, as the program has them in its cache. Tokens are those of the text, padding not
among them; a step is the median of those after --warmup. Needs torch and transformers.
"""
import argparse
import json
import random
import resource
import statistics
import time

import torch
import transformers


def student_of(a, vocabulary):
    sizes = dict(vocab_size=vocabulary, hidden_size=a.embed_dim, num_hidden_layers=a.num_layers, num_attention_heads=a.num_heads,
                 intermediate_size=a.hidden_dim, max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if a.arch == "electra":
        config = transformers.ElectraConfig(**sizes, embedding_size=a.embedding_size or a.embed_dim)
        return transformers.ElectraModel(config)
    return transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False)


def direction(target):
    """Rows of root mean square 1."""
    target = target.float()
    return target / target.pow(2).mean(-1, keepdim=True).sqrt()


def mean_of(hidden, mask):
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def batches(lines, size, padding):
    """Batches in a random order without end, each padded to its longest line: ids, mask, tokens."""
    order, rng = list(range(len(lines))), random.Random(1)
    while True:
        rng.shuffle(order)
        for k in range(0, len(order) - size + 1, size):
            rows = [lines[i] for i in order[k : k + size]]
            ids = torch.full((size, max(map(len, rows))), padding)
            mask = torch.zeros(ids.shape, dtype=torch.bool)
            for r, row in enumerate(rows):
                ids[r, : len(row)], mask[r, : len(row)] = torch.tensor(row), True
            yield ids, mask, sum(map(len, rows))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("teacher")
    p.add_argument("lines")
    p.add_argument("--arch", choices=["bert", "electra"], default="bert")
    p.add_argument("--embed_dim", type=int, default=256)
    p.add_argument("--embedding_size", type=int)
    p.add_argument("--hidden_dim", type=int, default=1024)
    p.add_argument("--num_heads", type=int, default=4)
    p.add_argument("--num_layers", type=int, default=4)
    p.add_argument("--block_size", type=int, default=128)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    p.add_argument("--threads", type=int)
    p.add_argument("--device", default="cpu")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--most_lines", type=int, default=20_000)
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.teacher)
    texts = [line for line in open(a.lines, encoding="utf8").read().splitlines() if line.strip()][: a.most_lines]
    lines = [tokenizer(text, truncation=True, max_length=a.block_size)["input_ids"] for text in texts]
    if len(lines) < a.batch:
        raise SystemExit(f"{a.lines}: {len(lines)} lines, fewer than a batch of {a.batch}")

    teacher = transformers.AutoModel.from_pretrained(a.teacher, dtype=torch.bfloat16, attn_implementation="sdpa").to(a.device).eval()
    student = student_of(a, teacher.config.vocab_size)
    student.set_attn_implementation("sdpa")
    width = teacher.config.hidden_size
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(a.embed_dim, width) for name in ("tokens", "sentences")})
    student, heads = student.to(a.device).train(), heads.to(a.device)
    parameters = [*student.parameters(), *heads.parameters()]
    adam = torch.optim.AdamW(parameters, a.lr, weight_decay=0.0, fused=True)
    run, teach = (torch.compile(student, dynamic=True), torch.compile(teacher, dynamic=True)) if a.compile else (student, teacher)

    def step(ids, mask):
        ids, mask = ids.to(a.device), mask.to(a.device)
        with torch.inference_mode():
            there = teach(input_ids=ids, attention_mask=mask).last_hidden_state
            tokens, sentences = direction(there[mask]), direction(mean_of(there.float(), mask))
        tokens, sentences = tokens.clone(), sentences.clone()  # inference tensors are not saved for backward
        with torch.autocast(a.device.split(":")[0], torch.bfloat16):
            own = run(input_ids=ids, attention_mask=mask).last_hidden_state
            rendered = heads["tokens"](own[mask]), heads["sentences"](mean_of(own, mask))
        loss = (rendered[0].float() - tokens).pow(2).mean() + (rendered[1].float() - sentences).pow(2).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        return loss.item()  # waits for a GPU

    times, rates, padded, losses = [], [], [], []
    source = batches(lines, a.batch, tokenizer.pad_token_id)
    for number in range(a.warmup + a.steps):
        ids, mask, tokens = next(source)
        began = time.perf_counter()
        losses.append(step(ids, mask))
        took = time.perf_counter() - began
        if number >= a.warmup:
            times.append(took)
            rates.append(tokens / took)
            padded.append(1 - tokens / ids.numel())
    cuda = a.device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "peer": "pytorch " + torch.__version__, "transformers": transformers.__version__, "device": a.device,
        "threads": torch.get_num_threads(), "compiled": a.compile, "batch": a.batch, "steps": a.steps,
        "parameters": sum(p.numel() for p in student.parameters()), "tokens_per_s": round(statistics.median(rates), 1),
        "ms_per_step": round(1000 * statistics.median(times), 1), "padding": round(statistics.mean(padded), 3), "peak_mib": peak >> 20,
        "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4)}), flush=True)


if __name__ == "__main__":
    main()
