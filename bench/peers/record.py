"""Puts figures that other programs have written, or that are given, into this processor's file, and the tables in order.

    ./run bench record [--demo SUMMARY] [--gradcache REPORT] [--overhead REPORT] [NAME=VALUE ...]

NAME is one of activation_copy_share, library_megabytes, demo_minutes and tokenizing, the least of what
tests/reference/make_tokenizers.py compares.
"""

import argparse
from pathlib import Path

import processor
import results
import table

READERS = {"demo": results.of_demo, "gradcache": results.of_gradcache, "overhead": results.of_overhead}
GIVEN = ("activation_copy_share", "library_megabytes", "demo_minutes", "tokenizing")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    for name in READERS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("given", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args()
    figures = {}
    for name, read in READERS.items():
        if getattr(arguments, name):
            figures |= read(results.load(getattr(arguments, name)))
    for given in arguments.given:
        name, _, value = given.partition("=")
        if name not in GIVEN:
            parser.error(f"'{name}' is not one of {', '.join(GIVEN)}")
        figures[name] = {"value": float(value)}
    for figure in figures.values():
        figure["value"] = round(figure["value"], 4)
    here = processor.describe()
    path = results.FOLDER / f"{processor.slug(here)}.json"
    results.record(path, here, figures, results.stamp_now(arguments.build))
    table.write()
    print(f"{len(figures)} figures into {path}")


if __name__ == "__main__":
    main()
