"""A small BERT of random weights in a folder as sentence-transformers writes it, without any library."""

import json
import random
import struct
from pathlib import Path

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 16, 2, 2, 32, 24
WORDS = [first + second for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PUNCTUATION = [":", ",", "."]


def write_safetensors(path: Path, tensors: "dict[str, tuple[list[int], list[float]]]") -> None:
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path: Path) -> "dict[str, bytes]":
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    return {name: raw[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]]
            for name, entry in header.items() if name != "__metadata__"}


def change(path: Path, name: str, function) -> None:
    """Puts function(value) in the place of every number of a tensor."""
    raw = bytearray(path.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    begin, end = (8 + size + offset for offset in json.loads(raw[8:8 + size])[name]["data_offsets"])
    values = struct.unpack(f"<{(end - begin) // 4}f", raw[begin:end])
    raw[begin:end] = struct.pack(f"<{len(values)}f", *map(function, values))
    path.write_bytes(raw)


def make(folder: Path, positions: int = POSITIONS) -> Path:
    draw = random.Random(1)
    vocabulary = SPECIAL + WORDS + PUNCTUATION
    tensors = {}

    def add(name: str, *shape: int, value: "float | None" = None) -> None:
        count = 1
        for size in shape:
            count *= size
        tensors[name] = (list(shape), [draw.gauss(0, 0.3) if value is None else value for _ in range(count)])

    def linear(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        add(f"{name}.weight", WIDTH, value=1.0)
        add(f"{name}.bias", WIDTH, value=0.0)

    add("embeddings.word_embeddings.weight", len(vocabulary), WIDTH)
    add("embeddings.position_embeddings.weight", positions, WIDTH)
    add("embeddings.token_type_embeddings.weight", 2, WIDTH)
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{prefix}.attention.self.{part}", WIDTH, WIDTH)
        linear(f"{prefix}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{prefix}.attention.output.LayerNorm")
        linear(f"{prefix}.intermediate.dense", WIDTH, INNER)
        linear(f"{prefix}.output.dense", INNER, WIDTH)
        norm(f"{prefix}.output.LayerNorm")

    files = {
        "config.json": {
            "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": positions,
            "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "position_embedding_type": "absolute",
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": WIDTH, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": positions, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "bu: "}, "default_prompt_name": None,
                                              "similarity_fn_name": "cosine"},
        "tokenizer_config.json": {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "unk_token": "[UNK]",
                                  "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
                                  "model_max_length": positions},
    }
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(contents, indent=2) + "\n")
    (folder / "2_Normalize").mkdir()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
