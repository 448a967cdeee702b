"""Makes the folders of cases/: small random models, saved as their own libraries save them, with what those libraries make
of some inputs: representations, a loss, each of its gradients, and the losses of 20 steps of AdamW.

    pip install transformers sentence-transformers open_clip_torch peft
    python make_references.py

All is computed in f64 from weights that their file holds exactly. reference.safetensors has, beside it, the inputs.
"""

import copy
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import open_clip
from peft import LoraConfig, get_peft_model
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (BertConfig, BertForMaskedLM, BertModel, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel,
                          CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection,
                          MPNetConfig, MPNetModel, RobertaConfig, RobertaForMaskedLM, XLMRobertaConfig, XLMRobertaModel)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

CASES = Path(__file__).resolve().parent / "cases"
VOCABULARY, TOKENS, TEXTS, STEPS, RATE, SCALE = 60, 9, 6, 20, 1e-3, 0.3
LAYERS = dict(num_hidden_layers=2, num_attention_heads=2)


def shake(model):
    """Values at which every part matters: no bias 0, no norm the identity, no attention even."""
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale"):
            parameter.data.fill_(1.25)
        else:
            parameter.data += 0.25 * torch.randn_like(parameter)
    return model.eval()


def bert_config(**changes):
    return BertConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                         "max_position_embeddings": 12, **changes})


def texts(left=False, pairs=False, first=5):
    """Ids of texts of several lengths, their mask and, for pairs, the types."""
    ids = torch.randint(first, VOCABULARY - 1, (TEXTS, TOKENS), dtype=torch.int32)
    valid = torch.zeros(TEXTS, TOKENS, dtype=torch.bool)
    types = torch.zeros(TEXTS, TOKENS, dtype=torch.int32)
    for row, length in enumerate([9, 4, 6, 2, 7, 5]):
        places = slice(TOKENS - length, TOKENS) if left else slice(0, length)
        valid[row, places] = True
        types[row, places] = (torch.arange(length) >= length // 2).int()
    ids[~valid] = 0
    return {"ids": ids, "valid": valid, **({"types": types} if pairs else {})}


def clip_texts(end):
    inputs = texts(first=3)
    ends = inputs["valid"].sum(1) - 1
    inputs["ids"][torch.arange(TEXTS), ends] = end
    inputs["ids"][0, 1] = VOCABULARY - 1  # the largest is not always the end
    inputs["ids"][~inputs["valid"]] = end  # as CLIP's tokenizer pads
    return inputs


def images():
    return {"images": torch.randn(TEXTS, 3, 8, 8)}


def halves(z):
    """InfoNCE of the first half against the second."""
    queries, targets = z["texts" if "texts" in z else "images"].chunk(2)
    return F.cross_entropy(SCALE * queries @ targets.T, torch.arange(len(queries)))


def both(z, scale):
    logits = scale.exp() * z["images"] @ z["texts"].T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def evaluate(modules, names, forward, loss_of, inputs):
    """What the modules make of the inputs, by name."""
    modules = modules.double()
    wide = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    found = dict(inputs)
    z = forward(modules, wide)
    loss = loss_of(modules, z)
    loss.backward()
    found |= {f"output.{key}": value.detach() for key, value in z.items()}
    found["loss"] = loss.detach()
    parameters = {name: p for name, p in modules.named_parameters() if p.grad is not None}
    for name, parameter in parameters.items():
        for theirs, gradient in names(name, parameter.grad):
            found[f"gradient.{theirs}"] = gradient.float().contiguous()
    decayed = [p for p in parameters.values() if p.dim() > 1]
    others = [p for p in parameters.values() if p.dim() <= 1]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=RATE)
    losses = []
    for _ in range(STEPS):
        adam.zero_grad()
        loss = loss_of(modules, forward(modules, wide))
        losses.append(loss.detach())
        loss.backward()
        adam.step()
    found["losses"] = torch.stack(losses)
    return found


def as_it_is(name, gradient):
    return [(name, gradient)]


def write(name, found):
    save_file({key: value.contiguous() for key, value in found.items()}, CASES / name / "reference.safetensors")


def save_modules(name, types, modules):
    """The layout of sentence-transformers."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for place, (kind, module) in enumerate(zip(types, modules), 1):
        path = f"{place}_{kind}"
        (CASES / name / path).mkdir()
        module.save(str(CASES / name / path))
        listed.append({"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"})
    (CASES / name / "modules.json").write_text(json.dumps(listed, indent=2))


class Sentence(torch.nn.Module):
    def __init__(self, bert, modules):
        super().__init__()
        self.bert = bert
        self.modules_after = torch.nn.ModuleList(modules)

    def forward(self, inputs):
        states = self.bert(input_ids=inputs["ids"].long(), attention_mask=inputs["valid"].long(),
                           token_type_ids=inputs["types"].long() if "types" in inputs else None).last_hidden_state
        features = {"token_embeddings": states, "attention_mask": inputs["valid"].long()}
        for module in self.modules_after:
            features = module(features)
        return features["sentence_embedding"]


def name_in_sentence(modules):
    def named(name, gradient):
        if name.startswith("bert."):
            return [(name.removeprefix("bert."), gradient)]
        place, rest = name.removeprefix("modules_after.").split(".", 1)
        return [(f"{int(place) + 1}_{type(modules[int(place)]).__name__}.{rest}", gradient)]
    return named


def sentence_case(name, config, modules, inputs, after=None, model=BertModel):
    bert = shake(model(config))
    for module in modules:
        shake(module)
    bert.save_pretrained(CASES / name)
    save_modules(name, [type(module).__name__ for module in modules], modules)
    if after:
        after(CASES / name, bert)
    write(name, evaluate(Sentence(bert, modules), name_in_sentence(modules),
                         lambda m, x: {"texts": m(x)}, lambda m, z: halves(z), inputs))


def xlm_roberta_case(name):
    """Positions from 2, the padding's id 1, and one type."""
    torch.manual_seed(19)
    config = XLMRobertaConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                                 "max_position_embeddings": 14, "type_vocab_size": 1, "layer_norm_eps": 1e-5})
    inputs = texts()
    inputs["ids"][~inputs["valid"]] = 1
    sentence_case(name, config, [Pooling(16, "mean"), Normalize()], inputs, model=XLMRobertaModel)


def roberta_case(name):
    """A file of an encoder beside its head; its texts are padded on the left."""
    torch.manual_seed(20)
    config = RobertaConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                              "max_position_embeddings": 14, "type_vocab_size": 1, "layer_norm_eps": 1e-5})
    whole = shake(RobertaForMaskedLM(config))
    whole.save_pretrained(CASES / name)
    save_modules(name, ["Pooling"], [Pooling(16, "cls")])
    inputs = texts(left=True)
    inputs["ids"][~inputs["valid"]] = 1
    write(name, evaluate(Sentence(whole.roberta, [Pooling(16, "cls")]), name_in_sentence([]),
                         lambda m, x: {"texts": m(x)}, lambda m, z: halves(z), inputs))


def mpnet_case(name):
    """No types; distances fall into the same ranges in both."""
    torch.manual_seed(21)
    config = MPNetConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                            "max_position_embeddings": 14, "layer_norm_eps": 1e-5})
    inputs = texts()
    inputs["ids"][~inputs["valid"]] = 1
    sentence_case(name, config, [Pooling(16, "mean"), Normalize()], inputs, model=MPNetModel)
    reference = load_file(CASES / name / "reference.safetensors")
    reference["buckets"] = MPNetEncoder.relative_position_bucket(torch.arange(-200, 201))
    write(name, reference)


def lora_case(name):
    """An adapter of a case's model, of several ranks and scales."""
    torch.manual_seed(22)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value", "intermediate.dense", "output.dense"],
                        rank_pattern={"layer.1.attention.self.value": 3}, alpha_pattern={"query": 5})
    bert = get_peft_model(BertModel.from_pretrained(CASES / name), config)
    for key, parameter in bert.named_parameters():
        if "lora_" in key:
            parameter.data += 0.25 * torch.randn_like(parameter)
    bert.peft_config["default"].base_model_name_or_path = ".."
    bert.save_pretrained(CASES / name / "lora")
    (CASES / name / "lora" / "README.md").unlink()
    names = lambda key, gradient: [(key.removeprefix("bert.base_model.model.").replace(".default", ""), gradient)]
    write(f"{name}/lora", evaluate(Sentence(bert.eval(), [Pooling(16, "mean"), Normalize()]), names,
                                   lambda m, x: {"texts": m(x)}, lambda m, z: halves(z), texts(pairs=True)))


def minilm_beside(folder, bert):
    """As in published folders: ids of positions in the file, a length, prompts."""
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.position_ids"] = torch.arange(12)[None]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "sentence_bert_config.json").write_text('{\n  "max_seq_length": 10,\n  "do_lower_case": false\n}')
    (folder / "config_sentence_transformers.json").write_text(json.dumps(
        {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "document",
         "similarity_fn_name": "dot"}, indent=2))


def halved_shards(folder, bert):
    """Two shards of 16 bits, of which f32 is the exact value."""
    bert.half().float()
    tensors = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, folder / file, {"format": "pt"})
        index |= {key: file for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=2))


def bfloat16(folder, bert):
    bert.bfloat16().float()
    save_file({key: value.bfloat16() for key, value in load_file(folder / "model.safetensors").items()},
              folder / "model.safetensors", {"format": "pt"})


def masked_case(name):
    """A file of an older encoder beside the head that it was trained with; the pooler is another file's."""
    bert = shake(BertForMaskedLM(bert_config(hidden_act="gelu_new", layer_norm_eps=1e-3)))
    pooler = shake(BertModel(bert.config)).pooler
    bert.save_pretrained(CASES / name)
    tensors = load_file(CASES / name / "model.safetensors")
    tensors |= {f"bert.pooler.{key}": value for key, value in pooler.state_dict().items()}
    older = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value.contiguous()
             for key, value in tensors.items()}
    save_file(older, CASES / name / "model.safetensors", {"format": "pt"})
    modules = torch.nn.ModuleDict({"bert": bert.bert, "pooler": pooler})
    write(name, evaluate(
        modules, lambda n, g: as_it_is(n.removeprefix("bert."), g),
        lambda m, x: {"texts": m["pooler"](m["bert"](input_ids=x["ids"].long(), attention_mask=x["valid"].long(),
                                                     token_type_ids=x["types"].long()).last_hidden_state)},
        lambda m, z: halves(z), texts(pairs=True)))


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


BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
         "attn.out_proj": "self_attn.out_proj"}


def open_clip_case(name, quick_gelu):
    model_cfg = {"embed_dim": 8, **({"quick_gelu": True} if quick_gelu else {}),
                 "vision_cfg": {"image_size": 8, "layers": 2, "width": 24, "head_width": 12, "patch_size": 4, "mlp_ratio": 1.5},
                 "text_cfg": {"context_length": TOKENS, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2,
                              "mlp_ratio": 2.0}}
    clip = shake(open_clip.CLIP(**copy.deepcopy(model_cfg)))
    (CASES / name).mkdir()
    (CASES / name / "open_clip_config.json").write_text(json.dumps(
        {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}}, indent=2))
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()},
              CASES / name / "open_clip_model.safetensors", {"format": "pt"})
    inputs = clip_texts(VOCABULARY - 1) | images()
    inputs["ids"][~inputs["valid"]] = 0  # as its tokenizer pads, and there is no mask
    del inputs["valid"]

    def forward(m, x):
        found_images, found_texts, _ = m(x["images"], x["ids"].long())
        return {"texts": found_texts, "images": found_images}
    write(name, evaluate(clip, as_it_is, forward, lambda m, z: both(z, m.logit_scale), inputs))


def main():
    torch.manual_seed(18)
    torch.set_num_threads(1)
    shutil.rmtree(CASES, ignore_errors=True)
    CASES.mkdir()
    sentence_case("bert_mean", bert_config(), [Pooling(16, "mean"), Normalize()], texts(pairs=True), minilm_beside)
    sentence_case("bert_cls_shards", bert_config(hidden_act="relu"), [Pooling(16, "cls"), Normalize()], texts(), halved_shards)
    sentence_case("bert_dense", bert_config(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6),
                  [Pooling(16, ("max", "mean")), Dense(32, 12),
                   Dense(12, 8, bias=False, activation_function=torch.nn.Identity()), Normalize()], texts())
    sentence_case("bert_last_left", bert_config(hidden_act="silu"), [Pooling(16, "lasttoken")], texts(left=True), bfloat16)
    sentence_case("bert_weighted", bert_config(hidden_act="quick_gelu"),
                  [Pooling(16, ("mean_sqrt_len_tokens", "weightedmean", "cls"))], texts(left=True))
    masked_case("bert_pooler")
    clip_case("clip")
    clip_case("clip_end", VOCABULARY - 2, eos_token_id=VOCABULARY - 2, hidden_act="gelu")
    tower_case("clip_text", CLIPTextModel(text_config()), "pooler_output", clip_texts(VOCABULARY - 1), "text_model.")
    tower_case("clip_text_projection", CLIPTextModelWithProjection(text_config()), "text_embeds",
               clip_texts(VOCABULARY - 1))
    tower_case("clip_vision", CLIPVisionModel(vision_config()), "pooler_output", images(), "vision_model.")
    tower_case("clip_vision_projection", CLIPVisionModelWithProjection(vision_config(hidden_act="gelu")), "image_embeds",
               images())
    open_clip_case("open_clip", False)
    open_clip_case("open_clip_quick", True)
    xlm_roberta_case("xlm_roberta")
    roberta_case("roberta")
    mpnet_case("mpnet")
    lora_case("bert_mean")


if __name__ == "__main__":
    main()
