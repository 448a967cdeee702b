"""Vectors of texts, and what is found by them: `tapecache embed`, `search` and `eval`. Argument: the program."""

import json
import os
import shutil
import struct
import subprocess
import sys
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


class VectorsTest(ProgramCase):
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


if __name__ == "__main__":
    main(sys.argv.pop(1))
