#!/usr/bin/env python3
"""Checks how much a program that uses Tapecache can see: the number of installed headers, and of the names that they declare.

A name is what a namespace declares: a type, a function with all its overloads, a constant, or what a `using` brings in. Members
of classes are not counted, and neither is what stands in a namespace `detail`, which templates need and programs do not call.
Both numbers may fall and may not rise: a new name is worth the place of an old one, or it is machinery and belongs into
`detail` or into a header that is not installed. `--list` prints the names by header.
`--self-test` checks the checker: it must find each of a set of deliberate faults.
"""

import re
import sys
from pathlib import Path
from typing import Iterator

from installed_headers import installed_headers
from tree_check import main, self_test

MOST_HEADERS = 50
MOST_NAMES = 280

NO_CODE = re.compile(r"""//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:[^\n]*\\\n)*[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'""",
                     re.DOTALL | re.MULTILINE)
TYPE = re.compile(r"^(?:class|struct|enum class|enum|union|concept)\s+(\w+)")
USING = re.compile(r"^using\s+(?:[\w:]*::)?(\w+)")
OPERATOR = re.compile(r"\b(operator\s*[^\w\s(]+)\s*\(")
FUNCTION = re.compile(r"(?:\w+\s*\(\s*)?(\w+)\s*\)?\s*\(")  # also `(name)(`, for names that a macro may have
VARIABLE = re.compile(r"(\w+)\s*(?:<[^<>]*>)?\s*(?:=|$)")
NOT_NAMES = ("static_assert", "extern template", "template <>", "friend")


def without_balanced(text: str, before: str, opening: str, closing: str) -> str:
    """The text without what follows `before`, up to the bracket that closes the first."""
    while match := re.search(before + r"\s*(?=" + re.escape(opening) + ")", text):
        depth, at = 0, match.end()
        for at in range(match.end(), len(text)):
            depth += {opening: 1, closing: -1}.get(text[at], 0)
            if depth == 0:
                break
        text = text[:match.start()] + " " + text[at + 1:]
    return text


def declared_name(declaration: str) -> "str | None":
    text = " ".join(declaration.split())
    if text.startswith(NOT_NAMES):
        return None
    text = re.sub(r"\[\[.*?\]\]", " ", text)
    for before, opening, closing in ((r"\btemplate", "<", ">"), (r"\b__attribute__", "(", ")"), (r"\bdecltype", "(", ")"),
                                     (r"\brequires requires", "(", ")"), (r"\brequires", "(", ")")):
        text = without_balanced(text, before, opening, closing)
    text = re.sub(r"\brequires\b(?:[^=;(]|\([^()]*\))*$", " ", text)
    text = " ".join(text.split())
    for prefix in ("inline ", "constexpr ", "extern ", "static ", "constinit "):
        text = text.replace(prefix, "")
    for pattern in (TYPE, USING):
        if match := pattern.match(text):
            return match[1]
    if match := OPERATOR.search(text):
        return match[1].replace(" ", "")
    # A call in a constant's initialiser is no declaration.
    head = text.split("=")[0] if "=" in text and "(" not in text.split("=")[0] else text
    while (shorter := re.sub(r"<[^<>]*>", "", head)) != head:
        head = shorter
    if match := FUNCTION.search(head):
        return match[1]
    match = VARIABLE.search(head)
    return match[1] if match else None


def is_function(declaration: str) -> bool:
    """Whether the braces after it are a body, which no semicolon ends."""
    text = without_balanced(declaration, r"\btemplate", "<", ">").strip()
    return "(" in text and not TYPE.match(text) and not re.search(r"=\s*$", text)


def names_in(text: str) -> "Iterator[str]":
    """The names that a header declares, with their namespaces."""
    namespaces: "list[str]" = []
    depth, declaration = 0, ""

    def ended() -> "Iterator[str]":
        path = "::".join(namespaces).split("::")
        name = declared_name(declaration)
        if name and "detail" not in path:
            yield "::".join([*path, name])

    for token in re.findall(r"[{};]|[^{};]+", NO_CODE.sub(" ", text)):
        if depth > 0:
            depth += {"{": 1, "}": -1}.get(token, 0)
            if depth == 0 and is_function(declaration):
                yield from ended()
                declaration = ""
        elif token == "{":
            if opened := re.search(r"\bnamespace\s*([\w:]*)\s*$", declaration.strip()):
                namespaces.append(opened[1])
                declaration = ""
            else:
                depth = 1
        elif token == "}":
            namespaces.pop()
        elif token == ";":
            yield from ended()
            declaration = ""
        else:
            declaration += token


def file_of(root: Path, header: str) -> Path:
    """Where the tree has it, whose links in include/ a copy may lack."""
    name = header.removeprefix("tapecache/")
    return root / (name if "/" in name else f"include/{header}")


def public_names(root: Path) -> "dict[str, set[str]]":
    return {header: set(names_in(file_of(root, header).read_text())) for header in installed_headers(root)}


def faults(root: Path) -> "tuple[int, list[str]]":
    headers = public_names(root)
    names = set().union(*headers.values())
    found = []
    if len(headers) > MOST_HEADERS:
        found.append(f"{len(headers)} headers are installed, expected at most {MOST_HEADERS}")
    if len(names) > MOST_NAMES:
        found.append(f"{len(names)} names are public, expected at most {MOST_NAMES}")
    return len(names), found


HEADER = """#pragma once
// class InAComment; and "a text
#define NOT_A_NAME(x) f(x)
namespace lib {
class Forward;
/// A type with members, which are not counted.
class Forward {
 public:
  void member() const { if (true) { inner(); } }
  enum class Nested { kOne };
};
template <class T, int kSize = (1 > 0 ? 2 : 3)>
requires(kSize > 1) struct Box { T value = {}; };
enum class [[nodiscard]] Kind { kA, kB };
using Alias = Box<int>;
inline constexpr int kMost = 5;
constexpr double half(double x) { return x / 2; }
int overloaded(int x = f({1}));
int overloaded(double);
Alias(max)(const Alias& a, int axis);
inline Alias operator+(const Alias& a, const Alias&) { return a; }
template <class F>
decltype(auto) call(F&& f) requires requires(F g) { g(); } { return f(); }
namespace detail { struct Hidden {}; void hidden(); }
namespace inner { void deep(); }
static_assert(kMost == 5);
}  // namespace lib
"""
NAMES = {f"lib::{name}" for name in (
    "Forward", "Box", "Kind", "Alias", "kMost", "half", "overloaded", "max", "operator+", "call", "inner::deep")}


def test_of_checker() -> int:
    if set(names_in(HEADER)) != NAMES:
        print(f"self-test: found {sorted(names_in(HEADER))}, expected {sorted(NAMES)}")
        return 1
    build_file = "core_sources = files('a.cpp')\ninstall_headers(\n  'a.h',\n  subdir: 'tapecache/core',\n)\n"
    many = "".join(f"int f{i}();\n" for i in range(MOST_NAMES))
    headers = "".join(f"'{i}.h', " for i in range(MOST_HEADERS))
    good = {"include/tapecache/tapecache.h": '#include "tapecache/core/a.h"\n', "core/meson.build": build_file,
            "core/a.h": HEADER, **{f"core/{i}.h": "" for i in range(MOST_HEADERS)}}
    return self_test(faults, good, len(NAMES), [
        ("core/a.h", HEADER + many, "names are public"),
        ("core/meson.build", build_file.replace("'a.h'", headers + "'a.h'"), "headers are installed"),
    ])


def list_names() -> int:
    headers = public_names(Path(__file__).resolve().parent.parent)
    for header, names in headers.items():
        print(f"{header}: {len(names)}: {' '.join(sorted(name.removeprefix('tapecache::') for name in names))}")
    print(f"{len(headers)} headers, {len(set().union(*headers.values()))} names")
    return 0


if __name__ == "__main__":
    sys.exit(list_names() if sys.argv[1:] == ["--list"] else main(__doc__, "public names", faults, test_of_checker))
