#!/usr/bin/env python3
"""Peers of published encoders for BENCHMARKS.md: `Trainer` as installed, ONNX Runtime's vectors, our recipe in PyTorch.

    python tools/encoder_peers.py trainer MODEL TRAIN.label --steps 60 --batch 32      # TREC's training file
    python tools/encoder_peers.py onnx MODEL TEXTS.txt                                 # a text a line
    python tools/encoder_peers.py recipe MODEL FOLDER --task mrpc --seed 1             # a folder with train.tsv and dev.tsv

`trainer` leaves every argument of `TrainingArguments` at its default but batch, steps and the output folder, so it is
what somebody has after `pip install transformers accelerate` and the first page of the documentation: f32, dynamic
padding. `onnx` exports the trunk with mean pooling and times it on texts sorted by length, 32 at a time, the model
loaded and warm. `recipe` fine-tunes with what `headstart finetune` does by default: Adam without decay, batch 16, 3 epochs, 1e-4 (at
384), a tenth of warm-up, a line to 0, bf16; long texts keep head and tail; trec and imdb hold nothing out and are tested once, the others are evaluated
each epoch; --method lora is PEFT's, and --max_steps tells the speed alone. Each prints one JSON line. Needs torch and transformers; accelerate; onnx, onnxscript, onnxruntime.
"""
import argparse
import json
import os
import resource
import statistics
import tempfile
import time

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer


def trainer(a):
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    rows = [line.rstrip("\n").split(" ", 1) for line in open(a.data, encoding="latin1")]
    names = sorted({r[0].split(":")[0] for r in rows})
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    data = [dict(tokenizer(r[1], truncation=True, max_length=256), labels=names.index(r[0].split(":")[0])) for r in rows]
    model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=len(names))

    class Clock(TrainerCallback):
        ends = []

        def on_step_end(self, *_, **__):
            self.ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(out, per_device_train_batch_size=a.batch, max_steps=a.steps, report_to="none", save_strategy="no")
        Trainer(model, arguments, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Clock()]).train()
    steps = [later - earlier for earlier, later in zip(Clock.ends, Clock.ends[1:])][5:]
    return {"examples_per_s": round(a.batch / statistics.median(steps), 2), "batch": a.batch, "precision": str(model.dtype)}


def onnx(a):
    import onnxruntime

    tokenizer, model = AutoTokenizer.from_pretrained(a.model), AutoModel.from_pretrained(a.model).eval()
    texts = sorted(open(a.data, encoding="utf8").read().splitlines(), key=len)

    class Vectors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    keys = ["input_ids", "attention_mask", "token_type_ids"]
    batches = [dict(tokenizer(texts[k : k + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")) for k in range(0, len(texts), 32)]
    with tempfile.TemporaryDirectory() as out:
        path = os.path.join(out, "m.onnx")
        shape = {0: torch.export.Dim("rows", min=2), 1: torch.export.Dim("tokens", min=2)}
        torch.onnx.export(Vectors(), tuple(batches[-1][k] for k in keys), path, input_names=keys, output_names=["vectors"],
                          dynamic_shapes=[shape] * 3, dynamo=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = a.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with torch.no_grad():
            want = Vectors()(*[batches[0][k] for k in keys])
        got = session.run(None, {k: batches[0][k].numpy() for k in keys})[0]
        apart = float((torch.from_numpy(got) - want).abs().max())
        took = []
        for _ in range(a.rounds):
            began = time.perf_counter()
            # The texts are read and turned into tokens each time, as `encode` of anybody's does.
            for k in range(0, len(texts), 32):
                b = tokenizer(texts[k : k + 32], padding=True, truncation=True, max_length=256, return_tensors="np")
                session.run(None, {key: b[key] for key in keys})
            took.append(time.perf_counter() - began)
    return {"texts": len(texts), "seconds": round(statistics.median(took), 3), "each": [round(t, 3) for t in took], "largest_difference_from_torch": apart,
            "onnxruntime": onnxruntime.__version__}


def examples(task, folder, every):
    """(texts or pairs, labels) for training and evaluation."""
    def table(name, columns):
        rows = [line.rstrip("\n").split("\t") for line in open(os.path.join(folder, name), encoding="utf-8-sig")]
        places = [rows[0].index(c) for c in columns]
        picked = [[row[p] for p in places] for row in rows[1:] if len(row) > max(places)]
        return [r[:-1] for r in picked], [r[-1] for r in picked]

    def trec(name):
        rows = [line.rstrip("\n").split(" ", 1) for line in open(os.path.join(folder, name), encoding="latin1")]
        return [[r[1]] for r in rows], [r[0].split(":")[0] for r in rows]

    def imdb(split):
        texts, labels = [], []
        for label in ("neg", "pos"):
            names = sorted(os.listdir(os.path.join(folder, split, label)))
            texts += [[open(os.path.join(folder, split, label, n), encoding="utf8").read()] for n in names]
            labels += [label] * len(names)
        return texts[::every], labels[::every]

    columns = {"sst2": ["sentence", "label"], "mrpc": ["#1 String", "#2 String", "Quality"], "rte": ["sentence1", "sentence2", "label"],
               "stsb": ["sentence1", "sentence2", "score"]}
    if task == "trec":
        return trec("train_5500.label"), trec("TREC_10.label")
    if task == "imdb":
        return imdb("train"), imdb("test")
    return table("train.tsv", columns[task]), table("dev.tsv", columns[task])


def recipe(a):
    import random

    torch.manual_seed(a.seed)
    random.seed(a.seed)
    (train, gold), (test, want) = examples(a.task, a.data, a.every)
    regression = a.task == "stsb"
    names = [] if regression else sorted(set(gold))
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=max(len(names), 1)).to(a.device).train()

    def inputs(row):
        if len(row) == 2 or a.truncation == "head":
            return dict(tokenizer(*row, truncation=True, max_length=a.max_length))
        # As headstart's: of a text that is too long the first quarter and the last three of what there is room for.
        ids = tokenizer(row[0], add_special_tokens=False)["input_ids"]
        room = a.max_length - 2
        if len(ids) > room:
            head = (room + 2) // 4
            ids = ids[:head] + ids[len(ids) - (room - head) :]
        ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        return {"input_ids": ids, "token_type_ids": [0] * len(ids), "attention_mask": [1] * len(ids)}

    ids = lambda rows: [inputs(row) for row in rows]
    train, test = ids(train), ids(test)
    labels = torch.tensor([float(g) for g in gold] if regression else [names.index(g) for g in gold]).to(a.device)
    if a.method == "lora":
        from peft import LoraConfig, get_peft_model

        # As headstart's: rank 8, alpha 16, all four linears of attention, the head beside them.
        targets = r".*attention\.(self\.(query|key|value)|output\.dense)"
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, modules_to_save=["pooler", "classifier"]))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=a.lr, fused=True)
    batch, step, metrics, took = 16, 0, [], []
    total = a.epochs * -(-len(train) // batch)

    def together(rows):
        return tokenizer.pad(rows, return_tensors="pt").to(a.device)

    def evaluate():
        model.eval()
        order = sorted(range(len(test)), key=lambda i: len(test[i]["input_ids"]))
        out = [None] * len(test)
        with torch.no_grad(), torch.autocast(a.device, torch.bfloat16):
            for k in range(0, len(order), 32):
                picked = order[k : k + 32]
                logits = model(**together([test[i] for i in picked])).logits.float()
                for i, row in zip(picked, logits):
                    out[i] = float(row[0]) if regression else names[int(row.argmax())]
        model.train()
        if regression:
            pair = torch.tensor([out, [float(w) for w in want]], dtype=torch.float64)
            ranks = pair.argsort(1).argsort(1).double()
            return {"pearson": round(float(torch.corrcoef(pair)[0, 1]), 4), "spearman_ties_by_order": round(float(torch.corrcoef(ranks)[0, 1]), 4)}
        return {"accuracy": round(sum(o == w for o, w in zip(out, want)) / len(want), 4)}

    began = time.perf_counter()
    for epoch in range(a.epochs):
        order = list(range(len(train)))
        random.shuffle(order)
        for k in range(0, len(order), batch):
            picked = order[k : k + batch]
            step += 1
            started = time.perf_counter()
            warm = max(total // 10, 1)
            share = step / warm if step <= warm else 1 - (step - warm - 1) / (total - warm)
            for group in optimizer.param_groups:
                group["lr"] = a.lr * share
            with torch.autocast(a.device, torch.bfloat16):
                logits = model(**together([train[i] for i in picked])).logits.float()
            y = labels[picked]
            loss = torch.nn.functional.mse_loss(logits[:, 0], y) if regression else torch.nn.functional.cross_entropy(logits, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            took.append((time.perf_counter() - started) / len(picked))
            if step == a.max_steps:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                return {"method": a.method, "examples_per_s": round(1 / statistics.median(took[5:]), 1), "peak_mib": peak}
        if a.task not in ("trec", "imdb") or epoch + 1 == a.epochs:
            metrics.append(evaluate())
    return {"task": a.task, "method": a.method, "seed": a.seed, "epochs": a.epochs, "lr": a.lr, "each_epoch": metrics, "seconds": round(time.perf_counter() - began, 1)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["trainer", "onnx", "recipe"])
    p.add_argument("model")
    p.add_argument("data")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--task", choices=["trec", "sst2", "mrpc", "rte", "stsb", "imdb"], default="trec")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--max_length", type=int, default=256)
    p.add_argument("--truncation", choices=["head", "head-tail"], default="head-tail", help="of recipe: what is kept of long texts")
    p.add_argument("--method", choices=["full", "lora"], default="full", help="of recipe; lora: PEFT's")
    p.add_argument("--max_steps", type=int, default=-1, help="of recipe: stop there and tell the speed")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of recipe")
    p.add_argument("--every", type=int, default=1, help="take each n-th review of imdb")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    print(json.dumps({"trainer": trainer, "onnx": onnx, "recipe": recipe}[a.what](a)), flush=True)


main()
