#!/usr/bin/env python3
"""What the shared library exports: names that installed headers declare, and none of the libraries it was compiled with.

Usage: exports_test.py LIBRARY SOURCE PROGRAM_SOURCE

Then builds PROGRAM_SOURCE together with definitions of all names of fmt, nlohmann-json and Highway that the library's objects
have, as a program with other versions of them may have; each of these definitions ends it.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from installed_headers import installed_headers  # noqa: E402

OURS = re.compile(r"_Z(N|NK|TIN|TSN|TVN)9tapecache")
THEIRS = re.compile(r"_Z\w*?(3fmt|8nlohmann|3hwy)\w*")


def run(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))[:2000]}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def symbols(*arguments) -> "list[str]":
    return sorted({line.split()[-1].split("@")[0] for line in run("nm", "--defined-only", *arguments).splitlines()
                   if len(line.split()) == 3})


def path_of(demangled: str) -> "list[str]":
    """The names of namespaces and classes, and its own, without arguments."""
    text = re.sub(r"^(typeinfo name|typeinfo|vtable) for |\(anonymous namespace\)|\[abi:cxx11\]", "", demangled)
    while (shorter := re.sub(r"<[^<>]*>", "", text.replace("operator<", "operator"))) != text:
        text = shorter
    qualified = text.split("(")[0] if "operator()" not in text else text.split("::operator()")[0]
    return re.findall(r"\w+", qualified.split(" ")[-1])


def not_declared(exported: "list[str]", source: Path) -> "list[str]":
    declared = [source / "include" / header for header in installed_headers(source)]
    words = set(re.findall(r"\w+", "".join(header.read_text() for header in declared)))
    names = run("c++filt", input="\n".join(exported)).splitlines()
    # What CUDA's compiler makes cannot be hidden apart: a name that it only uses would be hidden with it.
    return [name for name in names if not set(path_of(name)) <= words and "tapecache::kernels::cuda::" not in name]


def main() -> int:
    library, source, program = (Path(argument).resolve() for argument in sys.argv[1:])
    objects = library.with_name("libtapecache_parts.a.p")
    exported = symbols("-D", library)
    if not any("9tapecache6Tensor" in name for name in exported):
        sys.exit("no function of Tensor is exported")
    foreign = [name for name in exported if not OURS.match(name)]
    if foreign:
        sys.exit("exported, and not ours:\n" + run("c++filt", input="\n".join(foreign)))
    hidden = not_declared(exported, source)
    if hidden:
        sys.exit("exported, and declared by no installed header (a header that is not installed hides what it declares):\n" +
                 "\n".join(hidden))

    needed = [path for path in re.findall(r"=> (/\S+)", run("ldd", library))]
    shared = {name for path in needed for name in symbols("-D", path)}  # which the shared libraries share among themselves
    theirs = [name for name in symbols(*sorted(objects.rglob("*.o")))
              if THEIRS.fullmatch(name) and not OURS.match(name) and name not in shared]
    if not theirs:
        sys.exit("the objects have no name of fmt, nlohmann-json or Highway: this test tests nothing")
    with tempfile.TemporaryDirectory() as folder:
        others, executable = Path(folder, "others.cpp"), Path(folder, "program")
        others.write_text("#include <cstdlib>\n" + "".join(
            f'void other_{i}() __asm__("{name}");\nvoid other_{i}() {{ std::abort(); }}\n' for i, name in enumerate(theirs)))
        run("c++", "-std=c++20", "-rdynamic", f"-I{source / 'include'}", program, others, library, "-o", executable)
        run(executable, env={**os.environ, "LD_LIBRARY_PATH": str(library.parent)})
    print(f"{len(exported)} names are exported; a program with {len(theirs)} other definitions of theirs is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
