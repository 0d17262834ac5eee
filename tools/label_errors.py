"""Golden results of cleanlab for `headstart data lint`: which labels are in doubt, ranked.

    python tools/label_errors.py        writes tests/golden/label_errors.json

Needs cleanlab 2 and NumPy.

Owns: the peer's call. Never: Headstart's rule.
"""

import json
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues

ROOT = Path(__file__).resolve().parent.parent


def case(seed, examples, classes, sharpness, wrong):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, examples)
    logits = rng.normal(0, 1, (examples, classes))
    logits[np.arange(examples), true] += sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # As they are written, so that both read the same numbers.
    probabilities = np.round(probabilities, 5)
    labels = np.where(rng.random(examples) < wrong, rng.integers(0, classes, examples), true)
    ranked = find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", return_indices_ranked_by="self_confidence", n_jobs=1)
    return {"probabilities": probabilities.tolist(), "labels": labels.tolist(), "ranked": [int(i) for i in ranked]}


cases = [case(1, 80, 2, 1.5, 0.2), case(2, 120, 3, 2.0, 0.1), case(3, 150, 6, 2.5, 0.3), case(4, 60, 4, 0.3, 0.5)]
path = ROOT / "tests/golden/label_errors.json"
path.write_text(json.dumps({"cases": cases}, separators=(",", ":")) + "\n", encoding="utf8")
print([len(case["ranked"]) for case in cases])
