#!/usr/bin/env python3
"""Trains a small CLIP from nothing on the drawings of the Open Clip Art Library and what their authors call them.

What is trained, and how it is measured, is what `tapecache train` does; see docs/program.md. Then the model sorts drawings that
it has not seen into folders by the folders' names alone, and finds some by words, on a sheet of pictures.
"""

import argparse
import array
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import small_clip
from drawings import drawings, write_csv

HELD_OUT, SIDE, COLUMNS = 600, 64, 8
SEARCHES = ("red flower", "bird", "fish", "car", "house", "national flag", "fruit", "woman", "musical instrument", "tree")
# The folders' names, in words that captions have.
KINDS = {"animals": "animal", "buildings": "building house", "food": "food", "people": "people person",
         "plants": "plant flower", "transportation": "transportation vehicle", "tools": "tool", "office": "office",
         "recreation": "recreation sports", "geography": "geography map", "education": "education",
         "electronics": "electronics"}


def vectors(path: Path) -> "list[list[float]]":
    """Rows of a .npy of f32, each brought to length 1, which those of a CLIP are not: what is nearest is so by its angle."""
    raw = path.read_bytes()
    begin = 10 + int.from_bytes(raw[8:10], "little")
    rows = int(raw[10:begin].decode().split("(")[1].split(",")[0])
    size = (len(raw) - begin) // rows
    found = []
    for i in range(rows):
        row = array.array("f", raw[begin + i * size:begin + (i + 1) * size])
        length = math.sqrt(sum(x * x for x in row))
        found.append([x / length for x in row])
    return found


class Demo:
    def __init__(self, program: Path, out: Path) -> None:
        self.program, self.out, self.work = program, out, out.with_name(out.name + ".work")
        self.pictures = program.parent.parent / "demos" / "clip_openclipart" / "pictures"

    def call(self, *arguments) -> str:
        return subprocess.run([self.program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout

    def prepare(self) -> None:
        all_drawings = drawings()
        self.held_out, training = all_drawings[:HELD_OUT], all_drawings[HELD_OUT:]
        print(f"{len(all_drawings)} drawings, {HELD_OUT} of them held out", flush=True)
        self.work.mkdir(parents=True, exist_ok=True)
        for name, some in (("held_out", self.held_out), ("training", training)):
            if not (self.work / f"{name}.csv").is_file():
                (self.work / f"{name}.txt").write_text("".join(f"{drawing.png}\n" for drawing in some))
                subprocess.run([self.pictures, "thumbnails", self.work / f"{name}.txt", self.work / name, str(SIDE)],
                               check=True)
                write_csv(self.work / f"{name}.csv", ("image", "caption"),
                          [(f"{name}/{number}.png", drawing.caption) for number, drawing in enumerate(some)])
        if not (self.work / "model").is_dir():
            small_clip.make(self.work / "model", [drawing.caption for drawing in training])

    def train(self, arguments: "list[str]") -> int:
        settings = {"--batch": "768", "--chunk": "64", "--epochs": "20", "--rate": "1e-3", "--weight-decay": "0.1",
                    "--crop": "0.5", "--flip": "0.5", "--eval-every": "0", "--warmup": "0.1"}
        given = {argument.split("=")[0] for argument in arguments}
        if "--memory" in given:
            del settings["--chunk"]
        if "--steps" in given:
            del settings["--epochs"]
        chosen = [part for name, value in settings.items() if name not in given for part in (name, value)]
        return subprocess.run([self.program, "train", "--model", self.work / "model", "--pairs", self.work / "training.csv",
                               "--eval-pairs", self.work / "held_out.csv", "--out", self.out, *chosen, *arguments]).returncode

    def embed(self) -> None:
        self.images = self.work / "held_out.npy"
        self.call("embed", "--model", self.out, "--images", self.work / "held_out.csv", "--out", self.images)

    def known_kinds(self) -> "dict[str, str]":
        """Those whose words the model has seen: a word that it has not is the same to it as any other."""
        vocabulary = json.loads((self.out / "tokenizer.json").read_text())["model"]["vocab"]
        known = {kind: words for kind, words in KINDS.items() if set(words.split()) <= vocabulary.keys()}
        for kind in KINDS.keys() - known.keys():
            print(f"left out: no two captions of training have '{KINDS[kind]}', for the folder {kind}", flush=True)
        return known

    def sort_into_folders(self) -> None:
        """By the name that is nearest. Folders differ in size, so that the mean over folders is what chance is to be held
        against."""
        kinds = self.known_kinds()
        (self.work / "kinds.txt").write_text("".join(f"{words}\n" for words in kinds.values()))
        self.call("embed", "--model", self.out, "--input", self.work / "kinds.txt", "--out", self.work / "kinds.npy")
        names = vectors(self.work / "kinds.npy")
        right, total = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
        for drawing, image in zip(self.held_out, vectors(self.images)):
            if drawing.kind not in kinds:
                continue
            scores = [sum(a * b for a, b in zip(image, name)) for name in names]
            right[drawing.kind] += list(kinds)[scores.index(max(scores))] == drawing.kind
            total[drawing.kind] += 1
        print("\nzero-shot, by the names of folders alone: of the drawings of each, those that are nearest to its name")
        kinds = {kind: words for kind, words in kinds.items() if total[kind] > 0}
        for kind in kinds:
            print(f"  {kind:<16} {right[kind]:>3} of {total[kind]:>3}")
        balanced = sum(right[kind] / total[kind] for kind in kinds) / len(kinds)
        everything = sum(total.values())
        print(f"mean over {len(kinds)} folders {balanced:.1%}, by chance {1 / len(kinds):.1%}; of all {everything} drawings "
              f"{sum(right.values()) / everything:.1%}, of which the largest folder has "
              f"{max(total.values()) / everything:.1%}", flush=True)

    def search(self) -> None:
        (self.work / "captions.txt").write_text("".join(f"{drawing.caption}\n" for drawing in self.held_out))
        sheet = []
        for text in SEARCHES:
            lines = self.call("search", "--model", self.out, "--index", self.images, "--texts", self.work / "captions.txt",
                              "--top", COLUMNS, "--json", text).splitlines()
            found = [json.loads(line) for line in lines]
            print(f"{text:<20} {found[0]['text'][:90]}", flush=True)
            sheet.append("\t".join([text, *(str(self.held_out[line["row"]].png) for line in found)]))
        (self.work / "sheet.txt").write_text("".join(f"{row}\n" for row in sheet))
        picture = self.out.with_name(self.out.name + ".png")
        subprocess.run([self.pictures, "sheet", self.work / "sheet.txt", picture], check=True)
        print(f"{picture}: a row for each search, the nearest of {HELD_OUT} drawings first", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="tapecache of a build")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    options, training = parser.parse_known_args()
    demo = Demo(options.program.resolve(), options.out.resolve())
    demo.prepare()
    status = demo.train(training)
    if status != 0:
        return status
    demo.embed()
    demo.sort_into_folders()
    demo.search()
    return 0


if __name__ == "__main__":
    sys.exit(main())
