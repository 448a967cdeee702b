#!/usr/bin/env python3
"""Checks that docs/configuration.md names every setting that the sources read, and no other.

Settings are Meson's options (meson_options.txt), CMake's (CMakeLists.txt) and the environment variables that C++, Python and
shell sources read. In the page each has a row of a table whose first cell is its name in backquotes, under a heading of level 2
that begins with "Meson", "CMake" or "Environment"; the second cell of an option is its default. Prints what does not agree, and
exits with 1 if anything does not. `--self-test` checks the checker: it must find each of a set of deliberate faults.
"""

import re
import sys
from pathlib import Path
from typing import Iterator

from tree_check import files_below, main, self_test

PAGE = "docs/configuration.md"
CPP_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
OF_THE_SHELL = {"BASH_SOURCE", "PWD"}  # which bash sets

MESON_OPTION = re.compile(r"^option\('(\w+)'(.*?)\)$", re.MULTILINE | re.DOTALL)
MESON_DEFAULT = re.compile(r"value: *'?([\w.-]+)'?")
CMAKE_CACHED = re.compile(r'^ *set\((\w+) +"?([^ "]*)"? +CACHE\b', re.MULTILINE)
CMAKE_FOUND = re.compile(r"^ *find_(?:path|file|library|program)\((\w+)", re.MULTILINE)
CMAKE_BUILD = re.compile(r"^ *if\((BUILD_\w+)\)", re.MULTILINE)

GETENV = re.compile(r"\bgetenv\(([^()]+)\)")
PYTHON_READS = re.compile(r"""os\.(?:environ\.get\(|getenv\(|environ\[)["'](\w+)["'](?!\] *=[^=])""")
SHELL_READS = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)\b")
SHELL_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")

ROW = re.compile(r"^\| *`([^`]+)` *\|([^|]*)\|")


def kind_of(path: Path) -> "str | None":
    if path.suffix in CPP_SUFFIXES:
        return "c++"
    if path.suffix == ".py":
        return "python"
    if path.suffix:
        return None
    with path.open("rb") as file:
        first = file.readline(200)
    if not first.startswith(b"#!"):
        return None
    return "python" if b"python" in first else "shell" if b"sh" in first else None


def sources(root: Path) -> "Iterator[tuple[Path, str]]":
    for path in files_below(root):
        if path.is_file() and path.resolve() != Path(__file__).resolve() and (kind := kind_of(path)):
            yield path, kind


def names_in_cpp(text: str, argument: str) -> "list[str]":
    """What `getenv(argument)` reads: a string, a constant of the file, or whatever a lambda of one argument is called with."""
    argument = argument.strip()
    if argument.startswith('"'):
        return [argument.strip('"')]
    constant = re.search(r"\b%s *= *\"(\w+)\"" % re.escape(argument), text)
    if constant:
        return [constant[1]]
    function = re.search(r"\b(\w+) *= *\[\]\((?:const )?char ?\* ?%s\)" % re.escape(argument), text)
    return re.findall(r"\b%s\(\"(\w+)\"\)" % function[1], text) if function else []


def variables_of(root: Path) -> "tuple[dict[str, str], list[str]]":
    """Each variable with one file that reads it; and what could not be told."""
    found, problems = {}, []
    for path, kind in sources(root):
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="replace")
        if kind == "c++":
            names = []
            for argument in GETENV.findall(text):
                read = names_in_cpp(text, argument)
                names += read
                if not read:
                    problems.append(f"{name}: getenv({argument}): cannot tell which variable that is")
        elif kind == "python":
            names = PYTHON_READS.findall(text)
        else:
            code = "\n".join(SHELL_COMMENT.sub("", line) for line in text.splitlines())
            names = [n for n in SHELL_READS.findall(code) if n not in OF_THE_SHELL]
        for variable in names:
            found.setdefault(variable, name)
    return found, problems


def meson_options(root: Path) -> "dict[str, str | None]":
    options = {}
    for name, rest in MESON_OPTION.findall((root / "meson_options.txt").read_text()):
        default = MESON_DEFAULT.search(rest)
        options[name] = default[1] if default else None
    return options


def cmake_options(root: Path) -> "dict[str, str | None]":
    text = (root / "CMakeLists.txt").read_text()
    without_default = [*CMAKE_FOUND.findall(text), *CMAKE_BUILD.findall(text)]
    return {**dict.fromkeys(without_default), **dict(CMAKE_CACHED.findall(text))}


def rows_of(page: str) -> "dict[str, dict[str, str]]":
    """By the first word of the heading: each row's name, and its second cell."""
    sections, section = {}, None
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:].replace("'", " ").split()[0]
        elif section and (row := ROW.match(line)):
            sections.setdefault(section, {})[row[1]] = row[2].strip().strip("`")
    return sections


def faults(root: Path) -> "tuple[int, list[str]]":
    page = rows_of((root / PAGE).read_text())
    variables, problems = variables_of(root)
    read = {
        "Meson": (meson_options(root), lambda name: "meson_options.txt"),
        "CMake": (cmake_options(root), lambda name: "CMakeLists.txt"),
        "Environment": (dict.fromkeys(variables), lambda name: variables[name]),
    }
    for section, (settings, where) in read.items():
        written = page.get(section, {})
        for name, default in settings.items():
            if name not in written:
                problems.append(f"{PAGE}, {section}: '{name}', which {where(name)} reads, is not there")
            elif default is not None and written[name] != default:
                problems.append(f"{PAGE}, {section}: the default of '{name}' is '{written[name]}', in {where(name)} "
                                f"'{default}'")
        for name in written:
            if name not in settings:
                problems.append(f"{PAGE}, {section}: '{name}' is read nowhere")
    return sum(len(settings) for settings, _ in read.values()), problems


# A tree without a fault; each case below changes one file of it.
GOOD_TREE = {
    "meson_options.txt": "option('cpu', type: 'string', value: 'portable',\n  description: 'a (b)')\n"
                         "option('races', type: 'boolean', value: false)\n",
    "CMakeLists.txt": 'set(T_CPU portable CACHE STRING "x")\nfind_path(T_INCLUDE a.h)\nif(BUILD_SHARED_LIBS)\nendif()\n',
    "core/a.cpp": 'const char* v = std::getenv("T_A");\nconstexpr const char* kPath = "T_B";\nauto w = getenv(kPath);\n'
                  'const auto from = [](const char* name) { return std::getenv(name); };\nauto x = from("T_C");\n',
    "tools/a.py": 'os.environ["T_SET"] = "1"\nif os.environ["T_D"] == os.environ.get("T_E", ""): pass\n',
    "run": '#!/usr/bin/env bash\nx=${T_F:-build}  # not $T_NO\ny=$PWD\n',
    "tools/b": "#!/usr/bin/env python3\nos.getenv('T_G')\n",
    "build/a.py": 'os.environ["T_BUILT"]\n',
    PAGE: "## Meson's options\n| `cpu` | `portable` | x |\n| `races` | `false` | x |\n\n"
          "## CMake\n| `T_CPU` | `portable` | x |\n| `T_INCLUDE` | | x |\n| `BUILD_SHARED_LIBS` | | x |\n\n"
          "## Environment variables\n" + "".join(f"| `T_{letter}` | | x |\n" for letter in "ABCDEFG") +
          "\n## Others\n| `what` | else |\n",
}


def test() -> int:
    page = GOOD_TREE[PAGE]
    wrong = [(PAGE, page.replace(f"| `{name}` |", "| x |"), f"'{name}', which")
             for name in ("cpu", "races", "T_CPU", "T_INCLUDE", "BUILD_SHARED_LIBS", *map("T_{}".format, "ABCDEFG"))]
    wrong += [
        (PAGE, page.replace("## CMake\n", "| `gone` | | x |\n## CMake\n"), "Meson: 'gone' is read nowhere"),
        (PAGE, page.replace("## Env", "| `T_GONE` | | x |\n## Env"), "CMake: 'T_GONE' is read nowhere"),
        (PAGE, page.replace("## Others", "| `T_SET` | | x |\n## Others"), "Environment: 'T_SET' is read nowhere"),
        (PAGE, page.replace("`false`", "`true`"), "the default of 'races' is 'true'"),
        (PAGE, page.replace("`T_CPU` | `portable`", "`T_CPU` | `native`"), "the default of 'T_CPU' is 'native'"),
        ("core/b.cpp", "auto v = std::getenv(which);\n", "getenv(which): cannot tell"),
        ("core/b.h", 'auto v = std::getenv("T_NEW");\n', "'T_NEW', which core/b.h reads"),
    ]
    return self_test(faults, GOOD_TREE, 12, [(name, text, re.escape(words)) for name, text, words in wrong])


if __name__ == "__main__":
    sys.exit(main(__doc__, "settings", faults, test))
