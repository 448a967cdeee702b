#!/usr/bin/env python3
"""Compiles each installed header alone, as programs may have it before theirs: after C headers and with macros of short names.

Usage: headers_test.py SOURCE COMPILER...

In an older C++ each says with its first error what it needs. Headers may include no private one, and define no macro
but those that begin with TAPECACHE_. """

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from installed_headers import installed_headers  # noqa: E402

UMBRELLA = "tapecache/tapecache.h"

# complex.h defines I and complex, sysmacros.h major and minor; the names after these are Xlib.h's, and those of programs' own.
MACROS = """
#include <complex.h>
#include <math.h>
#include <sys/param.h>
#include <sys/sysmacros.h>
{standard}
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
""" + "".join(f"#define {name} {meaning}\n" for name, meaning in {
    "I": "_Complex_I", "complex": "_Complex",
    "None": "0L", "Bool": "int", "Status": "int", "True": "1", "False": "0", "Always": "2",
    "Success": "0", "Complex": "0", "Above": "0", "Below": "1", "near": "", "far": "",
    "IN": "", "OUT": "", "CONST": "const", "ERROR": "0", "DELETE": "1", "TRUE": "1", "FALSE": "0", "DEBUG": "1", "INFO": "2",
    "CHECK(x)": "((void)(x))", "LOG(x)": "x", "PI": "3", "EPS": "1e-6",
}.items())


def standard_headers(source: Path) -> "list[str]":
    text = "".join((source / "include" / header).read_text() for header in installed_headers(source))
    return sorted(set(re.findall(r"^#include (<\w+>)", text, re.M)))


def main() -> int:
    source, compiler = Path(sys.argv[1]), sys.argv[2:]
    folder = tempfile.TemporaryDirectory()
    before = Path(folder.name, "before.h")
    before.write_text(MACROS.replace("{standard}", "".join(f"#include {name}\n" for name in standard_headers(source))))
    # Standard headers are most of the work: once for all.
    precompiled = Path(folder.name, "precompiled.h")
    precompiled.write_text(f'#include "{before}"\n')
    subprocess.run([*compiler, "-std=gnu++20", "-x", "c++-header", precompiled, "-o", f"{precompiled}.gch"], check=True)

    def errors(header: str, language: str, *first: str) -> "list[str]":
        command = [*compiler, f"-std={language}", "-fsyntax-only", f"-I{source / 'include'}", *first, "-x", "c++", "-"]
        done = subprocess.run(command, input=f"#include <{header}>\n", capture_output=True, text=True)
        found = [line for line in done.stderr.splitlines() if "error:" in line]
        return found if done.returncode == 0 or found else [done.stderr]

    def faults(header: str) -> "list[str]":
        text = (source / "include" / header).read_text()
        found = [f"{header} includes {name}, which is not installed"
                 for name in re.findall(r'^#include "([^"]+)"', text, re.M) if name not in headers]
        found += [f"{header} defines {name}" for name in re.findall(r"^\s*#\s*define\s+(\w+)", text, re.M)
                 if not name.startswith("TAPECACHE_")]
        found += [f"{header}: {error}" for error in errors(header, "gnu++20", "-include", str(precompiled))]
        old = errors(header, "gnu++17")
        if not old or "Tapecache needs C++20" not in old[0] or len(old) > 2:
            found.append(f"{header} in C++17: {old or 'compiles'}")
        return found

    headers = installed_headers(source)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [fault for some in pool.map(faults, headers) for fault in some]
    for first in ((), ("-include", str(before))):
        found += [f"in C++23: {error}" for error in errors(UMBRELLA, "c++2b", *first)]
    print("\n".join(found) or f"{len(headers)} headers compile alone")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
