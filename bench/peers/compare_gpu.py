#!/usr/bin/env python3
"""Cached steps of CLIP by this library and by PyTorch, taken in turn on one GPU. Writes gpu_peers.json after each pairing.

Both sides hold the same weights and inputs. Of each model this library first takes the step's loss and gradients in f32;
both sides' bf16 steps are compared with those, and the pairing counts as the same step where

  - the losses differ from it by at most 1e-2 each, and
  - this library's gradients are no further from it than 5e-2, or than 1.25 times as far as PyTorch's.

A small f32 step is compared first: losses to 1e-4, gradients to 1e-3. Seconds are by the wall clock, from an idle device to
an idle device: forward, backward and AdamW. Memory is the most that was in use at once, as each side's allocator counts it.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from worker_process import Worker, take_in_turn

HERE = Path(__file__).resolve().parent
PEERS = {
    "eager": ["--precision", "autocast"],
    "compile": ["--precision", "autocast", "--compile"],
    # Faster and less exact than autocast: weights, norms and the residual stream in bf16.
    "eager_all_bf16": ["--precision", "bfloat16"],
    "compile_all_bf16": ["--precision", "bfloat16", "--compile"],
    "eager_f32": ["--precision", "float32"],
}


@dataclass(frozen=True)
class Pairing:
    model: str
    peer: str
    least: float  # seconds without which it is not begun
    most: float  # after which it is given up
    timed: bool = True

    @property
    def name(self):
        return f"{self.model} against {self.peer}"


# In the order in which they should be known if time runs out.
PAIRINGS = [
    Pairing("clip_b_32_b64_cached_16", "eager_f32", 20, 90, timed=False),
    Pairing("clip_b_32_b4096_cached_256", "eager", 30, 150),
    Pairing("clip_b_32_b4096_cached_256", "compile", 60, 240),
    Pairing("clip_l_14_b1024_cached_64", "eager", 60, 200),
    Pairing("clip_l_14_b1024_cached_64", "compile", 100, 300),
    Pairing("clip_b_32_b4096_cached_256", "eager_all_bf16", 30, 120),
    Pairing("clip_b_32_b4096_cached_256", "compile_all_bf16", 60, 200),
]
TINY = [Pairing("clip_tiny_b8_cached_4", peer, 1, 300, timed=peer != "eager_f32")
        for peer in ("eager_f32", "eager", "compile", "eager_all_bf16", "compile_all_bf16")]


def within(value, limit):
    """False for what is missing or NaN, too."""
    return value is not None and value <= limit


def same_step(ours, theirs):
    gradient = theirs["gradient"]
    return (within(ours["loss"], 1e-2) and within(theirs["loss"], 1e-2) and within(gradient, 0.5)
            and within(ours["gradient"], max(5e-2, 1.25 * gradient)))


class Comparison:
    def __init__(self, arguments, log):
        self.arguments, self.log = arguments, log
        self.out = Path(arguments.out)
        self.end = time.monotonic() + arguments.seconds
        self.report = {"date": datetime.date.today().isoformat(), "tf32": False, "peers": []}
        self.references = {}
        self.own, self.own_model, self.own_difference = None, None, None
        self.failed = False

    def worker(self, command, own=False):
        environment = dict(os.environ)
        if own and self.arguments.library_path:
            environment["LD_LIBRARY_PATH"] = self.arguments.library_path
        return Worker(command, environment, HERE, self.log)

    def own_command(self, model, dtype):
        command = [self.arguments.binary, "--serve", model, "--dtype", dtype]
        return command + ["--tiny"] if self.arguments.tiny else command

    def reference(self, folder, model, left):
        """A file of weights, inputs, loss and gradients, and the type they were computed in: f32, or bf16 where that fails."""
        for dtype, share in (("float32", 0.5), ("bfloat16", 1.0)):
            if model in self.references:
                break
            path = f"{folder}/{model}.safetensors"
            worker = self.worker(self.own_command(model, dtype), own=True)
            try:
                worker.ask(f"reference {path}", share * left())
                self.references[model] = path, dtype
            except (RuntimeError, TimeoutError) as error:
                print(f"{model}: no reference in {dtype}: {error}", flush=True)
                if dtype == "bfloat16":
                    raise
            finally:
                worker.close()
        return self.references[model]

    def ours(self, model, reference, seconds):
        """This library's process for a model in bf16, and how far it is from the reference."""
        if self.own_model != model:
            self.close()
            self.own = self.worker(self.own_command(model, "bfloat16"), own=True)
            self.own_model = model
            self.own_difference = self.own.ask(f"compare {reference}", seconds)
        return self.own, self.own_difference

    def close(self):
        if self.own:
            self.own.close()
        self.own, self.own_model = None, None

    def measure(self, pairing, folder):
        begin = time.monotonic()
        end = min(self.end, begin + pairing.most)

        def left():
            return max(1.0, end - time.monotonic())

        reference, reference_dtype = self.reference(folder, pairing.model, left)
        command = [self.arguments.python, HERE / "worker_torch_clip.py", "--model", pairing.model, "--reference", reference,
                   "--device", self.arguments.device, *PEERS[pairing.peer]]
        with contextlib.closing(self.worker(command)) as theirs:
            if "torch" not in self.report:
                self.report["torch"] = theirs.ask("describe", left())
                side = 64 if self.arguments.tiny else 8192
                self.report["torch_bf16_gemm_flops_per_second"] = theirs.ask(f"gemm {side}", left())["flops_per_second"]
            if not pairing.timed:
                difference = theirs.ask(f"compare {reference}", left())
                same = within(difference["loss"], 1e-4) and within(difference["gradient"], 1e-3)
                return {"reference": reference_dtype, "peer_difference": difference, "same_step": same}
            ours, own_difference = self.ours(pairing.model, reference, left())
            difference = theirs.ask(f"compare {reference}", left())
            prepared = time.monotonic() - begin
            pairs = take_in_turn(ours, theirs, self.arguments.rounds, end - 5, left())
            seconds = [[answer["seconds"] for answer in side] for side in zip(*pairs)]
            found = {
                "ours_seconds": statistics.median(seconds[0]),
                "peer_seconds": statistics.median(seconds[1]),
                "ratio": statistics.median(peer / own for own, peer in zip(*seconds)),
                "pairs": len(pairs),
                "all_seconds": seconds,
                "ours_peak_mebibytes": ours.ask("peak", left())["bytes"] / 2**20,
                "peer_peak_mebibytes": theirs.ask("peak", left())["bytes"] / 2**20,
                "reference": reference_dtype,
                "ours_difference": own_difference,
                "peer_difference": difference,
                "losses": [[pair[i]["loss"] for pair in pairs] for i in (0, 1)],
                "same_step": same_step(own_difference, difference),
                "seconds_to_prepare": prepared,
            }
            if self.arguments.profile:
                path = f"{folder}/profile.json"
                theirs.ask(f"profile {path}", left())
                found["peer_kernels"] = json.loads(Path(path).read_text())
            return found

    def run(self, pairings):
        print(f"{'cached step':30}{'peer':18}{'ours':>9}{'peer':>9}{'ratio':>7}{'memory':>8}  same step", flush=True)
        # A reference takes gigabytes; in memory it is soonest written and read.
        shared = Path("/dev/shm")
        roomy = shared.is_dir() and shutil.disk_usage(shared).free > 24 << 30
        with tempfile.TemporaryDirectory(dir=shared if roomy else None) as folder:
            for pairing in pairings:
                self.take(pairing, folder)
            self.close()

    def take(self, pairing, folder):
        entry = {"model": pairing.model, "peer": pairing.peer}
        left = self.end - time.monotonic()
        if left < pairing.least:
            entry["skipped"] = f"{left:.0f} s were left of {self.arguments.seconds:.0f}, it needs at least {pairing.least:.0f}"
        else:
            try:
                entry |= self.measure(pairing, folder)
            except (RuntimeError, TimeoutError, OSError, KeyError, ValueError) as error:
                entry["failed"] = str(error)[-2000:]
                self.close()
        self.report["peers"].append(entry)
        self.failed |= "failed" in entry or not entry.get("same_step", True)
        print(self.line(entry), flush=True)
        (self.out / "gpu_peers.json").write_text(json.dumps(self.report, indent=2) + "\n")

    @staticmethod
    def line(entry):
        start = f"{entry['model']:30}{entry['peer']:18}"
        if "ratio" in entry:
            start += (f"{entry['ours_seconds']:8.3f}s{entry['peer_seconds']:8.3f}s{entry['ratio']:7.2f}"
                      f"{entry['ours_peak_mebibytes'] / max(1e-9, entry['peer_peak_mebibytes']):8.2f}  ")
        for kind in ("skipped", "failed"):
            if kind in entry:
                return start + f"{kind}: {entry[kind]}"
        found = ", ".join(f"{side} {part} {entry[side + '_difference'][part]:.1e}" for part in ("loss", "gradient")
                          for side in ("ours", "peer") if entry.get(side + "_difference", {}).get(part) is not None)
        return start + ("yes" if entry["same_step"] else "NO") + f" ({found})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="bench_gpu")
    parser.add_argument("--library-path", help="LD_LIBRARY_PATH of that program alone")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch and safetensors")
    parser.add_argument("--out", default="bench/results")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="of PyTorch")
    parser.add_argument("--tiny", action="store_true", help="sizes that mean nothing, to try the program out")
    parser.add_argument("--profile", action="store_true", help="also name PyTorch's kernels and their seconds")
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=list(PEERS))
    arguments = parser.parse_args()
    arguments.binary = str(Path(arguments.binary).resolve())
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    with open(Path(arguments.out) / "gpu_peers.log", "w") as log:
        comparison = Comparison(arguments, log)
        try:
            comparison.run([p for p in (TINY if arguments.tiny else PAIRINGS) if p.peer in arguments.peer])
        finally:
            comparison.close()
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
