"""One model's training step in PyTorch: eager, compiled, or under bf16 autocast. See protocol.py."""

import argparse
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import functional
from configs import ADAMW, MODELS
from protocol import resident_bytes, serve


class Ops:
    exp = staticmethod(torch.exp)
    cross_entropy = staticmethod(F.cross_entropy)

    @staticmethod
    def linear(w, x, name):
        return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

    @staticmethod
    def qkv(w, x, names):
        # As one product: what torch.nn.MultiheadAttention does, and faster than three.
        weight = torch.cat([w[n + ".weight"] for n in names])
        bias = torch.cat([w[n + ".bias"] for n in names])
        return F.linear(x, weight, bias)

    @staticmethod
    def layer_norm(w, x, name, epsilon):
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], epsilon)

    @staticmethod
    def attention(qkv, heads, causal):
        batch, tokens, width = qkv.shape
        q, k, v = qkv.view(batch, tokens, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return y.transpose(1, 2).reshape(batch, tokens, width // 3)

    @staticmethod
    def activation(x, kind):
        return F.gelu(x) if kind == "gelu" else x * torch.sigmoid(1.702 * x)

    @staticmethod
    def embedding(w, ids, name):
        return F.embedding(ids, w[name + ".weight"])

    @staticmethod
    def patches(w, images, name, patch):
        return F.conv2d(images, w[name + ".weight"], stride=patch).flatten(2).transpose(1, 2)

    @staticmethod
    def with_class_token(w, patches, name):
        return torch.cat([w[name].expand(patches.shape[0], 1, -1), patches], 1)

    @staticmethod
    def normalize(x):
        return F.normalize(x, dim=-1)

    @staticmethod
    def diagonal_cross_entropy(logits):
        return F.cross_entropy(logits, torch.arange(logits.shape[0]))


def best_seconds(run):
    best, end = float("inf"), time.perf_counter() + 1
    while time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


class Training:
    def __init__(self, name, reference, compiled, bf16):
        tensors = load_file(reference)
        self.model = MODELS[name]
        self.inputs = {k[6:]: v for k, v in tensors.items() if k.startswith("input.")}
        self.weights = {k[7:]: v.clone().requires_grad_() for k, v in tensors.items() if k.startswith("weight.")}
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        wrap = torch.compile if compiled else lambda f: f
        self.loss = wrap(lambda inputs: functional.loss(Ops, self.weights, inputs, self.model))
        self.encode = {
            "images": wrap(lambda x: functional.clip_image(Ops, self.weights, x, self.model)),
            "ids": wrap(lambda x: functional.clip_text(Ops, self.weights, x, self.model)),
        }
        self.requests = {"gemm": self.gemm}
        a = ADAMW
        decayed = [p for p in self.weights.values() if p.dim() >= 2]
        others = [p for p in self.weights.values() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": a["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
            lr=a["learning_rate"], betas=(a["beta1"], a["beta2"]), eps=a["epsilon"], fused=True)

    def loss_and_gradients(self):
        if self.model.chunk:
            return self.cached_step(self.model.chunk)
        with self.autocast:
            loss = self.loss(self.inputs)
        loss.backward()
        return loss.item()

    def cached_step(self, chunk):
        """Gradient caching as the package GradCache does it; without dropout there is no random state to keep."""
        towers = {n: self.inputs[n].split(chunk) for n in ("images", "ids")}
        with torch.no_grad(), self.autocast:
            reps = {n: torch.cat([self.encode[n](c) for c in chunks]).float() for n, chunks in towers.items()}
        leaves = {n: r.requires_grad_() for n, r in reps.items()}
        loss = functional.clip_loss(Ops, self.weights, leaves["images"], leaves["ids"])
        loss.backward()
        for n, chunks in towers.items():
            for c, gradient in zip(chunks, leaves[n].grad.split(chunk)):
                with self.autocast:
                    rep = self.encode[n](c)
                rep.float().backward(gradient)
        return loss.item()

    def step(self):
        loss = self.loss_and_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def gemm(self, _):
        """FLOP/s of f32 products of 1024 × 1024 matrices, by torch.mm and by oneDNN, the best of a second each."""
        a, b = torch.full((1024, 1024), 0.5), torch.full((1024, 1024), 0.25)
        ways = {"torch.mm": lambda: torch.mm(a, b)}
        if torch.backends.mkldnn.is_available():
            tiled, weight = a.to_mkldnn(), b.to_mkldnn()
            ways["oneDNN"] = lambda: F.linear(tiled, weight)
        with torch.no_grad():
            return {way: 2 * 1024**3 / best_seconds(run) for way, run in ways.items()}

    def compare(self, reference):
        """Largest relative difference of a gradient from the reference's, and that of the loss."""
        from safetensors import safe_open

        loss = self.loss_and_gradients()
        worst = 0.0
        with safe_open(reference, "pt") as file:
            own = float(file.metadata()["loss"])
            largest = {}
            for name in file.keys():
                if name.startswith("gradient."):
                    expected, found = file.get_tensor(name), self.weights[name[9:]].grad
                    largest[name] = (expected - found).norm(), expected.norm()
            total = torch.stack([e for _, e in largest.values()]).norm()
            difference = torch.stack([d for d, _ in largest.values()]).norm()
            worst = (difference / total).item()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": abs(loss - own) / abs(own), "gradient": worst}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    before = resident_bytes("VmRSS")
    serve(Training(arguments.model, arguments.reference, arguments.compile, arguments.bf16), before)
