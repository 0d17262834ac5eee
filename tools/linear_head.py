"""Golden numbers of scikit-learn for a head that is fitted to vectors.

    python tools/linear_head.py          writes tests/golden/linear_head.json

Needs scikit-learn.

Owns: the peer's recipe: standardised vectors, logistic regression (multinomial, or one class at a time) or ridge regression.
Never: Headstart's.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parent.parent
ROWS, WIDTH = 60, 7


def raw(model):
    """Weights and biases for vectors that are not standardised."""
    scaler, last = model[0], model[-1]
    coef, intercept = np.atleast_2d(last.coef_), np.atleast_1d(last.intercept_)
    weights = coef / scaler.scale_
    return weights, intercept - weights @ scaler.mean_


def logistic(strength, class_weight=None):
    # Its usual solver, lbfgs, ends a millionth or two away from the minimum.
    options = {"solver": "newton-cg", "tol": 1e-14, "max_iter": 100_000, "class_weight": class_weight}
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, **options))


def main():
    random = np.random.default_rng(5)
    scale = np.array([1, 10, 0.1, 3, 1, 1, 0.5])
    x = np.round(random.normal(size=(ROWS, WIDTH)) * scale + np.arange(WIDTH), 3).astype(np.float32)
    x[:, 5] = 2.5  # tells nothing
    x = x.astype(np.float64)
    score = (x - x.mean(0)) / scale @ np.array([[1, -1, 0.5], [0.3, 0.2, -1], [-1, 1, 0], [0, 0.5, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]])
    classes = np.argmax(score + random.normal(size=score.shape), axis=1)
    marks = (score + random.normal(size=score.shape) > 0.5).astype(int)
    numbers = np.round(score[:, 0] * 2 + 7 + random.normal(size=ROWS), 3)
    cases = []

    def case(kind, strength, weights, biases, right):
        cases.append(
            {"kind": kind, "strength": strength, "weights": weights.tolist(), "biases": biases.tolist(), "right": right}
        )

    for strength in 0.01, 1.0:
        for kind, kept in ("three", classes >= 0), ("two", classes < 2):
            model = logistic(strength).fit(x[kept], classes[kept])
            case(kind, strength, *raw(model), int((model.predict(x[kept]) == classes[kept]).sum()))
            model = logistic(strength, "balanced").fit(x[kept], classes[kept])
            case(f"{kind} balanced", strength, *raw(model), int((model.predict(x[kept]) == classes[kept]).sum()))
        models = [logistic(strength).fit(x, marks[:, k]) for k in range(3)]
        parts = [raw(model) for model in models]
        right = sum(int((model.predict(x) == marks[:, k]).sum()) for k, model in enumerate(models))
        case("marks", strength, np.vstack([w for w, _ in parts]), np.concatenate([b for _, b in parts]), right)
        model = make_pipeline(StandardScaler(), Ridge(alpha=1 / strength, solver="cholesky")).fit(x, numbers)
        case("numbers", strength, *raw(model), 0)
    golden = {"width": WIDTH, "vectors": x.ravel().tolist(), "classes": classes.tolist(), "marks": marks.ravel().tolist(), "numbers": numbers.tolist(), "cases": cases}
    (ROOT / "tests/golden/linear_head.json").write_text(json.dumps(golden) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
