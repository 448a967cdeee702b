#!/usr/bin/env python3
"""Installs a build into a folder of its own, moves it, and builds the embedding example against what is there.

Usage: install_test.py BUILD SOURCE EXPECTED_PROGRAM

By pkg-config and, where it is installed, by CMake. The example must print what EXPECTED_PROGRAM does.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CMAKE_LISTS = """cmake_minimum_required(VERSION 3.18)
project(embeds CXX)
find_package(tapecache {version} REQUIRED)
add_executable(embeds "{source}")
target_link_libraries(embeds PRIVATE tapecache::tapecache)
if(TARGET tapecache::mpi)
  add_executable(processes processes.cpp)
  target_link_libraries(processes PRIVATE tapecache::mpi)
endif()
"""

# Of the plug-in for several processes, where it was built.
PROCESSES = """#include <tapecache/distributed/mpi.h>
#include <cstdio>
int main() { std::printf(tapecache::distributed::mpi_launched() ? "several" : "alone"); }
"""


def run(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def options_of(build: str) -> "dict[str, str]":
    return {option["name"]: option["value"] for option in json.loads(run("meson", "introspect", build, "--buildoptions"))}


def main() -> int:
    build, source, expected_program = sys.argv[1:]
    expected = run(Path(expected_program).resolve())
    options = options_of(build)
    with tempfile.TemporaryDirectory() as folder:
        staged, prefix = Path(folder, "staged"), Path(folder, "moved")
        run("meson", "install", "-C", build, "--no-rebuild", "--destdir", staged)
        shutil.move(staged / options["prefix"].lstrip("/"), prefix)
        if not (prefix / options["datadir"] / "licenses/tapecache/LICENSE").is_file():
            sys.exit("the license is not installed")
        libraries = prefix / options["libdir"]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PKG_CONFIG_PATH": str(libraries / "pkgconfig")}

        command = prefix / options["bindir"] / "tapecache"  # where it was built
        if command.is_file() and not run(command, "--version", env=environment).startswith("tapecache "):
            sys.exit("the installed program tapecache does not say its version")

        processes = Path(folder, "processes.cpp")
        processes.write_text(PROCESSES)
        packages = {"tapecache": (source, expected)}
        if (libraries / "pkgconfig/tapecache-mpi.pc").is_file():
            packages["tapecache-mpi"] = (processes, "alone")
        for package, (file, wanted) in packages.items():
            program = Path(folder, "by_pkg_config")
            flags = run("pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs",
                        *(["--static"] if options["default_library"] == "static" else []), package, env=environment)
            run("c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", file, "-o", program, *flags.split())
            if run(program, env=environment) != wanted:
                sys.exit(f"the program built by pkg-config with {package} prints something else")

        if not shutil.which("cmake"):
            print("pkg-config's program is right; CMake is not installed, so its way was not tried")
            return 0
        project = Path(folder, "project")
        project.mkdir()
        (project / "CMakeLists.txt").write_text(CMAKE_LISTS.format(version="0.1", source=Path(source).resolve()))
        shutil.copy(processes, project)
        run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
        run("cmake", "--build", project / "build")
        for refused in ("0.0", "0.2", "1"):
            (project / "CMakeLists.txt").write_text(CMAKE_LISTS.format(version=refused, source=Path(source).resolve()))
            found = subprocess.run(["cmake", "-S", project, "-B", project / refused, f"-DCMAKE_PREFIX_PATH={prefix}"],
                                   capture_output=True, text=True)
            if found.returncode == 0:
                sys.exit(f"CMake took the library for version {refused}")
        if run(project / "build" / "embeds", env=environment) != expected:
            sys.exit("the program built by CMake prints something else")
        if "tapecache-mpi" in packages and run(project / "build" / "processes", env=environment) != "alone":
            sys.exit("the program built by CMake with the plug-in prints something else")
    print("programs built by pkg-config and by CMake are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
