#!/usr/bin/env python3
"""Checks that what the pages point to is there: relative links, the headings they name, and source files named in backquotes.

Every Markdown page of the repository is read. A link without a scheme must lead to a file or folder of the repository, and its
#fragment to a heading of that page. A path in backquotes that begins with a folder of the repository must be there too, except
in pages of history, whose files may be gone. Prints what is not there, and exits with 1 if anything is not.
`--self-test` checks the checker: it must find each of a set of deliberate faults.
"""

import re
import sys
from pathlib import Path
from typing import Iterator

from tree_check import SKIPPED_FOLDERS, files_below, main, self_test

HISTORY = {"CHANGELOG.md", "bench/notes.md"}

FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"""\]\(([^)\s]+)(?: "[^"]*")?\)|^\[[^\]]+\]: *(\S+)|<(?:img|source)\b[^>]*\b(?:src|srcset)="([^" ]+)""",
                  re.MULTILINE)
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?")


def without_fences(text: str) -> str:
    return FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)


def anchors_of(text: str) -> "set[str]":
    """The fragments that GitHub gives a page's headings."""
    found = set()
    for heading in HEADING.findall(without_fences(text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        unique, number = anchor, 0
        while unique in found:
            number += 1
            unique = f"{anchor}-{number}"
        found.add(unique)
    return found


def fault_of_link(root: Path, page: Path, link: str) -> "str | None":
    if SCHEME.match(link):
        return None
    path, _, fragment = link.partition("#")
    target = ((root / path[1:] if path.startswith("/") else page.parent / path) if path else page).resolve()
    if not target.is_relative_to(root.resolve()) or not target.exists():
        return f"link to '{link}', which is not there"
    if fragment and target.suffix == ".md" and fragment not in anchors_of(target.read_text()):
        return f"link to '{link}', but that page has no such heading"
    return None


def faults_of(root: Path, page: Path) -> "Iterator[str]":
    text = without_fences(page.read_text())
    name = page.relative_to(root).as_posix()

    def line(at: int) -> int:
        return text.count("\n", 0, at) + 1

    prose = CODE.sub(lambda code: " " * len(code[0]), text)
    for match in LINK.finditer(prose):
        fault = fault_of_link(root, page, next(group for group in match.groups() if group))
        if fault:
            yield f"{name}:{line(match.start())}: {fault}"
    if name in HISTORY:
        return
    for match in CODE.finditer(text):
        path = match[1]
        if FILE.fullmatch(path) and (root / path.split("/")[0]).is_dir() and not (root / path).exists():
            if path.split("/")[0] not in SKIPPED_FOLDERS and not path.startswith("build"):
                yield f"{name}:{line(match.start())}: '{path}' is not there"


def faults(root: Path) -> "tuple[int, list[str]]":
    found = [path for path in files_below(root) if path.suffix == ".md"]
    return len(found), [fault for page in found for fault in faults_of(root, page)]


GOOD_TREE = {
    "README.md": "# A page\n\n[b](docs/b.md) [c](docs/b.md#two-words) ![d](docs/d.svg) [e](https://x.y/z) [top](#a-page)\n"
                 "<img src=\"docs/d.svg\"> `core/a.h` `core/*.h` `other/a.h` `out/a.b` `[x](gone.md)`\n"
                 "```\n[x](gone.md)\n```\n",
    "docs/b.md": "# B\n## Two `words`\n## Two words\n[back](../README.md) [again](#two-words-1)\n[f]: ../core/a.h\n",
    "docs/d.svg": "<svg/>",
    "core/a.h": "",
    "CHANGELOG.md": "`core/gone.h`\n",
    "build/x.md": "[x](gone.md)\n",
}
WRONG = [
    ("README.md", "[x](gone.md)\n", "README.md:1: link to 'gone.md'"),
    ("README.md", "\n\n![x](docs/gone.svg)\n", "README.md:3: link to 'docs/gone.svg'"),
    ("README.md", "[x](docs/b.md#gone)\n", "no such heading"),
    ("README.md", "# A\n[x](#b)\n", "no such heading"),
    ("README.md", '<img src="gone.svg">\n', "link to 'gone.svg'"),
    ("README.md", "[x](../out-of-the-tree)\n", "is not there"),
    ("docs/c.md", "[x]: gone.h\n", "docs/c.md:1: link to 'gone.h'"),
    ("docs/c.md", "```\n```\n`core/gone.h`\n", "docs/c.md:3: 'core/gone.h' is not there"),
    ("CHANGELOG.md", "[x](gone.md)\n", "link to 'gone.md'"),
]


def test() -> int:
    # A page of history is read as well, for its links.
    return self_test(faults, GOOD_TREE, 3, [(name, text, re.escape(words)) for name, text, words in WRONG])


if __name__ == "__main__":
    sys.exit(main(__doc__, "pages", faults, test))
