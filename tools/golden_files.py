"""What the scripts share that compute goldens in f64 from cases: files with the case in their metadata, written or compared.

Owns: the layout and comparison of such files, the flag --check, the random weights. Never: what a case computes.
"""

import argparse
import json

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file


def arguments(description):
    """Whether the stored files are compared, and nothing is written; PyTorch is made to compute alike everywhere."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    return parser.parse_args().check


def fill(parameter, values):
    """The values in a parameter, exact in f32."""
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.asarray(values).astype(np.float32)))


def compare(path, case, tensors):
    """What differs from the stored file, by more than a part in a million."""
    if not path.exists():
        return ["no such file"]
    with safe_open(path, "pt") as f:
        problems = [] if json.loads(f.metadata()["case"]) == case else ["the case"]
        if set(f.keys()) != set(tensors):
            return problems + ["the list of tensors"]
        for name, fresh in tensors.items():
            stored = f.get_tensor(name).double()
            if (stored - fresh.double()).abs().max() > 1e-6 * max(fresh.abs().max().item(), 1e-6):
                problems.append(f"{name}: values")
    return problems


def write_or_check(cases, compute, folder, check):
    """Writes what `compute` makes of each case, or says how it differs from what is stored; whether any does."""
    failed = False
    for case in cases:
        tensors, path = compute(case), folder / f"{case['name']}.safetensors"
        if check:
            problems = compare(path, case, tensors)
            failed |= bool(problems)
            print(f"{case['name']}: " + ("; ".join(problems) or "equal"))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"case": json.dumps(case)})
        path.chmod(0o644)
        losses = tensors["losses10"]
        print(f"{case['name']}: {path.stat().st_size:,} bytes, loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    return failed
