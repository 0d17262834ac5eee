#!/usr/bin/env python3
"""Writes tests/golden/parquet/: the same few rows as Parquet files of different libraries, and packed differently.

    python tools/golden_parquet.py

Needs datasets, pandas, pyarrow and polars. Texts with what tables break on: commas, quotes, line ends, letters of other scripts, an empty text.
"""
import pathlib

import datasets
import pandas
import polars

TEXTS = ["a \"good\" film, really", "two\nlines\tand a tab", "h\u00e9 \u6620\u753b", "", "bad", "so so"]
LABELS = [1, 0, 1, 2, 0, -1]
NAMES = ["neg", "pos", "none"]

out = pathlib.Path(__file__).parent.parent / "tests/golden/parquet"
out.mkdir(parents=True, exist_ok=True)
frame = pandas.DataFrame({"id": range(6), "text": TEXTS, "label": LABELS})
for packed in ("snappy", "gzip", "zstd"):
    frame.to_parquet(out / f"pandas-{packed}.parquet", compression=packed, index=False)
frame.to_parquet(out / "pandas-plain.parquet", compression=None, index=True)
polars.from_pandas(frame).write_parquet(out / "polars.parquet")
features = datasets.Features({"id": datasets.Value("int64"), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
datasets.Dataset.from_pandas(frame, features=features, preserve_index=False).to_parquet(out / "datasets.parquet")
# Several row groups, missing values, and lists of labels.
frame = pandas.DataFrame({"text": ["a", None, "c"], "label": [["x", "y"], [], ["y"]]})
frame.to_parquet(out / "groups.parquet", row_group_size=1, index=False)
