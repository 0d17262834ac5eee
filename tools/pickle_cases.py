"""Writes the small files of `torch.save` that the reader of pickles is held against.

    python tools/pickle_cases.py

Needs PyTorch. The numbers are those that crates/headstart/src/tensors/pickle/tests.rs expects. One of the files would call
a program if anything in it were executed; nothing here does, and no test may.
"""

import argparse
import collections
import os
import pathlib

import torch

CASES = pathlib.Path(__file__).parent.parent / "crates/headstart/src/tensors/pickle/cases"


def ramp(*shape):
    count = 1
    for size in shape:
        count *= size
    return (torch.arange(count, dtype=torch.float32) / 8 - 1).reshape(shape)


def state_dict():
    """Every way in which a state dict's tensors lie in their storages."""
    shared = ramp(4, 3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(ramp(2, 3))
        model[0].bias.copy_(ramp(2) + 5)
    state = model.state_dict()  # an OrderedDict with an attribute of its own, `_metadata`
    state["half"] = ramp(5).half()
    state["bfloat16"] = ramp(2, 2).bfloat16()
    state["double"] = (torch.arange(3, dtype=torch.float64) + 0.1)
    state["transposed"] = shared.t()
    state["rows"] = shared[1:3]
    state["column"] = shared[:, 2]
    state["permuted"] = ramp(2, 3, 4).permute(2, 0, 1)
    state["parameter"] = torch.nn.Parameter(ramp(2))
    state["number"] = torch.tensor(2.5)
    state["none"] = torch.zeros(0, 3)
    state["position_ids"] = torch.arange(4).expand((1, -1))
    state["mask"] = torch.tensor([True, False])
    return state


def settings():
    return argparse.Namespace(
        lr=6.5e-5, n_epochs=3, adam_epsilon=None, mlm=True, dataset="wikitext-103", device=torch.device("cuda", 0),
        dims=(410, 2100), large=2**40, negative=-7, nested={"a": [1, 2.5, "x"]}, infinite=float("inf"),
    )


class Hostile:
    def __reduce__(self):
        return os.system, ("false",)


def main():
    CASES.mkdir(exist_ok=True)
    state = state_dict()
    cases = {
        "state": state,
        "wrapped": {"epoch": 3, "state_dict": {"weight": ramp(2)}, "optimizer": {"state": {0: {"exp_avg": ramp(2)}}}},
        "nested": {"encoder": {"weight": ramp(2)}, "head": {"weight": ramp(2)}},
        "settings": settings(),
        "hostile": {"weight": ramp(2), "more": Hostile()},
    }
    for name, content in cases.items():
        torch.save(content, CASES / f"{name}_zip.bin")
        torch.save(content, CASES / f"{name}_legacy.bin", _use_new_zipfile_serialization=False)
    # The older form would hold the source text of the module.
    torch.save(torch.nn.Linear(1, 1), CASES / "module_zip.bin")
    torch.save(state, CASES / "state_zip_4.bin", pickle_protocol=4)
    torch.save(state, CASES / "state_legacy_4.bin", pickle_protocol=4, _use_new_zipfile_serialization=False)
    quantised = collections.OrderedDict(weight=ramp(2).to(torch.float8_e4m3fn), scale=ramp(1))
    torch.save(quantised, CASES / "float8_zip.bin")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
