#!/usr/bin/env python3
"""What a cached step of CLIP ViT-B/32 costs in so many processes: a model from measured parts and assumed networks.

    bench/cost_model.py            prints the tables, which bench/peers/table.py puts into docs/distributed.md
    ./run bench cost_model         measures the parts, records them for this processor, and puts the tables there

The parts are the figure "step_parts" of bench/results/<processor>.json, of the processor that was measured last; what else goes
in is below, and named an assumption.
"""

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench" / "peers"))
sys.dont_write_bytecode = True

import results  # noqa: E402

WHOLE_PAIRS = 32  # of the whole steps that the model is held against
WHOLE_STEP = ["--batch", WHOLE_PAIRS, "--chunk", 16, "--threads", 1, "--steps", 1]
WORST = 0.5  # share of its time that a process must get of one alone, to count as scaling

# Calls of a step that carry next to nothing (docs/distributed.md, "What happens when").
SMALL_GATHERS, SMALL_REDUCTIONS, BROADCASTS = 5, 3, 1
GATHERED_FLOATS = 4
ALONE = 256 << 10   # bytes of a gradient that has a call of its own (gradcache/gradient_reduction.cpp)
BUCKET = 16 << 20   # and of those that have one together (StepOptions::reduction)
KEPT_CHUNKS = 2     # of the tower that is forwarded last, as bench_processes keeps them


@dataclass(frozen=True)
class Network:
    name: str
    latency: float    # seconds of a message
    bandwidth: float  # bytes a second, in each direction of each process
    tree: bool        # whether a large sum's latency grows with log2 of the processes (NCCL) or with their number (MPI)


@dataclass(frozen=True)
class Setting:
    name: str
    speed: float  # how many times as fast as the processor that the parts were measured on
    pairs: int    # of each process
    network: Network


# Assumptions. Bandwidth is what is left of the nominal one for a program; a latency is that of a small message.
ETHERNET = Network("10 GbE", 30e-6, 1.1e9, False)
FABRIC = Network("100 Gb/s", 5e-6, 11e9, False)
FABRIC_NCCL = Network("100 Gb/s by NCCL", 10e-6, 11e9, True)
NVLINK = Network("NVLink between all, by NCCL", 5e-6, 300e9, True)
SETTINGS = [
    Setting("a core", 1, 64, ETHERNET),
    Setting("a server, 32 × the core", 32, 256, ETHERNET),
    Setting("a server, 32 × the core", 32, 256, FABRIC),
    Setting("a GPU, 1,000 × the core", 1000, 1024, FABRIC_NCCL),
    Setting("a GPU, 1,000 × the core", 1000, 1024, NVLINK),
]
PROCESSES = [8, 64, 256, 1024]


@dataclass(frozen=True)
class Step:
    """Seconds of a step, by what they go to."""
    encoders: float
    loss: float
    gathers: float
    reduction: float  # of the gradients, as far as nothing hides it
    agreement: float  # of the small calls

    @property
    def communication(self):
        return self.gathers + self.reduction + self.agreement

    @property
    def seconds(self):
        return self.encoders + self.loss + self.communication

    def most(self):
        return max(("loss", "gathers", "reduction", "agreement"), key=lambda part: getattr(self, part))


def calls_of(gradient_bytes):
    """Bytes of each reduction."""
    small = sum(size for size in gradient_bytes if size < ALONE)
    return [size for size in gradient_bytes if size >= ALONE] + [BUCKET] * int(small // BUCKET) + ([small % BUCKET] or [])


def log2(processes):
    return math.ceil(math.log2(processes))


def moved(network, processes, size):
    """A gather, or a reduce-scatter, of so many bytes of all processes together."""
    return (processes - 1) * network.latency + size * (processes - 1) / processes / network.bandwidth


def summed(network, processes, size):
    """An all-reduce."""
    latency = 2 * log2(processes) if network.tree else 2 * (processes - 1)
    return latency * network.latency + 2 * size * (processes - 1) / processes / network.bandwidth


def agreed(network, processes):
    return 2 * log2(processes) * network.latency


def loss_seconds(parts, pairs, processes, shared):
    """N² logits, whole or a rank's share of them, at what one of the largest measured loss costs."""
    largest = max(parts["loss"], key=lambda measured: measured["pairs"])
    if not shared:
        return largest["whole"] * (pairs / largest["pairs"]) ** 2
    return largest["shared"] * largest["ranks"] * (pairs / largest["pairs"]) ** 2 / processes


def step(parts, setting, processes, shared=False, overlap=False, kept_chunks=KEPT_CHUNKS):
    image, text, network, own = parts["image"], parts["text"], setting.network, setting.pairs
    pairs = own * processes
    kept = min(own, kept_chunks * parts["chunk"])
    second_of_text = own * text["backward"] - kept * text["forward"]
    encoders = own * (image["forward"] + text["forward"] + image["backward"]) + second_of_text + parts["optimizer"]
    loss = loss_seconds(parts, pairs, processes, shared)
    if processes == 1:
        return Step(encoders / setting.speed, loss / setting.speed, 0, 0, 0)
    side = pairs * parts["width"] * GATHERED_FLOATS
    # Whole: both sides are gathered. Shared: the targets, whose gradient goes back, and two sums over the columns.
    gathers = 2 * moved(network, processes, side)
    if shared:
        gathers += 2 * summed(network, processes, pairs * GATHERED_FLOATS)
    reductions = {side: sum(summed(network, processes, size) for size in calls_of(parts[side]["gradient_bytes"]))
                  for side in ("image", "text")}
    # The image tower's gradients travel while the text tower is forwarded again.
    hidden = min(reductions["image"], second_of_text / setting.speed) if overlap else 0
    reduction = sum(reductions.values()) - hidden
    meetings, calls = SMALL_REDUCTIONS + BROADCASTS, sum(len(calls_of(tower["gradient_bytes"])) for tower in (image, text))
    if network.tree:  # the ranks meet by a small sum before each call of NCCL
        meetings += 2 + calls
    if overlap:  # and ask each other before each reduction whether one has given up
        meetings += calls
    agreement = SMALL_GATHERS * (processes - 1) * network.latency + meetings * agreed(network, processes)
    return Step(encoders / setting.speed, loss / setting.speed, gathers, reduction, agreement)


def efficiency(parts, setting, processes, **ways):
    return step(parts, setting, 1).seconds / step(parts, setting, processes, **ways).seconds


def end_of_scaling(parts, setting, **ways):
    """The first power of two of processes at which more than half of the time goes to what one alone has not, and to what most;
    (None, None) up to 2^20."""
    for exponent in range(1, 21):
        if efficiency(parts, setting, 2**exponent, **ways) < WORST:
            return 2**exponent, step(parts, setting, 2**exponent, **ways).most()
    return None, None


WAYS = {"whole": {}, "shared": {"shared": True}, "shared and overlapped": {"shared": True, "overlap": True}}
PART_NAMES = {"loss": "the loss", "gathers": "representations", "reduction": "gradients", "agreement": "small calls"}


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def written(seconds):
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3f}"


def cell(made):
    return f"{written(made.seconds)} ({100 * made.communication / made.seconds:.0f} %)"


def table(parts):
    lines = [row("a process is", "network", "pairs of each", "processes", "whole loss", "shared loss", "and overlapped"),
             "|---" * 7 + "|"]
    for setting in SETTINGS:
        for processes in PROCESSES:
            cells = [cell(step(parts, setting, processes, **ways)) for ways in WAYS.values()]
            lines.append(row(setting.name, setting.network.name, f"{setting.pairs:,}", f"{processes:,}", *cells))
    return lines


def ends(parts):
    lines = [row("a process is", "network", "alone, seconds", "whole loss", "shared loss", "and overlapped"), "|---" * 6 + "|"]
    for setting in SETTINGS:
        cells = []
        for ways in WAYS.values():
            processes, part = end_of_scaling(parts, setting, **ways)
            cells.append(f"{processes:,}: {PART_NAMES[part]}" if processes else "–")
        alone = written(step(parts, setting, 1).seconds)
        lines.append(row(setting.name, setting.network.name, alone, *cells))
    return lines


def inputs(parts, processor):
    image, text = parts["image"], parts["text"]
    largest = max(parts["loss"], key=lambda measured: measured["pairs"])
    sums = sum(map(sum, (image["gradient_bytes"], text["gradient_bytes"])))
    reductions = sum(len(calls_of(side["gradient_bytes"])) for side in (image, text))

    def milliseconds(seconds):
        return f"{1e3 * seconds:.0f} ms"

    rows = [
        ("first forward, a pair", f"{milliseconds(image['forward'])} image, {milliseconds(text['forward'])} text"),
        ("second forward with backward, a pair",
         f"{milliseconds(image['backward'])} image, {milliseconds(text['backward'])} text"),
        ("AdamW", milliseconds(parts["optimizer"])),
        (f"loss of {largest['pairs']:,} pairs and its gradient, whole", f"{largest['whole']:.1f} s"),
        (f"the same, one of {largest['ranks']} ranks' part of the shared one", f"{largest['shared']:.2f} s"),
        ("gradients of the encoders", f"{sums / 1e6:.0f} MB in {reductions} reductions"),
        ("a representation", f"{parts['width']} numbers of f32"),
    ]
    head = row(f"measured on one core of {processor['name']}, {parts['date']}", "")
    return [head, "|---" * 2 + "|", *(row(*cells) for cells in rows)]


def assumptions():
    lines = [row("assumed network", "latency of a message", "bytes a second", "latency of a sum over W processes"),
             "|---" * 4 + "|"]
    for network in dict.fromkeys(setting.network for setting in SETTINGS):
        growth = "2·log₂ W messages" if network.tree else "2·(W − 1) messages"
        lines.append(row(network.name, f"{1e6 * network.latency:.0f} µs", f"{network.bandwidth / 1e9:g} GB", growth))
    return lines


def measured_network(link):
    """The network that an all-reduce of two processes makes of what a small and a large one took."""
    return Network("of this machine", link["small_seconds"] / 2, link["large_bytes"] / link["large_seconds"], False)


def held_against(result):
    """Whole steps of this processor beside what the model makes of its parts."""
    figures = result["figures"]
    if "step_link" not in figures:
        return []
    network = measured_network(figures["step_link"])
    lines = ["", row("whole steps on that machine", "measured, seconds", "by the model"), "|---" * 3 + "|"]
    for whole in figures["step_processes"]["steps"]:
        processes = whole["processes"]
        made = step(figures["step_parts"], Setting("", 1, whole["pairs"] // processes, network), processes, overlap=True)
        name = f"{whole['pairs']} pairs, {processes} process{'es' if processes > 1 else ''} of one thread"
        lines.append(row(name, written(whole["seconds"]), written(made.seconds)))
    return lines


def measured_last(stored):
    """Of the results of processors, the one whose parts are the newest; None where no parts are in any."""
    return max((result for result in stored if "step_parts" in result["figures"]),
               key=lambda result: result["figures"]["step_parts"]["date"], default=None)


def pages(stored):
    result = measured_last(stored)
    if result is None:
        return ["Not measured yet: `./run bench cost_model` does it."]
    parts = result["figures"]["step_parts"]
    return [*inputs(parts, result["processor"]), *held_against(result), "", *assumptions(), "", *table(parts), "",
            f"Where it stops scaling: how many processes there are when each first has less than {100 * WORST:.0f} % of its",
            "speed alone, and what takes most of the rest:", "", *ends(parts)]


def text_of(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure(build, launcher):
    """Records this processor's parts and whole steps of one process; with a launcher, those of two processes of this machine
    too, and what a message between them costs."""
    import processor
    programs = Path(build) / "bench"
    whole = [str(programs / "bench_processes"), *map(str, WHOLE_STEP)]
    alone = float(text_of(whole))
    steps = [{"processes": 1, "pairs": WHOLE_PAIRS, "seconds": alone}]
    figures = {"step_parts": json.loads(text_of([programs / "bench_step_parts"]))}
    if launcher:
        two = shlex.split(launcher)
        figures["step_link"] = json.loads(text_of([*two, str(programs / "bench_link")]))
        said = text_of([*two, *whole])
        seconds = float(re.search(r"seconds a step +([0-9.]+)", said)[1])
        steps.append({"processes": 2, "pairs": WHOLE_PAIRS, "seconds": seconds})
    figures["step_processes"] = {"steps": steps}
    here = processor.describe()
    results.record(results.FOLDER / f"{processor.slug(here)}.json", here, figures, results.stamp_now(build))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="BUILD")
    parser.add_argument("--launcher", default="", help="that starts two processes of MPI, such as 'mpirun -n 2 --bind-to none'")
    arguments = parser.parse_args()
    import table
    if arguments.measure:
        measure(arguments.measure, arguments.launcher)
        table.write()
    else:
        print("\n".join(pages(table.stored_results())))


if __name__ == "__main__":
    main()
