"""What scikit-learn and SciPy make of some answers: tests/golden/metrics.json.

    python tools/golden_metrics.py

Needs scikit-learn (1.7 or newer) and SciPy.

Owns: random answers and what these libraries say of them; formulas of papers where they have none (ECE: Guo et al. 2017; the
bootstrap). Never: Headstart's.
"""

import json
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats
from sklearn import metrics

ROOT = Path(__file__).resolve().parent.parent
RESAMPLES = 20_000


def interval(n, score, rng):
    draws = [score(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    return np.percentile(draws, [2.5, 97.5]).tolist()


def ece(probabilities, truth):
    told, sure = probabilities.argmax(1), probabilities.max(1)
    total = 0.0
    for low in range(15):
        inside = (sure > low / 15) & (sure <= (low + 1) / 15)
        if inside.any():
            total += inside.mean() * abs((told[inside] == truth[inside]).mean() - sure[inside].mean())
    return total


def nll(logits, truth, temperature=1.0):
    return metrics.log_loss(truth, special.softmax(logits / temperature, axis=1), labels=range(logits.shape[1]))


def single(classes, n, noise, rng):
    truth = rng.integers(0, classes, n)
    logits = np.round(3 * np.eye(classes)[truth] + noise * rng.standard_normal((n, classes)), 3).astype(np.float32)
    wide = logits.astype(np.float64)
    probabilities, told = special.softmax(wide, axis=1), wide.argmax(1)
    f1 = lambda rows: metrics.f1_score(truth[rows], told[rows], average="macro", zero_division=0)
    auc = (
        metrics.roc_auc_score(truth, probabilities[:, 1])
        if classes == 2
        else metrics.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    )
    found = {
        "accuracy": metrics.accuracy_score(truth, told),
        "macro_f1": f1(np.arange(n)),
        "mcc": metrics.matthews_corrcoef(truth, told),
        "auc": auc,
        "brier": metrics.brier_score_loss(truth, probabilities[:, 1] if classes == 2 else probabilities, **({} if classes == 2 else {"labels": list(range(classes))})),
        "ece": ece(probabilities, truth),
    }
    for name, of in zip(("precision", "recall", "f1"), metrics.precision_recall_fscore_support(truth, told, labels=range(classes), zero_division=0)):
        found |= {f"{name}/{k}": value for k, value in enumerate(of.tolist())}
    best = optimize.minimize_scalar(lambda t: nll(wide, truth, t), bounds=(0.05, 20), method="bounded", options={"xatol": 1e-12})
    calibration = {
        "temperature": best.x,
        "nll_before": nll(wide, truth),
        "nll_after": best.fun,
        "ece_after": ece(special.softmax(wide / best.x, axis=1), truth),
    }
    intervals = {"accuracy": interval(n, lambda rows: (truth[rows] == told[rows]).mean(), rng), "macro_f1": interval(n, f1, rng)}
    return {"logits": wide.tolist(), "truth": truth.tolist(), "metrics": found, "intervals": intervals, "calibration": calibration}


def multi(labels, n, rng):
    truth = (rng.random((n, labels)) < np.linspace(0.1, 0.6, labels)).astype(int)
    logits = np.round(2 * (2 * truth - 1) + 2.5 * rng.standard_normal((n, labels)), 3).astype(np.float32).astype(np.float64)
    told = (logits > 0).astype(int)
    micro = lambda rows: metrics.f1_score(truth[rows], told[rows], average="micro", zero_division=0)
    macro = lambda rows: metrics.f1_score(truth[rows], told[rows], average="macro", zero_division=0)
    all_rows = np.arange(n)
    found = {
        "accuracy": 1 - metrics.hamming_loss(truth, told),
        "micro_f1": micro(all_rows),
        "macro_f1": macro(all_rows),
        "exact_match": metrics.accuracy_score(truth, told),
    }
    for name, of in zip(("precision", "recall", "f1"), metrics.precision_recall_fscore_support(truth, told, zero_division=0)):
        found |= {f"{name}/{k}": value for k, value in enumerate(of.tolist())}
    intervals = {"micro_f1": interval(n, micro, rng), "macro_f1": interval(n, macro, rng)}
    return {"logits": logits.tolist(), "truth": truth.tolist(), "metrics": found, "intervals": intervals}


def regression(n, rng):
    truth = np.round(rng.uniform(0, 5, n), 1).astype(np.float32).astype(np.float64)
    told = np.round(truth + rng.standard_normal(n), 1).astype(np.float32).astype(np.float64)
    pearson = lambda rows: stats.pearsonr(told[rows], truth[rows])[0]
    spearman = lambda rows: stats.spearmanr(told[rows], truth[rows])[0]
    all_rows = np.arange(n)
    found = {"pearson": pearson(all_rows), "spearman": spearman(all_rows)}
    intervals = {"pearson": interval(n, pearson, rng), "spearman": interval(n, spearman, rng)}
    return {"logits": [[x] for x in told], "truth": [[x] for x in truth], "metrics": found, "intervals": intervals}


def main():
    rng = np.random.default_rng(7)
    cases = {
        "single": [single(2, 60, 2.5, rng), single(5, 90, 3.0, rng), single(3, 40, 0.9, rng)],
        "multi": multi(4, 60, rng),
        "regression": regression(60, rng),
    }
    path = ROOT / "tests/golden/metrics.json"
    path.write_text(json.dumps(cases) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
