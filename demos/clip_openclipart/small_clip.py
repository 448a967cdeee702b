"""A small CLIP that has seen nothing, in a folder as transformers writes it."""

import array
import json
import random
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    image: int = 48
    patch: int = 8
    width: int = 128
    heads: int = 4
    projection: int = 128
    tokens: int = 24
    vision_layers: int = 4
    text_layers: int = 2

    def layers(self) -> "dict[str, int]":
        return {"vision_model": self.vision_layers, "text_model": self.text_layers}


def vocabulary_of(captions: "list[str]") -> "dict[str, int]":
    """Words that more than one drawing has, between the special tokens; the last id ends a text."""
    counts = Counter(word for caption in captions for word in caption.split())
    words = ["<pad>", "<start>", "<unknown>", *sorted(word for word, count in counts.items() if count > 1), "<end>"]
    return {word: number for number, word in enumerate(words)}


def write_tokenizer(folder: Path, vocabulary: "dict[str, int]") -> None:
    specials = ["<pad>", "<start>", "<unknown>", "<end>"]
    single = [{"SpecialToken": {"id": "<start>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "<end>", "type_id": 0}}]
    tokenizer = {
        "added_tokens": [{"id": vocabulary[token], "content": token, "special": True, "normalized": False,
                          "single_word": False, "lstrip": False, "rstrip": False} for token in specials],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": single,
                           "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
                                              for token in ("<start>", "<end>")}},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unknown>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_weights(path: Path, vocabulary: int, sizes: Sizes) -> int:
    """Gives how many numbers. Each matrix keeps the size of what goes through it, and residual parts begin small."""
    draw = random.Random(1)
    width, patch = sizes.width, sizes.patch
    tensors: "dict[str, tuple[list[int], array.array]]" = {}

    def add(name: str, shape: "list[int]", deviation: float = 0, value: float = 0) -> None:
        count = 1
        for size in shape:
            count *= size
        values = (draw.gauss(0, deviation) for _ in range(count)) if deviation else [value] * count
        tensors[name] = (shape, array.array("f", values))

    def linear(name: str, inputs: int, outputs: int, scale: float = 1) -> None:
        add(f"{name}.weight", [outputs, inputs], scale * inputs ** -0.5)
        add(f"{name}.bias", [outputs])

    def norm(name: str) -> None:
        add(f"{name}.weight", [width], value=1)
        add(f"{name}.bias", [width])

    add("vision_model.embeddings.class_embedding", [width], 0.1)
    add("vision_model.embeddings.patch_embedding.weight", [width, 3, patch, patch], (3 * patch * patch) ** -0.5)
    add("vision_model.embeddings.position_embedding.weight", [(sizes.image // patch) ** 2 + 1, width], 0.1)
    add("text_model.embeddings.token_embedding.weight", [vocabulary, width], 0.1)
    add("text_model.embeddings.position_embedding.weight", [sizes.tokens, width], 0.02)
    norm("vision_model.pre_layrnorm")
    norm("vision_model.post_layernorm")
    norm("text_model.final_layer_norm")
    for tower, layers in sizes.layers().items():
        for layer in range(layers):
            prefix, scale = f"{tower}.encoder.layers.{layer}", (2 * layers) ** -0.5
            for part in ("q_proj", "k_proj", "v_proj"):
                linear(f"{prefix}.self_attn.{part}", width, width)
            linear(f"{prefix}.self_attn.out_proj", width, width, scale)
            linear(f"{prefix}.mlp.fc1", width, 4 * width)
            linear(f"{prefix}.mlp.fc2", 4 * width, width, scale)
            norm(f"{prefix}.layer_norm1")
            norm(f"{prefix}.layer_norm2")
    for name in ("visual_projection", "text_projection"):
        add(f"{name}.weight", [sizes.projection, width], width ** -0.5)
    add("logit_scale", [], value=2.6593)

    header, offset = {}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(values.tobytes())
    return offset // 4


def make(folder: Path, captions: "list[str]", sizes: Sizes = Sizes()) -> None:
    folder.mkdir(parents=True)
    vocabulary = vocabulary_of(captions)
    write_tokenizer(folder, vocabulary)
    tower = {"hidden_size": sizes.width, "intermediate_size": 4 * sizes.width, "num_attention_heads": sizes.heads,
             "hidden_act": "gelu", "projection_dim": sizes.projection}
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": sizes.projection,
        "vision_config": {**tower, "num_hidden_layers": sizes.vision_layers, "image_size": sizes.image,
                          "patch_size": sizes.patch},
        "text_config": {**tower, "num_hidden_layers": sizes.text_layers, "vocab_size": len(vocabulary),
                        "max_position_embeddings": sizes.tokens, "bos_token_id": 1, "eos_token_id": vocabulary["<end>"],
                        "pad_token_id": 0}}, indent=2) + "\n")
    side = {"height": sizes.image, "width": sizes.image}
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"image_processor_type": "SiglipImageProcessor", "size": side, "image_mean": [0.5, 0.5, 0.5],
         "image_std": [0.5, 0.5, 0.5]}, indent=2) + "\n")
    numbers = write_weights(folder / "model.safetensors", len(vocabulary), sizes)
    print(f"{folder}: {numbers / 1e6:.1f} million numbers, {len(vocabulary)} words", flush=True)
