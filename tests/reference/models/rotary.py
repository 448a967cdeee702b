"""Encoders of texts with rotary positions: ModernBERT, and decoders."""

import json

import torch
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralModel, ModernBertConfig, ModernBertForMaskedLM,
                          ModernBertModel, Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model)

from models.parts import CASES, LAYERS, VOCABULARY, evaluate, halves, shake, texts, write
from models.sentences import Sentence, name_in_sentence, save_modules, sentence_case


def modernbert_config(**changes):
    """Local layers look at two tokens on either side, of nine."""
    return ModernBertConfig(**{**LAYERS, "num_hidden_layers": 4, "vocab_size": VOCABULARY, "hidden_size": 16,
                               "intermediate_size": 24, "max_position_embeddings": 32, "local_attention": 4,
                               "pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2,
                               "sep_token_id": 2, **changes})


def modernbert_masked_case(name):
    """A file of an encoder beside its head, with every bias, in the fields of older versions; padded on the left."""
    whole = shake(ModernBertForMaskedLM(modernbert_config(norm_bias=True, attention_bias=True, mlp_bias=True, norm_eps=1e-4,
                                                          hidden_activation="gelu_pytorch_tanh")))
    whole.save_pretrained(CASES / name)
    config = json.loads((CASES / name / "config.json").read_text())
    for field in ("rope_parameters", "layer_types"):
        del config[field]
    config |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
               "position_embedding_type": "absolute", "layer_norm_eps": 0.5}
    (CASES / name / "config.json").write_text(json.dumps(config, indent=2))
    save_modules(name, ["Pooling"], [Pooling(16, "cls")])
    write(name, evaluate(Sentence(whole.model, [Pooling(16, "cls")]), name_in_sentence([]),
                         lambda m, x: {"texts": m(x)}, lambda m, z: halves(z), texts(left=True)))


def decoder_sizes(**changes):
    return {**LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "hidden_size": 16,
            "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            **changes}


def llama_case(name):
    """A causal language model, whose head takes no part, without modules: its last token counts."""
    scaling = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16}
    whole = shake(LlamaForCausalLM(LlamaConfig(**decoder_sizes(num_key_value_heads=1, attention_bias=True, mlp_bias=True,
                                                               rope_parameters=scaling))))
    whole.save_pretrained(CASES / name)
    write(name, evaluate(Sentence(whole.model, [Pooling(16, "lasttoken")]), name_in_sentence([]),
                         lambda m, x: {"texts": m(x)}, lambda m, z: halves(z), texts()))


def older_rope(theta, scaling=None):
    """The fields of rotary positions as versions before 5 write them."""
    def change(folder, model):
        config = json.loads((folder / "config.json").read_text())
        del config["rope_parameters"]
        config |= {"rope_theta": theta, "rope_scaling": scaling}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return change


def rotary_cases():
    torch.manual_seed(22)
    sentence_case("modernbert", modernbert_config(), [Pooling(16, "mean"), Normalize()], texts(), model=ModernBertModel)
    modernbert_masked_case("modernbert_masked")
    sentence_case("qwen3", Qwen3Config(**decoder_sizes(head_dim=8, rope_parameters={"rope_theta": 1000000.0})),
                  [Pooling(16, "lasttoken"), Normalize()], texts(left=True), older_rope(1000000.0), model=Qwen3Model)
    sentence_case("qwen2", Qwen2Config(**decoder_sizes(use_sliding_window=True, sliding_window=4, max_window_layers=1)),
                  [Pooling(16, "lasttoken")], texts(), model=Qwen2Model)
    llama_case("llama")
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    sentence_case("mistral", MistralConfig(**decoder_sizes(sliding_window=3, head_dim=6, rope_parameters=linear)),
                  [Pooling(16, "mean")], texts(left=True), older_rope(10000.0, {"type": "linear", "factor": 2.0}),
                  model=MistralModel)
