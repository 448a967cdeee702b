"""Tests of tools/gpu_check and of what it runs, as far as they need neither a GPU nor PyTorch."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench/peers")]

import compare_gpu  # noqa: E402
import configs  # noqa: E402
import gpu_suite  # noqa: E402
from worker_process import Worker, take_in_turn  # noqa: E402


def load(path):
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    return module


gpu_check = load(ROOT / "tools/gpu_check")

# Speaks as a Boost.Test program does; a test's name says what it does.
FAKE_SUITE = r'''
import os, sys, time
TESTS = %r
def say(text):
    log.write(text + "\n"); log.flush()
if "--list_content" in sys.argv:
    last = None
    for name in TESTS:
        suite, case = name.split("/")
        if suite != last: print(suite + "*")
        print("    " + case + "*"); last = suite
    sys.exit()
path = next(a.split(",", 2)[2] for a in sys.argv if a.startswith("--logger"))
wanted = [a.partition("=")[2] for a in sys.argv if a.startswith("--run_test")] or TESTS
log = open(path, "w")
if "broken" in os.environ.get("FAKE", ""): sys.exit(3)
say('Entering test module "tapecache"')
last, spoilt, failed = None, False, False
for name in TESTS:
    suite, case = name.split("/")
    if suite != last:
        if last: say('a.cpp(1): Leaving test suite "%%s"; testing time: 1us' %% last)
        say('a.cpp(1): Entering test suite "%%s"' %% suite); last = suite
    if name not in wanted:
        say('a.cpp(2): Test case "%%s" is skipped because disabled' %% name); continue
    if "absent" in case:
        say('a.cpp(2): Test case "%%s" is skipped because there is no CUDA device' %% name); continue
    say('a.cpp(2): Entering test case "%%s"' %% case)
    if "hang" in case: time.sleep(100)
    if "crash" in case: os._exit(139)
    if "spoil" in case: spoilt = True
    if spoilt: say('a.cpp(3): error: in "%%s": DeviceError: add: an illegal memory access was encountered' %% name)
    if "fatal" in case:
        say('unknown location(0): fatal error: in "%%s": memory access violation at address: 0x0' %% name)
        say('a.cpp(2): last checkpoint: "fatal" test entry')
        say("Test is aborted")
        say('a.cpp(2): Leaving test case "%%s"; testing time: 1us' %% case)
        sys.exit(201)
    if "wrong" in case: say('a.cpp(3): error: in "%%s": check a == b has failed [1 != 2]' %% name)
    failed = failed or spoilt or "wrong" in case
    say('a.cpp(2): Leaving test case "%%s"; testing time: 1us' %% case)
say('Leaving test module "tapecache"; testing time: 1us')
sys.exit(201 if failed else 0)
'''


class Suite(unittest.TestCase):
    def outcomes(self, tests, seconds=90, stall=5, **environment):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "program"
            program.write_text(f"#!{sys.executable}\n" + FAKE_SUITE % (tests,))
            program.chmod(0o755)
            suite = gpu_suite.Suite(program, {**os.environ, **environment}, folder)
            return suite.run(seconds, stall)

    def test_each_test_has_its_own_outcome(self):
        tests = ["a/good", "a/wrong", "a/absent", "b/crash", "b/fatal", "b/good", "b/spoil", "b/after", "c/hang", "c/last"]
        found = {o.name: o for o in self.outcomes(tests)}
        self.assertEqual({n: o.kind for n, o in found.items()}, {
            "a/good": "passed", "a/wrong": "failed", "a/absent": "skipped", "b/crash": "failed",
            "b/fatal": "failed", "b/good": "passed", "b/spoil": "failed", "b/after": "passed",
            "c/hang": "failed", "c/last": "passed"})
        self.assertIn("1 != 2", found["a/wrong"].why[0])
        self.assertIn("139", found["b/crash"].why[0])
        self.assertIn("illegal memory access", found["b/spoil"].why[0])
        self.assertIn("said nothing", found["c/hang"].why[0])
        self.assertEqual(list(found), tests)

    def test_what_was_not_run_counts_as_failed(self):
        lines, _ = gpu_suite.report(self.outcomes(["a/good", "a/hang", "a/last"], seconds=5, stall=60))
        self.assertEqual(lines[-1], "1 passed, 2 failed, 0 skipped")
        self.assertTrue(any(line.startswith("not run  a/last") for line in lines))

    def test_a_program_that_runs_nothing_has_failed(self):
        lines, counts = gpu_suite.report(self.outcomes(["a/good"], FAKE="broken"))
        self.assertEqual(counts["passed"], 0)
        self.assertEqual(lines[-1], "0 passed, 2 failed, 0 skipped")

    def test_a_device_that_always_fails_does_not_go_on_for_ever(self):
        found = self.outcomes([f"a/spoil{i}" for i in range(60)])
        self.assertEqual([o.kind for o in found], ["failed"] * 40 + ["not run"] * 20)


class Tables(unittest.TestCase):
    def test_goals_are_judged_and_what_is_missing_is_named(self):
        figures = {
            "device": "a GPU", "cached_over_direct": 1.31, "tiled_loss": "not measured: out of memory",
            "clip_l_14_cached": {"gemm_share": 0.6},
            "peers": {"peers": [
                {"model": "clip_b_32_b4096_cached_256", "peer": "eager", "ratio": 1.4, "same_step": True},
                {"model": "clip_b_32_b4096_cached_256", "peer": "compile", "skipped": "3 s were left"}]},
        }
        lines = {line[:42].strip(): line for line in gpu_check.goals(figures)}
        ends = {name: line.split("  ")[-1] for name, line in lines.items()}
        self.assertEqual(ends["B/32 cached step, PyTorch eager / ours"], "met")
        self.assertEqual(ends["B/32 cached step, torch.compile / ours"], "3 s were left")
        self.assertEqual(ends["cached / direct, batch 1024, chunk 128"], "NOT MET")
        self.assertEqual(ends["L/14 cached step, share of GEMM ceiling"], "met")
        self.assertEqual(ends["tiled loss, 131072 rows, extra MiB"], "not measured: out of memory")
        self.assertEqual(ends["copy, TB/s"], "not measured")

    def test_kernels_are_added_up_by_name(self):
        text = "\n".join([
            "==PROF== Connected", '{"seconds":1}',
            '"ID","Kernel Name","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum"',
            '"","","byte","byte","nsecond"',
            '"0","void add<float, (int)4>(float *, F<(bool)1>)","1,000","500","2,000"', '"1","gemm(int)","10","10","9000"',
            '"2","void add<float, (int)4>(float *, F<(bool)1>)","1000","500","1000"'])
        kernels = gpu_check.parse_ncu(text)
        self.assertEqual([k["kernel"] for k in kernels], ["gemm", "add<float, (int)4>"])
        self.assertEqual(kernels[1]["calls"], 2)
        self.assertAlmostEqual(kernels[1]["seconds"], 3e-6)
        self.assertAlmostEqual(kernels[1]["bytes"], 3000)
        self.assertEqual(gpu_check.parse_ncu("nothing"), [])

    def test_arguments(self):
        for arguments in (["run", "--only", "nothing"], ["run", "--sanitizer", "x"], [], ["run", "--bundle", "/nowhere"]):
            with tempfile.TemporaryDirectory() as folder:
                out = ["--out", folder] if arguments[:1] == ["run"] else []
                ended = subprocess.run([sys.executable, str(ROOT / "tools/gpu_check"), *arguments, *out], capture_output=True)
                self.assertNotEqual(ended.returncode, 0, arguments)
                self.assertNotIn(b"Traceback", ended.stderr)

    def test_all_scripts_that_are_packed_exist(self):
        self.assertEqual([str(s) for s, _ in gpu_check.scripts() if not s.is_file()], [])


# Answers as bench_gpu --serve and worker_torch_clip.py do.
FAKE_WORKER = r'''#!%s
import json, sys, time
text = " ".join(sys.argv)
ours = "--serve" in text
answers = {"step": {"seconds": 1.0 if ours else 2.0, "loss": 1.0}, "peak": {"bytes": 1048576}, "describe": {"torch": "0"},
           "gemm": {"flops_per_second": 1.0}, "reference": {"written": "x"},
           "compare": {"loss": 1e-9 if "float32" in text else 1e-3, "gradient": 1e-6 if "float32" in text else %s}}
for line in sys.stdin:
    request = line.split()[0]
    if request == "profile": answers["profile"] = {"error": "no"}
    if request == "compare" and "compile" in text: time.sleep(100)
    print(json.dumps(answers[request]), flush=True)
'''


class Peers(unittest.TestCase):
    def compare(self, gradient="1e-2", **options):
        with tempfile.TemporaryDirectory() as folder:
            worker = Path(folder) / "worker"
            worker.write_text(FAKE_WORKER % (sys.executable, gradient))
            worker.chmod(0o755)
            values = {"binary": str(worker), "library_path": None, "python": str(worker), "out": folder, "seconds": 120.0,
                      "rounds": 3, "device": "cpu", "tiny": True, "profile": False, **options}
            arguments = type("Arguments", (), values)()
            comparison = compare_gpu.Comparison(arguments, None)
            pairings = [compare_gpu.Pairing("clip_tiny_b8_cached_4", "eager_f32", 1, 60, timed=False),
                        compare_gpu.Pairing("clip_tiny_b8_cached_4", "eager", 1, 60),
                        compare_gpu.Pairing("clip_tiny_b8_cached_4", "compile", 1, 5),
                        compare_gpu.Pairing("clip_tiny_b8_cached_4", "eager_all_bf16", 1000, 2000)]
            with open(os.devnull, "w") as nothing:
                out, sys.stdout = sys.stdout, nothing
                try:
                    comparison.run(pairings)
                finally:
                    sys.stdout = out
            return json.loads((Path(folder) / "gpu_peers.json").read_text())["peers"], comparison.failed

    def test_pairings_are_measured_given_up_or_skipped(self):
        (exact, eager, compiled, bf16), failed = self.compare()
        self.assertTrue(exact["same_step"])
        self.assertEqual((eager["ratio"], eager["pairs"], eager["same_step"]), (2.0, 3, True))
        self.assertIn("no answer to", compiled["failed"])
        self.assertIn("at least 1000", bf16["skipped"])
        self.assertTrue(failed)

    def test_steps_that_differ_are_no_pairing(self):
        for gradient in ("0.6", "float('nan')"):
            (_, eager, _, _), failed = self.compare(gradient)
            self.assertFalse(eager["same_step"])
            self.assertTrue(failed)

    def test_a_worker_that_ends_or_errs_is_an_error(self):
        with self.assertRaisesRegex(RuntimeError, "ended with 4"):
            Worker([sys.executable, "-c", "raise SystemExit(4)"]).ask("step")
        erring = Worker([sys.executable, "-c", "print('{\"error\": \"no room\"}', flush=True); input(); input()"])
        with self.assertRaisesRegex(RuntimeError, "no room"):
            take_in_turn(erring, erring, 1)
        erring.kill()

    def test_names_describe_models(self):
        model = configs.described_clip("clip_l_14_b1024_cached_64")
        self.assertEqual((model.chunk, model.vision.patch, model.text.width), (64, 14, 768))
        self.assertEqual(configs.described_clip("clip_b_32_b64").chunk, 0)
        for name in ("clip_b_16_b64", "clip_b_32", "vit_b_32_224_b16"):
            with self.assertRaises(ValueError):
                configs.described_clip(name)


if __name__ == "__main__":
    unittest.main()
