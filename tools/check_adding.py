#!/usr/bin/env python3
"""Does what the pages about adding an op, a loss and a model say: applies their diffs to a copy of the sources, and tests it.

Usage: check_adding.py [--whole FOLDER] [--compiler COMPILER...] | --self-test

Each ```diff block of a page must apply: what it removes and keeps must stand in its file exactly once, wherever that is
by now, and a new file must be new. Each part of it says how many lines it has, as patch wants to know. The page says in
bold how many files it touches. All sources that it touches must compile.

With --whole the copy is configured, in its folder `build`, and the commands of the page's ```sh blocks must succeed in
it. Copy and build are kept in FOLDER, so that only what changes is compiled again. """

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from tree_check import SKIPPED_FOLDERS, write_tree

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("docs/adding-an-op.md", "docs/adding-a-loss.md", "docs/adding-a-model.md")

# Nothing is optimised but the kernels: what is compiled is run for a second.
OPTIONS = ("--buildtype=debug", "-Ddebug=false", "-Doptimization=0", "-Dcpu=native", "-Dcuda=disabled", "-Ddemos=disabled",
           "-Dbench=disabled", "--wrap-mode=default")

# For any of the sources, whose kernels are compiled for the emulator of CUDA and for the processor as it is at least.
SYNTAX = ("-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Iinclude", "-Itests/support",
          "-Itools/cuda_emulator", "-DTAPECACHE_CPU_VARIANT=generic", '-DTAPECACHE_CPU_NAME="generic"',
          "-DHWY_COMPILE_ONLY_STATIC", "-x", "c++")

BLOCK = re.compile(r"^```(diff|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COUNT = re.compile(r"\*\*(\w+)\s+files\*\*")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

Tree = dict  # of paths below the root: bytes of a file, or str of a link's target


class Fault(Exception):
    pass


def read_tree(root: Path) -> Tree:
    tree: Tree = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith("build")
                      and not (here / name / "meson-private").is_dir()]
        for name in files + [name for name in folders if (here / name).is_symlink()]:
            if name in SKIPPED_FOLDERS:  # as .git, which is a file in a work tree
                continue
            path = here / name
            tree[path.relative_to(root).as_posix()] = os.readlink(path) if path.is_symlink() else path.read_bytes()
    for path in [*root.glob("subprojects/*.wrap"), *root.glob("subprojects/packagefiles/*/*")]:
        tree[path.relative_to(root).as_posix()] = path.read_bytes()
    return tree


def write_copy(tree: Tree, copy: Path):
    """Leaves alone what is the same already, so that it need not be compiled again."""
    old = read_tree(copy) if copy.is_dir() else {}
    for name in old.keys() - tree.keys():
        (copy / name).unlink()
    for name, content in tree.items():
        if old.get(name) == content:
            continue
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)


def apply_hunk(text: str, lines: "list[str]", name: str) -> str:
    kept = "".join(line[1:] or "\n" for line in lines if line[0] in " -\n")
    put = "".join(line[1:] or "\n" for line in lines if line[0] in " +\n")
    if not kept:
        raise Fault(f"a part of {name} has no line that says where it belongs")
    found = [match.start() for match in re.finditer(f"^(?={re.escape(kept)})", text, re.MULTILINE)]
    if len(found) != 1:
        raise Fault(f"this stands {len(found)} times in {name}, expected once:\n{kept}")
    return text[:found[0]] + put + text[found[0] + len(kept):]


def check_counts(diff: str, name: str):
    """What `patch` refuses, which does not look beyond them."""
    part = r"^@@ ?(?:-\d+(?:,(\d+))? \+\d+(?:,(\d+))?)? ?@@.*\n((?:(?!@@).*\n)*)"
    for old, new, lines in re.findall(part, diff, re.MULTILINE):
        found = [sum(line[:1] in kinds for line in lines.splitlines()) for kinds in (("", " ", "-"), ("", " ", "+"))]
        if [old, new] != [str(count) for count in found]:
            raise Fault(f"a part of {name} says that it is of {old or '?'} lines and then of {new or '?'}, and is of "
                        f"{found[0]} and {found[1]}:\n{lines}")


def apply_diff(tree: Tree, diff: str) -> str:
    """Changes the tree, and gives the name of the file."""
    head = re.match(r"--- (\S+)\n\+\+\+ b/(\S+)\n(?=@@)", diff)
    if not head or head[1] not in ("/dev/null", f"a/{head[2]}"):
        raise Fault(f"a diff begins with neither a file nor a new one: {diff.splitlines()[:2]}")
    name = head[2]
    hunks = [hunk.splitlines(keepends=True) for hunk in re.split(r"^@@.*\n", diff[head.end():], flags=re.MULTILINE)[1:]]
    wrong = [line for hunk in hunks for line in hunk if line[0] not in " +-\n"]
    if wrong:
        raise Fault(f"a line of {name} is neither kept nor added nor removed: {wrong[0]!r}")
    if head[1] == "/dev/null":
        if name in tree:
            raise Fault(f"{name} is there already")
        if len(hunks) != 1 or any(line[0] != "+" for line in hunks[0]):
            raise Fault(f"{name} is new, and not all of its lines are")
        tree[name] = "".join(line[1:] for line in hunks[0]).encode()
        check_counts(diff, name)
        return name
    if name not in tree:
        raise Fault(f"{name} is not there")
    text = tree[name].decode()
    for hunk in hunks:
        text = apply_hunk(text, hunk, name)
    tree[name] = text.encode()
    check_counts(diff, name)
    return name


def apply_page(tree: Tree, text: str) -> "tuple[list[str], list[str]]":
    """Changes the tree, and gives the names of files and the commands that the page promises to succeed."""
    blocks = BLOCK.findall(text)
    names = [apply_diff(tree, block) for kind, block in blocks if kind == "diff"]
    twice = {name for name in names if names.count(name) > 1}
    counts = {NUMBERS.index(word) for word in COUNT.findall(text) if word in NUMBERS}
    if counts != {len(set(names))}:
        raise Fault(f"touches {len(set(names))} files, and says {sorted(counts)}")
    if not names or twice:
        raise Fault(f"has no diff, or several of one file: {sorted(twice)}")
    commands = [block for kind, block in blocks if kind == "sh"]
    if not commands:
        raise Fault("has no command that shows that it is right")
    return names, commands


def run(command: "list[str]", copy: Path, **environment: str):
    done = subprocess.run(command, cwd=copy, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Fault(f"this failed:\n{command[-1]}\n{done.stdout[-8000:]}")


def configure(copy: Path, compiler: "list[str]"):
    settings = " ".join((*OPTIONS, *compiler))
    stamp = copy / "build" / "settings.txt"
    if not stamp.is_file() or stamp.read_text() != settings:
        shutil.rmtree(copy / "build", ignore_errors=True)
        run(["meson", "setup", "build", *OPTIONS], copy, **({"CXX": " ".join(compiler)} if compiler else {}))
        stamp.write_text(settings)


def check_syntax(copy: Path, sources: "list[str]", compiler: "list[str]") -> "list[str]":
    def fault_of(source: str) -> "str | None":
        done = subprocess.run([*compiler, *SYNTAX, source], cwd=copy, capture_output=True, text=True)
        return f"{source} does not compile as it should:\n{done.stderr[-4000:]}" if done.returncode or done.stderr else None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [fault for fault in pool.map(fault_of, sources) if fault]


def faults(root: Path, pages: "tuple[str, ...]", copy: Path, compiler: "list[str]",
           prepare: "Callable[[Path], None] | None" = None) -> "list[str]":
    """All pages are applied to one copy, one after another. Where nothing configures it, its syntax alone is checked."""
    tree, sources, commands, found = read_tree(root), [], [], []
    for page in pages:
        try:
            names, some = apply_page(tree, (root / page).read_text())
            sources += [name for name in names if name.endswith((".cpp", ".cu"))]
            commands += [(page, command) for command in some]
        except Fault as fault:
            found.append(f"{page}: {fault}")
    if found:
        return found
    write_copy(tree, copy)
    if not prepare:
        return check_syntax(copy, sources, compiler)
    try:
        prepare(copy)
    except Fault as fault:
        return [str(fault)]
    for page, command in commands:
        try:
            run(["bash", "-euo", "pipefail", "-c", command], copy)
        except Fault as fault:
            found.append(f"{page}: {fault}")
    return found


GOOD_PAGE = """# Page

It takes **two files**.

```diff
--- a/list
+++ b/list
@@ -7,2 +7,3 @@ where it stood once
 one
+two
 three
```

```diff
--- /dev/null
+++ b/new/file.cpp
@@ -0,0 +1,2 @@
+int first;
+
```

```sh
grep -qx two list && grep -q first new/file.cpp
```
"""
GOOD_TREE = {"list": "zero\none\nthree\n", "page.md": GOOD_PAGE}

# What is replaced in which file by what, and what is then said of it.
WRONG = [
    ("list", "three", "four", r"stands 0 times in list"),
    ("list", "zero", "one\nthree", r"stands 2 times in list"),
    ("list", "zero\none", "zero one", r"stands 0 times in list"),
    ("page.md", "a/list\n+++ b/list", "a/gone\n+++ b/gone", r"gone is not there"),
    ("page.md", "+++ b/new/file.cpp", "+++ b/list", r"list is there already"),
    ("page.md", "--- a/list\n", "", r"begins with neither"),
    ("page.md", " three", "three", r"neither kept nor added"),
    ("page.md", "+int first;\n", " int first;\n", r"not all of its lines"),
    ("page.md", " one\n+two\n three\n", "+two\n", r"says where it belongs"),
    ("page.md", "**two files**", "**three files**", r"touches 2 files, and says \[3\]"),
    ("page.md", "**two files**", "two files", r"touches 2 files, and says \[\]"),
    ("page.md", "--- /dev/null\n+++ b/new/file.cpp\n@@ -0,0 +1,2 @@\n+int first;\n+\n",
     "--- a/list\n+++ b/list\n@@ -1,1 +1,2 @@\n zero\n+first\n", r"touches 1 files"),
    ("page.md", "-7,2 +7,3", "-7,3 +7,3", r"of 3 lines and then of 3, and is of 2 and 3"),
    ("page.md", "-0,0 +1,2", "-0,0 +1,3", r"of 0 lines and then of 3, and is of 0 and 2"),
    ("page.md", "-7,2 +7,3", "", r"of \? lines and then of \?, and is of 2 and 3"),
    ("page.md", "```sh", "```", r"has no command"),
    ("page.md", "+two", "+tow", r"this failed:\ngrep"),
    ("page.md", "+int first", "+int last", r"this failed:\ngrep"),
    ("page.md", "grep -qx two", "echo of a test; false; grep -qx two", r"(?s)this failed:.*of a test"),
]

WRONG_SYNTAX = [("+int first;", "+int first", r"(?s)new/file.cpp does not compile.*expected"),
                ("+int first;", "+int first(int x) { return 0; }", r"(?s)new/file.cpp does not compile.*unused")]


def self_test() -> int:
    failures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def found_in(tree: "dict[str, str]", root: Path, copy: Path, whole: bool = True) -> "list[str]":
            write_tree(root, tree)
            return faults(root, ("page.md",), copy, ["c++"], (lambda _: None) if whole else None)

        def expect(pattern: str, found: "list[str]", what: str):
            if len(found) != 1 or not re.search(pattern, found[0]):
                failures.append(f"{what!r}: expected '{pattern}', found {found}")

        kept = folder / "kept"
        failures += found_in(GOOD_TREE, folder / "good", kept)
        before = (kept / "list").stat().st_mtime_ns
        (kept / "stale").write_text("")
        failures += found_in(GOOD_TREE, folder / "good", kept)
        failures += found_in(GOOD_TREE, folder / "good", kept, whole=False)
        if (kept / "list").stat().st_mtime_ns != before or (kept / "stale").exists():
            failures.append("a copy is not kept as it should be")
        for index, (file, what, by, pattern) in enumerate(WRONG):
            if what not in GOOD_TREE[file]:
                failures.append(f"{what!r} is not in {file}")
            tree = {**GOOD_TREE, file: GOOD_TREE[file].replace(what, by, 1)}
            expect(pattern, found_in(tree, folder / f"wrong{index}", folder / f"copy{index}"), by)
        for index, (what, by, pattern) in enumerate(WRONG_SYNTAX):
            tree = {**GOOD_TREE, "page.md": GOOD_PAGE.replace(what, by)}
            expect(pattern, found_in(tree, folder / f"syntax{index}", folder / f"copy_of_syntax{index}", whole=False), by)
    print("\n".join(f"self-test: {failure}" for failure in failures)
          or f"self-test: all {len(WRONG) + len(WRONG_SYNTAX)} faults were found, and nothing that is right")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", type=Path, metavar="FOLDER", help="build and run too; where copy and build are kept")
    parser.add_argument("--compiler", nargs="+", default=[], help="for C++ (default: c++, or what Meson finds)")
    parser.add_argument("--self-test", action="store_true", help="check that deliberate faults are found")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    with tempfile.TemporaryDirectory() as folder:
        copy = (arguments.whole or Path(folder)).resolve()
        copy.mkdir(parents=True, exist_ok=True)
        prepare = (lambda copy: configure(copy, arguments.compiler)) if arguments.whole else None
        found = faults(ROOT, PAGES, copy, arguments.compiler or ["c++"], prepare)
    print("\n\n".join(found) or f"{len(PAGES)} pages {'do what they say' if arguments.whole else 'apply and compile'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
