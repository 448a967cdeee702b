"""Whether folders that this library saves load in transformers, sentence-transformers and OpenCLIP, and give what the
folders of cases/ gave.

    ./run reference saved
"""

import argparse
import json
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import open_clip
import transformers
from models.clip import CLIP_TEXTS, pictures
from models.siglip import SmallTimm, padded_whole
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling

CASES = Path(__file__).resolve().parent / "cases"
TOLERANCE = 1e-5


def after_transformer(folder):
    """The modules that follow the transformer, as sentence-transformers loads them."""
    kinds = {"Pooling": Pooling, "Dense": Dense, "Normalize": Normalize}
    for module in json.loads((folder / "modules.json").read_text())[1:]:
        yield kinds[module["type"].rpartition(".")[2]].load(str(folder), subfolder=module["path"])


def text_inputs(reference):
    names = {"ids": "input_ids", "valid": "attention_mask", "types": "token_type_ids"}
    return {theirs: reference[ours].long() for ours, theirs in names.items() if ours in reference}


def encode(folder, reference):
    """The representations that the library of a folder makes of the reference's inputs."""
    if (folder / "open_clip_config.json").exists():
        config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        if "timm_model_name" in config["vision_cfg"]:
            with SmallTimm(config["vision_cfg"]):
                model = open_clip.create_model(f"local-dir:{folder}").eval()
            ids = padded_whole(reference, config["text_cfg"]["context_length"], padding=0)
        else:
            model = open_clip.create_model(f"local-dir:{folder}").eval()
            ids = reference["ids"].long()
        images, texts, *_ = model(reference["images"], ids)
        return {"texts": texts, "images": images}
    if (folder / "0_CLIPModel").exists():
        model = SentenceTransformer(str(folder), device="cpu")
        return {"texts": torch.from_numpy(model.encode(CLIP_TEXTS)), "images": torch.from_numpy(model.encode(pictures()))}
    config = json.loads((folder / "config.json").read_text())
    model, loading = getattr(transformers, config["architectures"][0]).from_pretrained(folder, output_loading_info=True)
    has_pooler = any("pooler" in name for name in load_file(folder / "model.safetensors"))
    unused = {kind: names for kind, names in loading.items()
              if any(has_pooler or not name.startswith("pooler.") for name in names)}
    if unused:
        raise SystemExit(f"{folder}: {unused}")
    is_clip = config["model_type"].startswith(("clip", "siglip"))
    if "ids" in reference and not is_clip:
        out = model(**text_inputs(reference))
        if not (folder / "modules.json").exists():
            return {"texts": out.pooler_output}
        features = {"token_embeddings": out.last_hidden_state, "attention_mask": reference["valid"].long()}
        for module in after_transformer(folder):
            features = module(features)
        return {"texts": features["sentence_embedding"]}
    if config["model_type"] == "clip":
        out = model(pixel_values=reference["images"], **text_inputs(reference))
        return {"texts": out.text_embeds, "images": out.image_embeds}
    if config["model_type"].startswith("siglip") and "ids" in reference:
        length = config.get("text_config", config)["max_position_embeddings"]
        padding = 0 if (folder / "tokenizer_config.json").exists() else 1
        ids = F.pad(torch.where(reference["valid"], reference["ids"].long(), padding),
                    (0, length - reference["ids"].shape[1]), value=padding)
        if config["model_type"] == "siglip_text_model":
            return {"texts": model(ids).pooler_output}
        out = model(input_ids=ids, pixel_values=reference["images"])
        return {"texts": out.text_embeds, "images": out.image_embeds}
    if config["model_type"] == "clip_text_model":
        out = model(**text_inputs(reference))
        return {"texts": out.text_embeds if "text_embeds" in out else out.pooler_output}
    out = model(pixel_values=reference["images"])
    if "logits" in out:
        return {"logits": out.logits}
    if "image_embeds" in out:
        return {"images": out.image_embeds}
    # Where the file has no pooler, transformers makes one.
    has_state = config["model_type"] == "vit" and not has_pooler
    return {"images": out.last_hidden_state[:, 0] if has_state else out.pooler_output}


def encode_adapted(program, case, folder):
    """What PEFT and transformers make of a case's adapter that this library loaded, and saved alone and merged."""
    subprocess.run([program, "lora", str(case), str(case / "lora"), str(folder)], check=True)
    reference = load_file(case / "lora" / "reference.safetensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        model = PeftModel.from_pretrained(transformers.BertModel.from_pretrained(case), folder / "adapter").eval()
    states = model(**text_inputs(reference)).last_hidden_state
    features = {"token_embeddings": states, "attention_mask": reference["valid"].long()}
    for module in after_transformer(case):
        features = module(features)
    return reference, {"adapter": features["sentence_embedding"],
                       "merged": encode(folder / "merged", reference)["texts"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="tests/reference_model of a build folder")
    program = str(Path(parser.parse_args().program).resolve())
    torch.manual_seed(1)
    worst = 0.0
    for case in sorted(CASES.iterdir()):
        reference = load_file(case / "reference.safetensors")
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "saved"
            options = ["pooler"] if case.name == "bert_pooler" else []
            subprocess.run([program, "save", str(case), str(saved), *options], check=True)
            with torch.no_grad():
                found = encode(saved, reference)
        for key, value in found.items():
            difference = (value - reference[f"output.{key}"]).abs().max().item()
            worst = max(worst, difference)
            print(f"{case.name:24} {key:8} {difference:.1e}")
        if (case / "lora").exists():
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                reference, found = encode_adapted(program, case, Path(folder))
            for key, value in found.items():
                difference = (value - reference["output.texts"]).abs().max().item()
                worst = max(worst, difference)
                print(f"{case.name:24} {key:8} {difference:.1e}")
    if not worst <= TOLERANCE:
        raise SystemExit(f"the largest difference is {worst:.1e}, expected at most {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
