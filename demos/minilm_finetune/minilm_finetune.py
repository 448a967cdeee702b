#!/usr/bin/env python3
"""Fine-tunes all-MiniLM-L6-v2 on the descriptions of Debian's packages: name and summary find the long description.

The model, from a Python package, and the descriptions, from the system's package sources, are fetched once into the cache. What
is trained, and how it is measured, is what `tapecache train` does; see docs/program.md.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from debian_pairs import pairs, write_tsv
from minilm_folder import minilm_folder

HELD_OUT = 2000


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapecache"


def searches(program: Path, model: Path, cache: Path) -> None:
    """What some questions find among the descriptions that training has not seen."""
    vectors = cache / "held_out.npy"
    texts = cache / "held_out.txt"
    subprocess.run([program, "embed", "--model", model, "--input", texts, "--out", vectors], check=True)
    for question in ("play chess against the computer", "see which program uses the disk", "edit photographs"):
        print(f"\n{question}:", flush=True)
        subprocess.run([program, "search", "--model", model, "--index", vectors, "--texts", texts, "--top", "3", question],
                       check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="tapecache of a build")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="for the model and the descriptions")
    options, training = parser.parse_known_args()
    rows = pairs(options.cache / "debian")
    folder = options.cache / "debian"
    write_tsv(folder / "held_out.tsv", rows[:HELD_OUT])
    write_tsv(folder / "training.tsv", rows[HELD_OUT:])
    held_out = "".join(f"{positive}\n" for _, positive in rows[:HELD_OUT])
    (folder / "held_out.txt").write_text(held_out, encoding="utf-8")
    print(f"{len(rows)} packages with a description of their own, {HELD_OUT} of them held out", flush=True)
    settings = {"--batch": "2048", "--chunk": "32", "--steps": "8", "--rate": "5e-5", "--max-tokens": "128",
                "--check-every": "4"}
    given = {argument.split("=")[0] for argument in training}
    if given & {"--chunk-tokens", "--memory"}:
        del settings["--chunk"]
    if "--epochs" in given:
        del settings["--steps"]
    chosen = [part for name, value in settings.items() if name not in given for part in (name, value)]
    done = subprocess.run([options.program, "train", "--model", minilm_folder(options.cache),
                           "--pairs", folder / "training.tsv", "--eval-pairs", folder / "held_out.tsv",
                           "--out", options.out, *chosen, *training])
    if done.returncode != 0:
        return done.returncode
    searches(options.program, options.out, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
