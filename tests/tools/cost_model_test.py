#!/usr/bin/env python3
"""Tests of the cost model of several processes (bench/cost_model.py)."""

import dataclasses
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import cost_model as model  # noqa: E402

MIB = 1 << 20
# Not measured: round numbers, of which the model must make what follows from them.
PARTS = {
    "chunk": 16, "width": 512, "optimizer": 0.1,
    "image": {"forward": 0.05, "backward": 0.15, "gradient_bytes": [9 * MIB] * 36 + [3072] * 60},
    "text": {"forward": 0.02, "backward": 0.06, "gradient_bytes": [96 * MIB] + [4 * MIB] * 36 + [2048] * 60},
    "loss": [{"pairs": 4096, "whole": 0.6, "shared": 0.1, "ranks": 8},
             {"pairs": 16384, "whole": 9.6, "shared": 1.6, "ranks": 8}],
}


class Model(unittest.TestCase):
    def setUp(self):
        self.setting = model.Setting("a core", 1, 64, model.ETHERNET)

    def test_calls_are_those_of_the_reduction(self):
        kib = 1 << 10
        self.assertEqual(model.calls_of([300 * kib, 5 * kib, 100 * kib]), [300 * kib, 105 * kib])
        self.assertEqual(sum(model.calls_of([255 * kib] * 160)), 160 * 255 * kib)
        self.assertEqual(len(model.calls_of([255 * kib] * 160)), 3)

    def test_least_bytes(self):
        # Free of latency, what is sent is the least possible: a gather of each side, and twice each gradient.
        endless = dataclasses.replace(self.setting, network=model.Network("", 0, 1, False))
        for processes in (2, 8):
            step = model.step(PARTS, endless, processes)
            gradients = sum(PARTS["image"]["gradient_bytes"]) + sum(PARTS["text"]["gradient_bytes"])
            share = (processes - 1) / processes
            self.assertAlmostEqual(step.reduction / (2 * gradients * share), 1)
            self.assertAlmostEqual(step.gathers / (2 * 64 * processes * PARTS["width"] * 4 * share), 1)

    def test_sharing_and_overlap_help(self):
        for setting in model.SETTINGS:
            for processes in model.PROCESSES:
                whole, shared, overlapped = (model.step(PARTS, setting, processes, **ways) for ways in model.WAYS.values())
                self.assertLess(shared.loss, whole.loss)
                self.assertLess(overlapped.reduction, shared.reduction)
                self.assertEqual(shared.encoders, whole.encoders)

    def test_alone_nothing_is_sent(self):
        self.assertEqual(model.step(PARTS, self.setting, 1).communication, 0)

    def test_where_it_ends(self):
        processes, _ = model.end_of_scaling(PARTS, self.setting)
        self.assertLess(model.efficiency(PARTS, self.setting, processes), model.WORST)
        self.assertGreaterEqual(model.efficiency(PARTS, self.setting, processes // 2), model.WORST)

    def test_a_network_is_what_sums_over_it_took(self):
        network = model.measured_network({"small_seconds": 2e-5, "large_bytes": 64 * MIB, "large_seconds": 0.5})
        self.assertAlmostEqual(model.summed(network, 2, 64 * MIB), 0.5, places=4)
        self.assertAlmostEqual(model.summed(network, 2, 8), 2e-5, places=6)

    def test_whole_steps_stand_beside_the_model(self):
        figures = {"step_parts": PARTS, "step_link": {"small_seconds": 2e-5, "large_bytes": 64 * MIB, "large_seconds": 0.5},
                   "step_processes": {"steps": [{"processes": 1, "pairs": 32, "seconds": 8.5}]}}
        last = model.held_against({"figures": figures})[-1]
        alone = model.step(PARTS, model.Setting("", 1, 32, model.ETHERNET), 1).seconds
        self.assertEqual(last, f"| 32 pairs, 1 process of one thread | 8.50 | {model.written(alone)} |")
        self.assertEqual(model.held_against({"figures": {"step_parts": PARTS}}), [])

    def test_the_pages_show_what_was_measured_last(self):
        newer, without = {"figures": {"step_parts": {**PARTS, "date": "2002-02-02"}}}, {"figures": {}}
        older = {"figures": {"step_parts": {**PARTS, "date": "2001-01-01"}}}
        self.assertIs(model.measured_last([older, newer, without]), newer)
        self.assertIn("Not measured yet", model.pages([without])[0])


if __name__ == "__main__":
    unittest.main()
