#!/usr/bin/env python3
"""Checks that a page shows example programs as they are, and what they really print.

Usage: check_readme.py PAGE SOURCE PROGRAM [SOURCE PROGRAM ...]

Each ```cpp block of the page that is followed by a block of output must be the next SOURCE to the letter, and the output
that of its PROGRAM.
"""

import difflib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCKS = re.compile(r"^```cpp\n((?:(?!^```$).*\n)*)^```\n(?:(?!^```).*\n)*?^```\n((?:(?!^```$).*\n)*)^```$", re.MULTILINE)


def differences(page: str, shown: str, real: str, what: str) -> "list[str]":
    return list(difflib.unified_diff(shown.splitlines(), real.splitlines(), page, what, lineterm=""))


def output_of(program: str) -> str:
    with tempfile.TemporaryDirectory() as folder:  # for what it writes
        run = subprocess.run([Path(program).resolve()], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout


def main() -> int:
    page, *rest = sys.argv[1:]
    examples = list(zip(rest[::2], rest[1::2]))
    blocks = BLOCKS.findall(Path(page).read_text())
    if not examples or len(blocks) != len(examples):
        print(f"{page}: {len(blocks)} programs with their output, expected {len(examples)}")
        return 1
    problems = []
    for (source, program), (shown, output) in zip(examples, blocks):
        problems += differences(page, shown, Path(source).read_text(), source)
        problems += differences(page, output, output_of(program), program)
    print("\n".join(problems) if problems else f"{page}: programs and their output are real")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
