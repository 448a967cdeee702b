#!/usr/bin/env python3
"""Checks that sources stand as .clang-format and .editorconfig ask.

C++ and CUDA sources must be as clang-format of the version below leaves them: other versions break lines elsewhere. Where it is
missing, text alone is checked, and the exit status is 77, which Meson calls skipped.
`--self-test` checks the checker: it must find each of a set of deliberate faults.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Iterator

from tree_check import files_below, main, self_test

VERSION = "14"
SKIPPED = 77
CPP = {".h", ".cpp", ".cu", ".cuh"}
CODE = CPP | {".py", ".build", ".map", ".in"}
LONGEST = 128  # in characters, of what no formatter breaks


def formatter() -> "str | None":
    for name in (f"clang-format-{VERSION}", "clang-format"):
        path = shutil.which(name)
        if path:
            says = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if re.search(rf"version {VERSION}\.", says):
                return path
    return None


def faults_of_text(path: Path) -> "list[str]":
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return [f"byte {error.start} is no UTF-8"]
    found = []
    if text and not text.endswith("\n"):
        found.append("no newline at the end")
    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith((" ", "\t", "\r")):
            found.append(f"line {number}: white space at its end")
        elif "\t" in line:
            found.append(f"line {number}: a tab")
        elif len(line) > LONGEST:
            found.append(f"line {number}: {len(line)} characters, at most {LONGEST}")
    return found


def faults_of_layout(program: str, root: Path, paths: "list[Path]") -> "Iterator[str]":
    """By formatting copies: --dry-run also warns of changes that change nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder, path.relative_to(root)) for path in paths]
        shutil.copy(root / ".clang-format", folder)
        for path, copy in zip(paths, copies):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        subprocess.run([program, "-i", *copies], check=True)
        for path, copy in zip(paths, copies):
            lines = zip_longest(*(file.read_text(encoding="utf-8").split("\n") for file in (path, copy)))
            changed = next((number for number, (is_so, should_be) in enumerate(lines, 1) if is_so != should_be), None)
            if changed:
                name = path.relative_to(root).as_posix()
                yield f"{name}: line {changed}: not as clang-format has it; run {program} -i on it"


def faults_below(root: Path) -> "tuple[int, list[str]]":
    paths = [path for path in files_below(root) if path.suffix in CODE and not path.is_symlink()]
    found = [f"{path.relative_to(root).as_posix()}: {fault}" for path in paths for fault in faults_of_text(path)]
    program = formatter()
    if program and not found:
        found += faults_of_layout(program, root, [path for path in paths if path.suffix in CPP])
    return len(paths), found


def test() -> int:
    good = {
        ".clang-format": "BasedOnStyle: Google\nColumnLimit: 40\n",
        "a.cpp": "int f(int a) { return a; }\n",
        "tool.py": "f = 1\n",
        "build/a.cpp": "int   g ;",
        "page.md": "two spaces break a line  \n",
    }
    wrong = [
        ("tool.py", "f = 1", r"^tool.py: no newline"),
        ("tool.py", "f = 1 \n", r"^tool.py: line 1: white space"),
        ("tool.py", "f = 1\r\n", r"^tool.py: line 1: white space"),
        ("tool.py", "\tf = 1\n", r"^tool.py: line 1: a tab"),
        ("tool.py", f"f = '{'é' * LONGEST}'\n", r"^tool.py: line 1: 134 characters"),
    ]
    if formatter():
        wrong += [
            ("a.cpp", "int g();\nint  f(int a) { return a; }\n", r"^a.cpp: line 2: not as clang-format"),
            ("b/b.cu", "int f(int first, int second, int the_third);\n", r"^b/b.cu: line 1: not as clang-format"),
        ]
    return self_test(faults_below, good, 2, wrong)


if __name__ == "__main__":
    status = main(__doc__, "sources", faults_below, test)
    if status == 0 and not formatter():
        print(f"clang-format {VERSION} was not found: the layout of C++ was not looked at")
        status = SKIPPED
    sys.exit(status)
