"""What tests of the program `tapecache` begin with: a small model of random weights, pairs, and the program."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import small_model

PROGRAM = ""
PAIRS = 120


def pairs() -> "list[tuple[str, str]]":
    """Anchors of two words; each positive has the words that stand beside them in the vocabulary, and others."""
    draw, words, rows = random.Random(2), small_model.WORDS, []
    for i in range(PAIRS):
        a, b = i % len(words), (i * 7 + i // len(words)) % len(words)
        rows.append((f"{words[a]} {words[b]}", " ".join([words[a ^ 1], words[b ^ 1], *draw.choices(words, k=i % 9 // 3)])))
    return rows


class ProgramCase(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.model = small_model.make(self.folder / "model")
        self.pairs = self.folder / "pairs.csv"
        self.write_csv(self.pairs, [("anchor", "positive"), *pairs()])

    @staticmethod
    def write_csv(path: Path, rows: list) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    def run_program(self, *arguments, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True,
                              timeout=120 * int(os.environ.get("TAPECACHE_TIMEOUT_MULTIPLIER", "1")))
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}{done.stderr}")
        return done

    def train_arguments(self, out: str, *more) -> list:
        return ["train", "--model", self.model, "--pairs", self.pairs, "--out", self.folder / out, "--batch", 16, "--chunk", 4,
                "--rate", 1e-3, "--threads", 2, *more]

    def train(self, out: str, *more) -> Path:
        self.last = self.run_program(*self.train_arguments(out, *more))
        return self.folder / out

    def metrics(self, out: str, kind: str) -> list:
        lines = (self.folder / f"{out}.run" / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == kind]

    def weights(self, out: str) -> "dict[str, bytes]":
        return small_model.read_safetensors(self.folder / out / "model.safetensors")

    def assert_refused(self, words: "list[str]", *arguments) -> None:
        """One line on standard error that names these, and code 1."""
        done = self.run_program(*arguments, code=1)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(done.stderr.count("tapecache: "), 1, done.stderr)
        self.assertEqual(done.stderr.splitlines()[-1][:11], "tapecache: ")

    def interrupted(self, out: str, how: int, *more) -> int:
        """Starts to train, and ends it by a signal once there is a checkpoint. Gives the exit code."""
        process = subprocess.Popen([PROGRAM, *map(str, self.train_arguments(out, *more))], stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)
        checkpoint, end = self.folder / f"{out}.run" / "checkpoint.safetensors", time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(how)
        return process.wait(timeout=60)

    def embed(self, texts: "list[str]", *more, name: str = "v.npy") -> Path:
        (self.folder / "t.txt").write_text("".join(f"{text}\n" for text in texts))
        self.run_program("embed", "--model", self.model, "--input", self.folder / "t.txt", "--out", self.folder / name, *more)
        return self.folder / name

    def set_in(self, name: str, **values) -> None:
        """In a JSON file of the model's folder."""
        path = self.model / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name


def main(program: str) -> None:
    global PROGRAM
    PROGRAM = os.path.abspath(program)
    unittest.main(module="__main__")
