"""Runs a Boost.Test program so that a test which crashes, hangs or spoils the device costs its own outcome and no other's.

The program's log is read as it grows. Where the process ends within a test, says nothing for too long, or reports an error
after which a CUDA context is of no use, that test has failed, and a new process takes the tests that come after it.
"""

import fnmatch
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

# After these a CUDA context fails in whatever it is asked.
SPOILS_THE_DEVICE = re.compile(
    r"illegal memory access|unspecified launch failure|misaligned address|illegal instruction|device-side assert|"
    r"invalid program counter|operation not supported on global|hardware stack error|launch timed out|uncorrectable|"
    r"(CUBLAS|CUDNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)")
MOST_PROCESSES = 40
MOST_LINES = 6  # kept of what a test has to say about its failure


@dataclass
class Outcome:
    name: str
    kind: str  # passed, failed, skipped, not run
    why: list = field(default_factory=list)


def end_group(process):
    """Ends a process that leads a session, with all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parse_list(text):
    """Full names, in order, from the output of --list_content, where depth is shown by four blanks."""
    names, parents = [], []
    lines = [line for line in text.splitlines() if line.strip()]
    depths = [(len(line) - len(line.lstrip())) // 4 for line in lines]
    for i, (line, depth) in enumerate(zip(lines, depths)):
        name = re.sub(r"\*?(: .*)?$", "", line.strip())
        parents[depth:] = [name]
        if i + 1 == len(lines) or depths[i + 1] <= depth:
            names.append("/".join(parents))
    return names


def parse_log(text, names):
    """Outcomes from a log of level test_suite, in order, and the name of the test it ends within, if it does."""
    outcomes, suites, running = [], [], None
    for line in text.splitlines():
        entered = re.search(r'Entering test (suite|case) "([^"]+)"', line)
        left = re.search(r'Leaving test (suite|case) "([^"]+)"', line)
        skipped = re.search(r'Test (suite|case) "([^"]+)" is skipped because (.*)', line)
        if entered and entered[1] == "suite":
            suites.append(entered[2])
        elif entered:
            running = Outcome("/".join([*suites, entered[2]]), "passed")
        elif left and left[1] == "suite":
            suites.pop()
        elif left:
            outcomes.append(running)
            running = None
        elif skipped and skipped[3] != "disabled":
            own = skipped[2] if skipped[2] in names or not suites else "/".join([*suites, skipped[2]])
            outcomes += [Outcome(n, "skipped", [skipped[3]]) for n in names if n == own or n.startswith(own + "/")]
        elif running and re.search(r"error: in|last checkpoint|aborted|[Ff]ailure occurred|fatal error", line):
            if "last checkpoint" not in line:
                running.kind = "failed"
            running.why.append(line.strip())
        elif running and running.kind == "failed" and line.strip():
            running.why.append(line.strip())
    return outcomes, running


class Suite:
    """`prefix`: a command that runs the program, such as a sanitizer."""

    def __init__(self, program, environment, folder, prefix=()):
        self.program, self.environment, self.folder = str(program), environment, Path(folder)
        self.prefix = list(prefix)
        self.log, self.output = self.folder / "gpu_suite_part.log", self.folder / "gpu_suite.out"
        self.processes = 0
        self.endings = []  # exit statuses other than 0 and of failed tests

    def names(self):
        listed = subprocess.run([self.program, "--list_content"], env=self.environment, capture_output=True, text=True,
                                timeout=120)
        return parse_list(listed.stdout + listed.stderr)

    def start(self, names, whole):
        self.processes += 1
        self.log.unlink(missing_ok=True)
        command = [*self.prefix, self.program, f"--logger=HRF,test_suite,{self.log}", "--color_output=no"]
        if not whole:
            command += [f"--run_test={name}" for name in names]
        with open(self.output, "a") as output:
            return subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=subprocess.STDOUT, start_new_session=True)

    def read(self):
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    def watch(self, process, deadline, stall):
        """Waits for its end: a reason where it was brought about."""
        seen, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            size = self.log.stat().st_size if self.log.is_file() else 0
            now = time.monotonic()
            if size != seen:
                seen, since = size, now
            reason = None
            if now > deadline:
                reason = "time was out"
            elif now - since > stall:
                reason = f"it said nothing for {stall:.0f} s"
            if reason:
                end_group(process)
                return reason
        return None

    def run(self, seconds, stall=60, pattern="*"):
        """An outcome for each test whose name matches."""
        deadline = time.monotonic() + seconds
        self.output.unlink(missing_ok=True)
        everything = self.names()
        remaining = [n for n in everything if fnmatch.fnmatch(n, pattern)]
        if not remaining:
            return [Outcome("the whole suite", "failed", [f"no test is named like '{pattern}'; see {self.output.name}"])]
        done = []
        whole = len(remaining) == len(everything)
        while remaining and self.processes < MOST_PROCESSES and time.monotonic() < deadline:
            process = self.start(remaining, whole)
            try:
                reason = self.watch(process, deadline, stall)
            finally:
                end_group(process)
            outcomes, within = parse_log(self.read(), set(remaining))
            spoilt = next((i for i, o in enumerate(outcomes)
                           if o.kind == "failed" and SPOILS_THE_DEVICE.search(" ".join(o.why))), None)
            if spoilt is not None:
                outcomes, within = outcomes[:spoilt + 1], None
            elif within:
                within.kind = "failed"
                within.why.insert(0, reason or f"the process ended within it, with {process.returncode}")
                outcomes.append(within)
            elif not reason and process.returncode != (201 if any(o.kind == "failed" for o in outcomes) else 0):
                self.endings.append(process.returncode)
            done += outcomes
            taken = {o.name for o in outcomes}
            if not taken:
                # Nothing was begun: another process would do no better.
                done.append(Outcome("the whole suite", "failed",
                                    [reason or f"it ended with {process.returncode} before any test; see {self.output.name}"]))
                break
            remaining = [n for n in remaining if n not in taken]
            whole = False
        why = "time was out" if time.monotonic() >= deadline else f"{self.processes} processes had ended before it"
        done += [Outcome(name, "not run", [why]) for name in remaining]
        order = {name: i for i, name in enumerate(everything)}
        return sorted(done, key=lambda o: order.get(o.name, -1))


def report(outcomes):
    """Lines: each test's outcome and name, what failed tests said, and the counts. A test that was not run counts as failed."""
    lines = []
    for o in outcomes:
        lines.append(f"{o.kind:8} {o.name}")
        if o.kind in ("failed", "not run"):
            lines += [f"         {line[:300]}" for line in o.why[:MOST_LINES]]
    counts = {kind: sum(o.kind == kind for o in outcomes) for kind in ("passed", "failed", "skipped", "not run")}
    if counts["not run"]:
        lines += ["", f"{counts['not run']} of the failed ones were not run"]
    lines += ["", f"{counts['passed']} passed, {counts['failed'] + counts['not run']} failed, {counts['skipped']} skipped"]
    return lines, counts
