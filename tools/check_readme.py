#!/usr/bin/env python3
"""Checks that a page shows programs as they are, and what they really print; in parts, what programs do.

Usage: check_readme.py PAGE [SOURCE PROGRAM ...] [--parts SOURCE ...]

Each ```cpp block of the page that is followed by "It prints:" and a block of output must be the next SOURCE to the letter, and
the output that of its PROGRAM. Every other one must stand in one of the sources, wherever it is indented. Of a header, what its
comments show, indented by three spaces or more, must stand in one of the sources, line by line.
"""

import difflib
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

BLOCKS = re.compile(r"^```cpp\n((?:(?!^```$).*\n)*)^```\n(?:\nIt prints:\n\n^```\n((?:(?!^```$).*\n)*)^```$)?", re.MULTILINE)
COMMENT_BLOCKS = re.compile(r"(?:^///   .*\n|^///\n(?=///   ))+", re.MULTILINE)


def differences(page: str, shown: str, real: str, what: str) -> "list[str]":
    return list(difflib.unified_diff(shown.splitlines(), real.splitlines(), page, what, lineterm=""))


def output_of(program: str) -> str:
    with tempfile.TemporaryDirectory() as folder:  # for what it writes
        run = subprocess.run([Path(program).resolve()], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout


def lines_of(text: str) -> "list[str]":
    return [line.strip() for line in textwrap.dedent(text).strip("\n").splitlines()]


def stands_in(part: str, source: str) -> bool:
    part_lines, lines = lines_of(part), [line.strip() for line in source.splitlines()]
    return any(lines[i:i + len(part_lines)] == part_lines for i in range(len(lines) - len(part_lines) + 1))


def blocks_of(page: str) -> "list[tuple[str, str]]":
    """Code and output, which is empty for a part."""
    text = Path(page).read_text()
    if page.endswith(".h"):
        return [(re.sub(r"^/// *", "", block, flags=re.MULTILINE), "") for block in COMMENT_BLOCKS.findall(text)]
    return BLOCKS.findall(text)


def main() -> int:
    page, *rest = sys.argv[1:]
    part_sources = rest[rest.index("--parts") + 1:] if "--parts" in rest else []
    rest = rest[:rest.index("--parts")] if "--parts" in rest else rest
    examples = list(zip(rest[::2], rest[1::2]))
    sources = [Path(source).read_text() for source in [*rest[::2], *part_sources]]
    blocks = blocks_of(page)
    programs = [block for block in blocks if block[1]]
    parts = [code for code, output in blocks if not output]
    if not blocks or len(programs) != len(examples):
        print(f"{page}: {len(blocks)} blocks of code, {len(programs)} with their output, expected {len(examples)}")
        return 1
    problems = []
    for (source, program), (shown, output) in zip(examples, programs):
        problems += differences(page, shown, Path(source).read_text(), source)
        problems += differences(page, output, output_of(program), program)
    for part in parts:
        if not any(stands_in(part, source) for source in sources):
            problems.append(f"{page}: this part stands in no program:\n{part}")
    print("\n".join(problems) if problems else f"{page}: {len(programs)} programs and {len(parts)} parts are real")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
