"""Takes training steps in two processes of one thread, by MPI, in turn with one process of two threads, and records the ratio.

    ./run bench processes [--rounds N] [--link-steps N] [--no-record] [arguments of bench_processes]

What else the machine does falls on both sides of a round. Then takes steps as over a link of 1 Gbit/s, also of half the pairs
in chunks of half the size, to see how much of the gradients' journey backward hides. Prints what bench_processes says of
the last round, and puts "processes_2x1_over_1x2", "reduction_hidden" and "reduction_hidden_half" into
bench/results/<processor>.json, unless --batch, --chunk or --tiny asks for another step.
"""

import argparse
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

import processor  # noqa: E402
import results  # noqa: E402
import table  # noqa: E402

ANOTHER_STEP = ("--batch", "--chunk", "--tiny")
HALF = ("--batch", "32", "--chunk", "8")


def output_of(command, seconds):
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        sys.exit(f"bench processes: {command[0]} has not ended after {seconds} s")
    if run.returncode != 0:
        sys.exit(f"bench processes: {' '.join(command)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout


def field(pattern, text):
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"bench processes: no {pattern!r} in what bench_processes printed:\n{text}")
    return found[1]


def compare_rounds(arguments, passed):
    pairs, said = [], ""
    for number in range(1, arguments.rounds + 1):
        alone = float(output_of([arguments.program, "--threads", "2", *passed], 300))
        both = [*shlex.split(arguments.launcher), arguments.program, "--threads", "1", "--against", str(alone)]
        said = output_of([*both, *passed], 300)
        pairs.append((float(field(r"seconds a step +([0-9.]+)", said)), alone))
        print(f"round {number}: {pairs[-1][0]:.3f} s in two processes, {alone:.3f} s in one", flush=True)
    ratio = statistics.median(two / one for two, one in pairs)
    print(f"{said.rstrip()}\nmedian of the ratios   {ratio:.3f}, of {len(pairs)} rounds", flush=True)
    return {"value": round(ratio, 4), "rounds": len(pairs),
            "seconds": statistics.median(two for two, _ in pairs),
            "alone_seconds": statistics.median(one for _, one in pairs),
            "bytes_over_least": float(field(r"least possible ([0-9.]+)", said))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--launcher", required=True, help="command that starts two processes")
    parser.add_argument("--build", required=True)
    parser.add_argument("--rounds", type=int, default=3, help="0: only those over a link (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="of a round (default: %(default)s)")
    parser.add_argument("--link-steps", type=int, default=3, help="of each kind, as over a link (default: %(default)s)")
    parser.add_argument("--no-record", action="store_true")
    arguments, passed = parser.parse_known_args()
    is_another = any(word.split("=")[0] in ANOTHER_STEP for word in passed)
    over_link = [*passed, "--steps", str(arguments.link_steps)]
    passed += ["--steps", str(arguments.steps)]
    figures = {}
    if arguments.rounds > 0:
        figures["processes_2x1_over_1x2"] = compare_rounds(arguments, passed)
    slowed = [*shlex.split(arguments.launcher), arguments.program, "--threads", "1", "--link", "1000"]
    for name, step in [("reduction_hidden", ())] + ([] if is_another else [("reduction_hidden_half", HALF)]):
        said = output_of([*slowed, *over_link, *step], 1800)
        print(said, end="", flush=True)
        figures[name] = {"value": float(field(r"hidden +([-0-9.]+)", said)),
                         "journey_seconds": float(field(r"journey +([0-9.]+)", said)),
                         "seconds": float(field(r"([0-9.]+) beside", said)),
                         "seconds_after": float(field(r"([0-9.]+) with it after", said)),
                         "seconds_without": float(field(r"([0-9.]+) without", said)), "steps": arguments.link_steps}
    if arguments.no_record or is_another:
        return
    here = processor.describe()
    path = results.FOLDER / f"{processor.slug(here)}.json"
    results.record(path, here, figures, results.stamp_now(arguments.build))
    table.write()
    print(f"recorded in {path}")


if __name__ == "__main__":
    main()
