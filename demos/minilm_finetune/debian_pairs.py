"""Pairs of texts from the descriptions of Debian's packages: name and summary, and the long description."""

import hashlib
import subprocess
from pathlib import Path
from typing import Iterator

HELPER = "/usr/lib/apt/apt-helper"
SHORTEST = 80  # characters of a long description that says more than its summary


def fetch_lists(folder: Path) -> "list[Path]":
    """The descriptions of this system's package sources, in lists of our own: the system's stay as they are."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    found = sorted((folder / "lists").glob("*_i18n_Translation-en*"))
    if not found:
        subprocess.run(["apt-get", "-qq", "update", "-o", f"Dir::State::lists={folder / 'lists'}",
                        "-o", f"Dir::Cache={folder / 'cache'}", "-o", "Acquire::Languages=en"], check=True)
        found = sorted((folder / "lists").glob("*_i18n_Translation-en*"))
    if not found:
        raise SystemExit(f"{folder / 'lists'}: apt-get fetched no Translation-en, expected those of the main archive")
    return found


def paragraphs(lines: "list[str]") -> str:
    """A long description as running text: a line of one dot ends a paragraph."""
    return " ".join(" ".join(line.strip() for line in lines if line.strip() != ".").split())


def descriptions(text: str) -> "Iterator[tuple[str, str, str]]":
    """Package, summary and long description of each stanza."""
    for stanza in text.split("\n\n"):
        name, summary, long = "", "", []
        for line in stanza.split("\n"):
            if line.startswith("Package: "):
                name = line[9:].strip()
            elif line.startswith("Description-en: "):
                summary = line[16:].strip()
            elif line.startswith(" ") and summary:
                long.append(line)
        if name and summary:
            yield name, summary, paragraphs(long)


def pairs(folder: Path) -> "list[tuple[str, str]]":
    """In an order that is the same wherever the lists are. Of packages that share a description, as a library and its
    documentation do, there is one, and none whose long description says its summary again and little else."""
    by_long = {}
    for path in fetch_lists(folder):
        text = subprocess.run([HELPER, "cat-file", str(path)], check=True, capture_output=True).stdout.decode("utf-8")
        for name, summary, long in descriptions(text):
            first = long[:SHORTEST]
            if len(long) >= SHORTEST and first not in by_long:
                by_long[first] = (f"{name}: {summary}", long)
    by_anchor = dict(by_long.values())
    return sorted(by_anchor.items(), key=lambda pair: hashlib.sha256(pair[0].encode()).digest())


def write_tsv(path: Path, rows: "list[tuple[str, str]]") -> None:
    lines = ["anchor\tpositive"] + ["\t".join(" ".join(text.split()) for text in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
