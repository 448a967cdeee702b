"""Training steps of two builds of this library, taken in turn: whether a change has made them slower.

Prints, for each model, the other build's seconds over this one's, as the median of pairs of steps with its quartiles: below 1
this build is slower. The losses of the first step are printed too. PyTorch is not needed.
"""

import argparse
import os
import statistics
import sys

from configs import MODELS
from worker_process import Worker


def step_pairs(this, other, seconds):
    """Pairs of answers to `step` until steps have taken so long, three at least; each build begins every second pair."""
    pairs, taken = [], 0.0
    while taken < seconds or len(pairs) < 3:
        asked = (this, other) if len(pairs) % 2 == 0 else (other, this)
        answers = [worker.ask("step") for worker in asked]
        pairs.append(answers if asked[0] is this else answers[::-1])
        taken += sum(answer["seconds"] for answer in answers)
    return pairs


def quartiles(ratios):
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="bench_train_step of this build")
    parser.add_argument("other", help="bench_train_step of the other build")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=180, help="of steps, for each model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if not os.access(arguments.other, os.X_OK):
        sys.exit(f"compare_builds: {arguments.other} cannot be executed; expected bench/bench_train_step of another build")
    for model in arguments.model:
        this, other = (Worker([binary, "--threads", arguments.threads, "--serve", model])
                       for binary in (arguments.binary, arguments.other))
        try:
            losses = [worker.ask("step")["loss"] for worker in (this, other)]
            pairs = step_pairs(this, other, arguments.seconds)
        finally:
            this.close()
            other.close()
        own, others = ([answer["seconds"] for answer in side] for side in zip(*pairs))
        ratios = [b / a for a, b in zip(own, others)]
        print(f"{model:24} {quartiles(ratios)} of {len(pairs)} pairs; {statistics.median(own):.3f} s here, "
              f"{statistics.median(others):.3f} s there; losses {losses[0]:.6f}, {losses[1]:.6f}", flush=True)


if __name__ == "__main__":
    main()
