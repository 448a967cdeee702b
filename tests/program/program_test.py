"""The program `tapecache`, as it is used: on a small model of random weights. Argument: the program."""

import json
import os
import re
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


def read_npy(path: Path) -> "tuple[str, list[bytes]]":
    """The header, and the bytes of each row."""
    raw = path.read_bytes()
    size = struct.unpack("<H", raw[8:10])[0]
    header, data = raw[10:10 + size].decode(), raw[10 + size:]
    rows = int(header.split("(")[1].split(",")[0])
    return header, [data[i * len(data) // rows:(i + 1) * len(data) // rows] for i in range(rows)]


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


class ProgramTest(ProgramCase):
    # --- train -----------------------------------------------------------------------------------------------------

    def test_training_learns(self) -> None:
        out = self.train("out", "--eval-pairs", self.pairs, "--steps", 120, "--eval-every", 60, "--dropout", 0,
                         "--rate", 1e-2)
        evaluations = self.metrics("out", "eval")
        self.assertEqual([line["step"] for line in evaluations], [0, 60, 120])
        self.assertGreater(evaluations[2]["mrr"], 2 * evaluations[0]["mrr"])
        self.assertIn("recall@1", self.last.stdout)
        steps = self.metrics("out", "train")
        self.assertEqual([line["step"] for line in steps], list(range(1, 121)))
        self.assertLess(steps[-1]["loss"], steps[0]["loss"])
        self.assertLess(steps[-1]["learning_rate"], steps[30]["learning_rate"])
        self.assertEqual(len(list((self.folder / "out.run").glob("events.out.tfevents.*"))), 1)
        # What was written is a model again, and the one that was measured.
        measured = json.loads(self.run_program("eval", "--model", out, "--pairs", self.pairs, "--json").stdout)
        for name in ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10"):
            self.assertEqual(measured[name], evaluations[2][name])
        self.assertEqual((out / "vocab.txt").read_text(), (self.model / "vocab.txt").read_text())

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

    def test_ways_to_cut(self) -> None:
        for number, cut in enumerate((["--chunk", 8], ["--chunk-tokens", 64], ["--memory", "64M"],
                                      ["--memory", "64M", "--chunk-tokens", 64])):
            arguments = self.train_arguments(f"out{number}", "--steps", 2, *cut)
            del arguments[arguments.index("--chunk"):arguments.index("--chunk") + 2]
            self.run_program(*arguments)
        losses = [self.metrics(f"out{number}", "train")[0]["loss"] for number in range(4)]
        for loss in losses:
            self.assertAlmostEqual(loss, losses[0], places=5)
        self.assert_refused(["--chunk"], *self.train_arguments("small", "--memory", "64M"))

    def test_out_of_memory(self) -> None:
        arguments = self.train_arguments("out", "--memory", "100K")
        del arguments[arguments.index("--chunk"):arguments.index("--chunk") + 2]
        self.assertIn("memory", self.run_program(*arguments, code=3).stderr)
        self.assertFalse((self.folder / "out").exists())

    def test_losses(self) -> None:
        for loss in ("infonce", "clip", "siglip", "gist", "matryoshka:16,8"):
            self.train(f"out-{loss}", "--loss", loss, "--steps", 3, "--check-every", 1)
            self.assertEqual(len(self.metrics(f"out-{loss}", "check")), 3)
            self.assertLess(max(line["gradient_distance"] for line in self.metrics(f"out-{loss}", "check")), 1e-5)
        scales = [self.metrics("out-clip", "train")[step]["scale"] for step in (0, 2)]
        self.assertNotEqual(*scales)
        self.train("cold", "--temperature", 0.1, "--steps", 1)
        self.train("scaled", "--scale", 10, "--steps", 1)
        self.assertEqual(self.weights("cold"), self.weights("scaled"))

    def test_options_by_their_effects(self) -> None:
        # The pairs are 120, 6 of them held out: seven batches of 16 an epoch.
        for epochs, steps in (([], 7), (["--epochs", 2], 14), (["--epochs", 0.5], 4)):
            self.train(f"epochs{steps}", *epochs)
            self.assertEqual(len(self.metrics(f"epochs{steps}", "train")), steps)
        self.assertIn("114 for training, 6 searches held out", self.last.stderr)
        self.train("limited", "--steps", 1, "--eval-limit", 3)
        self.assertIn("117 for training, 3 searches held out", self.last.stderr)

        rate, name = 1e-2, "encoder.layer.0.output.dense"
        weights = []
        for decay in (0, 0.5):
            out = self.train(f"decay{decay}", "--steps", 1, "--warmup", 0, "--rate", rate, "--weight-decay", decay)
            weights.append(self.weights(out.name))
        self.assertEqual(weights[0][f"{name}.bias"], weights[1][f"{name}.bias"])
        before = struct.unpack("<512f", self.weights("model")[f"{name}.weight"])
        for old, free, decayed in zip(before, *(struct.unpack("<512f", found[f"{name}.weight"]) for found in weights)):
            self.assertAlmostEqual(decayed - free, -rate * 0.5 * old, places=6)

        guide = shutil.copytree(self.model, self.folder / "guide")
        gist = ["--loss", "gist", "--steps", 3, "--dropout", 0]
        self.train("own-guide", *gist)
        self.train("same-guide", *gist, "--guide", guide)
        self.assertEqual(self.weights("same-guide"), self.weights("own-guide"))
        small_model.change(guide / "model.safetensors", "embeddings.word_embeddings.weight", lambda value: -value)
        self.train("other-guide", *gist, "--guide", guide)
        self.assertNotEqual(self.weights("other-guide"), self.weights("own-guide"))
        self.assert_refused(["--guide is for --loss gist"], *self.train_arguments("none", "--guide", guide))

        prefixed = ["--query-prefix", "", "--steps", 2, "--eval-share", 0]
        self.train("prefix", *prefixed, "--passage-prefix", "fo: ")
        self.train("none", *prefixed)
        measured = [self.run_program("eval", "--model", self.model, "--pairs", self.pairs, "--json", *more).stdout
                    for more in ([], ["--passage-prefix", "fo: "])]
        self.write_csv(self.pairs, [("anchor", "positive"), *((anchor, f"fo: {text}") for anchor, text in pairs())])
        self.train("written", *prefixed)
        self.assertEqual(self.weights("prefix"), self.weights("written"))
        self.assertNotEqual(self.weights("prefix"), self.weights("none"))
        measured.append(self.run_program("eval", "--model", self.model, "--pairs", self.pairs, "--json").stdout)
        self.assertEqual(measured[1], measured[2])
        self.assertNotEqual(measured[0], measured[1])

    def test_columns_that_are_used_and_those_that_are_not(self) -> None:
        rows = [{"id": i, "query": a, "positive": p, "negatives": [p2, a2], "source_file": "x"}
                for i, ((a, p), (a2, p2)) in enumerate(zip(pairs(), pairs()[1:] + pairs()[:1]))]
        csv_pairs, self.pairs = self.pairs, self.folder / "pairs.jsonl"
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.train("out", "--steps", 2)
        self.assertIn("2 hard negatives", self.last.stderr)
        self.assertIn("columns anchor 'query', positive 'positive', hard negatives 'negatives'; "
                      "not used: 'source_file', 'id'\n",
                      self.last.stderr)
        self.pairs = csv_pairs
        self.train("plain", "--steps", 2)
        self.assertIn("columns anchor 'anchor', positive 'positive'; all are used\n", self.last.stderr)
        self.assertNotEqual(self.weights("plain"), self.weights("out"))
        for name in ("label", "Score"):
            self.write_csv(self.pairs, [("sentence1", "sentence2", name), *((a, p, i % 2) for i, (a, p) in enumerate(pairs()))])
            for command in (self.train_arguments("other"), ["eval", "--model", self.model, "--pairs", self.pairs]):
                self.assert_refused([f"column '{name}'", "--columns sentence1,sentence2"], *command)
        self.train("chosen", "--steps", 2, "--columns", "sentence1,sentence2")
        self.assertIn("not used: 'Score'", self.last.stderr)
        self.assertEqual(self.weights("chosen"), self.weights("plain"))

    def test_hard_negatives_prefixes_and_bf16(self) -> None:
        rows = [{"query": a, "positive": p, "negative": [p2, a2]}
                for (a, p), (a2, p2) in zip(pairs(), pairs()[1:] + pairs()[:1])]
        self.pairs = self.folder / "pairs.jsonl"
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.train("out", "--steps", 3, "--bf16", "--check-every", 2)
        self.assertIn("2 hard negatives", self.last.stderr)
        self.assertIn("prefix 'bu: ' for anchors", self.last.stderr)
        self.train("other", "--steps", 3, "--bf16", "--query-prefix", "")
        self.assertNotEqual(self.weights("out"), self.weights("other"))
        self.assert_refused(["clip takes no hard negatives", "2 each"], *self.train_arguments("clip", "--loss", "clip"))

    def test_frozen_parameters(self) -> None:
        self.train("out", "--steps", 3, "--freeze", "embeddings.*", "--freeze", "encoder.layer.0.*")
        before, after = self.weights("model"), self.weights("out")
        for name in before:
            frozen = name.startswith(("embeddings.", "encoder.layer.0."))
            self.assertEqual(before[name] == after[name], frozen, name)
        self.assert_refused(["'layers.*' matches no parameter", "embeddings."],
                            *self.train_arguments("other", "--freeze", "layers.*"))

    def test_low_rank_adaptation(self) -> None:
        lora = ["--lora", 3, "--lora-targets", "query,value", "--steps", 60, "--rate", 3e-2, "--dropout", 0,
                "--eval-pairs", self.pairs, "--eval-every", 0]
        out = self.train("out", *lora, "--check-every", 20)
        # With what sentence-transformers looks for beside an adapter, as the model's folder has it.
        beside = ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
                  "vocab.txt", "tokenizer_config.json"]
        self.assertEqual({str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()},
                         {"adapter_config.json", "adapter_model.safetensors", *beside})
        for name in beside:
            self.assertEqual((out / name).read_bytes(), (self.model / name).read_bytes(), name)
        config = json.loads((out / "adapter_config.json").read_text())
        self.assertEqual((config["r"], config["lora_alpha"], config["peft_type"]), (3, 6, "LORA"))
        self.assertEqual(config["base_model_name_or_path"], str(self.model))
        tensors = small_model.read_safetensors(out / "adapter_model.safetensors")
        self.assertEqual(len(tensors), 2 * 2 * 2)
        self.assertEqual(len(tensors["base_model.model.encoder.layer.1.attention.self.value.lora_A.weight"]), 3 * 16 * 4)
        before, after = self.metrics("out", "eval")
        self.assertGreater(after["mrr"], before["mrr"])
        self.assertLess(max(line["gradient_distance"] for line in self.metrics("out", "check")), 1e-5)
        # A checkpoint holds what is trained alone.
        self.assertEqual(len([name for name in small_model.read_safetensors(self.folder / "out.run/checkpoint.safetensors")
                              if name.startswith("model.")]), 8)
        # The folder is a model for all that uses one, and so is that of the whole.
        merged = self.train("merged", *lora, "--merge")
        texts = self.write("texts.txt", "".join(f"{row[1]}\n" for row in pairs()))
        vectors = []
        for model in (out, merged):
            self.run_program("embed", "--model", model, "--input", texts, "--out", self.folder / "v.npy")
            vectors.append((self.folder / "v.npy").read_bytes())
            measured = json.loads(self.run_program("eval", "--model", model, "--pairs", self.pairs, "--json").stdout)
            self.assertAlmostEqual(measured["mrr"], after["mrr"], places=2)
        self.assertEqual(*vectors)
        shown = self.run_program("inspect", out).stdout
        for word in (str(self.model), "384 numbers beside 4 linear layers"):
            self.assertIn(word, shown)
        self.run_program("check-gradient", "--model", out, "--pairs", self.pairs, "--samples", 8)
        # It goes on being trained, and its base may be elsewhere.
        moved = self.folder / "moved"
        self.model.rename(moved)
        self.assert_refused([str(self.model), "no folder", "--base"], "eval", "--model", out, "--pairs", self.pairs)
        further = ["train", "--model", out, "--base", moved, "--pairs", self.pairs, "--steps", 2, "--batch", 16]
        self.run_program(*further, "--out", self.folder / "further")
        self.assertNotEqual(small_model.read_safetensors(self.folder / "further/adapter_model.safetensors"), tensors)
        self.assert_refused(["is an adapter", "--lora"], *further, "--out", self.folder / "other", "--lora", 2)
        self.assert_refused(["no adapter_config.json", "--base"], "eval", "--model", moved, "--base", moved, "--pairs",
                            self.pairs)
        self.model = moved
        self.assert_refused(["need --lora"], *self.train_arguments("other", "--lora-alpha", 2))
        self.assert_refused(["target 'quary'", "encoder.layer.0.attention.self.query"],
                            *self.train_arguments("other", "--lora", 2, "--lora-targets", "quary"))

    def test_an_adapters_own_files_count_before_its_bases(self) -> None:
        run = ["--lora", 2, "--steps", 3, "--rate", 3e-2]
        out, merged = self.train("out", *run), self.train("merged", *run, "--merge")
        texts = self.write("texts.txt", "".join(f"{b} {a}\n" for a, b in pairs()))

        def vectors(model: Path, *more) -> bytes:
            self.run_program("embed", "--model", model, "--input", texts, "--out", self.folder / "v.npy", *more)
            return (self.folder / "v.npy").read_bytes()

        # That its pooling was another one the whole model's weights would tell.
        raw = (merged / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:8 + size])
        header["__metadata__"] = {"format": "pt"}
        text = json.dumps(header).encode()
        (merged / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])

        def edit(name: str, **fields) -> None:
            for folder in (out, merged):
                (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **fields}))

        before = [vectors(out), vectors(out, "--prompt", "query")]
        self.assertEqual(before[0], vectors(merged))
        edit("1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
        self.assertIn("pooling: cls", self.run_program("inspect", out).stdout)
        seen = {*before, vectors(out)}
        edit("sentence_bert_config.json", max_seq_length=4)
        seen.add(vectors(out))
        edit("config_sentence_transformers.json", prompts={"query": "ka: "}, default_prompt_name="query")
        seen.add(vectors(out))
        words = (out / "vocab.txt").read_text().splitlines()
        for folder in (out, merged):
            (folder / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")
        seen.add(vectors(out))
        self.assertEqual(len(seen), 6)
        self.assertEqual(vectors(out), vectors(merged))
        # They stay when it is trained further, and belong to the whole model.
        for name, more in (("further", []), ("further-merged", ["--merge"])):
            self.run_program("train", "--model", out, "--pairs", self.pairs, "--steps", 1, "--batch", 16, "--out",
                             self.folder / name, *more)
            for file in ("1_Pooling/config.json", "sentence_bert_config.json", "vocab.txt"):
                self.assertEqual((self.folder / name / file).read_bytes(), (out / file).read_bytes())
        # One that has nothing but the adapter is its base's model with it.
        for path in out.rglob("*"):
            if path.is_file() and not path.name.startswith("adapter_"):
                path.unlink()
        self.assertEqual(vectors(out), before[0])

    def test_texts_are_cut_as_sentence_transformers_does_it(self) -> None:
        """Where no file of its own has a length, its version 6 takes the tokenizer's."""
        (self.model / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
        config = json.loads((self.model / "tokenizer_config.json").read_text())
        words = small_model.WORDS[:12]
        texts = self.write("texts.txt", f"{' '.join(words)}\n{' '.join(words[:6])}\n{' '.join(words[:5])}\n")

        def rows(length) -> list:
            (self.model / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": length}))
            self.run_program("embed", "--model", self.model, "--input", texts, "--out", self.folder / "v.npy")
            data = (self.folder / "v.npy").read_bytes()[128:]
            return [data[i:i + 64] for i in range(0, 192, 64)]

        cut, whole = rows(8), rows(int(1e30))
        self.assertEqual(cut[0], cut[1])
        self.assertNotEqual(cut[0], cut[2])
        self.assertNotEqual(whole[0], whole[1])
        (self.model / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 8}))
        self.assertIn("at most 8 tokens", self.run_program("inspect", self.model).stdout)
        self.assert_refused(["--max-tokens is 9", "1 to 8"], *self.train_arguments("out", "--max-tokens", 9))

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

    def test_a_loss_that_is_not_finite(self) -> None:
        done = self.run_program(*self.train_arguments("out", "--steps", 30, "--rate", 1e30, "--clip-norm", 0, "--warmup", 0),
                                code=2)
        self.assertIn("step ", done.stderr.splitlines()[-1])
        self.assertFalse((self.folder / "out").exists())

    # --- embed, search, eval ---------------------------------------------------------------------------------------

    def embed(self, texts: "list[str]", *more, name: str = "v.npy") -> Path:
        (self.folder / "t.txt").write_text("".join(f"{text}\n" for text in texts))
        self.run_program("embed", "--model", self.model, "--input", self.folder / "t.txt", "--out", self.folder / name, *more)
        return self.folder / name

    def test_vectors_stand_in_the_order_of_the_texts(self) -> None:
        texts = [row[1] for row in pairs()]
        header, rows = read_npy(self.embed(texts))
        self.assertIn(f"'shape': ({len(texts)}, 16)", header)
        self.assertEqual(read_npy(self.embed(texts[::-1], "--batch-tokens", 40))[1], rows[::-1])
        self.assertEqual(read_npy(self.embed(texts[5:6]))[1], rows[5:6])
        norm = sum(x * x for x in struct.unpack("<16f", rows[0]))
        self.assertAlmostEqual(norm, 1, places=5)
        other = small_model.read_safetensors(self.embed(texts, name="v.safetensors"))
        self.assertEqual(other["embeddings"], b"".join(rows))
        self.assertIn("'descr': '<f2'", read_npy(self.embed(texts, "--float16"))[0])

    def test_prompts(self) -> None:
        plain, query = self.embed(["ba be"]).read_bytes(), self.embed(["ba be"], "--prompt", "query").read_bytes()
        self.assertNotEqual(plain, query)
        self.assertEqual(self.embed(["ba be"], "--prefix", "bu: ").read_bytes(), query)
        self.assert_refused(["--prompt is 'passage'", "'query'"], "embed", "--model", self.model, "--input",
                            self.folder / "t.txt", "--out", self.folder / "v.npy", "--prompt", "passage")

    def test_prompts_of_documents_and_queries(self) -> None:
        """As encode_document and encode_query of sentence-transformers have it."""
        name = "config_sentence_transformers.json"
        vectors = {}
        for prefix in ("", "bu: ", "fo: ", "ga: "):
            vectors[prefix] = self.embed(["ba be", "go"], "--prefix", prefix).read_bytes()
        self.assertEqual(len(set(vectors.values())), 4)
        prompts = {"query": "bu: ", "passage": "fo: ", "other": "ga: "}
        for more, default, expected in (([], None, "fo: "), ([], "query", "fo: "), (["--prompt", "query"], None, "bu: "),
                                        (["--prompt", "other"], None, "ga: "), (["--prefix", ""], "other", "")):
            self.set_in(name, prompts=prompts, default_prompt_name=default)
            self.assertEqual(self.embed(["ba be", "go"], *more).read_bytes(), vectors[expected], (more, default))
        self.set_in(name, prompts={"query": "bu: ", "corpus": "ga: ", "document": "fo: "}, default_prompt_name=None)
        self.assertEqual(self.embed(["ba be", "go"]).read_bytes(), vectors["fo: "])
        self.set_in(name, prompts={"query": "bu: ", "corpus": "ga: "}, default_prompt_name="query")
        self.assertEqual(self.embed(["ba be", "go"]).read_bytes(), vectors["ga: "])
        self.set_in(name, prompts={"query": "bu: ", "other": "ga: "}, default_prompt_name="other")
        self.assertEqual(self.embed(["ba be", "go"]).read_bytes(), vectors["ga: "])
        # What embed and search do without options is what eval measures.
        self.set_in(name, prompts=prompts, default_prompt_name=None)
        anchors, texts = ([row[side] for row in pairs()[:30]] for side in (0, 1))
        index = self.embed(texts)
        found = self.run_program("search", "--model", self.model, "--index", index, "--top", 1, "--json", *anchors).stdout
        nearest = [texts[json.loads(line)["row"]] for line in found.splitlines()]
        self.write_csv(self.pairs, [("anchor", "positive"), *zip(anchors, texts)])
        measured = json.loads(self.run_program("eval", "--model", self.model, "--pairs", self.pairs, "--json").stdout)
        right = {anchor: {t for a, t in zip(anchors, texts) if a == anchor} for anchor in anchors}
        hits = {anchor: text in right[anchor] for anchor, text in zip(anchors, nearest)}
        self.assertAlmostEqual(measured["recall@1"], sum(hits.values()) / len(hits))

    def test_memory_of_texts_of_which_one_is_long(self) -> None:
        tokens, texts = 2000, 30_000
        self.model = small_model.make(self.folder / "long", tokens)
        peaks = []
        for last in ("ba", "ba " * (tokens - 2)):
            self.write("t.txt", "ba be\n" * texts + last + "\n")
            process = subprocess.Popen(
                [program_case.PROGRAM, "embed", "--model", self.model, "--input", self.folder / "t.txt", "--out",
                 self.folder / f"v{len(peaks)}.npy", "--threads", "2"], stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0)
            peaks.append(usage.ru_maxrss / 1024)
        # Padded to the longest, ids and mask would be 286 MiB.
        self.assertLess(peaks[1] - peaks[0], 150)
        (_, short), (_, with_long) = (read_npy(self.folder / f"v{i}.npy") for i in range(2))
        self.assertEqual(short[:-1], with_long[:-1])
        self.assertNotEqual(short[-1], with_long[-1])

    def test_vectors_of_any_similarity(self) -> None:
        expected = self.embed(["ba be", "go"]).read_bytes()
        for similarity in ("euclidean", "manhattan", "dot"):
            self.set_in("config_sentence_transformers.json", similarity_fn_name=similarity)
            index = self.embed(["ba be", "go"])
            self.assertEqual(index.read_bytes(), expected)
            if similarity != "dot":
                self.assert_refused([f"'{similarity}'", "cosine or dot"], "search", "--model", self.model, "--index", index,
                                    "go")
                self.assert_refused([f"'{similarity}'", "cosine or dot"], *self.train_arguments("out"))

    def test_texts_without_tokens(self) -> None:
        vocabulary = {token: number for number, token in enumerate((self.model / "vocab.txt").read_text().splitlines())}
        (self.model / "tokenizer.json").write_text(json.dumps({
            "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}}))
        nothing = "\u00a0\u3000"
        words = ["line 4", f"'{nothing}' has no tokens"]
        for name, lines in (("t.txt", ["ba", "be", "bi", nothing]), ("t.csv", ["text", "ba", "be", nothing])):
            self.write(name, "".join(f"{line}\n" for line in lines))
            self.assert_refused([f"{name}: line 4, column 1", words[1]], "embed", "--model", self.model, "--input",
                                self.folder / name, "--out", self.folder / "v.npy")
        self.assert_refused([words[1]], "search", "--model", self.model, "--index", self.embed(["ba"]), nothing,
                            "--query-prefix", "")
        for rows in ([("anchor", "positive"), ("ba", "be"), ("bo", "bi"), ("bu", nothing)],
                     [("anchor", "positive", "negative"), ("ba", "be", "go"), ("bo", "bi", "ga"), ("bu", "ba", nothing)]):
            self.write_csv(self.pairs, rows)
            for command in (["eval", "--model", self.model], ["check-gradient", "--model", self.model],
                            self.train_arguments("out", "--eval-share", 0, "--batch", 3)):
                self.assert_refused(["pairs.csv: line 4, column", words[1]], *command, "--pairs", self.pairs)
        self.write_csv(self.folder / "held.csv", rows)
        self.write_csv(self.pairs, [row[:2] for row in rows[:3]])
        shutil.rmtree(self.folder / "out.run")
        self.assert_refused(["held.csv: line 4, column", words[1]],
                            *self.train_arguments("out", "--eval-pairs", self.folder / "held.csv"))

    def test_search(self) -> None:
        texts = sorted({row[1] for row in pairs()})
        index = self.embed(texts)
        done = self.run_program("search", "--model", self.model, "--index", index, "--texts", self.folder / "t.txt", "--top", 3,
                                "--json", "--query-prefix", "", texts[7], texts[11])
        found = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([line["rank"] for line in found], [1, 2, 3, 1, 2, 3])
        for first, row in ((found[0], 7), (found[3], 11)):
            self.assertEqual((first["row"], first["text"]), (row, texts[row]))
            self.assertAlmostEqual(first["score"], 1, places=5)
        shown = self.run_program("search", "--model", self.model, "--index", index, "--query-prefix", "", texts[7]).stdout
        self.assertEqual(len(shown.splitlines()), 10)
        self.assertEqual(shown.split()[:3], ["1", "1.0000", "7"])

    def test_eval(self) -> None:
        self.write_csv(self.pairs, [("query", "passage"), ("ba be", "ba be"), ("ba be", "ba  be"), ("fo", "fo"), ("gu", "gu")])
        done = self.run_program("eval", "--model", self.model, "--pairs", self.pairs, "--query-prefix", "", "--json")
        measured = json.loads(done.stdout)
        self.assertEqual((measured["queries"], measured["targets"]), (3, 4))
        self.assertEqual((measured["recall@5"], measured["mrr"], measured["ndcg@10"]), (1, 1, 1))
        self.assertIn("mrr        1.0000", self.run_program("eval", "--model", self.model, "--pairs", self.pairs,
                                                            "--query-prefix", "").stdout)

    # --- inspect, check-gradient -----------------------------------------------------------------------------------

    def test_inspect(self) -> None:
        shown = self.run_program("inspect", self.model).stdout
        for word in ("bert", "68 ids", "mean", "cosine", "query: 'bu: '", "encoder.layer.1"):
            self.assertIn(word, shown)
        self.assertIn("encoder.layer.1.output.dense.bias", self.run_program("inspect", self.model, "--parameters").stdout)
        config = json.loads((self.model / "config.json").read_text())
        (self.model / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
        done = self.run_program("inspect", self.model, code=1)
        self.assertIn("68 ids", done.stdout)
        self.assertIn("unheard-of", done.stderr)

    def test_check_gradient(self) -> None:
        for loss in ("infonce", "siglip", "gist"):
            done = self.run_program("check-gradient", "--model", self.model, "--pairs", self.pairs, "--samples", 20, "--chunk",
                                    3, "--loss", loss)
            self.assertIn("encoder.layer.1", done.stdout)
            self.assertIn("equal to rounding", done.stdout)

    # --- errors ----------------------------------------------------------------------------------------------------

    def test_usage(self) -> None:
        self.assert_refused(["--help"])
        self.assert_refused(["trian"], "trian")
        self.assert_refused(["--model", "train --help"], "train")
        self.assert_refused(["--chunk"], *self.train_arguments("out", "--chunk-tokens", 10))
        self.assert_refused(["--loss is 'infonse'", "matryoshka"], *self.train_arguments("out", "--loss", "infonse"))
        self.assert_refused(["'32'", "1 to 16"], *self.train_arguments("out", "--loss", "matryoshka:16,32"))
        self.assert_refused(["--max-tokens is 25", "24"], *self.train_arguments("out", "--max-tokens", 25))
        self.assert_refused(["--warmup is 9 steps", "3"], *self.train_arguments("out", "--steps", 3, "--warmup", 9))
        for command in ("train", "embed", "search", "eval", "inspect", "check-gradient"):
            self.assertIn("--threads", self.run_program(command, "--help").stdout)
        self.assertIn("check-gradient", self.run_program("--help").stdout)
        self.assertRegex(self.run_program("--version").stdout, r"^tapecache \d+\.\d+\.\d+\n$")

    def test_every_option_stands_in_the_page(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "program.md").read_text()
        written = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page))
        known = set()
        for command in ("", "train", "embed", "search", "eval", "inspect", "check-gradient"):
            shown = self.run_program(*filter(None, [command]), "--help").stdout
            options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", shown))
            self.assertIn("--help", options)
            known |= options
            self.assertEqual(options - written, set(), f"tapecache {command}: options that docs/program.md has not")
        others = {"--logdir"}  # TensorBoard's
        self.assertEqual(written - known - others, set(), "docs/program.md has options that are none")

    def test_broken_files(self) -> None:
        self.pairs.write_text("anchor,positive\nba,be\nbi,\"bo\n")
        self.assert_refused(["pairs.csv: line 3, column 4"], *self.train_arguments("out"))
        self.pairs.write_text("anchor,positive\nba,be\n,bo\n")
        self.assert_refused(["pairs.csv: line 3, column 1", "empty"], *self.train_arguments("out"))
        self.pairs.write_text("anchor,positive\nba,be\nbi,bo\n,bo\n")
        self.train("few", "--skip-empty", "--eval-share", 0, "--steps", 2)
        self.assertIn("1 rows with an empty text passed over", self.last.stderr)
        self.assertIn("the batch is all 2 pairs", self.last.stderr)
        self.assert_refused(["none.csv", "no such file"], "eval", "--model", self.model, "--pairs", self.folder / "none.csv")
        self.assert_refused(["nowhere"], "inspect", self.folder / "nowhere")
        self.assert_refused(["v.txt", ".npy"], "embed", "--model", self.model, "--input", self.pairs, "--out",
                            self.folder / "v.txt")
        index = self.embed(["ba", "be"])
        self.assert_refused(["t.txt: holds 1 texts", "2 vectors"], "search", "--model", self.model, "--index", index, "--texts",
                            self.write("t.txt", "ba\n"), "ba")
        self.assert_refused(["pairs.csv", ".npy"], "search", "--model", self.model, "--index", self.pairs, "ba")
        with (self.model / "vocab.txt").open("a") as file:
            file.write("one\n")
        self.pairs.write_text("anchor,positive\nba,be\nbi,bo\n")
        self.assert_refused(["69 ids", "68 rows"], "eval", "--model", self.model, "--pairs", self.pairs)
        shutil.rmtree(self.model)
        self.assert_refused(["model"], *self.train_arguments("out"))
        self.assertEqual({path.name for path in self.folder.iterdir()},
                         {"pairs.csv", "few", "few.run", "t.txt", "v.npy"})


if __name__ == "__main__":
    main(sys.argv.pop(1))
