#!/usr/bin/env python3
"""Counts the results of a Meson test run, Boost.Test cases one by one.

Reads Meson's testlog.json, prints the names of failing tests and, as the last line,
`N passed, N failed` (with `, N skipped` if some were). Exits with 1 if a test failed or none ran.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

# Boost 1.74 counts a case that passed with warnings or was aborted on a line of its own;
# "aborted" ones are in "failed" already, "passed with warnings" are not in "passed".
# The lines of the whole module are indented by two, those of its suites deeper.
MODULE_REPORT = re.compile(r'^Test module ".*" has .*with:\n((?:  \S.*\n?)+)', re.MULTILINE)
CASE_COUNT = re.compile(
    r"^  (\d+) test cases? out of \d+ (passed with warnings|passed|failed|skipped)$", re.MULTILINE)
CASE_ERROR = re.compile(r'error: in "([^"]+)": ')
NAMED_SKIP = re.compile(r"^skipped: ", re.MULTILINE)  # what our preconditions print
COLOR = re.compile(r"\x1b\[[0-9;]*m")

PASSING = ("OK", "EXPECTEDFAIL")


class Outcome(NamedTuple):
    passed: int
    failed: int
    skipped: int
    failing: "list[str]"


def boost_counts(output: str) -> "dict[str, int]":
    """The case counts of Boost's report; empty if the output holds no report."""
    counts = {}
    for report in MODULE_REPORT.finditer(output):
        for number, kind in CASE_COUNT.findall(report[1]):
            kind = "passed" if kind.startswith("passed") else kind
            counts[kind] = counts.get(kind, 0) + int(number)
    return counts


def outcome_of(record: dict) -> Outcome:
    name, result = record["name"], record["result"]
    if result == "SKIP":
        return Outcome(0, 0, 1, [])

    output = COLOR.sub("", (record.get("stdout") or "") + "\n" + (record.get("stderr") or ""))
    # A test that is expected to fail says nothing by its own counts.
    counts = boost_counts(output) if result in ("OK", "FAIL") else {}
    if not counts:
        if result in PASSING:
            return Outcome(1, 0, 0, [])
        return Outcome(0, 1, 0, [f"{name} ({result.lower()}, exit status {record.get('returncode')})"])

    failed = counts.get("failed", 0)
    failing = []
    if failed:
        cases = list(dict.fromkeys(CASE_ERROR.findall(output)))
        failing = [f"{name}: {case}" for case in cases]
        if len(cases) < failed:
            failing.append(f"{name}: {failed - len(cases)} not named in its output")
    elif result == "FAIL":
        # Every case passed, yet the process did not: a leak report, a crash on exit.
        failed = 1
        failing = [f"{name}: its cases passed, but it ended with exit status {record.get('returncode')}"]
    skipped = counts.get("skipped", 0)
    if any(str(word).startswith("--run_test") for word in record.get("command", [])):
        skipped = len(NAMED_SKIP.findall(output))  # Boost counts the cases that were not asked for, too
    return Outcome(counts.get("passed", 0), failed, skipped, failing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="meson-logs/testlog.json of a build folder")
    log = parser.parse_args().log

    # Meson writes no log when no test was selected.
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    outcomes = [outcome_of(json.loads(line)) for line in lines if line.strip()]
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    failing = [name for outcome in outcomes for name in outcome.failing]

    if failing:
        print("Failing tests:")
        for name in failing:
            print(f"  {name}")
    if passed + failed == 0:
        print("No test was run.")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
