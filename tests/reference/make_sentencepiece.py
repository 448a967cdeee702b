"""Makes the folders of tokenizers/ that hold a model of SentencePiece alone, and what transformers makes of them.

    make_sentencepiece.py write
    ./run reference sentencepiece, or make_sentencepiece.py compare BINARY
        compares 20,000 lines a kind, by larger models, with BINARY, a build's tests/tokenize_lines
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer

from make_tokenizers import KEPT, digest, encoded
from tokenizer_kinds import small_rules
from tokenizer_lines import annotations, many_lines

# By the folder: the file, what transformers is told, and how SentencePiece is trained.
UNIGRAM = {"model_type": "unigram"}
T5 = UNIGRAM | {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
GEMMA = {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False, "add_dummy_prefix": False,
         "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>",
         "user_defined_symbols": ["<mask>", "\n", "\n\n", "<b>"] + ["\u2581" * n for n in (2, 3, 4)]}
SIGLIP2 = {"tokenizer_class": "Siglip2Tokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right",
           "model_max_length": 64}
KINDS = {
    "xlm_roberta_model": ("sentencepiece.bpe.model", {"tokenizer_class": "XLMRobertaTokenizer"}, UNIGRAM),
    "t5_model": ("spiece.model", {"tokenizer_class": "T5Tokenizer"}, T5),
    "siglip_model": ("spiece.model", {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64}, T5),
    "llama_model": ("tokenizer.model", {"tokenizer_class": "LlamaTokenizer"},
                    {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False}),
    "siglip2_model": ("tokenizer.model", SIGLIP2, GEMMA),
}


def train(path, options, corpus, size, rules=None):
    with tempfile.TemporaryDirectory() as folder:
        if options["model_type"] == "bpe":
            options = options | {"normalization_rule_name": "identity"}
        elif rules:
            options = options | {"normalization_rule_name": rules}
        else:
            table = Path(folder, "rules.tsv")
            points = {" ".join(f"{ord(c):X}" for c in a): " ".join(f"{ord(c):X}" for c in b) for a, b in small_rules().items()}
            table.write_text("".join(f"{a}\t{b}\n" for a, b in points.items()))
            options = options | {"normalization_rule_tsv": str(table)}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=folder + "/m", vocab_size=size, character_coverage=0.98,
            hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
        shutil.copy(Path(folder, "m.model"), path)


def ids_and_types(tokenizer, first, second=None):
    """Of the tokenizer itself where it cuts no texts."""
    if tokenizer.model_max_length > 1000:
        found = tokenizer.backend_tokenizer.encode(first, second)
        return found.ids, found.type_ids
    found = tokenizer([first], None if second is None else [second], truncation=True, return_token_type_ids=True)
    ids, types = found.input_ids[0], found.token_type_ids[0]
    if second is None:
        padded = tokenizer(first, truncation=True, padding="max_length").input_ids
        assert padded == ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))
    return ids, types


def write():
    lines = json.loads((KEPT / "lines.json").read_text())
    corpus = [line for line in lines if line.strip() and all(" " <= c < "\u0180" for c in line)]
    for name, (file, config, options) in KINDS.items():
        folder = KEPT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        train(folder / file, options, corpus, 700 if "siglip" not in name else 500)
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows, before = [], ""
        for line in lines:
            pair, types = ids_and_types(tokenizer, line, before)
            rows.append(" ".join(map(digest, (ids_and_types(tokenizer, line)[0], pair, types))))
            before = line
        (folder / "expected").write_text("\n".join(rows) + "\n")


def compare(binary):
    """How many lines have other ids."""
    lines = many_lines()
    corpus = [line for of_language in annotations().values() for line in of_language[::3]]
    wrong = 0
    for name, (file, config, options) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            train(folder / file, options, corpus, 20000, "nmt_nfkc")
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            ours, _ = encoded(binary, folder, lines)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            theirs = [ids_and_types(tokenizer, line)[0] for line in lines]
        assert len(ours) == len(theirs)
        unequal = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
        print(f"{name}: {len(lines) - len(unequal):,} of {len(lines):,} equal", flush=True)
        for i in unequal[:5]:
            print(f"  {lines[i]!r}\n    {ours[i]}\n    {theirs[i]}")
        wrong += len(unequal)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    commands.add_parser("compare").add_argument("binary")
    arguments = parser.parse_args()
    if arguments.command == "write":
        write()
    elif compare(arguments.binary):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
