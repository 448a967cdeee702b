"""Draws random cases of every op, runs them through the library and through PyTorch, and compares results and gradients.

A case is right where each element is equal to PyTorch's, or as near as rounding allows to what PyTorch makes of the same
inputs in f64: within a few units in its last place, or a few times what PyTorch itself is off in the type of the case, or
what rounding the inputs once more would change.
"""

import argparse
import collections
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import safe_open, save_file

from draws import Draw
from losses import LOSSES
from ops import OPS

DRAWS = OPS + LOSSES
CASES_OF_FILE = 200
UNITS = 16  # in the last place, of an element by itself
SLACK = 8  # times the errors that PyTorch, or the rounding of the inputs, makes


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="tests/run_cases of a build")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; case i has seed + i")
    parser.add_argument("--minutes", type=float, help="go on for so long, however many cases that are")
    parser.add_argument("--op", help="cases of this op alone")
    parser.add_argument("--verbose", action="store_true", help="print every mismatch, with its inputs")
    return parser.parse_args()


def outcome(case, inputs, dy, reference=None):
    """The result and the wanted gradients, in the type of the inputs."""
    leaves = [x.detach().clone().requires_grad_() if wanted else x for x, wanted in zip(inputs, case.wanted)]
    y = (reference or case.reference)(*leaves)
    found = {"y": y.detach()}
    if y.requires_grad:
        dy = torch.ones_like(y) if dy is None else dy.to(y.dtype)
        wanted = [x for x, want in zip(leaves, case.wanted) if want]
        gradients = torch.autograd.grad(y, wanted, dy, allow_unused=True)
        places = [i for i, want in enumerate(case.wanted) if want]
        for i, x, gradient in zip(places, wanted, gradients):
            found[f"grad.{i}"] = torch.zeros_like(x) if gradient is None else gradient
    return found


def in_f64(inputs):
    return [x.double() if x is not None and x.is_floating_point() else x for x in inputs]


def perturbed(x, epsilon, generator):
    if x is None or not x.is_floating_point():
        return x
    signs = torch.randint(2, x.shape, generator=generator, dtype=torch.int8).double() * 2 - 1
    return torch.where(torch.isfinite(x), x * (1 + signs * epsilon), x)


def seeded(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Drawn:
    """A case, and what is right for it."""

    def __init__(self, seed, op):
        self.seed = seed
        rng = random.Random(seed)
        self.dtype = rng.choice([torch.float32, torch.float32, torch.float64])
        draws = DRAWS if op is None else [d for d in DRAWS if d(Draw(random.Random(0), torch.float32)).op == op]
        if not draws:
            sys.exit(f"there is no op '{op}'")
        self.case = draws[seed % len(draws)](Draw(rng, self.dtype))
        case = self.case
        exact_inputs = in_f64(case.inputs)
        with torch.no_grad():
            y = case.reference(*exact_inputs)
        self.dy = rng.choice([lambda: seeded(y, seed), lambda: torch.ones_like(y), lambda: seeded(y, seed).round()])()
        self.dy = self.dy.to(self.dtype if case.autocast == "float32" else getattr(torch, case.autocast)).to(self.dtype)
        self.peer = outcome(case, case.inputs, self.dy, case.peer)
        self.exact = outcome(case, exact_inputs, self.dy.double())
        self.epsilon = torch.finfo(self.dtype if case.autocast == "float32" else getattr(torch, case.autocast)).eps
        generator = torch.Generator().manual_seed(seed)
        # Several times: what moves an element may cancel by chance, and an element may be the only finite one.
        self.moved = [outcome(case, [perturbed(x, self.epsilon, generator) for x in exact_inputs],
                              perturbed(self.dy.double(), self.epsilon, generator)) for _ in range(4)]
        # What is exact in f64 for f32 is not for f64: there PyTorch's errors are those that it makes in f32, made smaller.
        self.narrow = None
        if self.dtype == torch.float64:
            self.narrow = outcome(case, [x if x is None or not x.is_floating_point() else x.float() for x in case.inputs],
                                  self.dy.float())
        floats = [x.abs().nan_to_num(0) for x in exact_inputs if x is not None and x.is_floating_point() and x.numel()]
        self.has_nan = any(x is not None and x.is_floating_point() and bool(x.isnan().any()) for x in exact_inputs)
        self.may_overflow = any(x.max() > math.sqrt(torch.finfo(self.dtype).max) / 1000 for x in floats)

    def tolerance(self, name):
        """How far each element may be off."""
        exact, peer = self.exact[name], self.peer[name].double()
        finite = lambda x: torch.where(torch.isfinite(x), x, 0.0)
        errors = finite((peer - exact).abs())
        if self.narrow is not None:
            scale = self.epsilon / torch.finfo(torch.float32).eps
            errors = torch.maximum(errors, finite((self.narrow[name].double() - exact).abs()) * scale)
        for moved in self.moved:
            errors = torch.maximum(errors, finite((moved[name] - exact).abs()))
        if self.case.mixing and errors.numel():
            errors = errors.max()
        least = 128 * torch.finfo(self.dtype).tiny  # exponentials below the least normal number may be 0, as of x σ(x)
        return UNITS * self.epsilon * (finite(exact.abs()) + self.case.size) + SLACK * errors + least

    def mismatch(self, name, found):
        """None, or what is wrong with the result of that name."""
        exact, peer = self.exact[name], self.peer[name]
        if found is None:
            return "is missing"
        if list(found.shape) != list(peer.shape) or found.dtype != peer.dtype:
            return f"is {found.dtype} {list(found.shape)}, PyTorch's {peer.dtype} {list(peer.shape)}"
        rounded = exact.to(self.dtype)
        same = (found == peer) | (found == rounded) | (found.isnan() & (peer.isnan() | rounded.isnan()))
        near = (found.double() - exact).abs() <= self.tolerance(name)
        # Where something overflows, the order of sums has a say in what is infinite or NaN.
        of_overflow = ~exact.isfinite() | (~peer.isfinite() & ~found.isfinite())
        if self.has_nan or not self.may_overflow:
            of_overflow = torch.zeros_like(of_overflow)
        wrong = ~(same | near | of_overflow)
        if not wrong.any():
            return None
        at = wrong.nonzero()[0].tolist()
        index = tuple(at)
        return (f"differs in {int(wrong.sum())} of {found.numel()}: at {at} {found[index].item():.9g}, "
                f"PyTorch {peer[index].item():.9g}, in f64 {exact[index].item():.17g}")


class Library:
    """The program that runs cases."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, drawn, folder):
        tensors, cases = {}, []
        for i, one in enumerate(drawn):
            case = one.case
            for k, x in enumerate(case.inputs):
                if x is not None:
                    tensors[f"{i}.in.{k}"] = x.detach().contiguous().clone()
            tensors[f"{i}.dy"] = one.dy.contiguous().clone()
            cases.append({"op": case.op, "inputs": [x is not None for x in case.inputs], "wanted": case.wanted,
                          "options": case.options, "autocast": case.autocast})
        given, results = folder / "cases.safetensors", folder / "results.safetensors"
        save_file(tensors, given, metadata={"cases": json.dumps(cases)})
        self.process.stdin.write(f"{given}\n{results}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            sys.exit(f"the program ended with {self.process.wait()} at one of the seeds {drawn[0].seed} … {drawn[-1].seed}")
        with safe_open(results, "pt") as file:
            errors = json.loads(file.metadata()["errors"])
            found = {name: file.get_tensor(name) for name in file.keys()}
        return errors, found


def main():
    options = arguments()
    torch.set_num_threads(1)
    library = Library(options.binary)
    end = time.monotonic() + 60 * options.minutes if options.minutes else None
    done, wrong = collections.Counter(), collections.Counter()
    seed = options.seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end if end else done.total() < options.cases:
            count = CASES_OF_FILE if end else min(CASES_OF_FILE, options.cases - done.total())
            drawn = [Drawn(seed + i, options.op) for i in range(count)]
            seed += count
            errors, found = library.run(drawn, Path(folder))
            for i, one in enumerate(drawn):
                op = one.case.op
                done[op] += 1
                reasons = [f"failed: {errors[str(i)]}"] if str(i) in errors else [
                    f"{name} {why}" for name in one.peer if (why := one.mismatch(name, found.get(f"{i}.{name}")))]
                if not reasons:
                    continue
                wrong[op] += 1
                if options.verbose or wrong[op] <= 3:
                    shapes = [list(x.shape) if x is not None else None for x in one.case.inputs]
                    print(f"seed {one.seed}: {op} of {one.dtype} {shapes}, {one.case.options}, {one.case.autocast}")
                    for reason in reasons:
                        print(f"  {reason}")
                    if options.verbose:
                        print(*[f"  input {k}: {x}" for k, x in enumerate(one.case.inputs)], sep="\n")
    for op, count in sorted(wrong.items()):
        print(f"{op}: {count} of {done[op]} differ")
    print(f"{done.total()} cases of {len(done)} ops, seeds {options.seed} … {seed - 1}: {wrong.total()} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
