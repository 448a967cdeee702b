#!/usr/bin/env python3
"""Makes the library a part of other builds, as the README says: a Meson project's subproject, and a CMake project's folder.

Usage: part_test.py SOURCE PROGRAM_SOURCE [--whole EXPECTED_PROGRAM]

Compiles a program of theirs against it, and looks at how its own sources would be compiled. With --whole builds all and
runs it, which takes minutes.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MESON = """project('embeds', 'cpp'{options})
subproject('tapecache', default_options: ['cuda=disabled', 'cpu=native'])
executable('embeds', 'embeds.cpp', dependencies: dependency('tapecache'))
"""

CMAKE = """cmake_minimum_required(VERSION 3.18)
project(embeds CXX)
add_subdirectory({source} tapecache)
add_executable(embeds embeds.cpp)
target_link_libraries(embeds PRIVATE tapecache::tapecache)
"""


def tried(*command) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def run(*command) -> str:
    done = tried(*command)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def flags_of(build: Path, end: str) -> "list[str]":
    for unit in json.loads((build / "compile_commands.json").read_text()):
        if unit["file"].endswith(end):
            return shlex.split(unit["command"])
    sys.exit(f"{build} does not compile {end}")


def check_flags(build: Path):
    """The library is optimised although the program is not, which is the default of both."""
    for file, level in (("core/tensor.cpp", "-O2"), ("ops/cpu/gemm.cpp", "-O3")):
        last = [flag for flag in flags_of(build, file) if flag.startswith("-O")][-1:]
        if last != [level]:
            sys.exit(f"{build.name}: {file} is compiled with {last}, expected {level}")
    # What both builds say in one place, as that no compiler makes fused multiply-adds of its own.
    if "-ffp-contract=off" not in flags_of(build, "ops/cpu/gemm.cpp"):
        sys.exit(f"{build.name}: the kernels' flags are not those of ops/cpu/meson.build")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("program", type=Path)
    parser.add_argument("--whole", type=Path, metavar="EXPECTED_PROGRAM")
    arguments = parser.parse_args()
    source = arguments.source.resolve()
    compare = arguments.whole and run(arguments.whole.resolve())

    def finish(build: Path):
        check_flags(build)
        if not arguments.whole:
            run("ninja", "-C", build, *[target.split(":")[0] for target in run("ninja", "-C", build, "-t", "targets", "all")
                                        .splitlines() if target.split(":")[0].endswith("embeds.cpp.o")])
        else:
            run("ninja", "-C", build, "embeds")
            if run(build / "embeds") != compare:
                sys.exit(f"{build.name}: the program prints something else")

    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copy(arguments.program, project / "embeds.cpp")
        (project / "subprojects").mkdir()
        (project / "subprojects" / "tapecache").symlink_to(source)
        (project / "meson.build").write_text(MESON.format(options=", default_options: ['cpp_std=c++20']"))
        run("meson", "setup", project / "meson", project)
        finish(project / "meson")

        (project / "meson.build").write_text(MESON.format(options=""))
        run("meson", "setup", project / "old", project)
        failed = tried("ninja", "-C", project / "old", "embeds.p/embeds.cpp.o")
        errors = [line for line in failed.stdout.splitlines() if "error:" in line]
        if failed.returncode == 0 or not errors or "Tapecache needs C++20" not in errors[0]:
            sys.exit(f"a program in an older C++ is told {errors}")

        if not shutil.which("cmake"):
            print("the subproject is right; CMake is not installed, so its way was not tried")
            return 0
        (project / "CMakeLists.txt").write_text(CMAKE.format(source=source))
        run("cmake", "-G", "Ninja", "-S", project, "-B", project / "cmake", "-DTAPECACHE_CPU=native",
            "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
        finish(project / "cmake")
    print("the library is a part of both builds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
