"""Which headers are installed."""

import re
from pathlib import Path

MODULES = ("core", "autograd", "ops", "distributed", "losses", "gradcache", "models", "train", "data")


def installed_headers(source: Path) -> "list[str]":
    """As programs include them; without those of plug-ins."""
    found = ["tapecache/tapecache.h"]
    for module in MODULES:
        build_file = source / module / "meson.build"
        text = build_file.read_text() if build_file.exists() else ""
        for block in re.findall(r"^ *install_headers\((.*?)\)", text, re.S | re.M):
            found += [f"tapecache/{module}/{name}" for name in re.findall(r"'([\w/]+\.h)'", block)]
    return found
