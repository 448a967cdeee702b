"""What the tests of installed headers share."""

import re
from pathlib import Path

MODULES = ("core", "autograd", "ops", "distributed", "losses", "gradcache", "models", "train", "data")


def installed_headers(source: Path) -> "list[str]":
    """As programs include them."""
    found = ["tapecache/tapecache.h"]
    for module in MODULES:
        for block in re.findall(r"^ *install_headers\((.*?)\)", (source / module / "meson.build").read_text(), re.S | re.M):
            found += [f"tapecache/{module}/{name}" for name in re.findall(r"'([\w/]+\.h)'", block)]
    return found
