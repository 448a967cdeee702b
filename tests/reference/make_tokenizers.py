"""Makes small tokenizers of every kind with the `tokenizers` package, and what it makes of lines in many scripts.

    make_tokenizers.py write
        rewrites tests/reference/tokenizers, which the suite `tokenizers` replays without Python; make_sentencepiece.py
        then adds folders to it
    ./run reference tokenizers, or make_tokenizers.py compare BINARY [TOKENIZER ...]
        compares 20,000 lines a tokenizer with BINARY, a build's tests/tokenize_lines, and times both on one thread

It needs the packages of requirements.txt beside it, and what tokenizer_lines.py reads.
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer

from tokenizer_kinds import KINDS
from tokenizer_lines import annotations, kept_lines, many_lines

KEPT = Path(__file__).resolve().parent / "tokenizers"


def digest(ids):
    """The lower half of FNV-1a of 32-bit numbers."""
    value = 0xCBF29CE484222325
    for number in ids:
        for byte in number.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value & 0xFFFFFFFF:08x}"


def compact(tokenizer):
    made = json.loads(tokenizer.to_str())
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def expected(tokenizer, lines):
    """For each line: of its ids, and of the ids and the types of the pair with the line before."""
    rows, before = [], ""
    for line in lines:
        pair = tokenizer.encode(line, before)
        rows.append(" ".join(map(digest, (tokenizer.encode(line).ids, pair.ids, pair.type_ids))))
        before = line
    return "\n".join(rows) + "\n"


def write_folders(made, lines):
    """Of older files, without tokenizer.json: what its parts are is said by this program's own tokenizers."""
    merges = ["merges.txt", "vocab.json"]
    for name, files in {"bert_uncased": ["vocab.txt"], "clip": merges, "roberta": merges}.items():
        folder = KEPT / (name + "_files")
        folder.mkdir()
        made[name].model.save(str(folder))
        assert sorted(path.name for path in folder.iterdir()) == files
        of_model = made[name].get_vocab(with_added_tokens=False)
        added = {token: id_ for token, id_ in made[name].get_vocab().items() if token not in of_model}
        if added:
            (folder / "added_tokens.json").write_text(json.dumps(added))
        (folder / "expected").write_text(expected(made[name], lines))


def write_limits(tokenizer, lines):
    """What truncation and padding leave of pairs, as the package does it."""
    draw = random.Random(4)
    rows = []
    for strategy in ("longest_first", "only_first", "only_second"):
        for direction in ("left", "right"):
            for length in (3, 4, 9, 12, 16):
                tokenizer.enable_truncation(length, strategy=strategy, direction=direction)
                tokenizer.enable_padding(direction=draw.choice(("left", "right")), pad_id=0, pad_type_id=draw.randint(0, 1),
                                         length=draw.choice((None, 14)), pad_to_multiple_of=draw.choice((None, 8)))
                first, second = draw.choice(lines), draw.choice(lines)
                settings = json.loads(tokenizer.to_str())
                try:
                    pair = tokenizer.encode(first, second)
                    result = {"ids": pair.ids, "types": pair.type_ids}
                except Exception:
                    result = {}
                try:
                    result["single"] = tokenizer.encode(first).ids
                except Exception:
                    pass
                limits = {key: settings[key] for key in ("truncation", "padding")}
                rows.append({"first": first, "second": second} | limits | result)
    tokenizer.no_truncation(), tokenizer.no_padding()
    (KEPT / "limits.json").write_text(json.dumps(rows, indent=0))


def write():
    lines = kept_lines()
    corpus = [line for of_language in annotations().values() for line in of_language[:150]]
    subprocess.run(["rm", "-rf", KEPT], check=True)
    KEPT.mkdir()
    (KEPT / "lines.json").write_text(json.dumps(lines, indent=0) + "\n")
    made = {}
    for kind in KINDS:
        tokenizer = made[kind.__name__] = kind(corpus, 900)
        folder = KEPT / kind.__name__
        folder.mkdir()
        (folder / "tokenizer.json").write_text(compact(tokenizer))
        (folder / "expected").write_text(expected(tokenizer, lines))
    write_folders(made, lines)
    write_limits(made["bert_uncased"], [line for line in lines if len(line) < 80])


def encoded(binary, path, lines, *options):
    """The ids of each line by `binary`, and the seconds that it took, without reading and writing."""
    run = subprocess.run([binary, path, *options], input="".join(json.dumps(line) + "\n" for line in lines), text=True,
                         capture_output=True, check=True)
    return [[int(number) for number in row.split()] for row in run.stdout.split("\n")[:-1]], float(run.stderr)


def timed(tokenizer, lines):
    began = time.perf_counter()
    rows = [tokenizer.encode(line).ids for line in lines]
    return rows, time.perf_counter() - began


def compare_one(name, path, binary, lines):
    """How many lines have other ids; it prints that, the first of them, and the times."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()  # which this library does where it is asked to
    ours, theirs = [], []
    for _ in range(3):  # in turn, so that what else the machine does slows both
        our_rows, seconds = encoded(binary, path, lines)
        ours.append(seconds)
        their_rows, seconds = timed(tokenizer, lines)
        theirs.append(seconds)
    assert len(our_rows) == len(their_rows)
    unequal = [i for i, (a, b) in enumerate(zip(our_rows, their_rows)) if a != b]
    print(f"{name}: {len(lines) - len(unequal):,} of {len(lines):,} equal; {min(ours):.3f} s against {min(theirs):.3f} s: "
          f"{min(theirs) / min(ours):.2f} times as fast", flush=True)
    for i in unequal[:5]:
        print(f"  {lines[i]!r}\n    {our_rows[i]}\n    {their_rows[i]}")
    return len(unequal)


def compare(binary, paths):
    lines = many_lines()
    corpus = [line for of_language in annotations().values() for line in of_language]
    corpus = random.Random(6).sample(corpus, min(40000, len(corpus)))
    print(f"{len(lines):,} lines, {sum(len(line.encode()) for line in lines):,} bytes", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / "tokenizer.json"
            kind(corpus, 30000).save(str(path))
            wrong += compare_one(kind.__name__, path, binary, lines)
    return wrong + sum(compare_one(path, path, binary, lines) for path in paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    comparing = commands.add_parser("compare")
    comparing.add_argument("binary")
    comparing.add_argument("tokenizers", nargs="*", type=Path, help="tokenizer.json of other tokenizers")
    arguments = parser.parse_args()
    if arguments.command == "write":
        write()
    elif compare(arguments.binary, arguments.tokenizers):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
