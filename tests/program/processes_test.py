"""`tapecache train` by several processes. Arguments: the program; the MPI that it was built with (openmpi, mpich, none);
the folder of a small CLIP, or nothing."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import images_test
import program_case
from program_case import ProgramCase, pairs

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed" / "mpi"))
from launch import launch_command, launch_environment, launcher_of

MPI, CLIP = "none", ""
LIMIT = 60  # seconds, for a run to end after a fault


def missing() -> str:
    """Why processes cannot be started here; empty where they can."""
    if MPI == "none":
        return "this build has no MPI"
    return "" if launcher_of(MPI) else f"there is no launcher of {MPI}"


class ProcessesCase(ProgramCase):
    def setUp(self) -> None:
        if missing():
            self.skipTest(missing())
        super().setUp()

    def train_arguments(self, out: str, *more) -> list:
        arguments = super().train_arguments(out, *more)
        arguments[arguments.index("--threads") + 1] = 1
        return arguments

    def losses(self, out: str) -> "list[float]":
        return [line["loss"] for line in self.metrics(out, "train")]

    def assert_close(self, found: "list[float]", expected: "list[float]") -> None:
        self.assertEqual(len(found), len(expected))
        for a, b in zip(found, expected):
            self.assertLess(abs(a - b), 1e-5)

    def started(self, out: str, *more) -> subprocess.Popen:
        """A run that has a checkpoint."""
        process = subprocess.Popen([program_case.PROGRAM, *map(str, self.train_arguments(out, *more))],
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        checkpoint, end = self.folder / f"{out}.run" / "checkpoint.safetensors", time.monotonic() + 60
        while not checkpoint.exists() and process.poll() is None:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)
        self.assertIsNone(process.poll(), "the run is over before anything was done to it")
        return process

    def ended(self, process: subprocess.Popen, within: float = LIMIT) -> "tuple[int, str]":
        try:
            _, errors = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.terminate()
            self.fail(f"the run has not ended within {within} s\n{process.communicate()[1]}")
        return process.returncode, errors

    @staticmethod
    def processes_of(out: Path) -> "dict[int, int]":
        """The running processes of a run by their ranks."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                variables = dict(line.split(b"=", 1) for line in (folder / "environ").read_bytes().split(b"\0") if b"=" in line)
            except (OSError, ValueError):
                continue
            rank = variables.get(b"OMPI_COMM_WORLD_RANK", variables.get(b"PMI_RANK"))
            if rank is not None and str(out).encode() in command and command[0].endswith(b"tapecache"):
                found[int(rank)] = int(folder.name)
        return found


class ProcessesTest(ProcessesCase):
    def test_two_processes_do_what_one_does(self) -> None:
        for loss in ("infonce", "clip", "siglip", "gist", "matryoshka:16,8"):
            run = ["--loss", loss, "--steps", 6, "--check-every", 3]
            self.train("one", *run)
            self.train("two", *run, "--processes", 2)
            self.assert_close(self.losses("two"), self.losses("one"))
            self.assertEqual(len(set(self.losses("one"))), 6)
            self.assertLess(max(line["gradient_distance"] for line in self.metrics("two", "check")), 1e-5)
            for before, after in zip(self.metrics("one", "eval"), self.metrics("two", "eval")):
                self.assertEqual({**before, "step": 0}, {**after, "step": 0})
            self.assertEqual({path.name for path in (self.folder / "two").iterdir()},
                             {path.name for path in (self.folder / "one").iterdir()})
            self.assertEqual(len(list((self.folder / "two.run").iterdir())), 3)  # written by one process
            for out in ("one", "two", "one.run", "two.run"):
                shutil.rmtree(self.folder / out)

    def test_ways_to_cut_and_more_processes(self) -> None:
        rows = [{"query": a, "positive": p, "negative": [p2, a2]}
                for (a, p), (a2, p2) in zip(pairs(), pairs()[1:] + pairs()[:1])]
        self.pairs = self.folder / "pairs.jsonl"
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        cuts = (["--chunk-tokens", 64], ["--memory", "64M"], ["--memory", "64M", "--chunk-tokens", 64, "--bf16"],
                ["--chunk", 3, "--lora", 2, "--ema", 0.9, "--checkpointing"])
        for number, cut in enumerate(cuts):
            for count in (1, 3):
                arguments = self.train_arguments(f"out{number}-{count}", "--steps", 3, "--processes", count)
                del arguments[arguments.index("--chunk"):arguments.index("--chunk") + 2]
                self.run_program(*arguments, *cut)
            one, three = (self.losses(f"out{number}-{count}") for count in (1, 3))
            if "--bf16" in cut:
                self.assertLess(max(abs(a - b) for a, b in zip(one, three)), 2e-2)
            else:
                self.assert_close(three, one)

    def test_the_same_bits_for_any_number_of_processes(self) -> None:
        for more in (["--chunk", 4], ["--memory", "64M", "--bf16"], ["--chunk", 4, "--lora", 2, "--lora-dropout", 0.1]):
            file = "adapter_model.safetensors" if "--lora" in more else "model.safetensors"
            written = []
            for count in (1, 2, 4):
                arguments = self.train_arguments(f"out-{count}", "--steps", 20, "--batch", 19, "--reproducible", "--processes",
                                                 count)
                del arguments[arguments.index("--chunk"):arguments.index("--chunk") + 2]
                self.run_program(*arguments, *more)
                written.append((self.folder / f"out-{count}" / file).read_bytes())
                shutil.rmtree(self.folder / f"out-{count}")
                shutil.rmtree(self.folder / f"out-{count}.run")
            self.assertEqual(written[1:], written[:1] * 2, more)

    def test_runs_go_on_with_another_number_of_processes(self) -> None:
        run = ["--steps", 600, "--save-every", 7, "--eval-every", 300, "--reproducible"]
        self.train("whole", *run)
        for name, how, code, count in (("killed", signal.SIGKILL, None, 1), ("stopped", signal.SIGINT, 130, 4),
                                       ("ended", signal.SIGTERM, 143, 2)):
            process = self.started(name, *run, "--processes", 2)
            if code is None:
                os.kill(self.processes_of(self.folder / name)[1], how)
            else:
                process.send_signal(how)
            found, errors = self.ended(process)
            self.assertEqual(found, code or 128 + signal.SIGKILL, errors)
            if code:
                self.assertIn("go on by the same command with --resume", errors)
            self.assertFalse((self.folder / name).exists())
            self.assertLess(len(self.losses(name)), 600)
            self.train(name, *run, "--resume", "--processes", count)
            self.assertIn("resume after", self.last.stderr)
            self.assertEqual(self.weights(name), self.weights("whole"), name)
            self.assertEqual(self.losses(name), self.losses("whole"))
            self.assertEqual(self.metrics(name, "eval"), self.metrics("whole", "eval"))

    def test_a_process_that_does_not_answer_ends_all(self) -> None:
        process = self.started("out", "--steps", 100000, "--save-every", 1, "--eval-share", 0, "--processes", 2, "--wait", 8)
        os.kill(self.processes_of(self.folder / "out")[1], signal.SIGSTOP)
        code, errors = self.ended(process)
        self.assertEqual(code, 4, errors)
        self.assertIn("has waited 8000 ms for rank 1", errors)

    def test_processes_end_with_the_program_that_started_them(self) -> None:
        process = self.started("out", "--steps", 100000, "--save-every", 1, "--eval-share", 0, "--processes", 2)
        self.assertEqual(sorted(self.processes_of(self.folder / "out")), [0, 1])
        process.kill()
        end = time.monotonic() + LIMIT
        while self.processes_of(self.folder / "out"):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        process.communicate()

    def test_started_by_hand(self) -> None:
        self.train("one", "--steps", 3)
        arguments = [program_case.PROGRAM, *map(str, self.train_arguments("two", "--steps", 3))]
        done = subprocess.run([*launch_command(MPI, 2), *arguments], env=launch_environment(), capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("by 2 processes", done.stderr)
        self.assert_close(self.losses("two"), self.losses("one"))
        done = subprocess.run([*launch_command(MPI, 2), *arguments, "--processes", "3"], env=launch_environment(),
                              capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--processes is 3, but this process was started as one of 2", done.stderr)

    def test_a_launcher_of_another_mpi(self) -> None:
        other = {"openmpi": "mpich", "mpich": "openmpi"}[MPI]
        if not launcher_of(other):
            self.skipTest(f"there is no launcher of {other}")
        arguments = [program_case.PROGRAM, *map(str, self.train_arguments("out", "--steps", 3))]
        done = subprocess.run([*launch_command(other, 2), *arguments], env=launch_environment(), capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("says that 2 processes were started together", done.stderr)
        self.assertFalse((self.folder / "out.run").exists())

    def test_what_is_wrong_is_told_once(self) -> None:
        self.assert_refused(["--reproducible is for 1, 2, 4 or 8 processes", "found 3"],
                            *self.train_arguments("out", "--processes", 3, "--reproducible"))
        self.assert_refused(["the batch is 2 pairs", "each of 3 processes"],
                            *self.train_arguments("out", "--processes", 3, "--batch", 2))
        arguments = self.train_arguments("out", "--processes", 2, "--reproducible")
        del arguments[arguments.index("--chunk"):arguments.index("--chunk") + 2]
        self.assert_refused(["--reproducible takes no --chunk-tokens"], *arguments, "--chunk-tokens", 64)
        self.assert_refused(["--processes"], *self.train_arguments("out", "--processes", 0))
        # These are found by all of the processes.
        self.assert_refused(["--loss is 'infonse'"], *self.train_arguments("out", "--loss", "infonse", "--processes", 2))
        self.pairs.write_text("anchor,positive\nba,be\nbi,\"bo\n")
        self.assert_refused(["pairs.csv: line 3, column 4"], *self.train_arguments("out", "--processes", 2))
        self.assertFalse((self.folder / "out.run").exists())

    def test_a_loss_that_is_not_finite(self) -> None:
        done = self.run_program(*self.train_arguments("out", "--steps", 30, "--rate", 1e30, "--clip-norm", 0, "--warmup", 0,
                                                      "--processes", 2), code=2)
        self.assertEqual(done.stderr.count("tapecache: step "), 1, done.stderr)
        self.assertFalse((self.folder / "out").exists())

    def test_memory_that_does_not_suffice(self) -> None:
        arguments = self.train_arguments("out", "--memory", "100K", "--processes", 2)
        del arguments[arguments.index("--chunk"):arguments.index("--chunk") + 2]
        done = self.run_program(*arguments, code=3)
        self.assertEqual(done.stderr.count("tapecache: "), 1, done.stderr)
        self.assertIn("memory", done.stderr)

    def test_pairs_that_change_while_they_are_trained(self) -> None:
        for count in (1, 2):
            process = self.started(f"out-{count}", "--steps", 100000, "--save-every", 1, "--processes", count)
            with self.pairs.open("a") as file:
                file.write("ba,be\n")
            code, errors = self.ended(process)
            self.assertEqual(code, 1, errors)
            self.assertEqual(errors.count("tapecache: "), 1, errors)
            self.assertIn("pairs.csv: has changed since it was opened", errors)


class ImagesOfProcessesTest(ProcessesCase):
    def setUp(self) -> None:
        if not CLIP:
            self.skipTest("this build has no images")
        super().setUp()
        images_test.CLIP = CLIP
        shutil.rmtree(self.model)
        images_test.make_model(self.model)
        self.rows = images_test.make_pictures(self.folder)
        self.pairs = self.folder / "data" / "pairs.csv"
        with self.pairs.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "caption"), *self.rows])

    def train_arguments(self, out: str, *more) -> list:
        return super().train_arguments(out, "--eval-share", 0, "--batch", 12, "--flip", 0.5, *more)

    def test_two_processes_do_what_one_does(self) -> None:
        for loss in ("clip", "siglip"):
            for count in (1, 2):
                self.train(f"{loss}-{count}", "--steps", 8, "--loss", loss, "--check-every", 4, "--processes", count)
            self.assert_close(self.losses(f"{loss}-2"), self.losses(f"{loss}-1"))
            self.assertLess(max(line["gradient_distance"] for line in self.metrics(f"{loss}-2", "check")), 1e-5)
        for count in (1, 2):
            self.train(f"bits-{count}", "--steps", 8, "--reproducible", "--processes", count)
        self.assertEqual(self.weights("bits-1"), self.weights("bits-2"))

    def test_a_fault_of_one_process_ends_all(self) -> None:
        broken = self.folder / "data" / self.rows[4][0]
        broken.write_bytes(broken.read_bytes()[:60])
        for count in (1, 2):
            done = self.run_program(*self.train_arguments("out", "--steps", 30, "--processes", count), code=1)
            self.assertEqual(done.stderr.count("tapecache: "), 1, done.stderr)
            for word in ("truncated PNG", str(broken), "pairs.csv: line 6"):
                self.assertIn(word, done.stderr)
            shutil.rmtree(self.folder / "out.run")


class WithoutMpiTest(ProgramCase):
    def test_processes_are_refused(self) -> None:
        if MPI != "none":
            self.skipTest("this build has MPI")
        self.assert_refused(["--processes", "built without MPI"], *self.train_arguments("out", "--processes", 2))
        os.environ["OMPI_COMM_WORLD_SIZE"] = "3"
        self.addCleanup(os.environ.pop, "OMPI_COMM_WORLD_SIZE")
        self.assert_refused(["OMPI_COMM_WORLD_SIZE says that 3 processes", "built without MPI"],
                            *self.train_arguments("out", "--steps", 2))
        self.assertFalse((self.folder / "out.run").exists())


if __name__ == "__main__":
    CLIP = os.path.abspath(sys.argv.pop(3)) if len(sys.argv) > 3 and not sys.argv[3].startswith("-") else ""
    MPI = sys.argv.pop(2)
    os.environ["ASAN_OPTIONS"] = "detect_leaks=0"  # libraries of MPI leak
    program_case.main(sys.argv.pop(1))
