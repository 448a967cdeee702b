"""The drawings of the Open Clip Art Library as Debian has them, with what their authors call them."""

import csv
import hashlib
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("openclipart-png", "openclipart-svg")
ROOT = Path("/usr/share/openclipart")
DC, RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
# Geometry by the thousand, and icons that say nothing beside their file's name; folders that are no kind of thing.
LEFT_OUT = ("shapes/", "computer/icons/")
MOST_PIXELS = 4 << 20  # a few have hundreds of millions
NO_KINDS = ("unsorted", "special", "signs_and_symbols", "computer")


class Drawing(NamedTuple):
    png: Path
    caption: str
    kind: str  # its folder: food, animals, ...


def install() -> None:
    """The packages that are missing."""
    if (ROOT / "png").is_dir() and (ROOT / "svg").is_dir():
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            raise SystemExit(f"{', '.join(PACKAGES)} must be installed first: {' '.join(command)}")
        command.insert(0, "sudo")
    print(f"Installing {' and '.join(PACKAGES)} (156 MB)", flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def words_of(svg: Path) -> "tuple[str, list[str]]":
    """The title of the drawing itself and its keywords; publisher and authors have titles, too."""
    try:
        root = xml.parse(svg).getroot()
    except (xml.ParseError, ValueError, OSError):
        return "", []
    work = next((e for e in root.iter() if e.tag.endswith("}Work")), None)
    if work is None:
        return "", []
    title = work.find(f"{DC}title")
    keywords = [item.text or "" for subject in work.findall(f"{DC}subject") for item in subject.iter(f"{RDF}li")]
    return (title.text or "") if title is not None else "", keywords


def caption_of(title: str, keywords: "list[str]") -> str:
    """Title and keywords, each word once and none that says nothing of a drawing."""
    seen, words = {"and", "art", "by", "clip", "clipart", "externalsource", "hash", "of", "png", "svg", "the", "unsorted"}, []
    for word in re.findall(r"[a-z]+", " ".join([title, *keywords]).lower().replace("_", " ")):
        if len(word) > 1 and word not in seen:
            seen.add(word)
            words.append(word)
    return " ".join(words[:20])


def drawings() -> "list[Drawing]":
    """In an order that does not depend on their names, without huge ones. Of drawings whose bytes are equal there is one."""
    install()
    found, seen = [], set()
    for svg in sorted((ROOT / "svg").rglob("*.svg")):
        inside = svg.relative_to(ROOT / "svg")
        png = ROOT / "png" / inside.with_suffix(".png")
        if str(inside).startswith(LEFT_OUT) or not png.is_file():
            continue
        contents = png.read_bytes()
        if int.from_bytes(contents[16:20], "big") * int.from_bytes(contents[20:24], "big") > MOST_PIXELS:
            continue
        title, keywords = words_of(svg)
        caption = caption_of(title, keywords)
        digest = hashlib.sha256(contents).digest()
        if len(caption.split()) >= 2 and digest not in seen:
            seen.add(digest)
            found.append((digest, Drawing(png, caption, inside.parts[0])))
    return [drawing for _, drawing in sorted(found)]


def write_csv(path: Path, header: "tuple[str, ...]", rows: "list[tuple]") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
