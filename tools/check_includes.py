#!/usr/bin/env python3
"""Checks that includes only point down the floors of Tapecache.

Prints `file:line: message` for every violation and exits with 1 if there are any.
`--self-test` checks the checker: it must catch each of a set of deliberately wrong includes.
"""

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Iterator, NamedTuple, Optional

from tree_check import main, self_test

CONTRACT = "ops/kernels"  # between ops and backends
UMBRELLA = "tapecache.h"
BACKENDS = ("ops/cpu", "ops/cuda", "ops/no_cuda")
NCCL = "distributed/nccl"  # between ranks on GPUs, as a backend is between ops and a device
MODULES = ("core", "autograd", "ops", "distributed", "losses", "gradcache", "models", "train", "data")
PROGRAMS = ("demos", "bench", "program", "tests")

# A zone is a module, a kernel backend, the contract between both or a folder of programs.
MAY_INCLUDE = {
    "core": {"core"},
    "autograd": {"core", "autograd"},
    # Kernels reach everything that the contract includes, so it is held to their floor.
    CONTRACT: {"core", CONTRACT},
    "ops": {"core", "autograd", "ops", CONTRACT},
    **{backend: {"core", CONTRACT, backend} for backend in BACKENDS},
    "distributed": {"core", "distributed"},
    NCCL: {"core", "distributed", "ops/cuda", NCCL},
    "losses": {"core", "autograd", "ops", "distributed", "losses"},
    "gradcache": {"core", "autograd", "ops", "distributed", "gradcache"},
    "models": {"core", "autograd", "ops", CONTRACT, "models"},
    "train": {"core", "autograd", "ops", CONTRACT, "distributed", "gradcache", "train"},
    "data": {"core", "data"},
    UMBRELLA: {*MODULES, CONTRACT},
}
PUBLIC_ZONES = {*MODULES, CONTRACT, UMBRELLA}

SOURCE_SUFFIXES = {".h", ".hpp", ".cpp", ".cu", ".cuh"}
HEADER_SUFFIXES = {".h", ".hpp", ".cuh"}

# Strings are matched so that a comment marker inside one does not start a comment.
COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>)', re.MULTILINE)
HIDDEN_LIBRARY = re.compile(r"(nlohmann|hwy)/|(.*/)?(cuda|cublas|cudnn|nccl)", re.IGNORECASE)


class Include(NamedTuple):
    line: int
    path: str
    quoted: bool


def includes_of(text: str) -> Iterator[Include]:
    def blank_comment(match: re.Match) -> str:
        token = match.group()
        return "\n" * token.count("\n") if token.startswith(("//", "/*")) else token

    code = COMMENT_OR_STRING.sub(blank_comment, text)
    for match in INCLUDE.finditer(code):
        line = code.count("\n", 0, match.start()) + 1
        yield Include(line, match[1] or match[2], match[1] is not None)


def normalize(path: PurePosixPath) -> Optional[PurePosixPath]:
    """Resolves `..`; None if the path leaves the repository. Symlinks are left alone."""
    parts = []
    for part in path.parts:
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part != ".":
            parts.append(part)
    return PurePosixPath(*parts)


def zone_of(path: PurePosixPath) -> Optional[str]:
    """The zone of a path relative to the repository; None if it belongs to no zone."""
    if str(path) == f"include/tapecache/{UMBRELLA}":
        return UMBRELLA
    folder = "/".join(path.parts[:2])
    if folder in (CONTRACT, *BACKENDS, NCCL) and len(path.parts) > 2:
        return folder
    if path.parts and path.parts[0] in MODULES + PROGRAMS:
        return path.parts[0]
    return None


def check_include(root: Path, source: PurePosixPath, include: Include) -> Optional[str]:
    """What is wrong with this include, or None."""
    zone = zone_of(source)
    parts = PurePosixPath(include.path).parts

    if parts[0] == "tapecache":
        inside = normalize(PurePosixPath(*parts[1:]))
        if inside == PurePosixPath(UMBRELLA):
            target = PurePosixPath("include/tapecache", UMBRELLA)
        elif inside is not None and inside.parts and inside.parts[0] in MODULES:
            target = inside
        else:
            return f'"{include.path}" names no module (known: {", ".join(MODULES)})'
        if not (root / target).is_file():
            return f'"{include.path}" does not exist'
    else:
        target = None
        folders = [PurePosixPath()]
        if include.quoted:
            folders.insert(0, source.parent)
        for folder in folders:
            candidate = normalize(folder / include.path)
            if candidate is not None and zone_of(candidate) and (root / candidate).is_file():
                target = candidate
                break

    if target is None:
        if (zone in PUBLIC_ZONES and source.suffix in HEADER_SUFFIXES
                and HIDDEN_LIBRARY.match(include.path)):
            return f"public header includes <{include.path}>: nlohmann-json, Highway and CUDA stay out of public headers"
        if include.quoted and zone not in PROGRAMS:
            return (f'"{include.path}" is not in this folder: write "tapecache/<module>/file.h", '
                    "or <> for another library's header")
        return None

    if zone in PROGRAMS:
        return None
    target_zone = zone_of(target)
    if target_zone not in MAY_INCLUDE[zone]:
        allowed = ", ".join(sorted(MAY_INCLUDE[zone]))
        return f"{zone} must not include {target_zone} ({include.path}); it may include {allowed}"
    if parts[0] != "tapecache" and target.parent != source.parent:
        return f'"{include.path}" is in another folder: write "tapecache/{target}"'
    return None


def source_files(root: Path) -> Iterator[PurePosixPath]:
    umbrella = root / "include/tapecache" / UMBRELLA
    if umbrella.is_file():
        yield PurePosixPath(umbrella.relative_to(root).as_posix())
    for folder in MODULES + PROGRAMS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCE_SUFFIXES and path.is_file():
                yield PurePosixPath(path.relative_to(root).as_posix())


def violations_in(root: Path) -> "tuple[int, list[str]]":
    """The number of files checked and `file:line: message` for each violation."""
    found = []
    count = 0
    for source in source_files(root):
        count += 1
        text = (root / source).read_text(encoding="utf-8", errors="replace")
        for include in includes_of(text):
            message = check_include(root, source, include)
            if message:
                found.append(f"{source}:{include.line}: {message}")
    return count, found


# A tree without a violation; every snippet below adds one file to it.
GOOD_TREE = {
    "include/tapecache/tapecache.h": '#include "tapecache/core/a.h"\n#include "tapecache/train/a.h"\n',
    "core/a.h": '#include <vector>\n#include "b.h"\n// #include "tapecache/ops/a.h"\n',
    "core/b.h": '/* "\n#include <nlohmann/json.hpp>\n*/\n',
    "core/a.cpp": '#include "tapecache/core/a.h"\n#include <nlohmann/json.hpp>\n',
    "autograd/a.h": '#include "tapecache/core/a.h"\n#include "tapecache/autograd/b.h"\n',
    "autograd/b.h": "",
    "ops/kernels/a.h": '#include "tapecache/core/a.h"\n',
    "ops/a.h": '#include "tapecache/autograd/a.h"\n',
    "ops/a.cpp": '#include "tapecache/ops/a.h"\n#include "tapecache/ops/kernels/a.h"\n',
    "ops/cpu/a.h": '#include <hwy/highway.h>\n#include "tapecache/ops/kernels/a.h"\n',
    "ops/cpu/a.cpp": '#include "a.h"\n#include "tapecache/ops/cpu/a.h"\n#include "tapecache/core/a.h"\n',
    "ops/cuda/a.cu": '#include <cuda_runtime.h>\n#include "tapecache/ops/kernels/a.h"\n',
    "ops/no_cuda/a.cpp": '#include "tapecache/ops/kernels/a.h"\n',
    "distributed/a.h": '#include "tapecache/core/a.h"\n',
    "losses/a.h": '#include "tapecache/ops/a.h"\n#include "tapecache/losses/b.h"\n',
    "losses/b.h": '#include "tapecache/autograd/a.h"\n',
    "gradcache/a.h": '#include "tapecache/ops/a.h"\n#include "tapecache/distributed/a.h"\n',
    "models/a.h": '#include "tapecache/ops/a.h"\n#include <tapecache/autograd/a.h>\n',
    "train/a.h": '#include "tapecache/gradcache/a.h"\n',
    "data/a.h": '#include "tapecache/core/a.h"\n',
    "demos/d/a.h": '#include "tapecache/tapecache.h"\n',
    "tests/a.cpp": '#include "../demos/d/a.h"\n#include "tapecache/ops/cpu/a.h"\n#include <hwy/highway.h>\n',
    "bench/a.cpp": '#include "tapecache/models/a.h"\n#include "tapecache/data/a.h"\n',
}

WRONG_SNIPPETS = [
    # (file, text, line of the violation, words of its message)
    ("core/x.h", '#include "tapecache/autograd/a.h"', 1, "core must not include autograd"),
    ("core/x.cpp", '#include "tapecache/tapecache.h"', 1, "core must not include tapecache.h"),
    ("core/x.cpp", '/* // */\n#include <vector>\n\n# include <tapecache/ops/a.h>', 4, "must not include ops"),
    ("core/x.cpp", 'auto s = "/*";\n#include "tapecache/data/a.h"\n// */', 2, "must not include data"),
    ("core/x.cpp", '#include "../ops/kernels/a.h"', 1, "must not include ops/kernels"),
    ("core/x.h", '#include "../core/../autograd/b.h"', 1, "core must not include autograd"),
    ("autograd/x.h", '#include "tapecache/ops/kernels/a.h"', 1, "autograd must not include ops/kernels"),
    ("autograd/x.h", '#include "../core/a.h"', 1, 'write "tapecache/core/a.h"'),
    ("ops/x.cpp", '#include "tapecache/ops/cpu/a.h"', 1, "ops must not include ops/cpu"),
    ("ops/x.cpp", '#include "cpu/a.h"', 1, "ops must not include ops/cpu"),
    ("ops/x.h", '#include "tapecache/gradcache/a.h"', 1, "ops must not include gradcache"),
    ("ops/kernels/a.h", '#include "tapecache/ops/a.h"', 1, "ops/kernels must not include ops"),
    ("ops/cpu/x.cpp", '#include "tapecache/ops/a.h"', 1, "ops/cpu must not include ops"),
    ("ops/cpu/x.cpp", '#include "tapecache/autograd/a.h"', 1, "ops/cpu must not include autograd"),
    ("ops/cuda/x.cu", '#include "tapecache/ops/cpu/a.h"', 1, "ops/cuda must not include ops/cpu"),
    ("ops/no_cuda/x.cpp", '#include "../cpu/a.h"', 1, "ops/no_cuda must not include ops/cpu"),
    ("distributed/x.cpp", '#include "tapecache/autograd/a.h"', 1, "distributed must not include autograd"),
    ("gradcache/x.h", '#include "tapecache/models/a.h"', 1, "gradcache must not include models"),
    ("gradcache/x.cpp", '#include "tapecache/losses/a.h"', 1, "gradcache must not include losses"),
    ("gradcache/x.cpp", '#include "tapecache/ops/kernels/a.h"', 1, "gradcache must not include ops/kernels"),
    ("losses/x.h", '#include "tapecache/gradcache/a.h"', 1, "losses must not include gradcache"),
    ("losses/x.cpp", '#include "tapecache/models/a.h"', 1, "losses must not include models"),
    ("losses/x.cpp", '#include "tapecache/ops/kernels/a.h"', 1, "losses must not include ops/kernels"),
    ("gradcache/x.cpp", '#include "tapecache/train/a.h"', 1, "gradcache must not include train"),
    ("models/x.cpp", '#include "tapecache/gradcache/a.h"', 1, "models must not include gradcache"),
    ("models/x.cpp", '#include "tapecache/ops/cpu/a.h"', 1, "models must not include ops/cpu"),
    ("train/x.cpp", '#include "tapecache/models/a.h"', 1, "train must not include models"),
    ("train/x.cpp", '#include "tapecache/data/a.h"', 1, "train must not include data"),
    ("data/x.cpp", '#include "tapecache/autograd/a.h"', 1, "data must not include autograd"),
    ("train/x.cpp", '#include "../demos/d/a.h"', 1, "train must not include demos"),
    ("models/x.cpp", "#include <demos/d/a.h>", 1, "models must not include demos"),
    ("core/x.h", "#include <hwy/highway.h>", 1, "public header"),
    ("ops/x.h", "#include <nlohmann/json_fwd.hpp>", 1, "public header"),
    ("data/x.h", "#include <cuda_runtime.h>", 1, "public header"),
    ("models/x.h", "#include <cublasLt.h>", 1, "public header"),
    ("train/x.h", '#include "cudnn.h"', 1, "public header"),
    ("include/tapecache/tapecache.h", "#include <hwy/highway.h>", 1, "public header"),
    ("core/x.cpp", '#include "tapecache/nothing/a.h"', 1, "names no module"),
    ("tests/x.cpp", '#include "tapecache/demos/d/a.h"', 1, "names no module"),
    ("tests/x.cpp", '#include "tapecache/core/nothing.h"', 1, "does not exist"),
    ("core/x.cpp", '#include "nothing.h"', 1, "is not in this folder"),
]


def test() -> int:
    return self_test(violations_in, GOOD_TREE, len(GOOD_TREE),
                     [(name, text + "\n", f"^{re.escape(f'{name}:{line}: ')}.*{re.escape(words)}")
                      for name, text, line, words in WRONG_SNIPPETS])


if __name__ == "__main__":
    sys.exit(main(__doc__, "source files", violations_in, test))
