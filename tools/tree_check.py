"""What checkers of the repository's files share: a walk over what is ours, the command line, and a self-test by faults."""

import argparse
import re
import tempfile
from pathlib import Path
from typing import Callable, Iterator

SKIPPED_FOLDERS = {".git", "subprojects", "out", "__pycache__"}


def files_below(folder: Path) -> "Iterator[Path]":
    """All files but those of others and those that are built; links to folders are not followed."""
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
            continue
        built = path.name.startswith("build") or (path / "meson-private").is_dir()
        if not path.is_symlink() and path.name not in SKIPPED_FOLDERS and not built:
            yield from files_below(path)


def write_tree(root: Path, files: "dict[str, str]") -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


# Of a tree: how many things were looked at, and a sentence for each fault.
Faults = Callable[[Path], "tuple[int, list[str]]"]


def self_test(faults: Faults, good_tree: "dict[str, str]", good_count: int, wrong: "list[tuple[str, str, str]]") -> int:
    """`wrong` has a file, a text for it that makes exactly one fault, and a pattern that is found in the fault."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder, "good")
        write_tree(good, good_tree)
        count, found = faults(good)
        if count != good_count:
            failures.append(f"looked at {count} of {good_count}")
        failures += [f"flagged though right: {fault}" for fault in found]
        for index, (name, text, pattern) in enumerate(wrong):
            root = Path(folder, str(index))
            write_tree(root, {**good_tree, name: text})
            _, found = faults(root)
            if len(found) != 1 or not re.search(pattern, found[0]):
                failures.append(f"{name}: {text!r}: expected '{pattern}', found {found}")
    for failure in failures:
        print(f"self-test: {failure}")
    if not failures:
        print(f"self-test: all {len(wrong)} faults were found, and nothing that is right")
    return 1 if failures else 0


def main(about: str, looked_at: str, faults: Faults, test: "Callable[[], int]") -> int:
    """Prints the faults, and returns 1 where there are any or nothing was looked at."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent,
                        help="repository to check (default: the one this script is in)")
    parser.add_argument("--self-test", action="store_true", help="check that deliberate faults are found")
    options = parser.parse_args()
    if options.self_test:
        return test()
    count, found = faults(options.root.resolve())
    for fault in found:
        print(fault)
    print(f"{count} {looked_at} checked, {len(found)} faults")
    return 1 if found or count == 0 else 0
