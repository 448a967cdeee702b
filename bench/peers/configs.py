"""The models of bench/train_step/workloads.cpp, as their peers need to know them."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    width: int
    layers: int
    heads: int
    activation: str = "gelu"
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Vision:
    image: int
    patch: int
    stack: Stack


@dataclass(frozen=True)
class Model:
    kind: str  # "vision", "clip" or "sentence"
    vision: Vision | None = None
    text: Stack | None = None
    chunk: int = 0


VIT_B = Vision(224, 32, Stack(768, 12, 12))
CLIP = dict(
    kind="clip",
    vision=Vision(224, 32, Stack(768, 12, 12, "quick_gelu")),
    text=Stack(512, 12, 8, "quick_gelu"),
)

MODELS = {
    "vit_ti_4_32_b64": Model("vision", Vision(32, 4, Stack(192, 12, 3))),
    "vit_s_8_64_b32": Model("vision", Vision(64, 8, Stack(384, 12, 6))),
    "vit_b_32_224_b16": Model("vision", VIT_B),
    "vit_b_32_224_b64": Model("vision", VIT_B),
    "clip_b_32_b64": Model(**CLIP),
    "clip_b_32_b64_cached_16": Model(**CLIP, chunk=16),
    "minilm_l6_128_b64": Model("sentence", text=Stack(384, 6, 12, "gelu", 1e-12)),
}

# OpenAI's; the first is for trying programs out.
CLIP_SIZES = {
    "tiny": (Vision(16, 8, Stack(32, 2, 2, "quick_gelu")), Stack(32, 2, 2, "quick_gelu")),
    "b_32": (CLIP["vision"], CLIP["text"]),
    "l_14": (Vision(224, 14, Stack(1024, 24, 16, "quick_gelu")), Stack(768, 12, 12, "quick_gelu")),
}


def described_clip(name):
    """The CLIP that a name describes: clip_{tiny,b_32,l_14}_b<batch>[_cached_<chunk>]."""
    parts = re.fullmatch(r"clip_(tiny|b_32|l_14)_b(\d+)(?:_cached_(\d+))?", name)
    if not parts:
        raise ValueError(f"'{name}' is not clip_{{tiny,b_32,l_14}}_b<batch>[_cached_<chunk>]")
    vision, text = CLIP_SIZES[parts[1]]
    return Model("clip", vision, text, int(parts[3] or 0))


ADAMW = dict(learning_rate=1e-4, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01)
