"""Reads a run's event files by TensorBoard itself, and compares the curves with metrics.jsonl. Arguments: runs' folders.

Needs the package tensorboard, of PyPI.
"""

import json
import math
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def check(folder: Path) -> int:
    expected: "dict[str, list[tuple[int, float]]]" = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        step, kind = line.pop("step"), line.pop("kind")
        for name, value in line.items():
            expected.setdefault(f"{kind}/{name}", []).append((step, value))
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    if sorted(accumulator.Tags()["scalars"]) != sorted(expected):
        sys.exit(f"{folder}: TensorBoard has {accumulator.Tags()['scalars']}, metrics.jsonl {sorted(expected)}")
    for tag, points in expected.items():
        found = [(event.step, event.value) for event in accumulator.Scalars(tag)]
        if [step for step, _ in found] != [step for step, _ in points]:
            sys.exit(f"{folder}: {tag}: TensorBoard has the steps {[s for s, _ in found]}, expected {[s for s, _ in points]}")
        for (step, value), (_, right) in zip(found, points):
            if not math.isclose(value, right, rel_tol=1e-6):
                sys.exit(f"{folder}: {tag}: TensorBoard has {value} at step {step}, expected {right}")
    return sum(map(len, expected.values()))


for argument in sys.argv[1:]:
    print(f"{argument}: {check(Path(argument))} points are as TensorBoard reads them")
