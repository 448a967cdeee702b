"""Training steps of this library and of its peers, taken in turn on the same cores.

Both sides start from one file of weights and inputs; a pairing whose losses differ by more than 1e-4 or whose gradients
differ by more than 1e-3 is an error (bf16: 1e-2 and 5e-2). Each pairing goes into bench/results/<processor>.json once it is
measured, in the place of what was there, and into the tables of the pages; with --out, only into that folder.
"""

import argparse
import importlib.metadata
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import processor
import results
import table
from configs import MODELS
from worker_process import Worker, take_in_turn

HERE = Path(__file__).resolve().parent
PEERS = {
    "torch-eager": ("float32", ["worker_torch.py"]),
    "torch-compile": ("float32", ["worker_torch.py", "--compile"]),
    "torch-bf16": ("bfloat16", ["worker_torch.py", "--bf16"]),
    "jax": ("float32", ["worker_jax.py"]),
}
# This library again: with one thread, or (for a cached step) with the whole batch at once.
OWN = {"one-thread": "float32", "direct": "float32"}
QUICK_PEERS = ("torch-eager", "torch-compile", "torch-bf16", "direct")
QUICK_ROUNDS, QUICK_SECONDS = 3, 20  # no more pairs are begun after so many seconds, beyond two


def measure_own(binary, model, peer, effort, threads):
    dtype = OWN[peer]
    ours = Worker([binary, "--dtype", dtype, "--threads", str(threads), "--serve", model])
    other_threads, other_model = (1, model) if peer == "one-thread" else (threads, model.partition("_cached_")[0])
    other = Worker([binary, "--dtype", dtype, "--threads", str(other_threads), "--serve", other_model])
    try:
        pairs = effort.take(ours, other)
        return result(dtype, pairs, ours, other) | own_figures(peer, pairs)
    finally:
        ours.close()
        other.close()


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def own_figures(peer, pairs):
    if peer != "direct":
        return {}
    return rounded({"cached_over_direct": statistics.median(own["seconds"] / other["seconds"] for own, other in pairs)})


class Effort:
    """How many pairs of steps are taken, at most."""

    def __init__(self, rounds, seconds=None):
        self.rounds, self.seconds = rounds, seconds

    def take(self, ours, theirs):
        deadline = None if self.seconds is None else time.monotonic() + self.seconds
        return take_in_turn(ours, theirs, self.rounds, deadline)


def result(dtype, pairs, ours, theirs, asks_gemm=False):
    """With `asks_gemm` the share is of the better ceiling: this library's products, or the peer's."""
    seconds = [[answer["seconds"] for answer in side] for side in zip(*pairs)]
    own = statistics.median(seconds[0])
    peaks = [worker.ask("peak")["bytes"] for worker in (ours, theirs)]  # before the ceiling is measured
    found = {
        "ratio": statistics.median(peer / own for own, peer in zip(*seconds)),
        "pairs": len(pairs),
        "ours_seconds": own,
        "peer_seconds": statistics.median(seconds[1]),
        "memory": peaks[0] / peaks[1],
        "ours_peak_bytes": peaks[0],
        "peer_peak_bytes": peaks[1],
    }
    if dtype == "float32":
        speed = ours.ask("flops")
        ceilings = {"ours": speed["gemm_ceiling"]}
        if asks_gemm:
            ceilings |= theirs.ask("gemm")
        found["gemm_flops_per_second"] = ceilings
        found["gemm_share"] = speed["flops"] / own / max(ceilings.values())
    return rounded(found)


def measure(binary, model, peer, effort, threads):
    if peer in OWN:
        return measure_own(binary, model, peer, effort, threads)
    dtype, script = PEERS[peer]
    with tempfile.TemporaryDirectory() as folder:
        reference = f"{folder}/reference.safetensors"
        own = [binary, "--dtype", dtype, "--threads", str(threads), "--serve", model]
        writer = Worker(own)
        writer.ask(f"reference {reference}")
        writer.close()
        ours = Worker(own)
        arguments = ["--model", model, "--reference", reference, "--threads", str(threads)]
        theirs = Worker([sys.executable, HERE / script[0], *script[1:], *arguments])
        try:
            difference = theirs.ask(f"compare {reference}")
            limits = (1e-4, 1e-3) if dtype == "float32" else (1e-2, 5e-2)
            if not (difference["loss"] <= limits[0] and difference["gradient"] <= limits[1]):
                raise RuntimeError(f"{model}, {peer}: not the same step: {difference}")
            pairs = effort.take(ours, theirs)
            package = peer.partition("-")[0]
            return {
                "peer_version": f"{package} {importlib.metadata.version(package)}",
                **result(dtype, pairs, ours, theirs, asks_gemm=package == "torch"),
                "loss_difference": difference["loss"],
                "gradient_difference": difference["gradient"],
            }
        finally:
            ours.close()
            theirs.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--out", type=Path, help="folder for <processor>.json, which leaves this repository's files alone")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peer", nargs="+", choices=[*PEERS, *OWN])
    parser.add_argument("--rounds", type=int, help="pairs of steps (default: 7)")
    parser.add_argument("--quick", action="store_true",
                        help="PyTorch alone, its bf16 where the processor has it, and two or three pairs of steps")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    here = processor.describe(cores=arguments.threads)
    peers = arguments.peer or ([*QUICK_PEERS] if arguments.quick else [*PEERS, "direct"])
    if arguments.quick and not arguments.peer and not {"avx512_bf16", "amx_bf16"} & {*here["flags"]}:
        peers.remove("torch-bf16")
    effort = Effort(arguments.rounds or QUICK_ROUNDS, QUICK_SECONDS) if arguments.quick else Effort(arguments.rounds or 7)
    path = (arguments.out or results.FOLDER) / f"{processor.slug(here)}.json"
    stamp = results.stamp_now(Path(arguments.binary).parents[1])
    print(f"{'model':26}{'peer':15}{'ours':>9}{'peer':>9}{'ratio':>7}{'memory':>8}{'of GEMM':>9}")
    for model in arguments.model:
        for peer in peers:
            if peer == "direct" and "_cached_" not in model:
                continue
            r = measure(arguments.binary, model, peer, effort, arguments.threads)
            results.record(path, here, {f"{model}/{peer}": r}, stamp)
            share = f"{100 * r['gemm_share']:8.1f}%" if "gemm_share" in r else ""
            print(f"{model:26}{peer:15}{r['ours_seconds']:8.3f}s{r['peer_seconds']:8.3f}s{r['ratio']:7.2f}"
                  f"{r['memory']:8.2f}{share}", flush=True)
    if not arguments.out:
        table.write()


if __name__ == "__main__":
    main()
