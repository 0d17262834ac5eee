"""Writes folders of AdapterHub's library `adapters` with the logits it computes, and holds exported folders against it.

    python tools/golden_adapterhub.py                    writes tests/golden/adapterhub/<case>/
    python tools/golden_adapterhub.py --check            computes the logits of the files again and compares
    python tools/golden_adapterhub.py --holds BASE ADAPTER --texts FILE [--binary headstart]
        loads an exported folder over a model of transformers, and compares its probabilities with `headstart predict`

Needs torch, adapters 1.3 with its transformers (4.57), and safetensors. The models below are those of tests/golden/hf, so a file
here holds the adapter and the head alone. What is in it: `docs/goldens.md`.

Owns: the cases, their random weights, the names of Headstart that gradients are filed under.
Never: what an adapter computes; that is the library's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import adapters
import numpy as np
import torch
from adapters import AutoAdapterModel, BertAdapterModel, RobertaAdapterModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, RobertaConfig

GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden"
FOLDER = GOLDEN / "adapterhub"
MODELS = {"bert_clf": (BertConfig, BertAdapterModel), "roberta_clf": (RobertaConfig, RobertaAdapterModel)}
# Model of tests/golden/hf, the adapter's configuration, what its head is made of. Widths odd on purpose.
CASES = [
    {"name": "houlsby", "model": "bert_clf", "seed": 201, "config": "double_seq_bn[reduction_factor=5.4]", "bin": True},
    {"name": "pfeiffer", "model": "bert_clf", "seed": 202, "config": "seq_bn[reduction_factor=6]", "gradients": True},
    {"name": "behind", "model": "bert_clf", "seed": 203,
     "config": "seq_bn[reduction_factor=9,original_ln_before=False,non_linearity='gelu']", "head": {"layers": 1}},
    {"name": "parallel", "model": "bert_clf", "seed": 204, "config": "par_bn[reduction_factor=4,scaling=2.5]",
     "head": {"layers": 1, "use_pooler": True}},
    {"name": "lora", "model": "bert_clf", "seed": 205,
     "config": "lora[r=3,alpha=7,dropout=0.1,intermediate_lora=True,output_lora=True]", "head": {"activation_function": "relu"}},
    {"name": "ia3", "model": "bert_clf", "seed": 206, "config": "ia3"},
    {"name": "roberta_pfeiffer", "model": "roberta_clf", "seed": 207, "config": "seq_bn[reduction_factor=3]", "bin": True},
    {"name": "roberta_lora", "model": "roberta_clf", "seed": 208, "config": "lora[r=2,attn_matrices=['q','k','v']]",
     "head": {"num_labels": 2, "id2label": {0: "no", 1: "yes"}}},
]
NAME = "task"


def base_of(case):
    """The model below, with the weights and inputs of its file; nothing of that file's own head but the pooler."""
    kind, model_class = MODELS[case["model"]]
    config = kind.from_dict(json.loads((GOLDEN / f"hf/{case['model']}.json").read_text()))
    model = model_class(config)
    with safe_open(GOLDEN / f"hf/{case['model']}.safetensors", "pt") as f:
        trunk = {name: f.get_tensor(name) for name in f.keys() if name.startswith((config.model_type + ".",))}
        lengths, ids, labels = (f.get_tensor(name).long() for name in ("lengths", "input_ids", "labels"))
    lacks = model.load_state_dict(trunk, strict=False)
    assert not lacks.unexpected_keys and all(
        "pooler" in name or "prompt_tuning" in name for name in lacks.missing_keys), lacks
    rows = torch.split(ids, lengths.tolist())
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return model, {"input_ids": padded, "attention_mask": mask.long()}, labels


def ours(name):
    """A trained parameter's name in Headstart, of an adapter behind the feed-forward and a head of two linears."""
    if name.startswith("heads."):
        return name.replace(f"heads.{NAME}.1", "classification_head.dense").replace(f"heads.{NAME}.4", "classification_head")
    layer, rest = name.split("encoder.layer.")[1].split(".", 1)
    rest = rest.replace(f"output.adapters.{NAME}.adapter_", "adapter_feed_forward.").replace("down.0", "down")
    return f"transformer.layers.{layer}.{rest}"


def build(case):
    model, inputs, labels = base_of(case)
    model.add_adapter(NAME, config=case["config"])
    head = {"num_labels": 3, **case.get("head", {})}
    id2label = head.pop("id2label", None)
    model.add_classification_head(NAME, id2label=id2label, **head)
    model.train_adapter(NAME)
    random = np.random.RandomState(case["seed"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                around = 1 if case["config"].startswith("ia3") and "loras" in name else 0
                values = around + random.standard_normal(parameter.shape) / np.sqrt(parameter.shape[-1] + 3)
                parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    model.set_active_adapters(NAME)
    return model.double().eval(), inputs, labels


def compute(case, model, inputs, labels):
    """Logits, and for some the gradients of what trains."""
    logits = model(**inputs).logits
    tensors = {"logits": logits.detach().float()}
    if case.get("gradients"):
        torch.nn.functional.cross_entropy(logits, labels).backward()
        trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
        tensors |= {f"grad.{ours(name)}": parameter.grad.float() for name, parameter in trained}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def save(case, folder):
    folder.mkdir(parents=True, exist_ok=True)
    model, inputs, labels = build(case)
    tensors = compute(case, model, inputs, labels)
    model.float().save_adapter(str(folder), NAME, with_head=True, use_safetensors=not case.get("bin"))
    save_file(tensors, folder / "expected.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    return tensors


def check(case, folder):
    """The largest difference of the logits that the stored folder gives."""
    model, inputs, _ = base_of(case)
    model.load_adapter(str(folder), set_active=True, use_safetensors=not case.get("bin"))
    with safe_open(folder / "expected.safetensors", "pt") as f, torch.no_grad():
        return (model.double().eval()(**inputs).logits - f.get_tensor("logits")).abs().max().item()


def holds(base, folder, texts, binary):
    """The largest difference of a probability from what the program predicts."""
    lines = texts.read_text(encoding="utf-8").splitlines()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        call = [binary, "predict", "--precision", "f32", str(folder), "--base", str(base), "--uncalibrated", "--input", file.name]
        found = [json.loads(line) for line in subprocess.run(call, capture_output=True, check=True).stdout.decode().splitlines()]
    model = AutoAdapterModel.from_pretrained(str(base))
    name = model.load_adapter(str(folder), set_active=True, use_safetensors=True)
    model = model.double().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    worst, labels = 0.0, model.heads[name].config["label2id"]
    with torch.no_grad():
        for text, answer in zip(lines, found, strict=True):
            logits = model(**tokenizer(text, return_tensors="pt", truncation=True)).logits[0]
            several = model.heads[name].config["head_type"] == "multilabel_classification"
            expected = logits.sigmoid() if several else logits.softmax(-1)
            for label, index in labels.items():
                worst = max(worst, abs(answer["probabilities"][label] - expected[index].item()))
    print(f"{folder}: {len(lines)} texts, largest difference of a probability {worst:.1e}")
    return worst < 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    parser.add_argument("--holds", nargs=2, type=Path, metavar=("BASE", "ADAPTER"))
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--binary", default="target/release/headstart")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.holds:
        sys.exit(0 if holds(*args.holds, args.texts, args.binary) else 1)
    failed = False
    for case in CASES:
        folder = FOLDER / case["name"]
        if args.check:
            difference = check(case, folder)
            failed |= difference > 1e-6
            print(f"{case['name']}: {difference:.1e}")
        else:
            tensors = save(case, folder)
            print(f"{case['name']}: logits {tensors['logits'].flatten()[:3].tolist()}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
