"""Runs of `tapecache train` that end and go on. Argument: the program."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import program_case
import small_model
from program_case import ProgramCase, main, pairs


def events_of(path: Path) -> "list[tuple[int, bool]]":
    """Of each event of an event file that has a value, or says that what is there is taken back: the step, and which."""
    raw, events, at = path.read_bytes(), [], 0
    while at + 12 <= len(raw):
        size = struct.unpack("<Q", raw[at:at + 8])[0]
        fields, step = message_fields(raw[at + 12:at + 12 + size]), 0
        for number, value in fields:
            step = value if number == 2 else step
        kinds = [number for number, _ in fields]
        if 5 in kinds or 7 in kinds:
            events.append((step, 7 in kinds))
        at += 16 + size
    return events


def message_fields(message: bytes) -> "list[tuple[int, int | bytes]]":
    """Those of a message of Protocol Buffers."""
    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 0x7f) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 0x80:
                return value

    fields, at = [], 0
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            fields.append((key >> 3, varint()))
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            fields.append((key >> 3, message[at:at + size]))
            at += size
    return fields


class ResumeTest(ProgramCase):
    def test_runs_go_on_to_the_same_bits(self) -> None:
        run = ["--steps", 300, "--save-every", 7, "--eval-every", 150]
        self.train("whole", *run)
        for name, how, code in (("killed", signal.SIGKILL, -signal.SIGKILL), ("stopped", signal.SIGINT, 130),
                                ("ended", signal.SIGTERM, 143)):
            self.assertEqual(self.interrupted(name, how, *run), code, name)
            self.assertFalse((self.folder / name).exists())
            before = self.metrics(name, "train")
            self.assertLess(len(before), 300)
            self.train(name, *run, "--resume")
            self.assertIn("resume after", self.last.stderr)
            self.assertEqual(self.weights(name), self.weights("whole"), name)
            self.assertEqual([line["loss"] for line in self.metrics(name, "train")],
                             [line["loss"] for line in self.metrics("whole", "train")])
            self.assertEqual(self.metrics(name, "eval"), self.metrics("whole", "eval"))

    def test_groups_averages_and_schedules_go_on_to_the_same_bits(self) -> None:
        run = ["--steps", 200, "--save-every", 7, "--eval-every", 100, "--ema", 0.9, "--schedule", "linear",
               "--layer-decay", 0.8, "--group", "embeddings.*:rate=0", "--group", "*.bias:rate=1e-4,decay=0.1"]
        for more in ([], ["--lora", 2, "--lora-dropout", 0.1, "--group", "*.lora_B.weight:rate=1e-2"]):
            name = f"run{len(more)}"
            if more:
                run = [option for option in run if option not in ("embeddings.*:rate=0", "*.bias:rate=1e-4,decay=0.1")]
                run = [option for option in run if option != "--group"]
            whole = self.train(f"{name}-whole", *run, *more)
            self.assertEqual(self.interrupted(name, signal.SIGKILL, *run, *more), -signal.SIGKILL)
            self.train(name, *run, *more, "--resume")
            file = "adapter_model.safetensors" if more else "model.safetensors"
            self.assertEqual((self.folder / name / file).read_bytes(), (whole / file).read_bytes())
            self.assertEqual(self.metrics(name, "eval"), self.metrics(f"{name}-whole", "eval"))
        rates = [line["learning_rate"] for line in self.metrics("run0", "train")]
        self.assertEqual((rates[0], rates[10], rates[20]), (0, 0.5e-3, 1e-3))
        self.assertAlmostEqual(rates[110], 0.5e-3)
        before, after = self.weights("model"), self.weights("run0")
        for name in before:
            self.assertEqual(before[name] == after[name], name.startswith("embeddings."), name)
        # What is written are the averages, which are not the last weights.
        last = small_model.read_safetensors(self.folder / "run0.run/checkpoint.safetensors")
        name = "encoder.layer.0.output.dense.weight"
        self.assertEqual(after[name], last[f"model.ema.{name}"])
        self.assertNotEqual(after[name], last[f"model.{name}"])
        measured = json.loads(self.run_program("eval", "--model", self.folder / "run0", "--pairs", self.pairs, "--json").stdout)
        self.assertGreater(measured["mrr"], 0)
        self.train("kept", "--steps", 2)
        self.train("again", "--steps", 2, "--checkpointing")
        self.assertEqual(self.weights("kept"), self.weights("again"))
        for options, words in ((["--group", "pooler.*:rate=1"], ["group 'pooler.*' matches none"]),
                               (["--group", "x:rates=1"], ["--group is 'x:rates=1'", "rate=NUMBER"]),
                               (["--schedule", "cosin"], ["--schedule: 'cosin'", "constant_with_warmup", "warmup_cosine"]),
                               (["--ema", 1], ["--ema"]), (["--layer-decay", 0], ["--layer-decay"])):
            self.assert_refused(words, *self.train_arguments("other", *options))

    def test_resume_where_nothing_is_to_go_on_from(self) -> None:
        self.train("out", "--steps", 3, "--resume")
        self.assert_refused(["out: is there already"], *self.train_arguments("out", "--steps", 3, "--resume"))
        shutil.rmtree(self.folder / "out")
        self.assert_refused(["out.run: an earlier run is there", "--resume"], *self.train_arguments("out", "--steps", 3))
        self.assert_refused(["--resume", "--rate '0.001', found '0.002'"],
                            *self.train_arguments("out", "--steps", 3, "--resume", "--rate", 2e-3))
        self.write_csv(self.pairs, [("anchor", "positive"), *pairs()[1:]])
        self.assert_refused(["--resume", "the pairs"], *self.train_arguments("out", "--steps", 3, "--resume"))

    def assert_resume_refused(self, words: "list[str]", out: str, *more) -> None:
        self.assert_refused(["--resume: the run began with", *words], *self.train_arguments(out, *more, "--resume"))

    def test_resume_with_another_model(self) -> None:
        run = ["--steps", 3]
        for name, more in (("whole", []), ("lora", ["--lora", 2]), ("merged", ["--lora", 2, "--merge"])):
            shutil.rmtree(self.train(name, *run, *more))
        adapter = self.train("adapter", *run, "--lora", 2)
        base, self.model = self.model, adapter
        shutil.rmtree(self.train("further", *run))
        self.model = base
        # The same bits elsewhere are the same model; others under its name are another.
        moved = self.folder / "moved"
        shutil.copytree(base, moved)
        small_model.change(base / "model.safetensors", "embeddings.word_embeddings.weight", lambda value: 1.5 * value)
        for name, more in (("whole", []), ("lora", ["--lora", 2]), ("merged", ["--lora", 2, "--merge"])):
            self.assert_resume_refused(["the weights of --model", "fingerprint"], name, *run, *more)
        self.model = adapter
        self.assert_resume_refused(["the weights of --base", "fingerprint"], "further", *run)
        self.train("further", *run, "--base", moved, "--resume")
        self.model = moved
        self.train("whole", *run, "--resume")
        self.assert_resume_refused(["--merge 'true', found 'false'"], "merged", *run, "--lora", 2)
        self.train("merged", *run, "--lora", 2, "--merge", "--resume")
        # The same numbers in another kind of model, or behind another tokenizer.
        for name in ("whole", "merged"):
            shutil.rmtree(self.folder / name)
        pooling, vocabulary = "1_Pooling/config.json", self.model / "vocab.txt"
        self.set_in(pooling, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
        self.assert_resume_refused(["the kind of model 'bert, pooling: mean", "found 'bert, pooling: cls"], "merged", *run,
                                   "--lora", 2, "--merge")
        self.set_in(pooling, pooling_mode_cls_token=False, pooling_mode_mean_tokens=True)
        tokens = vocabulary.read_text()
        vocabulary.write_text(tokens.replace("\nba\n", "\n?\n").replace("\nbe\n", "\nba\n").replace("\n?\n", "\nbe\n"))
        self.assert_resume_refused(["the tokens of texts"], "whole", *run)
        vocabulary.write_text(tokens)
        self.train("whole", *run, "--resume")
        # Of an adapter what counts are its own numbers, too.
        shutil.rmtree(self.folder / "further")
        self.model = adapter
        small_model.change(adapter / "adapter_model.safetensors",
                           "base_model.model.encoder.layer.1.output.dense.lora_B.weight", lambda value: value + 1)
        self.assert_resume_refused(["the weights of --model", "fingerprint"], "further", *run, "--base", moved)

    def test_resume_with_other_held_out_pairs_and_another_guide(self) -> None:
        run = ["--steps", 2, "--eval-pairs", self.folder / "held.csv"]
        self.write_csv(self.folder / "held.csv", [("anchor", "positive"), *pairs()[:9]])
        shutil.rmtree(self.train("out", *run))
        self.write_csv(self.folder / "held.csv", [("anchor", "positive"), *pairs()[1:9], pairs()[0]])
        self.assert_resume_refused(["the searches held out '9 of"], "out", *run)
        self.write_csv(self.folder / "held.csv", [("anchor", "positive"), *pairs()[:9]])
        self.train("out", *run, "--resume")
        guide = shutil.copytree(self.model, self.folder / "guide")
        gist = ["--steps", 2, "--loss", "gist", "--guide"]
        shutil.rmtree(self.train("gist", *gist, guide))
        shutil.rmtree(self.train("own", *gist[:-1]))
        small_model.change(guide / "model.safetensors", "embeddings.word_embeddings.weight", lambda value: -value)
        for out in ("gist", "own"):
            self.assert_resume_refused(["the weights of --guide"], out, *gist, guide)
        self.train("gist", *gist, shutil.copytree(self.model, self.folder / "moved"), "--resume")

    def test_checks_change_no_bits(self) -> None:
        for name, more in (("whole", []), ("lora", ["--lora", 2, "--lora-dropout", 0.1, "--merge"])):
            plain = self.train(f"{name}-plain", "--steps", 4, *more)
            self.train(f"{name}-checked", "--steps", 4, "--check-every", 1, *more)
            self.assertEqual(len(self.metrics(f"{name}-checked", "check")), 4)
            self.assertEqual(self.weights(f"{name}-checked"), self.weights(plain.name))

    def test_a_run_that_begins_anew_shows_nothing_of_the_old_one(self) -> None:
        run = ["--steps", 3000, "--save-every", 0]
        process = subprocess.Popen([program_case.PROGRAM, *map(str, self.train_arguments("out", *run))],
                                   stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while time.monotonic() < end and not (self.folder / "out.run/metrics.jsonl").exists():
            time.sleep(0.002)
        while time.monotonic() < end and len(self.metrics_so_far("out")) < 5:
            time.sleep(0.002)
        process.kill()
        process.wait(timeout=60)
        self.assertFalse((self.folder / "out.run/checkpoint.safetensors").exists())
        self.train("out", "--steps", 3, "--save-every", 0, "--resume")
        files = sorted((self.folder / "out.run").glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
        self.assertEqual(len(files), 2)
        self.assertGreater(max(step for step, _ in events_of(files[0])), 3)
        shown = []
        for step, starts in [event for file in files for event in events_of(file)]:
            if starts:
                shown = [other for other in shown if other < step]
            else:
                shown.append(step)
        values = [len(line) - 2 for kind in ("train", "eval") for line in self.metrics("out", kind)]
        self.assertEqual(len(shown), sum(values))
        self.assertEqual(max(shown), 3)

    def metrics_so_far(self, out: str) -> list:
        return (self.folder / f"{out}.run/metrics.jsonl").read_text().splitlines()


if __name__ == "__main__":
    main(sys.argv.pop(1))
