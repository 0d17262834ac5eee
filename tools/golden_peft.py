"""Writes the goldens of low-rank updates and scales: PEFT's LoRA and (IA)3 on models of tools/golden_hf.py, computed in f64.

    python tools/golden_peft.py            writes tests/golden/peft/<case>.safetensors
    python tools/golden_peft.py --check    computes them again and compares with the files

Needs torch, transformers, peft and safetensors. The weights and inputs below the updates are those of the file of the same model in
tests/golden/hf, so a file here holds the updates (or scales) and the head alone. What is in it: `docs/goldens.md`.

Owns: the cases, the updates' random weights, the names of Headstart they are filed under.
Never: the formula of an update or a scale; it is PEFT's.
"""

import sys
import tempfile
from pathlib import Path

import golden_files
import golden_hf
import numpy as np
import peft
import torch
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = golden_hf.FOLDER.parent / "peft"
ADAPTER = "default"

# Model of golden_hf; rank, alpha, targets of ours; rsLoRA. Odd on purpose. Of the seeds from 101 on, 103 is left out: there a
# gradient is so near zero that PyTorch's own f32 takes the other sign, and Adam moves by the sign.
CASES = [
    {"name": "bert_lora", "model": "bert_clf", "seed": 101, "rank": 3, "alpha": 7, "targets": "q,v", "rslora": False},
    {"name": "bert_rslora", "model": "bert_clf", "seed": 102, "rank": 5, "alpha": 4, "targets": "all", "rslora": True},
    {"name": "gpt2_lora", "model": "gpt2_clf", "seed": 104, "rank": 3, "alpha": 5, "targets": "all", "rslora": False},
    {"name": "bert_ia3", "model": "bert_clf", "seed": 111, "ia3": True, "targets": "k,v,down"},
    {"name": "bert_ia3_all", "model": "bert_clf", "seed": 112, "ia3": True, "targets": "q,k,v,o,down"},
    {"name": "gpt2_ia3", "model": "gpt2_clf", "seed": 113, "ia3": True, "targets": "k,v,down"},
]
# Scales stand in front of these linears, behind the others.
IN_FRONT = ("o", "down")
# Folders as PEFT itself saves them, targets as its users write them, and the logits that it computes with them.
SAVED = [
    {"name": "bert_lora", "model": "bert_clf", "seed": 121, "config": lambda: peft.LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=7, lora_dropout=0.1, target_modules=["query", "value"])},
    {"name": "bert_old", "model": "bert_clf", "seed": 122, "bin": True, "config": lambda: peft.LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=5, use_rslora=True, modules_to_save=["pooler.dense", "classifier"],
        target_modules=r"bert\.encoder\.layer\.\d+\..*(query|key|value|dense)")},
    {"name": "bert_ia3", "model": "bert_clf", "seed": 123, "config": lambda: peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])},
    {"name": "gpt2_lora", "model": "gpt2_clf", "seed": 124, "config": lambda: peft.LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=5, target_modules=["c_attn"], fan_in_fan_out=True)},
    {"name": "gpt2_ia3", "model": "gpt2_clf", "seed": 125, "config": lambda: peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"],
        fan_in_fan_out=True)},
]
BERT = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "o": "attention.output.dense",
        "up": "intermediate.dense", "down": "output.dense"}
GPT2 = {"q": "attn.c_attn.q", "k": "attn.c_attn.k", "v": "attn.c_attn.v", "o": "attn.c_proj", "up": "mlp.c_fc",
        "down": "mlp.c_proj"}
HEADS = {"bert_clf": {"bert.pooler.dense": "classification_head.dense", "classifier": "classification_head"},
         "gpt2_clf": {"score": "classification_head"}}


class Split(torch.nn.Module):
    """GPT-2's packed linear as three, so that each can have an update of its own."""

    def __init__(self, packed):
        super().__init__()
        width = packed.weight.shape[0]
        for i, name in enumerate("qkv"):
            part = torch.nn.Linear(width, width).double()
            columns = slice(i * width, (i + 1) * width)
            with torch.no_grad():
                part.weight.copy_(packed.weight[:, columns].T)
                part.bias.copy_(packed.bias[columns])
            setattr(self, name, part)

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def targets_of(case):
    """Ours to the module's name, and the block's place in the model."""
    names, blocks = (BERT, "bert.encoder.layer") if case["model"].startswith("bert") else (GPT2, "transformer.h")
    chosen = names if case["targets"] == "all" else {t: names[t] for t in case["targets"].split(",")}
    return chosen, blocks


def ours(case, layer, target):
    place = "feed_forward" if target in ("up", "down") else "attention"
    return f"transformer.layers.{layer}.{place}.{target}"


def build(case):
    """The model with updates, B far from zero, and its trained parameters by Headstart's names."""
    base = next(c for c in golden_hf.CASES if c["name"] == case["model"])
    model = golden_hf.build(base)
    inputs = golden_hf.draw_inputs(base, model.config)
    if case["model"] == "gpt2_clf":
        for block in model.transformer.h:
            block.attn.c_attn = Split(block.attn.c_attn)
    targets, blocks = targets_of(case)
    layers = model.config.num_hidden_layers
    modules = {f"{blocks}.{layer}.{name}": ours(case, layer, target)
               for layer in range(layers) for target, name in targets.items()}
    heads = HEADS[case["model"]]
    if "ia3" in case:
        in_front = [theirs for theirs, name in modules.items() if name.rsplit(".", 1)[1] in IN_FRONT]
        config = peft.IA3Config(task_type="SEQ_CLS", target_modules=list(modules), feedforward_modules=in_front,
                                modules_to_save=list(heads))
    else:
        config = peft.LoraConfig(task_type="SEQ_CLS", r=case["rank"], lora_alpha=case["alpha"], lora_dropout=0.0,
                                 use_rslora=case["rslora"], target_modules=list(modules), bias="none",
                                 modules_to_save=list(heads))
    model = peft.get_peft_model(model, config).double().eval()
    found = dict(model.named_parameters())
    named = {}
    for theirs, name in modules.items():
        if "ia3" in case:
            named[f"{name}.ia3.weight"] = found[f"base_model.model.{theirs}.ia3_l.{ADAPTER}"]
            continue
        for matrix in "AB":
            named[f"{name}.lora_{matrix.lower()}.weight"] = found[f"base_model.model.{theirs}.lora_{matrix}.{ADAPTER}.weight"]
    for theirs, name in heads.items():
        for kind in ("weight", "bias"):
            parameter = found.get(f"base_model.model.{theirs}.modules_to_save.{ADAPTER}.{kind}")
            if parameter is not None:
                named[f"{name}.{kind}"] = parameter
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in named.values()}, "PEFT trains something else"
    random = np.random.RandomState(case["seed"])
    for name, parameter in named.items():
        if ".ia3." in name:
            golden_files.fill(parameter, 1 + random.standard_normal(parameter.shape) / 2)
        if "lora_" in name:
            golden_files.fill(parameter, random.standard_normal(parameter.shape) / np.sqrt(parameter.shape[1]))
    return model, named, inputs


def compute(case):
    """One backward, then ten steps of AdamW: everything a file holds."""
    model, named, inputs = build(case)
    tensors = {name: p.detach().float().clone() for name, p in named.items() if "lora_" in name or ".ia3." in name}
    adam = torch.optim.AdamW(named.values(), golden_hf.LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, norms, hidden = [], [], []
    model.base_model.model.base_model.register_forward_hook(lambda _module, _inputs, out: hidden.append(out[0]))
    for step in range(golden_hf.STEPS):
        out = model(**inputs)
        loss = torch.nn.functional.cross_entropy(out.logits, inputs["labels"])
        adam.zero_grad()
        loss.backward()
        if step == 0:
            tensors["hidden"] = hidden[0][inputs["attention_mask"].bool()].detach().float().clone()
            tensors["logits"] = out.logits.detach().float().clone()
            for name, parameter in named.items():
                assert parameter.grad.abs().max() > 1e-9, f"{name} has no gradient"
                tensors[f"grad.{name}"] = parameter.grad.float().clone()
        losses.append(loss.detach())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in named.values()]))
        adam.step()
    assert losses[-1] < losses[0], "the loss does not fall"
    tensors |= {f"after10.{name}": p.detach().float().clone() for name, p in named.items()}
    tensors |= {"losses10": torch.stack(losses), "grad_norms10": torch.stack(norms)}
    return {name: value.contiguous() for name, value in tensors.items()}


def save(case, folder):
    """A folder of PEFT's own, and its logits."""
    base = next(c for c in golden_hf.CASES if c["name"] == case["model"])
    model = golden_hf.build(base)
    inputs = golden_hf.draw_inputs(base, model.config)
    model = peft.get_peft_model(model, case["config"]()).double().eval()
    random = np.random.RandomState(case["seed"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            around = 1 if "ia3_" in name else 0
            golden_files.fill(parameter, around + random.standard_normal(parameter.shape) / np.sqrt(parameter.shape[-1] + 3))
    with torch.no_grad():
        logits = model(**inputs).logits.float()
    model.peft_config[ADAPTER].base_model_name_or_path = case["model"]
    model.float().save_pretrained(folder, safe_serialization=not case.get("bin"))
    (folder / "README.md").unlink(missing_ok=True)
    save_file({"logits": logits.contiguous()}, folder / "logits.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    return logits


def main():
    check = golden_files.arguments(__doc__)
    failed = golden_files.write_or_check(CASES, compute, FOLDER, check)
    for case in SAVED:
        folder = FOLDER / "folders" / case["name"]
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            logits = save(case, folder)
            print(f"folders/{case['name']}: logits {logits.flatten()[:3].tolist()}")
            continue
        with tempfile.TemporaryDirectory() as temporary, safe_open(folder / "logits.safetensors", "pt") as f:
            same = (save(case, Path(temporary)) - f.get_tensor("logits")).abs().max() < 1e-6
        failed |= not same
        print(f"folders/{case['name']}: " + ("equal" if same else "logits"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
