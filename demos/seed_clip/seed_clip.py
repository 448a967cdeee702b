#!/usr/bin/env python3
"""Gives the program seed_clip its drawings: pictures of 224 x 224, captions and, for the linear classifier, kinds."""

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clip_openclipart"))
import small_clip  # noqa: E402
from drawings import NO_KINDS, drawings  # noqa: E402

SIDE, BATCH, OTHERS, KINDS = 224, 64, 400, 8


def prepare(pictures: Path, work: Path) -> None:
    """The batch, and as many others of the largest kinds, in an order that does not depend on their names."""
    found = [drawing for drawing in drawings() if drawing.kind not in NO_KINDS]
    kinds = [kind for kind, _ in Counter(drawing.kind for drawing in found).most_common(KINDS)]
    chosen = found[:BATCH] + [drawing for drawing in found[BATCH:] if drawing.kind in kinds][:OTHERS]
    work.mkdir(parents=True, exist_ok=True)
    (work / "files.txt").write_text("".join(f"{drawing.png}\n" for drawing in chosen))
    subprocess.run([pictures, "thumbnails", work / "files.txt", work / "pictures", str(SIDE)], check=True)
    vocabulary = small_clip.vocabulary_of([drawing.caption for drawing in found])
    (work / "tokenizer").mkdir(exist_ok=True)
    small_clip.write_tokenizer(work / "tokenizer", vocabulary)
    (work / "drawings.tsv").write_text("".join(f"{work / 'pictures' / f'{number}.png'}\t{drawing.caption}\t{drawing.kind}\n"
                                               for number, drawing in enumerate(chosen)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="seed_clip of a build")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json")
    options, rest = parser.parse_known_args()
    program, out = options.program.resolve(), options.out.resolve()
    work = out.with_name(out.name + ".work")
    if not (work / "drawings.tsv").is_file():
        prepare(program.parents[1] / "clip_openclipart" / "pictures", work)
    return subprocess.run([program, "--drawings", work / "drawings.tsv", "--tokenizer", work / "tokenizer", "--out", out,
                           *rest]).returncode


if __name__ == "__main__":
    sys.exit(main())
