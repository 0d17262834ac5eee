#!/usr/bin/env python3
"""Checks that the real TensorBoard reads the same values from a run folder as stand in its metrics.jsonl.

    python tools/check_tensorboard.py RUN

Needs the Python package `tensorboard`. Exits with 1 and says what differs if anything does.
"""

import json
import math
import struct
import sys
from collections import defaultdict
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def single(value):
    """The value as event files hold it, in single precision."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def logged(run):
    """tag -> [(step, wall time, value or None)] of metrics.jsonl."""
    series = defaultdict(list)
    with open(run / "metrics.jsonl", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            step, kind, time = (record.pop(key) for key in ("step", "kind", "wall_time_s"))
            for name, value in record.items():
                series[f"{kind}/{name}"].append((step, time, value))
    return series


def shown(run):
    """tag -> [(step, wall time, value)] as TensorBoard sees them."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def same(expected, found):
    """A value that is not finite is null in metrics.jsonl."""
    if expected is None:
        return not math.isfinite(found)
    return single(expected) == found


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Path(sys.argv[1])
    expected, found = logged(run), shown(run)
    differences = []
    if set(expected) != set(found):
        differences.append(f"tags differ: {sorted(set(expected) ^ set(found))} are on one side only")
    for tag in sorted(set(expected) & set(found)):
        if len(expected[tag]) != len(found[tag]):
            differences.append(f"{tag}: {len(expected[tag])} values logged, {len(found[tag])} shown")
        for (step, time, value), (step_found, time_found, value_found) in zip(expected[tag], found[tag]):
            if step != step_found or time != time_found or not same(value, value_found):
                differences.append(f"{tag}: {(step, time, value)} logged, {(step_found, time_found, value_found)} shown")
    if not expected:
        differences.append("nothing is logged")
    if differences:
        sys.exit("\n".join(differences[:20]))
    count = sum(len(values) for values in found.values())
    print(f"{run}: TensorBoard reads all {count} values of {len(found)} tags")


if __name__ == "__main__":
    main()
