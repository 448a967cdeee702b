"""One model's training step in JAX, compiled as a whole. See protocol.py."""

import argparse
import os


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


arguments = parse()
# XLA takes as many threads as it sees processors, so it is shown no more.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.flax import load_file  # noqa: E402

import functional  # noqa: E402
from configs import ADAMW, MODELS  # noqa: E402
from protocol import resident_bytes, serve  # noqa: E402


class Ops:
    exp = staticmethod(jnp.exp)

    @staticmethod
    def linear(w, x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    @staticmethod
    def qkv(w, x, names):
        weight = jnp.concatenate([w[n + ".weight"] for n in names])
        return x @ weight.T + jnp.concatenate([w[n + ".bias"] for n in names])

    @staticmethod
    def layer_norm(w, x, name, epsilon):
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
        return centred * scale * w[name + ".weight"] + w[name + ".bias"]

    @staticmethod
    def attention(qkv, heads, causal):
        batch, tokens, width = qkv.shape
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, width // 3 // heads), 2, 0)
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(batch, tokens, width // 3)

    @staticmethod
    def activation(x, kind):
        return jax.nn.gelu(x, approximate=False) if kind == "gelu" else x * jax.nn.sigmoid(1.702 * x)

    @staticmethod
    def embedding(w, ids, name):
        return w[name + ".weight"][ids]

    @staticmethod
    def patches(w, images, name, patch):
        kernel = w[name + ".weight"]
        y = jax.lax.conv_general_dilated(images, kernel, (patch, patch), "VALID")
        return y.reshape(y.shape[0], y.shape[1], -1).transpose(0, 2, 1)

    @staticmethod
    def with_class_token(w, patches, name):
        token = jnp.broadcast_to(w[name], (patches.shape[0], 1, patches.shape[2]))
        return jnp.concatenate([token, patches], 1)

    @staticmethod
    def normalize(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    @staticmethod
    def cross_entropy(logits, targets):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1).mean()

    @staticmethod
    def diagonal_cross_entropy(logits):
        return -jnp.diagonal(jax.nn.log_softmax(logits)).mean()


class Training:
    def __init__(self, name, reference):
        tensors = load_file(reference)
        model = MODELS[name]
        self.inputs = {k[6:]: v for k, v in tensors.items() if k.startswith("input.")}
        self.weights = {k[7:]: v for k, v in tensors.items() if k.startswith("weight.")}
        self.state = jax.tree.map(jnp.zeros_like, (self.weights, self.weights))
        self.steps = 0

        def plain(weights):
            return functional.loss(Ops, weights, self.inputs, model)

        self.gradients = jax.jit(cached(model, self.inputs) if model.chunk else jax.value_and_grad(plain))
        self.update = jax.jit(adamw, donate_argnums=(0, 1))

    def step(self):
        loss, gradients = self.gradients(self.weights)
        self.steps += 1
        self.weights, self.state = self.update(self.weights, self.state, gradients, float(self.steps))
        jax.block_until_ready(self.weights)
        return float(loss)

    def compare(self, reference):
        """Relative differences of the loss and of all gradients from the reference's."""
        loss, gradients = self.gradients(self.weights)
        difference = total = 0.0
        with safe_open(reference, "flax") as file:
            own = float(file.metadata()["loss"])
            for name in file.keys():
                if name.startswith("gradient."):
                    expected = file.get_tensor(name)
                    difference += float(((expected - gradients[name[9:]]) ** 2).sum())
                    total += float((expected**2).sum())
        return {"loss": abs(float(loss) - own) / abs(own), "gradient": (difference / total) ** 0.5}


def cached(model, inputs):
    """Gradient caching: all representations, their loss, and each chunk again with its rows of the gradient."""

    def encode(weights, images, ids):
        return functional.clip_image(Ops, weights, images, model), functional.clip_text(Ops, weights, ids, model)

    def chunked(x):
        return x.reshape(-1, model.chunk, *x.shape[1:])

    def value_and_gradients(weights):
        chunks = chunked(inputs["images"]), chunked(inputs["ids"])
        reps = jax.lax.map(lambda c: encode(weights, *c), chunks)
        reps = tuple(r.reshape(-1, r.shape[-1]) for r in reps)
        loss, (own, cache) = jax.value_and_grad(
            lambda w, r: functional.clip_loss(Ops, w, *r), argnums=(0, 1))(weights, reps)

        def add(total, chunk):
            inputs, gradient = chunk
            _, pull = jax.vjp(lambda w: encode(w, *inputs), weights)
            return jax.tree.map(jnp.add, total, pull(gradient)[0]), None

        gradients, _ = jax.lax.scan(add, own, (chunks, tuple(chunked(c) for c in cache)))
        return loss, gradients

    return value_and_gradients


def adamw(weights, state, gradients, steps):
    a = ADAMW
    m = jax.tree.map(lambda m, g: a["beta1"] * m + (1 - a["beta1"]) * g, state[0], gradients)
    v = jax.tree.map(lambda v, g: a["beta2"] * v + (1 - a["beta2"]) * g * g, state[1], gradients)

    def update(w, m, v):
        w = w * (1 - a["learning_rate"] * a["weight_decay"]) if w.ndim >= 2 else w
        step = m / (1 - a["beta1"] ** steps) / (jnp.sqrt(v / (1 - a["beta2"] ** steps)) + a["epsilon"])
        return w - a["learning_rate"] * step

    return jax.tree.map(update, weights, m, v), (m, v)


if __name__ == "__main__":
    before = resident_bytes("VmRSS")
    serve(Training(arguments.model, arguments.reference), before)
