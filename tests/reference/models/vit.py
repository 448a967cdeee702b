"""ViT and DINOv2, alone and beneath a classifier."""

import torch
from torch.nn import functional as F
from transformers import (Dinov2Config, Dinov2ForImageClassification, Dinov2Model, Dinov2WithRegistersConfig,
                          Dinov2WithRegistersForImageClassification, Dinov2WithRegistersModel, ViTConfig,
                          ViTForImageClassification, ViTModel)

from models.parts import CASES, LAYERS, TEXTS, as_it_is, evaluate, halves, shake, write


def vit_name(name):
    """As the files have it, without what the encoder's names begin with beside a classifier."""
    for prefix in ("vit.", "dinov2.", "dinov2_with_registers."):
        name = name.removeprefix(prefix)
    is_vit = name.startswith("layers.")
    name = f"encoder.layer.{name.removeprefix('layers.')}" if is_vit else name
    for theirs, ours in {"attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
                         "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
                         "mlp.down_proj": "mlp.weights_out",
                         **({"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"} if is_vit else {})}.items():
        name = name.replace(theirs, ours)
    return name


def join_gates(found):
    """The files have both as one."""
    for key in [key for key in found if "mlp.gate_proj" in key]:
        gate, up = found.pop(key), found.pop(key.replace("gate_proj", "up_proj"))
        found[key.replace("gate_proj", "weights_in")] = torch.cat([gate, up])
    return found


def vit_case(name, model, size=(8, 8)):
    """`pooler_output`, or the class token's state where there is no pooler; beside a classifier, its logits too."""
    shake(model).save_pretrained(CASES / name)

    def forward(m, x):
        encoder = next((getattr(m, part) for part in ("vit", "dinov2", "dinov2_with_registers") if hasattr(m, part)), m)
        out = encoder(pixel_values=x["images"])
        pooled = out.last_hidden_state[:, 0] if out.pooler_output is None else out.pooler_output
        return {"images": pooled, **({"logits": m(pixel_values=x["images"]).logits} if encoder is not m else {})}
    write(name, join_gates(evaluate(model, lambda n, g: as_it_is(vit_name(n), g), forward, lambda m, z: halves(z),
                                    {"images": torch.randn(TEXTS, 3, *size)})))


def vit_cases():
    torch.manual_seed(24)
    sizes = {**LAYERS, "hidden_size": 16, "image_size": 8, "patch_size": 4}
    # In f64, where transformers interpolates in f32 whatever the model has.
    interpolate = F.interpolate
    F.interpolate = lambda x, **how: interpolate(x.double(), **how)
    vit = dict(sizes, intermediate_size=24)
    vit_case("vit", ViTModel(ViTConfig(**vit, pooler_output_size=12)))
    vit_case("vit_bare", ViTModel(ViTConfig(**vit, qkv_bias=False, hidden_act="relu"), add_pooling_layer=False))
    vit_case("vit_classes", ViTForImageClassification(ViTConfig(**vit, num_labels=5, layer_norm_eps=1e-3)))
    dino = dict(sizes, mlp_ratio=2)
    vit_case("dinov2", Dinov2Model(Dinov2Config(**dino | {"image_size": 12})), (20, 8))
    vit_case("dinov2_classes", Dinov2ForImageClassification(Dinov2Config(**dino, use_swiglu_ffn=True, num_labels=5)))
    vit_case("dinov2_registers", Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**dino | {"image_size": 20})), (8, 12))
    vit_case("dinov2_registers_classes", Dinov2WithRegistersForImageClassification(
        Dinov2WithRegistersConfig(**dino, num_labels=5, num_register_tokens=2, qkv_bias=False)))
    F.interpolate = interpolate
