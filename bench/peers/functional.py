"""The models' forwards over a mapping of weights by name, for any array library that the given operations come from.

`w` maps the names of a Hugging Face checkpoint to arrays.
"""

from configs import Model, Stack, Vision


def transformer_block(ops, w, x, prefix, stack: Stack, causal):
    def name(part):
        return prefix + part

    hidden = ops.layer_norm(w, x, name("layer_norm1"), stack.epsilon)
    qkv = ops.qkv(w, hidden, [name(f"self_attn.{p}_proj") for p in "qkv"])
    attended = ops.attention(qkv, stack.heads, causal)
    x = x + ops.linear(w, attended, name("self_attn.out_proj"))
    hidden = ops.layer_norm(w, x, name("layer_norm2"), stack.epsilon)
    hidden = ops.activation(ops.linear(w, hidden, name("mlp.fc1")), stack.activation)
    return x + ops.linear(w, hidden, name("mlp.fc2"))


def encoder(ops, w, x, prefix, stack, causal=False):
    for layer in range(stack.layers):
        x = transformer_block(ops, w, x, f"{prefix}layers.{layer}.", stack, causal)
    return x


def vision(ops, w, images, prefix, config: Vision):
    patches = ops.patches(w, images, prefix + "embeddings.patch_embedding", config.patch)
    x = ops.with_class_token(w, patches, prefix + "embeddings.class_embedding")
    x = x + w[prefix + "embeddings.position_embedding.weight"]
    x = ops.layer_norm(w, x, prefix + "pre_layrnorm", config.stack.epsilon)
    x = encoder(ops, w, x, prefix + "encoder.", config.stack)
    return ops.layer_norm(w, x[:, 0], prefix + "post_layernorm", config.stack.epsilon)


def text(ops, w, ids, prefix, stack: Stack):
    x = ops.embedding(w, ids, prefix + "embeddings.token_embedding")
    x = x + w[prefix + "embeddings.position_embedding.weight"]
    x = encoder(ops, w, x, prefix + "encoder.", stack, causal=True)
    return ops.layer_norm(w, x[:, -1], prefix + "final_layer_norm", stack.epsilon)


def bert(ops, w, ids, stack: Stack):
    x = ops.embedding(w, ids, "embeddings.word_embeddings")
    x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = ops.layer_norm(w, x, "embeddings.LayerNorm", stack.epsilon)
    for layer in range(stack.layers):
        prefix = f"encoder.layer.{layer}."
        names = [prefix + f"attention.self.{p}" for p in ("query", "key", "value")]
        attended = ops.attention(ops.qkv(w, x, names), stack.heads, False)
        attended = ops.linear(w, attended, prefix + "attention.output.dense")
        x = ops.layer_norm(w, x + attended, prefix + "attention.output.LayerNorm", stack.epsilon)
        hidden = ops.activation(ops.linear(w, x, prefix + "intermediate.dense"), stack.activation)
        hidden = ops.linear(w, hidden, prefix + "output.dense")
        x = ops.layer_norm(w, x + hidden, prefix + "output.LayerNorm", stack.epsilon)
    return x.mean(1)


def clip_image(ops, w, images, model: Model):
    pooled = vision(ops, w, images, "vision_model.", model.vision)
    return ops.normalize(ops.linear(w, pooled, "visual_projection"))


def clip_text(ops, w, ids, model: Model):
    pooled = text(ops, w, ids, "text_model.", model.text)
    return ops.normalize(ops.linear(w, pooled, "text_projection"))


def clip_loss(ops, w, images, texts):
    logits = ops.exp(w["logit_scale"]) * (images @ texts.T)
    return (ops.diagonal_cross_entropy(logits) + ops.diagonal_cross_entropy(logits.T)) / 2


def loss(ops, w, inputs, model: Model):
    if model.kind == "vision":
        pooled = vision(ops, w, inputs["images"], "vision.", model.vision)
        return ops.cross_entropy(ops.linear(w, pooled, "head"), inputs["classes"])
    if model.kind == "clip":
        images = clip_image(ops, w, inputs["images"], model)
        return clip_loss(ops, w, images, clip_text(ops, w, inputs["ids"], model))
    queries = ops.normalize(bert(ops, w, inputs["queries"], model.text))
    documents = ops.normalize(bert(ops, w, inputs["documents"], model.text))
    return ops.diagonal_cross_entropy(20.0 * (queries @ documents.T))
