"""The plug-in tapecache-mpi under a launcher. Arguments: the launcher's kind (openmpi, mpich), the programs mpi_ranks,
mpi_training and mpi_cases.

Exits with 77 where the launcher is missing.
"""

import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from hosts import Hosts
from launch import launch_command, launch_environment, launcher_of

KIND, RANKS, TRAINING, CASES = "", "", "", ""
LIMIT = 2  # seconds, of the program's failures
SLACK = 20  # for starting, ending and a busy machine
ENDS = 120 * int(os.environ.get("TAPECACHE_TIMEOUT_MULTIPLIER", "1"))  # for what is to end well
# Cases of threads that every number of processes has too.
ON_PROCESSES = """a_cached_step_is_that_of_one_process a_direct_step_is_that_of_one_process a_loss_scaler_is_that_of_one_process
    a_model_takes_any_share auxiliary_losses_are_means_over_all_samples every_loss_is_that_of_one_process
    groups_of_all_ranks_are_those_of_one_process hard_negatives random_cases_are_the_whole_loss ranks_equal_one_process
    scales_of_host_and_device_and_accumulation shared_losses_are_the_whole_ones the_functional_form_is_that_of_one_process
    tied_frozen_and_three_towers towers_have_shares_of_their_own""".split()
BITS = "distributed_reproducible/five_steps*:distributed_reproducible/transformers*"


def available_memory() -> int:
    """In bytes."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


class MpiTest(unittest.TestCase):
    def ranks(self, count: int, role: str, transport: str = "memory", within: float = ENDS,
              launch: "list[str] | None" = None) -> subprocess.CompletedProcess:
        program = [TRAINING, *role.split()[1:]] if role.startswith("training ") else [RANKS, role]
        if role.startswith("cases "):
            program = [CASES, "--report_level=short", f"--run_test={role.split()[1]}"]
        with subprocess.Popen((launch or launch_command(KIND, count, transport)) + program, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=launch_environment(transport), start_new_session=True) as process:
            try:
                out, err = process.communicate(timeout=within + SLACK)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                self.fail(f"{role} on {count} ranks did not end within {within + SLACK} s\n{out}\n{err}")
            except BaseException:  # the test itself is to end
                os.killpg(process.pid, signal.SIGTERM)
                raise
        return subprocess.CompletedProcess([role], process.returncode, out, err)

    def good(self, count: int, role: str, words: str, transport: str = "memory") -> None:
        done = self.ranks(count, role, transport)
        self.assertEqual((done.returncode, words in done.stdout), (0, True), f"{role}, {count} ranks\n{done}")

    def failure(self, count: int, role: str, *words: str, within: float = LIMIT) -> None:
        done = self.ranks(count, role, within=within)
        output = done.stdout + done.stderr
        self.assertNotEqual(done.returncode, 0, f"{role}\n{output}")
        self.assertNotIn("rank 1 went on", output)
        for word in words:
            self.assertIn(word, output, role)

    def test_every_call_on_any_number_of_ranks(self) -> None:
        for count in (1, 2, 3, 4):
            with self.subTest(count=count):
                self.good(count, "calls", f"{count} ranks, all right")

    def test_a_rank_that_is_late_within_the_limit_is_waited_for(self) -> None:
        self.good(4, "waits", "4 ranks, all right")

    def test_more_bytes_than_an_int_counts(self) -> None:
        if KIND == "openmpi" and launcher_of("mpich"):
            self.skipTest("it is cut into pieces before MPI sees it, and MPICH sends them sooner")
        if available_memory() < 8 << 30:
            self.skipTest("it takes 6 GiB of memory")
        self.good(2, "large", "all right")

    def test_what_holds_on_threads_holds_on_processes(self) -> None:
        for count in (2, 3, 4):
            with self.subTest(count=count):
                # Fifty steps: below, of a larger model.
                done = self.ranks(count, "cases !distributed_reproducible/fifty*")
                self.assertEqual(done.returncode, 0, f"{count} ranks\n{done.stdout}\n{done.stderr}")
                ran = done.stdout.split(f" cases on {count} ranks: ")
                self.assertGreater(int(ran[0].split()[-1]), 80, done.stdout)
                self.assertLessEqual(set(ON_PROCESSES), set(ran[1].splitlines()[0].split()))

    def test_the_same_bits_on_eight_processes(self) -> None:
        self.good(8, f"cases {BITS}", "2 cases on 8 ranks: five_steps_of_each_kind_have_the_same_bits_for_any_number_of_ranks "
                  "transformers_have_the_same_bits\n")

    def test_as_many_processes_as_the_launcher_says(self) -> None:
        def alone(**variables) -> subprocess.CompletedProcess:
            environment = {**launch_environment(), **variables}
            return subprocess.run([RANKS, "launched"], env=environment, capture_output=True, text=True, timeout=60)

        done = alone()
        self.assertEqual((done.returncode, done.stdout), (0, "launched: 0\n1 ranks, all right\n"), done)
        self.assertIn("launched: 0\n", alone(SLURM_STEP_NUM_TASKS="1").stdout)
        self.assertIn("launched: 0\n", alone(SLURM_NTASKS="4", SLURM_PROCID="0").stdout)  # a shell of an allocation
        other = {"openmpi": "PMI_SIZE", "mpich": "OMPI_COMM_WORLD_SIZE"}[KIND]
        for variable in (other, "SLURM_STEP_NUM_TASKS"):
            done = alone(**{variable: "3"})
            self.assertEqual((done.returncode, done.stdout), (3, "launched: 1\n"), done)
            self.assertIn(f"mpi_world: {variable} says that 3 processes were started together, but ", done.stderr)
            self.assertIn(" found 1, expected a launcher of that MPI", done.stderr)

    def test_over_the_network(self) -> None:
        if KIND == "mpich":
            self.skipTest("MPI_Finalize of MPICH 4.0 may not end over TCP: a rank that is done does not answer the others")
        self.good(3, "calls", "3 ranks, all right", "network")

    def test_a_program_that_starts_mpi_itself(self) -> None:
        self.good(3, "host", "3 ranks, all right")
        self.good(3, "host-serialized", "3 ranks, all right")
        done = self.ranks(2, "host-single")
        # A library may give more than was asked for.
        words = "started" if "first: started" in done.stdout else "expected MPI_THREAD_SERIALIZED"
        for line in ("first", "second"):
            self.assertRegex(done.stdout, f"{line}: .*{words}", done.stderr)

    def test_forks_and_exits(self) -> None:
        self.good(2, "forks", "all right")
        self.good(3, "exits-well", "all right")
        self.failure(3, "exits-ill", "it exits with status 6")

    def test_a_rank_that_throws_exits_or_is_killed_ends_all(self) -> None:
        self.failure(3, "throws", "out of tea", "ends all processes: ", "it leaves by an exception")
        self.failure(3, "exits", "ends all processes: ", "it exits with status 4")
        for role in ("quits", "killed", "aborts"):
            self.failure(3, role)

    def test_a_failure_is_told_to_all(self) -> None:
        self.failure(3, "gives-up", *(f"barrier (mpi, rank {rank} of 3): {who}out of tea" for rank, who in
                                      enumerate(["rank 1 gave up: ", "", "rank 1 gave up: "])), within=5)

    def test_a_late_rank_is_named(self) -> None:
        self.failure(3, "late", "all_reduce (mpi, rank 0 of 3): ",
                     "call 2 has waited 2000 ms for rank 1, which has made call 1, barrier")
        self.failure(2, "given-up", "what MPI reads is kept")
        self.failure(3, "stopped", "call 2 has waited 2000 ms for rank 1, which does not answer")

    def test_a_rank_that_is_late_by_20_seconds(self) -> None:
        begun = time.monotonic()
        self.failure(3, "training late-by-20 loss", "has waited 5000 ms for rank 1, which has made call", within=5)
        self.assertLess(time.monotonic() - begun, 20)

    def test_a_rank_that_does_not_come(self) -> None:
        who = [f"mpi_world (mpi, rank {rank} of 3): a rank has not come: MPI_Comm_idup has not ended within 2000 ms"
               for rank in (0, 2)]
        self.failure(3, "absent", *who, "ends all processes: a rank has not come")
        self.failure(2, "late-to-begin", "MPI_Init_thread has not ended within 2000 ms", "this process ends with status 1")

    def test_a_rank_that_does_not_end(self) -> None:
        self.failure(2, "late-to-end", "rank 0 exits", "MPI_Finalize has not ended within 2000 ms",
                     "this process ends with status 7")

    def test_a_communication_thread_without_memory(self) -> None:
        for when in ("call", "idle", "leave"):
            with self.subTest(when=when):
                self.failure(3, f"starves-{when}", *(f"all_reduce (mpi, rank {rank} of 3): rank 1 gave up: out of memory"
                                                     for rank in (0, 2)), "ends all processes: ", within=5)

    def test_two_callers_at_once(self) -> None:
        self.failure(2, "two-callers", "barrier (mpi, rank 1 of 2): ", "all_reduce (mpi, rank 1 of 2): ",
                     "another thread of this rank is in ", "and one call at a time can be made", within=5)

    def test_calls_that_do_not_fit_are_found_soon(self) -> None:
        self.failure(3, "other-call", "all_reduce of float32 [3] on cpu, sum", "this rank", within=5)
        self.failure(3, "other-size", *(f"all_reduce of float32 [{n}] on cpu, sum" for n in (3, 4)), within=5)
        self.failure(3, "other-block", "rank 0 calls send_receive of 8 bytes to rank 1, but this rank is to receive 4 bytes",
                     within=5)
        self.failure(3, "leaves", "rank 1 has ended after 1 calls, and this is call 2", within=5)

    def test_who_stays_after_a_failure_is_ended(self) -> None:
        self.failure(3, "stays", "2000 ms have passed since a failure: ", "out of tea", within=2 * LIMIT)

    def test_training_on_any_number_of_ranks_is_that_of_one(self) -> None:
        for count in (1, 2, 3, 4):
            with self.subTest(count=count):
                self.good(count, "training train", f"{count} ranks, all right")

    def test_what_all_have_caught_is_done_again(self) -> None:
        for count in (2, 3, 4):
            with self.subTest(count=count):
                self.good(count, "training recovers", f"{count} ranks, all right")

    def test_a_fault_in_any_phase_of_a_step_ends_all(self) -> None:
        for phase in ("forward", "loss", "backward"):
            with self.subTest(phase=phase):
                self.failure(3, f"training throws {phase}", "out of tea")
                self.failure(3, f"training killed {phase}")
                self.failure(3, f"training late {phase}", "has waited 2000 ms for rank 1, which has made call")

    def test_on_four_hosts(self) -> None:
        hosts = Hosts(4)
        if KIND != "openmpi" or hosts.fault:
            self.skipTest(hosts.fault or "as over TCP")
        with hosts:
            launch = hosts.command(launcher_of(KIND))
            done = self.ranks(4, "training train", launch=launch)
            self.assertEqual((done.returncode, "4 ranks, all right" in done.stdout), (0, True), done)
            for role, words in (("training throws backward", "out of tea"), ("training killed loss", ""),
                                ("training late forward", "has waited 2000 ms for rank 1")):
                done = self.ranks(4, role, within=LIMIT, launch=launch)
                self.assertNotEqual(done.returncode, 0, done)
                self.assertIn(words, done.stdout + done.stderr)


if __name__ == "__main__":
    KIND, RANKS, TRAINING, CASES = sys.argv[1:5]
    if not launcher_of(KIND):
        print(f"skipped: there is no launcher of {KIND}")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    unittest.main(argv=sys.argv[:1] + sys.argv[5:], verbosity=2)
