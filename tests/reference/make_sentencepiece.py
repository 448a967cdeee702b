"""Makes the folders of tokenizers/ that hold a model of SentencePiece alone, and what transformers makes of them.

    pip install transformers sentencepiece protobuf
    python make_sentencepiece.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer

from make_tokenizers import KEPT, digest, small_rules

# By the folder: the file, what transformers is told, and how SentencePiece is trained.
UNIGRAM = {"model_type": "unigram"}
KINDS = {
    "xlm_roberta_model": ("sentencepiece.bpe.model", {"tokenizer_class": "XLMRobertaTokenizer"}, UNIGRAM),
    "t5_model": ("spiece.model", {"tokenizer_class": "T5Tokenizer"},
                 UNIGRAM | {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
    "llama_model": ("tokenizer.model", {"tokenizer_class": "LlamaTokenizer"},
                    {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False}),
}


def train(path, options, corpus):
    with tempfile.TemporaryDirectory() as folder:
        if options["model_type"] == "unigram":
            table = Path(folder, "rules.tsv")
            points = {" ".join(f"{ord(c):X}" for c in a): " ".join(f"{ord(c):X}" for c in b) for a, b in small_rules().items()}
            table.write_text("".join(f"{a}\t{b}\n" for a, b in points.items()))
            options = options | {"normalization_rule_tsv": str(table)}
        else:
            options = options | {"normalization_rule_name": "identity"}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=folder + "/m", vocab_size=700, character_coverage=0.98,
            hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
        shutil.copy(Path(folder, "m.model"), path)


def main():
    lines = json.loads((KEPT / "lines.json").read_text())
    corpus = [line for line in lines if line.strip() and all(" " <= c < "\u0180" for c in line)]
    for name, (file, config, options) in KINDS.items():
        folder = KEPT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        train(folder / file, options, corpus)
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
        tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
        rows, before = [], ""
        for line in lines:
            pair = tokenizer.encode(line, before)
            rows.append(" ".join(map(digest, (tokenizer.encode(line).ids, pair.ids, pair.type_ids))))
            before = line
        (folder / "expected").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
