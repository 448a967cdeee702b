"""Encoders of texts with what sentence-transformers puts behind them: BERT, RoBERTa, XLM-R and MPNet, and an adapter."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (BertConfig, BertForMaskedLM, BertModel, MPNetConfig, MPNetModel, RobertaConfig, RobertaForMaskedLM,
                          XLMRobertaConfig, XLMRobertaModel)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from models.parts import CASES, LAYERS, VOCABULARY, as_it_is, evaluate, halves, shake, texts, write


def bert_config(**changes):
    return BertConfig(**{**LAYERS, "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                         "max_position_embeddings": 12, **changes})


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
        types = {"token_type_ids": inputs["types"].long()} if "types" in inputs else {}
        states = self.bert(input_ids=inputs["ids"].long(), attention_mask=inputs["valid"].long(), **types).last_hidden_state
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


def bert_cases():
    sentence_case("bert_mean", bert_config(), [Pooling(16, "mean"), Normalize()], texts(pairs=True), minilm_beside)
    sentence_case("bert_cls_shards", bert_config(hidden_act="relu"), [Pooling(16, "cls"), Normalize()], texts(), halved_shards)
    sentence_case("bert_dense", bert_config(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6),
                  [Pooling(16, ("max", "mean")), Dense(32, 12),
                   Dense(12, 8, bias=False, activation_function=torch.nn.Identity()), Normalize()], texts())
    sentence_case("bert_last_left", bert_config(hidden_act="silu"), [Pooling(16, "lasttoken")], texts(left=True), bfloat16)
    sentence_case("bert_weighted", bert_config(hidden_act="quick_gelu"),
                  [Pooling(16, ("mean_sqrt_len_tokens", "weightedmean", "cls"))], texts(left=True))
    masked_case("bert_pooler")


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
