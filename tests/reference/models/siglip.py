"""SigLIP as transformers and OpenCLIP have it."""

import copy
import json

import open_clip
import timm
import torch
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from models.clip import save_open_clip, tower_case
from models.parts import CASES, LAYERS, TEXTS, TOKENS, VOCABULARY, as_it_is, evaluate, halves, images, shake, texts, write


def siglip_text_config(**changes):
    return SiglipTextConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                               "max_position_embeddings": 12, "projection_size": 24, "pad_token_id": 1, "eos_token_id": 1,
                               "bos_token_id": 2, **changes})


def siglip_vision_config(**changes):
    return SiglipVisionConfig(**{**LAYERS, "hidden_size": 24, "intermediate_size": 32, "image_size": 8, "patch_size": 4,
                                 **changes})


def padded_whole(inputs, length=12, padding=1):
    """Ids as its processor makes them: each text of the full length."""
    ids = torch.full((TEXTS, length), padding, dtype=torch.int64)
    for row, text in enumerate(inputs["ids"]):
        kept = text[inputs["valid"][row]]
        ids[row, :len(kept)] = kept
    return ids


def siglip_loss(z, scale, bias):
    logits = scale.exp() * z["images"] @ z["texts"].T + bias
    return -F.logsigmoid((2 * torch.eye(len(logits)) - 1) * logits).sum() / len(logits)


def siglip_case(name):
    """The reference's texts are short, and padded with another id than the model is to see."""
    torch.manual_seed(22)
    siglip = shake(SiglipModel(SiglipConfig(text_config=siglip_text_config().to_dict(),
                                            vision_config=siglip_vision_config().to_dict())))
    siglip.save_pretrained(CASES / name)

    def forward(m, x):
        out = m(input_ids=padded_whole(x), pixel_values=x["images"])
        return {"texts": out.text_embeds, "images": out.image_embeds}
    write(name, evaluate(siglip, as_it_is, forward, lambda m, z: siglip_loss(z, m.logit_scale, m.logit_bias),
                         texts() | images()))


def siglip_tower_cases():
    """Another tokenizer pads with 0, whatever the configuration says; patches do not divide the images."""
    torch.manual_seed(23)
    text = shake(SiglipTextModel(siglip_text_config(hidden_act="gelu")))
    text.save_pretrained(CASES / "siglip_text")
    (CASES / "siglip_text" / "tokenizer_config.json").write_text(json.dumps(
        {"added_tokens_decoder": {"0": {"content": "<pad>"}, "1": {"content": "<eos>"}}, "pad_token": "<pad>"}, indent=2))
    write("siglip_text", evaluate(text, lambda n, g: as_it_is("text_model." + n, g),
                                  lambda m, x: {"texts": m(padded_whole(x, padding=0)).pooler_output},
                                  lambda m, z: halves(z), texts()))
    tower_case("siglip_vision", SiglipVisionModel(siglip_vision_config(image_size=10)), "pooler_output",
               {"images": torch.randn(TEXTS, 3, 10, 10)}, "vision_model.")


class SmallTimm:
    """OpenCLIP's fields beside timm's name, which it passes over, as the sizes of what timm makes of that name."""

    def __init__(self, vision_cfg):
        self.sizes = {"patch_size": vision_cfg["patch_size"], "embed_dim": vision_cfg["width"], "depth": vision_cfg["layers"],
                      "num_heads": vision_cfg["width"] // vision_cfg["head_width"], "mlp_ratio": vision_cfg["mlp_ratio"],
                      "img_size": vision_cfg["image_size"]}

    def __enter__(self):
        self.create_model = timm.create_model
        timm.create_model = lambda name, **changes: self.create_model(name, **changes, **self.sizes)

    def __exit__(self, *error):
        timm.create_model = self.create_model


def open_clip_siglip_case(name):
    """Each tower has a GELU of its own; the tokenizer pads with 0."""
    torch.manual_seed(26)
    model_cfg = {"embed_dim": 12, "init_logit_bias": -10, "custom_text": True,
                 "vision_cfg": {"image_size": 8, "timm_model_name": "vit_base_patch16_siglip_224",
                                "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none", "layers": 2,
                                "width": 12, "head_width": 6, "patch_size": 4, "mlp_ratio": 1.5},
                 "text_cfg": {"context_length": TOKENS, "vocab_size": VOCABULARY, "width": 8, "heads": 2, "layers": 1,
                              "mlp_ratio": 2.0, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
                              "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}}
    with SmallTimm(model_cfg["vision_cfg"]):
        clip = shake(open_clip.CustomTextCLIP(**{k: v for k, v in copy.deepcopy(model_cfg).items() if k != "custom_text"}))
    save_open_clip(name, model_cfg, clip)
    (CASES / name / "tokenizer_config.json").write_text(json.dumps(
        {"added_tokens_decoder": {"0": {"content": "<pad>"}}, "pad_token": "<pad>"}))
    inputs = texts() | images()

    def forward(m, x):
        found_images, found_texts, *_ = m(x["images"], padded_whole(x, TOKENS, padding=0))
        return {"texts": found_texts, "images": found_images}
    write(name, evaluate(clip, as_it_is, forward, lambda m, z: siglip_loss(z, m.logit_scale, m.logit_bias), inputs))
