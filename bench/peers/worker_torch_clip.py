"""The cached step of CLIP in PyTorch, on a GPU or the host, as somebody who cares for its speed writes it. See protocol.py.

Gradient caching as the package GradCache does it. Attention is torch's own (SDPA), AdamW is fused, queries, keys and values
are one product with one weight, patches are taken by a view and a product, each weight is rounded once for all chunks of a
pass, and nothing waits for the device before the step is done. TF32 is off: products of the loss are in f32 on both sides.

  --precision float32    all in f32
  --precision autocast   torch.autocast to bf16: layer norms and the residual stream stay in f32
  --precision bfloat16   bf16 copies of f32 weights and a bf16 residual stream; faster, and further from f32
"""

import argparse
import contextlib
import json
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open

import functional
from configs import ADAMW, described_clip
from protocol import resident_bytes, serve
from worker_torch import Ops

PARTS = ("q_proj", "k_proj", "v_proj")


class FastOps(Ops):
    @staticmethod
    def qkv(w, x, names):
        return FastOps.linear(w, x, names[0].replace("q_proj", "qkv_proj"))

    @staticmethod
    def patches(w, images, name, patch):
        weight = w[name + ".weight"]
        batch, channels, height, width = images.shape
        if torch.is_autocast_enabled(images.device.type):
            images = images.to(torch.get_autocast_dtype(images.device.type))  # before the copy, not after it
        x = images.to(weight.dtype) if weight.dtype == torch.bfloat16 else images
        x = x.view(batch, channels, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(x.reshape(batch, -1, channels * patch * patch), weight.flatten(1))

    @staticmethod
    def diagonal_cross_entropy(logits):
        return F.cross_entropy(logits, torch.arange(logits.shape[0], device=logits.device))


class RandomState:
    """The random numbers of a chunk's first forward, for its second."""

    def __init__(self, device):
        self.device = device
        self.host = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextlib.contextmanager
    def again(self):
        with torch.random.fork_rng([self.device] if self.cuda is not None else []):
            torch.set_rng_state(self.host)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def weights_and_inputs(reference, device):
    """Weights, with those of queries, keys and values joined, and inputs, from a reference file."""
    weights, inputs = {}, {}
    with safe_open(reference, "pt", device=str(device)) as file:
        for key in file.keys():
            kind, _, name = key.partition(".")
            if kind == "input":
                inputs[name] = file.get_tensor(key)
            elif kind == "weight" and not any(part in name for part in PARTS):
                weights[name] = file.get_tensor(key).requires_grad_()
            elif kind == "weight" and PARTS[0] in name:
                joined = [file.get_tensor(key.replace(PARTS[0], part)) for part in PARTS]
                weights[name.replace(PARTS[0], "qkv_proj")] = torch.cat(joined).requires_grad_()
    return weights, inputs


class Training:
    def __init__(self, name, reference, device, precision, compiled):
        self.model, self.device, self.precision = described_clip(name), device, precision
        self.weights, self.inputs = weights_and_inputs(reference, device)
        self.requests = {"describe": self.describe, "gemm": self.gemm, "profile": self.profile}
        model = self.model

        def image(w, x):
            return functional.clip_image(FastOps, w, x, model)

        def text(w, x):
            return functional.clip_text(FastOps, w, x, model)

        if compiled:
            image, text = torch.compile(image, dynamic=False), torch.compile(text, dynamic=False)
        self.encode = {"images": image, "ids": text}
        decayed = [p for p in self.weights.values() if p.dim() >= 2]
        others = [p for p in self.weights.values() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": ADAMW["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
            lr=ADAMW["learning_rate"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["epsilon"], fused=True)

    def autocast(self, enabled=True):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled and self.precision == "autocast")

    def working_weights(self):
        """The weights as the towers read them. A rounded one is shared by all chunks of a pass."""
        if self.precision != "bfloat16":
            return self.weights
        return {n: w.to(torch.bfloat16) for n, w in self.weights.items()}

    def loss_and_gradients(self):
        return self.cached_step() if self.model.chunk else self.direct_step()

    def direct_step(self):
        with self.autocast():
            w = self.working_weights()
            images, texts = (self.encode[n](w, self.inputs[n]).float() for n in ("images", "ids"))
        loss = functional.clip_loss(FastOps, self.weights, images, texts)
        loss.backward()
        return loss

    def cached_step(self):
        towers = {n: self.inputs[n].split(self.model.chunk) for n in ("images", "ids")}
        states = {n: [] for n in towers}
        leaves = {}
        # Two regions: within one, autocast keeps what it has rounded, and without a graph it would keep it without one.
        with torch.no_grad(), self.autocast():
            w = self.working_weights()
            for n, chunks in towers.items():
                reps = []
                for chunk in chunks:
                    states[n].append(RandomState(self.device))
                    reps.append(self.encode[n](w, chunk))
                leaves[n] = torch.cat(reps).float().requires_grad_()
        loss = functional.clip_loss(FastOps, self.weights, leaves["images"], leaves["ids"])
        loss.backward()
        with self.autocast():
            w = self.working_weights()
            for n, chunks in towers.items():
                for chunk, state, gradient in zip(chunks, states[n], leaves[n].grad.split(self.model.chunk)):
                    with state.again():
                        rep = self.encode[n](w, chunk)
                    with self.autocast(enabled=False):
                        rep.backward(gradient.to(rep.dtype))
        return loss.detach()

    def step(self):
        loss = self.loss_and_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return loss.item()

    def peak_bytes(self):
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident_bytes("VmHWM")

    def gradient(self, name):
        for place, part in enumerate(PARTS):
            if part in name:
                return self.weights[name.replace(part, "qkv_proj")].grad.chunk(3)[place]
        return self.weights[name].grad

    def compare(self, reference):
        """As `compare` of bench/train_step/serve.h."""
        loss = self.loss_and_gradients().item()
        norms = {}
        with safe_open(reference, "pt", device=str(self.device)) as file:
            own = float(file.metadata()["loss"])
            for key in file.keys():
                if key.startswith("gradient."):
                    expected = file.get_tensor(key)
                    difference = (self.gradient(key[9:]) - expected).double().norm().item()
                    norms[key[9:]] = difference, expected.double().norm().item()
        self.optimizer.zero_grad(set_to_none=True)
        differences, total = (sum(n[i] ** 2 for n in norms.values()) ** 0.5 for i in (0, 1))
        parts = {n: d / max(e, 1e-3 * total) for n, (d, e) in norms.items()}
        worst = max(parts, key=parts.get)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return {"loss": abs(loss - own) / abs(own), "gradient": differences / total, "worst": worst,
                "worst_gradient": parts[worst]}

    def describe(self, _):
        cuda = self.device.type == "cuda"
        return {"torch": torch.__version__,
                "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
                "cuda": torch.version.cuda if cuda else None,
                "cudnn": torch.backends.cudnn.version() if cuda else None}

    def gemm(self, side):
        """FLOP/s of bf16 products of random square matrices."""
        side = int(side)
        a, b = ((2 * torch.rand(side, side, device=self.device) - 1).bfloat16() for _ in range(2))
        best = []
        for _ in range(5):
            begin = self.clock()
            for _ in range(8):
                a @ b
            best.append(self.clock() - begin)
        return {"flops_per_second": 8 * 2 * side**3 / sorted(best[1:])[2]}

    def clock(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def profile(self, path):
        """Seconds and calls of each kernel of one step, the largest first, into a file."""
        cuda = self.device.type == "cuda"
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CUDA if cuda else activity.CPU]) as profiler:
            self.step()
        kernels = [{"kernel": e.key, "calls": e.count,
                    "seconds": 1e-6 * (e.self_device_time_total if cuda else e.self_cpu_time_total)}
                   for e in profiler.key_averages()]
        kernels.sort(key=lambda k: -k["seconds"])
        with open(path, "w") as file:
            json.dump(kernels[:60], file, indent=2)
        return {"written": path, "seconds": sum(k["seconds"] for k in kernels)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=("float32", "autocast", "bfloat16"), default="autocast")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    serve(Training(arguments.model, arguments.reference, device, arguments.precision, arguments.compile),
          resident_bytes("VmRSS"))


if __name__ == "__main__":
    main()
