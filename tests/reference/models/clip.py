"""CLIP as transformers, OpenCLIP and sentence-transformers have it."""

import copy
import json
import string

import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from sentence_transformers.base.modules import Dense
from torch.nn import functional as F
from transformers import (CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTextModel,
                          CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel,
                          CLIPVisionModelWithProjection)

from models.parts import CASES, LAYERS, TEXTS, TOKENS, VOCABULARY, as_it_is, both, evaluate, halves, images, shake, texts, write


def clip_texts(end):
    inputs = texts(first=3)
    ends = inputs["valid"].sum(1) - 1
    inputs["ids"][torch.arange(TEXTS), ends] = end
    inputs["ids"][0, 1] = VOCABULARY - 1  # the largest is not always the end
    inputs["ids"][~inputs["valid"]] = end  # as CLIP's tokenizer pads
    return inputs


def text_config(**changes):
    return CLIPTextConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                             "max_position_embeddings": 12, "projection_dim": 8, "eos_token_id": 2, "bos_token_id": 1,
                             "pad_token_id": 0, **changes})


def vision_config(**changes):
    return CLIPVisionConfig(**{**LAYERS, "hidden_size": 24, "intermediate_size": 32, "image_size": 8, "patch_size": 4,
                               "projection_dim": 8, **changes})


def clip_case(name, end=VOCABULARY - 1, **changes):
    config = CLIPConfig(text_config=text_config(**changes).to_dict(), vision_config=vision_config().to_dict(), projection_dim=8)
    clip = shake(CLIPModel(config))
    clip.save_pretrained(CASES / name)

    def forward(m, x):
        out = m(input_ids=x["ids"].long(), pixel_values=x["images"], attention_mask=x["valid"].long())
        return {"texts": out.text_embeds, "images": out.image_embeds}
    write(name, evaluate(clip, as_it_is, forward, lambda m, z: both(z, m.logit_scale), clip_texts(end) | images()))


def tower_case(name, model, output, inputs, tower=""):
    shake(model).save_pretrained(CASES / name)
    kind = "images" if "images" in inputs else "texts"

    def forward(m, x):
        given = {"pixel_values": x["images"]} if kind == "images" else {
            "input_ids": x["ids"].long(), "attention_mask": x["valid"].long()}
        return {kind: getattr(m(**given), output)}
    write(name, evaluate(model, lambda n, g: as_it_is(tower + n, g), forward, lambda m, z: halves(z), inputs))


def clip_cases():
    clip_case("clip")
    clip_case("clip_end", VOCABULARY - 2, eos_token_id=VOCABULARY - 2, hidden_act="gelu")
    tower_case("clip_text", CLIPTextModel(text_config()), "pooler_output", clip_texts(VOCABULARY - 1), "text_model.")
    tower_case("clip_text_projection", CLIPTextModelWithProjection(text_config()), "text_embeds",
               clip_texts(VOCABULARY - 1))
    tower_case("clip_vision", CLIPVisionModel(vision_config()), "pooler_output", images(), "vision_model.")
    tower_case("clip_vision_projection", CLIPVisionModelWithProjection(vision_config(hidden_act="gelu")), "image_embeds",
               images())


def save_open_clip(name, model_cfg, clip):
    (CASES / name).mkdir()
    (CASES / name / "open_clip_config.json").write_text(json.dumps(
        {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}}, indent=2))
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()},
              CASES / name / "open_clip_model.safetensors", {"format": "pt"})


def open_clip_case(name, quick_gelu):
    model_cfg = {"embed_dim": 8, **({"quick_gelu": True} if quick_gelu else {}),
                 "vision_cfg": {"image_size": 8, "layers": 2, "width": 24, "head_width": 12, "patch_size": 4, "mlp_ratio": 1.5},
                 "text_cfg": {"context_length": TOKENS, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2,
                              "mlp_ratio": 2.0}}
    clip = shake(open_clip.CLIP(**copy.deepcopy(model_cfg)))
    save_open_clip(name, model_cfg, clip)
    inputs = clip_texts(VOCABULARY - 1) | images()
    inputs["ids"][~inputs["valid"]] = 0  # as its tokenizer pads, and there is no mask
    del inputs["valid"]

    def forward(m, x):
        found_images, found_texts, _ = m(x["images"], x["ids"].long())
        return {"texts": found_texts, "images": found_images}
    write(name, evaluate(clip, as_it_is, forward, lambda m, z: both(z, m.logit_scale), inputs))

PIECES = ("ab", "cd", "ef", "gh", "ij", "kl")
CLIP_TEXTS = ["ab cd xy", "q", "gh ij kl ab", "cd", "abcd ef", "zz top"]


def clip_processor():
    """Of as few tokens as the small models have, and pictures of their size."""
    letters = string.ascii_lowercase
    tokens = [*letters, *(f"{c}</w>" for c in letters), *(f"{p}</w>" for p in PIECES), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)},
                              merges=[(p[0], f"{p[1]}</w>") for p in PIECES], model_max_length=12)
    return CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}), tokenizer)


def pictures():
    """Of no noise, so that the processors of versions to come agree on them."""
    return [Image.new("RGB", (8, 8), (40 * i, 255 - 30 * i, 90 + 7 * i * i % 100)) for i in range(TEXTS)]


def sentence_clip_case(name):
    """CLIP as sentence-transformers has it: not normalised unless a module says so, here after a Dense."""
    torch.manual_seed(25)
    config = CLIPConfig(text_config=text_config(eos_token_id=59, bos_token_id=58, pad_token_id=59).to_dict(),
                        vision_config=vision_config().to_dict(), projection_dim=8)
    clip, dense = shake(CLIPModel(config)), shake(Dense(8, 6))
    folder = CASES / name
    clip.save_pretrained(folder / "0_CLIPModel")
    processor = clip_processor()
    processor.save_pretrained(folder / "0_CLIPModel")
    (folder / "1_Dense").mkdir()
    dense.save(str(folder / "1_Dense"))
    (folder / "modules.json").write_text(json.dumps(
        [{"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
         for i, kind in enumerate(("CLIPModel", "Dense", "Normalize"))], indent=2))
    (folder / "2_Normalize").mkdir()
    (folder / "2_Normalize" / "config.json").write_text("{}")
    made = processor(text=CLIP_TEXTS, images=pictures(), return_tensors="pt", padding=True)
    inputs = {"ids": made["input_ids"].int(), "valid": made["attention_mask"].bool(), "images": made["pixel_values"]}

    def forward(m, x):
        clip = m["clip"]
        text = clip.text_model(input_ids=x["ids"].long(), attention_mask=x["valid"].long()).pooler_output
        projected = {"texts": clip.text_projection(text),
                     "images": clip.visual_projection(clip.vision_model(pixel_values=x["images"]).pooler_output)}
        return {kind: F.normalize(m["dense"]({"sentence_embedding": z})["sentence_embedding"], dim=-1)
                for kind, z in projected.items()}
    write(name, evaluate(torch.nn.ModuleDict({"clip": clip, "dense": dense}),
                         lambda n, g: as_it_is(n.removeprefix("clip.").replace("dense.", "1_Dense."), g), forward,
                         lambda m, z: both(z, m["clip"].logit_scale), inputs))
