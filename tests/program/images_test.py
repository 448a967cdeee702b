"""The program `tapecache` on images and captions: a small CLIP of random weights. Arguments: the program, its folder."""

import csv
import json
import math
import os
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import small_model
from program_case import ProgramCase, main

CLIP = ""
COLOURS = {"red": (230, 30, 20), "green": (30, 200, 60), "blue": (20, 60, 220), "white": (250, 250, 245),
           "black": (10, 5, 15), "yellow": (240, 220, 30)}
PATTERNS = {"plain": lambda x, y: True, "left": lambda x, y: x < 6, "top": lambda x, y: y < 5,
            "corner": lambda x, y: x < 6 and y < 5, "stripes": lambda x, y: x // 2 % 2 == 0,
            "board": lambda x, y: (x // 3 + y // 3) % 2 == 0}
WIDTH, HEIGHT = 13, 11


def write_png(path: Path, rows: "list[list[tuple]]", kind: int = 2) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, kind, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def make_model(folder: Path) -> Path:
    """The reference's small CLIP, with a tokenizer of words and a preprocessing of its own."""
    shutil.copytree(CLIP, folder, ignore=shutil.ignore_patterns("reference.safetensors"))
    words = {word: number + 3 for number, word in enumerate([*COLOURS, *PATTERNS])}
    special = {"<pad>": 0, "<start>": 1, "<unknown>": 2, "<end>": 59}
    template = [{"SpecialToken": {"id": "<start>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<end>", "type_id": 0}}]
    (folder / "tokenizer.json").write_text(json.dumps({
        "added_tokens": [{"id": number, "content": word, "special": True, "normalized": False, "single_word": False,
                          "lstrip": False, "rstrip": False} for word, number in special.items()],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": template,
                           "pair": [*template, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {name: {"id": name, "ids": [special[name]], "tokens": [name]}
                                              for name in ("<start>", "<end>")}},
        "model": {"type": "WordLevel", "vocab": {**special, **words}, "unk_token": "<unknown>"}}))
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}, "crop_size": 8}))
    return folder


def make_pictures(folder: Path) -> "list[tuple[str, str]]":
    """Files of FOLDER/data/pictures, each with the words for it; paths are from FOLDER/data."""
    (folder / "data" / "pictures").mkdir(parents=True)
    rows = []
    for colour, paint in COLOURS.items():
        for pattern, covers in PATTERNS.items():
            name = f"pictures/{colour}-{pattern}.png"
            write_png(folder / "data" / name,
                      [[paint if covers(x, y) else (128, 128, 128) for x in range(WIDTH)] for y in range(HEIGHT)])
            rows.append((name, f"{colour} {pattern}"))
    return rows


class ImagesTest(ProgramCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.model = make_model(self.folder / "model")
        self.rows = make_pictures(self.folder)
        self.pairs = self.folder / "data" / "pairs.csv"
        self.write_pairs(("filepath", "title"), self.rows)

    def write_pairs(self, header: tuple, rows: list) -> None:
        with self.pairs.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    def train_arguments(self, out: str, *more) -> list:
        held_out = [] if "--eval-pairs" in more else ["--eval-share", 0]
        return ["train", "--model", self.model, "--pairs", self.pairs, "--out", self.folder / out, "--batch", 12,
                "--rate", 3e-3, "--threads", 2, *held_out, *more]

    def evaluated(self, model: Path, *more) -> dict:
        return json.loads(self.run_program("eval", "--model", model, "--pairs", self.pairs, "--json", *more).stdout)

    def test_images_find_their_texts_after_training(self) -> None:
        before = self.evaluated(self.model)
        out = self.train("out", "--steps", 300, "--eval-pairs", self.pairs, "--check-every", 50)
        self.assertIn("loss clip", self.last.stderr)
        after = self.evaluated(out)
        self.assertEqual(after["queries"], len(self.rows))
        for name in ("image_to_text_recall@1", "text_to_image_recall@1"):
            self.assertIn(name, self.last.stdout)
            self.assertEqual(after[name], self.metrics("out", "eval")[-1][name])
            self.assertLess(before[name], 0.2)
            self.assertGreater(after[name], 0.5)
        self.assertLess(max(line["gradient_distance"] for line in self.metrics("out", "check")), 1e-5)
        for line in self.metrics("out", "train"):
            self.assertGreater(line["loading_seconds"], 0)
            self.assertLess(line["loading_seconds"], line["seconds"])
        for name in ("preprocessor_config.json", "tokenizer.json"):
            self.assertEqual((out / name).read_bytes(), (self.model / name).read_bytes())
        # Of a folder of images, in the order of their paths, the right ones are found by texts.
        index = self.folder / "v.npy"
        self.run_program("embed", "--model", out, "--images", self.folder / "data", "--out", index)
        paths = index.with_suffix(".txt").read_text().splitlines()
        self.assertEqual(paths, sorted(str(self.folder / "data" / name) for name, _ in self.rows))
        found = 0
        for name, text in self.rows[::5]:
            line = json.loads(self.run_program("search", "--model", out, "--index", index, "--texts", index.with_suffix(".txt"),
                                               "--top", 1, "--json", text).stdout)
            found += line["text"].endswith(name)
        self.assertGreaterEqual(found, 3)
        # The same images by a list of them.
        listed = self.folder / "data" / "list.csv"
        listed.write_text("image\n" + "".join(f"{Path(path).relative_to(self.folder / 'data')}\n" for path in paths))
        self.run_program("embed", "--model", out, "--images", listed, "--out", self.folder / "w.npy")
        self.assertEqual((self.folder / "w.npy").read_bytes(), index.read_bytes())

    def test_runs_go_on_to_the_same_bits(self) -> None:
        run = ["--steps", 200, "--save-every", 7, "--crop", 0.3, "--flip", 0.5, "--loaders", 2]
        self.train("whole", *run)
        self.train("other-loaders", *run[:-1], 1, "--threads", 1)
        self.assertEqual(self.weights("other-loaders"), self.weights("whole"))
        self.train("uncropped", *run[:4], "--crop", 1)
        self.assertNotEqual(self.weights("uncropped"), self.weights("whole"))
        for name, how, code in (("killed", signal.SIGKILL, -signal.SIGKILL), ("stopped", signal.SIGINT, 130)):
            self.assertEqual(self.interrupted(name, how, *run), code, name)
            self.assertLess(len(self.metrics(name, "train")), 200)
            self.assert_refused(["--crop '0.3', found '0.4'"], *self.train_arguments(name, *run, "--crop", 0.4, "--resume"))
            self.train(name, *run, "--resume")
            self.assertEqual(self.weights(name), self.weights("whole"), name)

    def test_ways_to_cut_and_losses(self) -> None:
        for number, cut in enumerate(([], ["--chunk", 5], ["--chunk-tokens", 12], ["--memory", "64M"])):
            self.train(f"out{number}", "--steps", 2, *cut)
            self.assertAlmostEqual(self.metrics(f"out{number}", "train")[0]["loss"], self.metrics("out0", "train")[0]["loss"],
                                   places=5)
        for loss in ("clip", "siglip", "infonce", "matryoshka:8,4"):
            self.train(f"out-{loss}", "--loss", loss, "--steps", 2, "--check-every", 1)
            self.assertLess(self.metrics(f"out-{loss}", "check")[0]["gradient_distance"], 1e-5)
            self.run_program("check-gradient", "--model", self.model, "--pairs", self.pairs, "--loss", loss, "--samples", 9,
                             "--chunk", 4)
        self.assert_refused(["gist compares texts"], *self.train_arguments("gist", "--loss", "gist"))

    def test_an_adapters_gradient_is_checked_on_images(self) -> None:
        out = self.train("out", "--lora", 2, "--steps", 2)
        for name in ("preprocessor_config.json", "tokenizer.json"):
            self.assertEqual((out / name).read_bytes(), (self.model / name).read_bytes())
        for folder in (out, self.folder / "bare"):
            done = self.run_program("check-gradient", "--model", folder, "--pairs", self.pairs, "--samples", 9, "--chunk", 4)
            self.assertIn("equal to rounding", done.stdout)
            expected = self.evaluated(out)
            self.assertEqual(self.evaluated(folder), expected)
            # An adapter of PEFT's alone has its base's preprocessing and tokenizer.
            shutil.copytree(out, self.folder / "bare", ignore=lambda _, names: [n for n in names if "adapter_" not in n],
                            dirs_exist_ok=True)
        # One of its own counts before.
        config = json.loads((out / "preprocessor_config.json").read_text())
        (out / "preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0, 0, 0]}))
        self.assertNotEqual(self.evaluated(out), expected)

    def test_images_of_the_size_that_the_preprocessor_gives(self) -> None:
        """DINOv2's positions are for other images than its preprocessor cuts, as in those that are published."""
        model = self.folder / "dinov2"
        shutil.copytree(Path(CLIP).parent / "dinov2", model)
        config = {"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 10},
                  "do_center_crop": True, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
                  "image_std": [0.229, 0.224, 0.225], "resample": 3}
        embed = ["embed", "--model", model, "--images", self.folder / "data", "--out", self.folder / "v.npy"]
        # Of transformers, for the picture "red left".
        expected = {8: (0.4406810, 0.6975558, 2.9838407, -0.0971751), 12: (0.5021901, 0.7883799, 2.7703233, -0.6173413)}
        row = sorted(name for name, _ in self.rows).index("pictures/red-left.png")
        for side, numbers in expected.items():
            (model / "preprocessor_config.json").write_text(json.dumps({**config, "crop_size": side}))
            self.run_program(*embed)
            data = (self.folder / "v.npy").read_bytes()[128:]
            begin = len(data) // len(self.rows) * row
            for found, number in zip(struct.unpack("<4f", data[begin:begin + 16]), numbers):
                self.assertAlmostEqual(found, number, places=4)
        shown = self.run_program("inspect", model).stdout
        self.assertIn("or other multiples of 4", shown)
        (model / "preprocessor_config.json").write_text(json.dumps({**config, "crop_size": 10}))
        self.assert_refused(["10 x 10", "multiples of 4"], *embed)

    def scale_of(self, folder: Path) -> float:
        return struct.unpack("<f", small_model.read_safetensors(folder / "model.safetensors")["logit_scale"])[0]

    def test_the_models_own_scale(self) -> None:
        # Above CLIP's limit, as published SigLIPs have it.
        own = math.log(115)
        small_model.change(self.model / "model.safetensors", "logit_scale", lambda _: own)
        before = self.weights("model")["logit_scale"]
        run = ["--steps", 2, "--warmup", 0]
        for loss in ("siglip", "clip"):
            out = self.train(f"free-{loss}", "--loss", loss, *run)
            # Two steps move it by little; CLIP's begin at its limit.
            self.assertLess(abs(self.scale_of(out) - (own if loss == "siglip" else math.log(100))), 3 * 2 * 3e-3)
            self.assertNotEqual(self.weights(f"free-{loss}")["logit_scale"], before)
            for name, more in (("frozen", ["--freeze", "logit_scale"]), ("lora", ["--lora", 2, "--merge"])):
                self.train(f"{name}-{loss}", "--loss", loss, *run, *more)
                self.assertEqual(self.weights(f"{name}-{loss}")["logit_scale"], before, f"{name} {loss}")
                for chosen in (["--scale", 20], ["--temperature", 0.05]):
                    self.assert_refused([chosen[0], "'logit_scale'", "frozen"],
                                        *self.train_arguments("other", "--loss", loss, *more, *chosen))
        self.assertLess(self.scale_of(self.folder / "free-clip"), math.log(100) + 1e-6)
        self.assertLess(abs(self.scale_of(self.train("given", "--scale", 20, *run)) - math.log(20)), 0.02)

    def test_paths_are_no_texts(self) -> None:
        self.write_pairs(("filepath", "title"), self.rows)
        for command in (self.train_arguments("out"), ["eval", "--model", self.model, "--pairs", self.pairs],
                        ["check-gradient", "--model", self.model, "--pairs", self.pairs]):
            self.assert_refused(["column 'filepath' has the paths of images", "--image-column filepath --caption-column title"],
                                *command, "--columns", "filepath,title")
        listed = self.folder / "data" / "list.csv"
        listed.write_text("filepath\n" + "".join(f"{name}\n" for name, _ in self.rows))
        self.assert_refused(["list.csv: line 2, column 1", "path of an image", "--images"], "embed", "--model", self.model,
                            "--input", listed, "--out", self.folder / "v.npy")
        self.write_pairs(("words", "picture"), [row[::-1] for row in self.rows])
        self.assert_refused(["column 'picture' has the paths", "--image-column picture --caption-column words"],
                            *self.train_arguments("out"), "--columns", "words,picture")
        self.write_pairs(("words", "others"), [(text, text) for _, text in self.rows])
        self.run_program("eval", "--model", self.model, "--pairs", self.pairs, "--columns", "words,others")

    def test_a_list_of_images_replaces_no_other_file(self) -> None:
        images, vectors = self.folder / "data" / "pictures", self.folder / "v.npy"
        arguments = ["embed", "--model", self.model, "--images", images, "--out", vectors]
        for text in ("my notes\n", "", f"{images / 'red-top.png'}\n"):
            self.write("v.txt", text)
            self.assert_refused(["v.txt: is there already"], *arguments)
            self.assertEqual((self.folder / "v.txt").read_text(), text)
        self.assertFalse(vectors.exists())
        (self.folder / "v.txt").unlink()
        self.run_program(*arguments)
        self.assertEqual(len((self.folder / "v.txt").read_text().splitlines()), len(self.rows))
        # It is its own when another image has come.
        shutil.copy(images / "red-top.png", images / "a.png")
        self.run_program(*arguments)
        self.run_program(*arguments[:-3], f"{images}/", *arguments[-2:])
        self.assertEqual(len((self.folder / "v.txt").read_text().splitlines()), len(self.rows) + 1)
        self.write("v.txt", (self.folder / "v.txt").read_text() + "and a note\n")
        self.assert_refused(["v.txt: is there already"], *arguments)
        # What is no folder has no list.
        listed = self.folder / "data" / "list.csv"
        listed.write_text("image\n" + "".join(f"{name}\n" for name, _ in self.rows))
        self.run_program("embed", "--model", self.model, "--images", listed, "--out", vectors)
        self.assertIn("and a note", (self.folder / "v.txt").read_text())

    def test_columns(self) -> None:
        expected = self.evaluated(self.model)
        self.write_pairs(("id", "picture", "words"), [(number, *row) for number, row in enumerate(self.rows)])
        chosen = ["--image-column", "picture", "--caption-column", "words"]
        self.assertEqual(self.evaluated(self.model, *chosen), expected)
        self.assert_refused(["which column has the captions", "'words'"], "eval", "--model", self.model, "--pairs", self.pairs,
                            *chosen[:2])
        self.assert_refused(["--image-column"], "eval", "--model", self.model, "--pairs", self.pairs)
        self.pairs = self.folder / "data" / "pairs.jsonl"
        self.pairs.write_text("".join(json.dumps({"caption": text, "image": name}) + "\n" for name, text in self.rows))
        self.assertEqual(self.evaluated(self.model), expected)

    def test_what_is_wrong_is_told(self) -> None:
        self.write_pairs(("image", "caption"), [self.rows[0], ("pictures/none.png", "red"), *self.rows[2:]])
        self.assert_refused(["pairs.csv: line 3", "no file", "none.png"], *self.train_arguments("out"))
        self.write_pairs(("image", "caption"), self.rows)
        broken = self.folder / "data" / self.rows[4][0]
        broken.write_bytes(broken.read_bytes()[:60])
        for arguments in (self.train_arguments("out", "--steps", 3), ["eval", "--model", self.model, "--pairs", self.pairs]):
            self.assert_refused(["truncated PNG", str(broken), "pairs.csv: line 6"], *arguments)
        self.assert_refused([str(broken)], "embed", "--model", self.model, "--images", self.folder / "data", "--out",
                            self.folder / "v.npy")
        self.assertFalse((self.folder / "v.npy").exists())
        self.assert_refused(["holds no .jpg"], "embed", "--model", self.model, "--images", self.model, "--out",
                            self.folder / "v.npy")
        self.assert_refused(["neither"], "embed", "--model", self.model, "--out", self.folder / "v.npy")
        config = self.model / "preprocessor_config.json"
        config.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", "crop_size": 9}))
        self.assert_refused(["9 x 9", "its model takes 8 x 8"], *self.train_arguments("other"))
        config.unlink()
        self.assert_refused(["holds no preprocessor_config.json"], *self.train_arguments("other"))
        self.assertFalse((self.folder / "other.run").exists())
        self.assertIn("not supported: preprocessing", self.run_program("inspect", self.model, code=1).stderr)

    def test_inspect(self) -> None:
        shown = self.run_program("inspect", self.model).stdout
        self.assertIn("shorter side 8 by bicubic, centre 8 x 8", shown)

    def test_transparency(self) -> None:
        clear = self.folder / "clear"
        clear.mkdir()
        write_png(clear / "a.png", [[(0, 0, 0, 0)] * 9] * 9, kind=6)
        write_png(clear / "b.png", [[(255, 255, 255)] * 9] * 9)
        write_png(clear / "c.png", [[(0, 0, 0)] * 9] * 9)
        for more, equal in (([], 2), (["--over-white"], 1)):
            out = self.folder / f"v{equal}.npy"
            self.run_program("embed", "--model", self.model, "--images", clear, "--out", out, *more)
            data = out.read_bytes()
            size = (len(data) - 128) // 3
            rows = [data[128 + i * size:128 + (i + 1) * size] for i in range(3)]
            self.assertEqual(rows[0], rows[equal])
            self.assertNotEqual(rows[1], rows[2])


if __name__ == "__main__":
    CLIP = os.path.abspath(sys.argv.pop(2))
    main(sys.argv.pop(1))
