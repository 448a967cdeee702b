#!/usr/bin/env python3
"""Checks that CPU kernels compiled for several instruction sets stay apart.

A function that a compiler emits in many translation units (an instantiated template, an inline function) is one symbol
to the linker, which keeps any copy of it. Were such a symbol shared by the kernels of several instruction sets, code for
an old processor could run the copy for a new one. So every weak or unique symbol of a library of kernels must carry the
name of its variant's namespace.

Arguments: NAMESPACE=LIBRARY pairs. Prints every other symbol and exits with 1 if there are any.
`--self-test` checks the checker.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Pointers to functions of the C++ runtime, which are data and the same in every copy.
DATA_REFERENCE = "DW.ref."


def shared_symbols(library: Path) -> "list[str]":
    """Mangled names of the symbols that the linker may merge with those of other libraries."""
    listing = subprocess.run(["nm", "--defined-only", str(library)], check=True, capture_output=True, text=True).stdout
    fields = (line.split() for line in listing.splitlines())
    return sorted({f[2] for f in fields if len(f) == 3 and f[1] in "WVu" and not f[2].startswith(DATA_REFERENCE)})


def leaks(namespace: str, library: Path) -> "list[str]":
    mangled = f"{len(namespace)}{namespace}"
    return [symbol for symbol in shared_symbols(library) if mangled not in symbol]


def demangled(symbols: "list[str]") -> "list[str]":
    if not symbols or not shutil.which("c++filt"):
        return symbols
    return subprocess.run(["c++filt", *symbols], check=True, capture_output=True, text=True).stdout.splitlines()


def self_test() -> int:
    source = """
    template <class T> __attribute__((noinline)) T shared(T x) { return x + 1; }
    namespace level_one {
    template <class T> __attribute__((noinline)) T own(T x) { return x + 2; }
    int use(int x) { return own(x) %s; }
    }
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, use, expected in (("clean", "", 0), ("leaking", "+ shared(x)", 1)):
            code, library = Path(folder, name + ".cpp"), Path(folder, name + ".o")
            code.write_text(source % use)
            subprocess.run(["c++", "-c", str(code), "-o", str(library)], check=True)
            found = leaks("level_one", library)
            if len(found) != expected or any("shared" not in symbol for symbol in found):
                print(f"self-test: the {name} library gives {found}")
                return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="NAMESPACE=LIBRARY")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if not arguments.libraries:
        parser.error("no libraries given")
    status = 0
    for pair in arguments.libraries:
        namespace, _, library = pair.partition("=")
        for symbol in demangled(leaks(namespace, Path(library))):
            print(f"{library}: {symbol} is not in namespace {namespace}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
