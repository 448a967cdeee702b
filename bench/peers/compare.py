"""Training steps of this library and of its peers, taken in turn on the same cores. Writes peers.json.

Both sides start from one file of weights and inputs; a pairing whose losses differ by more than 1e-4 or whose gradients
differ by more than 1e-3 is an error (bf16: 1e-2 and 5e-2).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

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


def measure_own(binary, model, peer, rounds, threads):
    dtype = OWN[peer]
    ours = Worker([binary, "--dtype", dtype, "--threads", str(threads), "--serve", model])
    other_threads, other_model = (1, model) if peer == "one-thread" else (threads, model.partition("_cached_")[0])
    other = Worker([binary, "--dtype", dtype, "--threads", str(other_threads), "--serve", other_model])
    try:
        pairs = take_in_turn(ours, other, rounds)
        return result(model, dtype, peer, pairs, ours, other)
    finally:
        ours.close()
        other.close()


def result(model, dtype, peer, pairs, ours, theirs):
    pairs = [(own["seconds"], other["seconds"]) for own, other in pairs]
    seconds = statistics.median(p[0] for p in pairs)
    peaks = [worker.ask("peak")["bytes"] for worker in (ours, theirs)]  # before the ceiling is measured
    speed = ours.ask("flops")
    return {
        "model": model,
        "dtype": dtype,
        "peer": peer,
        "ours_seconds": seconds,
        "peer_seconds": statistics.median(p[1] for p in pairs),
        "ratio": statistics.median(p[1] / p[0] for p in pairs),
        "ours_peak_bytes": peaks[0],
        "peer_peak_bytes": peaks[1],
        "gemm_share": speed["flops"] / seconds / speed["gemm_ceiling"],
    }


def measure(binary, model, peer, rounds, threads):
    if peer in OWN:
        return measure_own(binary, model, peer, rounds, threads)
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
            pairs = take_in_turn(ours, theirs, rounds)
            return {
                **result(model, dtype, peer, pairs, ours, theirs),
                "loss_difference": difference["loss"],
                "gradient_difference": difference["gradient"],
            }
        finally:
            ours.close()
            theirs.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--out", default="out/bench")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peer", nargs="+", choices=[*PEERS, *OWN], default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    print(f"{'model':26}{'peer':15}{'ours':>9}{'peer':>9}{'ratio':>7}{'memory':>8}{'of GEMM':>9}")
    for model in arguments.model:
        for peer in arguments.peer:
            if peer == "direct" and "_cached_" not in model:
                continue
            r = measure(arguments.binary, model, peer, arguments.rounds, arguments.threads)
            results.append(r)
            print(f"{model:26}{peer:15}{r['ours_seconds']:8.3f}s{r['peer_seconds']:8.3f}s{r['ratio']:7.2f}"
                  f"{r['ours_peak_bytes'] / r['peer_peak_bytes']:8.2f}{100 * r['gemm_share']:8.1f}%", flush=True)
            (out / "peers.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
