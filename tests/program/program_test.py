"""The program `tapecache`, as it is used: on a small model of random weights. Argument: the program."""

import json
import re
import shutil
import struct
import sys
from pathlib import Path

import small_model
from program_case import ProgramCase, main, pairs


class ProgramTest(ProgramCase):
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

    def test_a_loss_that_is_not_finite(self) -> None:
        done = self.run_program(*self.train_arguments("out", "--steps", 30, "--rate", 1e30, "--clip-norm", 0, "--warmup", 0),
                                code=2)
        self.assertIn("step ", done.stderr.splitlines()[-1])
        self.assertFalse((self.folder / "out").exists())

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
