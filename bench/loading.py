#!/usr/bin/env python3
"""How long a training step waits for its images, by `./run bench loading`.

`tapecache train` takes steps of 1,024 drawings of Debian's openclipart-png, read from their files, cut and resized to
224 × 224, with a CLIP that has a ViT-Ti/16. The share is of the steps after the first, whose images nothing computes
beside; it goes into bench/results/<processor>.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench" / "peers"), str(ROOT / "demos" / "clip_openclipart")]
sys.dont_write_bytecode = True

import processor  # noqa: E402
import results  # noqa: E402
import small_clip  # noqa: E402
import table  # noqa: E402
from drawings import drawings, write_csv  # noqa: E402

SIZES = small_clip.Sizes(image=224, patch=16, width=192, heads=3, projection=256, vision_layers=12, text_layers=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="tapecache of a build")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps: 2 at least, since the first does not count")
    with tempfile.TemporaryDirectory(prefix="tapecache-loading-") as work:
        folder = Path(work)
        some = drawings()
        write_csv(folder / "pairs.csv", ("image", "caption"), [(drawing.png, drawing.caption) for drawing in some])
        small_clip.make(folder / "model", [drawing.caption for drawing in some], SIZES)
        subprocess.run([options.program, "train", "--model", folder / "model", "--pairs", folder / "pairs.csv", "--out",
                        folder / "out", "--batch", str(options.batch), "--chunk", "32", "--steps", str(options.steps),
                        "--crop", "0.5", "--flip", "0.5", "--eval-share", "0"], check=True)
        with open(folder / "out.run" / "metrics.jsonl", encoding="utf-8") as file:
            steps = [line for line in map(json.loads, file) if line["kind"] == "train"]
    share = statistics.median(step["loading_seconds"] / step["seconds"] for step in steps[1:])
    print(f"a step of {statistics.median(step['seconds'] for step in steps[1:]):.1f} s waits {100 * share:.2f} % of it; the "
          f"first has waited {steps[0]['loading_seconds']:.1f} s")
    here = processor.describe()
    results.record(results.FOLDER / f"{processor.slug(here)}.json", here, {"loading_share": {"value": round(share, 4)}},
                   results.stamp_now(options.program.resolve().parents[1]))
    table.write()


if __name__ == "__main__":
    main()
