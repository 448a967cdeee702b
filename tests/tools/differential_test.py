#!/usr/bin/env python3
"""That the comparison with PyTorch knows every op and loss of the headers, and draws cases of each.

Usage: differential_test.py SOURCE
"""

import re
import sys
from pathlib import Path

# Their draws are random, and PyTorch has not the same.
RANDOM = {"dropout", "drop_path", "sample_uniform"}
# Of a parameter, after the optimiser's step.
NO_LOSSES = {"clamp_log_scale"}


def declared(header):
    text = header.read_text()
    if "GCC visibility push(hidden)" in text:
        return set()
    return set(re.findall(r"^(?:Variable|Tensor|BatchNormalized|NormalizedLinear) (\w+)\(", text, re.MULTILINE))


def main():
    root = Path(sys.argv[1])
    folder = root / "tests" / "differential"
    program = (folder / "run_cases.cpp").read_text()
    draws = (folder / "ops.py").read_text() + (folder / "losses.py").read_text()
    faults = []
    count = 0
    for module, without in (("ops", RANDOM), ("losses", NO_LOSSES)):
        names = set().union(*(declared(header) for header in (root / module).glob("*.h")))
        if len(names) < 5:
            faults.append(f"{module}: {len(names)} functions found in the headers, expected more")
        called = set(re.findall(rf"\b{module}::(\w+)\(", program))
        faults += [f"run_cases.cpp calls no {module}::{name}" for name in sorted(names - called - without)]
        count += len(names)
    cases = re.findall(r'^      \{"(\w+)",(?: \[|$)', program, re.MULTILINE)
    faults += [f"no case of '{name}' is drawn" for name in cases if f'"{name}"' not in draws]
    print(*faults, f"{count} functions, {len(cases)} kinds of cases, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
