#!/usr/bin/env python3
"""Tests of how figures are kept by processor and shown in the pages (bench/peers)."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "bench" / "peers"))

import compare  # noqa: E402
import processor  # noqa: E402
import results  # noqa: E402
import table  # noqa: E402

CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: one
flags\t\t: fpu {flags}

processor\t: 1
model name\t: another
"""


def described(vendor, family, model, flags=""):
    return processor.describe(CPUINFO.format(vendor=vendor, family=family, model=model, flags=flags), cores=2)


def a_result(figures, name="AMD Zen 3", flags=()):
    return {"processor": {"name": name, "flags": [*flags], "cores": 2, "caches": {}}, "figures": figures}


class Processors(unittest.TestCase):
    def test_generations(self):
        for vendor, family, model, flags, name in (
                ("AuthenticAMD", 25, 1, "avx2", "AMD Zen 3"),
                ("AuthenticAMD", 25, 0x11, "avx2 avx512f", "AMD Zen 4"),
                ("AuthenticAMD", 25, 0x61, "avx2 avx512f", "AMD Zen 4"),
                ("AuthenticAMD", 25, 0x21, "avx2", "AMD Zen 3"),
                ("AuthenticAMD", 26, 2, "avx512f", "AMD Zen 5"),
                ("AuthenticAMD", 23, 49, "avx2", "AMD Zen 2"),
                ("GenuineIntel", 6, 207, "amx_bf16", "Intel Emerald Rapids"),
                ("GenuineIntel", 6, 85, "avx512f", "Intel Skylake-SP"),
                ("GenuineIntel", 6, 85, "avx512f avx512_vnni", "Intel Cascade Lake"),
                ("GenuineIntel", 6, 85, "avx512f avx512_vnni avx512_bf16", "Intel Cooper Lake"),
                ("GenuineIntel", 6, 250, "avx2", "Intel family 6, model 250"),
        ):
            with self.subTest(name=name, model=model):
                self.assertEqual(described(vendor, family, model, flags)["name"], name)

    def test_flags_are_whole_words(self):
        self.assertEqual(described("GenuineIntel", 6, 85, "avx512fx avx2")["flags"], ["avx2"])

    def test_file_names(self):
        here = described("GenuineIntel", 6, 207)
        self.assertEqual(processor.slug(here), "intel-emerald-rapids")
        self.assertEqual(processor.slug({**here, "cores": 16}), "intel-emerald-rapids-16-cores")

    def test_this_machine(self):
        here = processor.describe()
        self.assertGreaterEqual(here["cores"], 1)
        self.assertTrue(here["name"])


class Files(unittest.TestCase):
    def test_a_figure_takes_the_place_of_its_own_name_alone(self):
        here = {"name": "AMD Zen 3", "flags": [], "cores": 2, "caches": {}}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "below" / "a.json"
            results.record(path, here, {"a/b": {"ratio": 1.0, "note": "old"}, "c": {"value": 2}}, {"date": "2001-01-01"})
            results.record(path, here, {"a/b": {"ratio": 3.0}}, {"date": "2002-02-02"})
            self.assertEqual(results.load(path)["figures"], {
                "a/b": {"date": "2002-02-02", "ratio": 3.0},
                "c": {"date": "2001-01-01", "value": 2},
            })
            self.assertEqual([p.name for p in path.parent.iterdir()], ["a.json"])

    def test_readers(self):
        self.assertEqual(results.of_demo({"direct": {"pairs_per_second": 300}, "gradcache": {"pairs_per_second": 200}}),
                         {"demo_cached_over_direct": {"value": 1.5}})
        modes = ("forward", "recorded", "backward")
        entry = {"ours": {"ops": {"add": dict.fromkeys(modes, 1.0), "gelu": dict.fromkeys(modes, 4.0)}},
                 "pytorch": {"add": dict.fromkeys(modes, 10.0), "gelu": dict.fromkeys(modes, 10.0)}}
        worse = {"ours": entry["ours"], "pytorch": {"add": dict.fromkeys(modes, 5.0), "gelu": dict.fromkeys(modes, 5.0)}}
        for mode in modes:
            self.assertAlmostEqual(results.of_overhead([entry, worse])[f"op_overhead_{mode}"]["value"], 0.4)


class Said:
    """A worker whose answers are given."""

    def __init__(self, **answers):
        self.answers = answers

    def ask(self, request):
        return self.answers[request]


class Comparing(unittest.TestCase):
    def test_the_share_is_of_the_better_ceiling(self):
        ours = Said(peak={"bytes": 50}, flops={"flops": 100.0, "gemm_ceiling": 40.0})
        theirs = Said(peak={"bytes": 100}, gemm={"torch.mm": 30.0, "oneDNN": 80.0})
        pairs = [({"seconds": 2.0}, {"seconds": peer}) for peer in (3.0, 100.0, 4.0)]
        found = compare.result("float32", pairs, ours, theirs, asks_gemm=True)
        self.assertEqual((found["ratio"], found["memory"], found["pairs"]), (2.0, 0.5, 3))
        self.assertAlmostEqual(found["gemm_share"], 100 / 2 / 80, places=3)
        self.assertAlmostEqual(compare.result("float32", pairs, ours, theirs)["gemm_share"], 100 / 2 / 40, places=3)
        self.assertNotIn("gemm_share", compare.result("bfloat16", pairs, ours, theirs))

    def test_cached_over_direct(self):
        pairs = [({"seconds": 1.25}, {"seconds": 1.0})]
        self.assertEqual(compare.own_figures("direct", pairs), {"cached_over_direct": 1.25})
        self.assertEqual(compare.own_figures("one-thread", pairs), {})


class Tables(unittest.TestCase):
    def cell(self, figures, peer="torch-eager", **machine):
        _, _, wanted, met, written = next(goal for goal in table.GOALS if goal[2] == table.steps(peer))
        return table.cell(a_result(figures, **machine), wanted, met, written)

    def test_cells(self):
        self.assertEqual(self.cell({}), "–")
        first, second = (f"{model}/torch-eager" for model in [*table.MODELS][:2])
        self.assertEqual(self.cell({first: {"ratio": 1.2}}), "1.20")
        self.assertEqual(self.cell({first: {"ratio": 1.2}, second: {"ratio": 2}}), "1.20 to 2.00 (2 of 7)")
        self.assertEqual(self.cell({first: {"ratio": 1.1}, second: {"ratio": 2}}), "**1.10 to 2.00 (2 of 7)**")
        self.assertEqual(self.cell({first: {"ratio": float("nan")}}), "**nan**")

    def test_goals_depend_on_the_processor(self):
        figures = {f"{model}/torch-eager": {"ratio": 1.4} for model in table.MODELS}
        self.assertEqual(self.cell(figures), "1.40")
        self.assertEqual(self.cell(figures, name="AMD Zen 4", flags=["avx512f"]), "1.40")
        self.assertEqual(self.cell(figures, name="AMD Zen 5", flags=["avx512f"]), "**1.40**")
        bf16 = {f"{model}/torch-bf16": {"ratio": 1.2} for model in table.MODELS}
        self.assertEqual(self.cell(bf16, "torch-bf16", flags=["avx512_bf16"]), "1.20")
        self.assertEqual(self.cell(bf16, "torch-bf16", flags=["amx_bf16"]), "**1.20**")

    def test_summary(self):
        measured = a_result({f"{model}/torch-eager": {"ratio": 1 + i / 10} for i, model in enumerate(table.MODELS)}, name="A")
        one, none = a_result({"vit_b_32_224_b64/torch-eager": {"ratio": 2}}, name="B"), a_result({}, name="C")
        text = " ".join(table.summary([measured, one, none]))
        self.assertTrue(text.endswith("A 1.00 to 1.60, B 2.00."), text)
        self.assertTrue(all(len(line) <= 128 for line in table.summary([measured] * 20)))

    def test_between_markers(self):
        begin, end = (f"<!-- {word} of x, by bench/peers/table.py -->" for word in ("begin", "end"))
        page = f"before\n{begin}\nold\n{end}\nafter\n"
        self.assertEqual(table.with_table(page, "x", ["new"]), f"before\n{begin}\nnew\n{end}\nafter\n")
        with self.assertRaises(ValueError):
            table.with_table("no markers", "x", ["new"])

    def test_the_pages_have_the_figures_that_were_measured(self):
        self.assertEqual(table.write(check=True), [], "run bench/peers/table.py")

    def test_every_row_of_a_table_is_as_wide(self):
        for make in (table.goals_table, table.steps_table):
            widths = {line.count("|") for line in make(table.stored_results()) if line.startswith("|")}
            self.assertEqual(len(widths), 1)


if __name__ == "__main__":
    unittest.main()
