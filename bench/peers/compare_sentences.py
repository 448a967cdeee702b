#!/usr/bin/env python3
"""Fine-tunes all-MiniLM-L6-v2 in turn with sentence-transformers, by `./run bench peers --sentence-transformers`.

Both take the same batch of pairs (descriptions of Debian's packages, see demos/minilm_finetune), one by the program `tapecache`
in chunks of 4,096 tokens, its default, the other by `CachedMultipleNegativesRankingLoss` in mini-batches of 32 texts of at most
128 tokens. Without dropout the first step's loss and gradient are compared; then each takes steps in turn, as a user has them,
tokens and optimiser included, and encodes texts of mixed length. After as many steps of one learning rate, each searches among
pairs that were held out. Figures go into bench/results/<processor>.json.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
from safetensors.numpy import load_file

import processor
import results
import table
from worker_process import Worker

sys.path.insert(0, str(results.ROOT / "demos" / "minilm_finetune"))
from debian_pairs import pairs, write_tsv  # noqa: E402
from minilm_folder import minilm_folder  # noqa: E402
from minilm_finetune import cache_folder  # noqa: E402

ENCODED = 2000


def relative(ours, theirs):
    return float(numpy.linalg.norm(ours.astype(numpy.float64) - theirs) / numpy.linalg.norm(theirs.astype(numpy.float64)))


class Ours:
    def __init__(self, options, model, batch):
        self.options, self.model, self.batch = options, model, batch

    def run(self, *arguments):
        """Its output, seconds, and the most bytes that it had."""
        begin = time.perf_counter()
        process = subprocess.Popen([self.options.program, *map(str, arguments), "--threads", str(self.options.threads)],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"tapecache {arguments[0]} ended with {process.returncode}:\n{said}")
        return said, time.perf_counter() - begin, usage.ru_maxrss * 1024

    def train(self, out, steps, *more):
        said, _, peak = self.run(
            "train", "--model", self.model, "--pairs", self.batch, "--out", out, "--batch", self.options.pairs,
            "--steps", steps, "--max-tokens", self.options.max_tokens, "--rate", "5e-5",
            "--eval-share", "0", "--clip-norm", "0", "--scale", "20", *more)
        with open(f"{out}.run/metrics.jsonl", encoding="utf-8") as file:
            taken = [line for line in map(json.loads, file) if line["kind"] == "train"]
        return taken, peak, float(re.search(r"ready after ([\d.]+) s", said)[1])

    def gradients(self, folder):
        """Of AdamW's first moment, (1 - β₁) g after one step."""
        taken, _, _ = self.train(folder / "equal", 1, "--dropout", "0")
        state = load_file(f"{folder / 'equal'}.run/checkpoint.safetensors")
        prefix = "optimizer.m."
        return taken[0]["loss"], {name[len(prefix):]: value / 0.1 for name, value in state.items() if name.startswith(prefix)}


def compare_first_step(ours, theirs, folder):
    loss, gradients = ours.gradients(folder)
    expected = theirs.ask(f"gradients {folder / 'gradients.safetensors'}")["loss"]
    reference = load_file(folder / "gradients.safetensors")
    gradients = {name: gradients[name] for name in reference}
    whole = relative(numpy.concatenate([gradients[name].ravel() for name in reference]),
                     numpy.concatenate([reference[name].ravel() for name in reference]))
    print(f"first step: loss {loss:.6f} and {expected:.6f}; gradients differ by {whole:.1e} of their norm "
          f"({len(reference)} tensors)", flush=True)
    return abs(loss - expected) / abs(expected), whole


def compare_steps(ours, theirs, options, folder):
    """Seconds a step and peak bytes of each, in turn."""
    seconds, peaks = ([], []), [0, 0]
    first = []
    for round_ in range(options.rounds):
        taken, peaks[0], began = ours.train(folder / f"step{round_}", 2)
        first.append(began)
        seconds[0].append(taken[-1]["seconds"])
        seconds[1].append(theirs.ask("step")["seconds"])
        print(f"step {round_ + 1}: {seconds[0][-1]:.2f} s and {seconds[1][-1]:.2f} s", flush=True)
    with open(f"/proc/{theirs.process.pid}/status") as status:
        peaks[1] = int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024
    return [statistics.median(times) for times in seconds], peaks, statistics.median(first)


def compare_encoding(ours, theirs, options, folder, texts):
    path = folder / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    ratios = []
    for _ in range(options.rounds):
        _, mine, _ = ours.run("embed", "--model", ours.model, "--input", path, "--out", folder / "v.safetensors",
                              "--max-tokens", options.max_tokens)
        ratios.append(theirs.ask(f"encode {path}")["seconds"] / mine)
    mine, reference = (load_file(file)["embeddings"] for file in (folder / "v.safetensors", f"{path}.safetensors"))
    difference = float(numpy.abs(mine - reference).max())
    print(f"{len(texts)} texts encoded: {statistics.median(ratios):.2f} times as fast, loading included for ours alone; "
          f"numbers differ by at most {difference:.1e}", flush=True)
    return statistics.median(ratios), difference


def recall_at_1(vectors):
    """Of pairs, whose first sides are the first half of the rows: how many find their own second side first."""
    first, second = numpy.split(vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True), 2)
    return float(((first @ second.T).argmax(axis=1) == numpy.arange(len(first))).mean())


def compare_recall(ours, theirs, options, folder, held_out):
    """Before training, and of each after `rounds` steps of the same rate, which the other has taken."""
    path = folder / "held_out.txt"
    path.write_text("".join(f"{text}\n" for side in zip(*held_out) for text in side), encoding="utf-8")

    def recall_of(model):
        ours.run("embed", "--model", model, "--input", path, "--out", folder / "v.safetensors", "--max-tokens",
                 options.max_tokens)
        return recall_at_1(load_file(folder / "v.safetensors")["embeddings"])

    ours.train(folder / "trained", options.rounds, "--schedule", "constant")
    theirs.ask(f"encode {path}")
    recalls = {"before": recall_of(ours.model), "ours": recall_of(folder / "trained"),
               "theirs": recall_at_1(load_file(f"{path}.safetensors")["embeddings"])}
    print(f"recall@1 of {len(held_out)} pairs held out: {recalls['before']:.3f} before, after {options.rounds} steps "
          f"{recalls['ours']:.3f} and {recalls['theirs']:.3f}", flush=True)
    return recalls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="tapecache of a build")
    parser.add_argument("--out", type=Path, help="folder for <processor>.json, which leaves this repository's files alone")
    parser.add_argument("--pairs", type=int, default=2048, help="pairs of the batch (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=32, help="theirs; ours are of 4,096 tokens, the program's default")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    model = minilm_folder(cache_folder())
    rows = pairs(cache_folder() / "debian")
    folder = Path(tempfile.mkdtemp(prefix="tapecache-sentences-"))
    try:
        batch = folder / "batch.tsv"
        write_tsv(batch, rows[:options.pairs])
        texts = [text for row in rows[-ENCODED // 2:] for text in row]
        ours = Ours(options, model, batch)
        theirs = Worker([sys.executable, Path(__file__).with_name("worker_sentences.py"), "--model", model, "--pairs", batch,
                         "--chunk", options.chunk, "--max-tokens", options.max_tokens, "--threads", options.threads])
        loss, gradient = compare_first_step(ours, theirs, folder)
        encoding, embedding = compare_encoding(ours, theirs, options, folder, texts)  # before their model is another
        seconds, peaks, first = compare_steps(ours, theirs, options, folder)
        recalls = compare_recall(ours, theirs, options, folder, rows[-ENCODED // 2:])
        theirs.kill()
    finally:
        shutil.rmtree(folder)
    figures = {"sentences_step": seconds[1] / seconds[0], "sentences_memory": peaks[0] / peaks[1],
               "sentences_encoding": encoding, "sentences_first_step_seconds": first,
               "sentences_loss_difference": loss, "sentences_gradient_difference": gradient,
               "sentences_embedding_difference": embedding, "sentences_recall": recalls["ours"],
               "sentences_recall_before": recalls["before"],
               "sentences_recall_difference": recalls["ours"] - recalls["theirs"]}
    for name, value in figures.items():
        print(f"{name:32} {value:.4g}")
    print(f"{options.pairs / seconds[0]:.1f} and {options.pairs / seconds[1]:.1f} pairs a second; "
          f"{peaks[0] / 2**20:.0f} and {peaks[1] / 2**20:.0f} MiB")
    here = processor.describe()
    stamp = results.stamp_now(options.program.resolve().parents[1])
    path = (options.out or results.FOLDER) / f"{processor.slug(here)}.json"
    results.record(path, here, {name: {"value": float(f"{value:.4g}")} for name, value in figures.items()}, stamp)
    if not options.out:
        table.write()


if __name__ == "__main__":
    main()
