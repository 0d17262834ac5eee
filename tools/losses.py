"""Writes tests/golden/losses.txt: losses of PyTorch on small logits, with their gradients, in f64. A case is six lines: its kind
with its number and the classes; logits; targets; class weights or nothing; the mean loss; its gradient.

    python tools/losses.py            # writes the file
    python tools/losses.py --check    # computes it again and compares

Label smoothing is PyTorch's own; the focal loss is Lin et al. (2017) over a softmax, differentiated by autograd. It needs torch.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

PATH = Path(__file__).parent.parent / "tests" / "golden" / "losses.txt"


def focal(logits, targets, weight, gamma):
    log_p = torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    terms = -((1 - log_p.exp()) ** gamma) * log_p
    if weight is None:
        return terms.mean()
    return (weight[targets] * terms).sum() / weight[targets].sum()


def case(kind, number, rows, classes, weighted, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(rows, classes, generator=generator)).float().double()
    targets = torch.randint(classes, (rows,), generator=generator)
    weight = (0.25 + torch.rand(classes, generator=generator)).float().double() if weighted else None
    logits.requires_grad_()
    if kind == "smoothed":
        loss = F.cross_entropy(logits, targets, weight=weight, label_smoothing=number)
    else:
        loss = focal(logits, targets, weight, number)
    loss.backward()
    numbers = lambda values: " ".join(repr(value) for value in values)
    return [
        f"{kind} {number} {classes}",
        numbers(logits.detach().flatten().tolist()),
        numbers(targets.tolist()),
        "" if weight is None else numbers(weight.tolist()),
        repr(loss.item()),
        numbers(logits.grad.flatten().tolist()),
    ]


def main():
    shapes = [(5, 2, False, 1), (7, 6, True, 2), (3, 40, True, 3)]
    numbers = [("smoothed", 0.1), ("smoothed", 0.4), ("focal", 2.0), ("focal", 0.5)]
    cases = [case(kind, number, *shape) for kind, number in numbers for shape in shapes]
    lines = [line for case in cases for line in case]
    if "--check" in sys.argv[1:]:
        old = PATH.read_text().split("\n")[:-1]
        assert len(old) == len(lines)
        for a, b in zip(old, lines):
            a, b = a.split(), b.split()
            assert len(a) == len(b) and all(x == y or abs(float(x) - float(y)) < 1e-12 for x, y in zip(a, b))
        print(f"{len(cases)} cases agree")
        return
    PATH.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
