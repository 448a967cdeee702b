"""Figures of one processor, in bench/results/<processor>.json:

    {"processor": {"name": …, "flags": …, "cores": …, "caches": …},
     "figures": {"<model>/<peer>": {"date": …, "library": …, "ratio": …, …}, "demo_cached_over_direct": {"value": …, …}}}

Each figure says when and of which version it is. What is measured again takes the place of what was there; the rest stays.
"""

import datetime
import json
import math
import os
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bench" / "results"


def library_version():
    run = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def compiler(build):
    """Of a build folder, as Meson found it."""
    log = Path(build) / "meson-logs" / "meson-log.txt"
    found = re.search(r"C\+\+ compiler for the host machine: .*?\((.*?) \"", log.read_text()) if log.is_file() else None
    return found[1] if found else "unknown"


def load(path):
    return json.loads(Path(path).read_text())


def merged(old, processor, figures, stamp):
    """`old` (or None) with these figures, each stamped, in the place of those of the same names."""
    kept = old["figures"] if old else {}
    new = {name: {**stamp, **figure} for name, figure in figures.items()}
    return {"processor": processor, "figures": dict(sorted({**kept, **new}.items()))}


def write_whole(path, text):
    """The file appears whole under its name or not at all, also where two programs write it; its mode is kept."""
    mode = path.stat().st_mode & 0o777 if path.is_file() else 0o644
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.tmp-")
    try:
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def record(path, processor, figures, stamp):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = merged(load(path) if path.is_file() else None, processor, figures, stamp)
    write_whole(path, json.dumps(result, indent=2) + "\n")


def stamp_now(build):
    return {"date": datetime.date.today().isoformat(), "library": library_version(), "compiler": compiler(build)}


def of_demo(summary):
    """From the demo's summary.json."""
    direct, cached = (summary[way]["pairs_per_second"] for way in ("direct", "gradcache"))
    return {"demo_cached_over_direct": {"value": direct / cached}}


def of_gradcache(report):
    """From bench_gradcache's gradcache.json."""
    return {"gradcache_no_tape_kept": {"value": report["overhead_no_tape_kept"]},
            "gradcache_ample_budget": {"value": report["overhead_ample_budget"]}}


def of_overhead(report):
    """From bench_overhead's JSON: the geometric mean over the ops, of the number of threads where it is worse."""
    figures = {}
    for mode in ("forward", "recorded", "backward"):
        means = []
        for entry in report:
            ratios = [own[mode] / entry["pytorch"][name][mode] for name, own in entry["ours"]["ops"].items()]
            means.append(math.exp(sum(map(math.log, ratios)) / len(ratios)))
        figures[f"op_overhead_{mode}"] = {"value": max(means)}
    return figures
