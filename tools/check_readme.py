#!/usr/bin/env python3
"""Checks that the README shows the example program as it is, and what it really prints.

Usage: check_readme.py README.md SOURCE PROGRAM

The README's ```cpp block must be SOURCE to the letter, and the block after it the output of PROGRAM.
"""

import difflib
import re
import subprocess
import sys
from pathlib import Path

BLOCKS = re.compile(r"^```cpp\n(.*?)^```$.*?^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def differences(shown: str, real: str, what: str) -> "list[str]":
    return list(difflib.unified_diff(shown.splitlines(), real.splitlines(), "README", what, lineterm=""))


def main() -> int:
    readme, source, program = sys.argv[1:]
    found = BLOCKS.search(Path(readme).read_text())
    if not found:
        print(f"{readme}: no ```cpp block followed by a block of output")
        return 1
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    problems = differences(found[1], Path(source).read_text(), source) + differences(found[2], output, program)
    print("\n".join(problems) if problems else "the README's program and its output are real")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
