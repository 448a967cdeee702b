"""Makes small tokenizers of every kind with the `tokenizers` package, and what it makes of lines in many scripts.

    make_tokenizers.py write
        rewrites tests/reference/tokenizers, which the suite `tokenizers` replays without Python; make_sentencepiece.py
        then adds folders to it
    ./run reference tokenizers, or make_tokenizers.py compare BINARY [TOKENIZER ...]
        compares 20,000 lines a tokenizer with BINARY, a build's tests/tokenize_lines, and times both on one thread

It needs the packages of requirements.txt beside it, and the annotations of CLDR (Debian's unicode-cldr-core) and
Unicode's table of ages (unicode-data) for lines.
"""

import argparse
import gettext
import json
import random
import re
import subprocess
import tempfile
import time
import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
KEPT = HERE / "tokenizers"
CLDR = Path("/usr/share/unicode/cldr/common")
AGES = Path("/usr/share/unicode/DerivedAge.txt")
CATALOGUES = Path("/usr/share/locale")

SCRIPTS = ("am ar as ast be bg bn chr cs cy da de el en es et fa fi fr ga gu he hi hu hy id is it ja ka kk km kn ko ky lo lt "
           "lv mk ml mn mr my nb ne nl or pa pl ps pt ro ru sd si sk sl sq sr sv sw ta te th ti tk tr uk ur uz vi yo yue "
           "zh zu").split()

EDGES = [
    "", " ", "  ", "\t\n\r", "a", "A", "Hello, World!", "don't we'll I'M it's they'Ve", "x" * 101, "x" * 100, "ab" * 300,
    "  two  blanks   three    four  ", "trailing blanks   ", "\n\nlines\n\n\nof text\r\nwith ends\r",
    "tab\tand\vother\fblanks",
    "no\u00a0break\u2003em\u3000wide\u1680ogham\u2028line\u2029end\u0085next", "\u180emongolian\u200bzero\u200c\u200d\ufeff",
    "caf\u00e9 cafe\u0301 \u00c5 A\u030a \u1e9b\u0323",
    "\u0130stanbul I\u0307 \u0131 \u00df \u1e9e \u03a3\u03c2 \u01c5 \ufb01 \u2126 \u212a",
    "\u4e2d\u6587abc\u65e5\u672c\u8a9e\u304b\u3099 \uac00\u1100\u1161 \uf900 \U00020000\U0002a700\U0002b820\U0002ceb0",
    "$100.00 50% #tag @you a_b C++ x=y <b>&amp;</b> `q` ~^| \\ \u00bf\u00a1\u00ab\u00bb\u2014\u2026\u3002\uff0c",
    "\x00\x01\x02\x1b\x7f\x80\x9f\xad\ufffd\ufffe\U000e0001\ue000", "a\x00b a\x1fb a\u200eb a\ufffdb",
    "[CLS] [MASK] [SEP][PAD] [mask] x[MASK]y", "<s> </s><mask>  <mask> <pad>x<unk>",
    "<|startoftext|> a <|endoftext|>b<|im_start|>",
    "\U0001f600\U0001f1e9\U0001f1ea\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f44d\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3",
    "1234567890 \u0661\u0662\u0663 \u2160\u2161 \u00bd\u00b2 \u2460 \u096a\u096b",
    "\u24b6\u24d0\U0001f130\U0001f170 \u203f_\u2040",
    "\u0e33\u0e19\u0e49\u0e33 \u0915\u094d\u0937 \u0938\u094d\u0924\u094d\u0930\u0940 \u0b95\u0bcb",
    "\u1100\u1161\u11a8\u1112\u1175\u11ab",
    "e\u0301\u0302\u0323\u0327 q\u0307\u0323 \u0301alone \u302ea\u302f",
    "\ufdfa \u3382 \u2122 \u33a5 \uff21\uff42\uff11 \u216b",
    "new york yesterday Yesterday YESTERDAY yesterdays today today,", "http://a.b/c?d=e&f=%20g me@here.org 3.14e-10 0xFF",
    "a\u2581b \u2581 \u2581\u2581c",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645 \u202bRTL\u202c", "!!!???...---", "''''s''t",
]


def annotations():
    """Lines of CLDR's keywords and names of emoji, by language."""
    lines = {}
    for language in SCRIPTS:
        path = CLDR / "annotations" / f"{language}.xml"
        if path.exists():
            nodes = ElementTree.parse(path).iter("annotation")
            lines[language] = [node.get("cp") + " " + node.text for node in nodes if node.text]
    return lines


def messages(limit):
    """Messages of the programs on this machine, in their translations."""
    lines = []
    for path in sorted(CATALOGUES.glob("*/LC_MESSAGES/*.mo")):
        try:
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog
        except (OSError, UnicodeDecodeError, ValueError, IndexError):  # of which some are malformed
            continue
        lines += [text for text in catalogue.values() if isinstance(text, str) and text][:20]
    random.Random(3).shuffle(lines)
    return lines[:limit]


def known_to_all():
    """Characters of the oldest version of Unicode that is in use on either side: parts of the package have 8. Left out are
    those that later versions put into another category: a Canadian and a Hanunoo sign, and two Mongolian letters."""
    changed = "\u166d\u1734\u1885\u1886"
    known = []
    for line in AGES.read_text().splitlines():
        age = re.match(r"([0-9A-F]+)(?:\.\.([0-9A-F]+))? *; (\d+)\.", line)
        if age and int(age[3]) <= 8:
            known += map(chr, range(int(age[1], 16), int(age[2] or age[1], 16) + 1))
    return [c for c in known if not 0xD800 <= ord(c) < 0xE000 and c not in changed]


def random_lines(count, seed=5):
    draw = random.Random(seed)
    known = known_to_all()
    ordinary = [c for c in known if not 0xAC00 <= ord(c) < 0xD7A4 and not 0x3400 <= ord(c) < 0xA000 and ord(c) < 0xE000]
    lines = []
    for _ in range(count):
        pool = draw.choice((known, ordinary, ordinary, [chr(c) for c in range(128)], ordinary[:600]))
        lines.append("".join(draw.choice(pool) if draw.random() < 0.8 else " " for _ in range(draw.randint(1, 40))))
    return lines


def kept_lines():
    draw = random.Random(1)
    lines = list(EDGES)
    for of_language in annotations().values():
        lines += draw.sample(of_language, 4)
    return lines + random_lines(60)


def many_lines():
    draw = random.Random(2)
    lines = [line for of_language in annotations().values() for line in draw.sample(of_language, min(220, len(of_language)))]
    lines += messages(6000) + random_lines(2500)
    for _ in range(2000):  # longer texts
        lines.append(" ".join(draw.sample(lines, 8)))
    return list(dict.fromkeys(lines + EDGES))


# Each makes a tokenizer whose vocabulary has about `size` tokens, of `corpus`.


def special(*tokens):
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def word_piece(corpus, size, lowercase=True):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(corpus, trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    if lowercase:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
    else:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return tokenizer


def bert_uncased(corpus, size):
    return word_piece(corpus, size)


def bert_cased(corpus, size):
    return word_piece(corpus, size, lowercase=False)


def train_bpe(tokenizer, corpus, size, tokens, alphabet=True, **options):
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=tokens, initial_alphabet=initial, show_progress=False, **options))
    return tokenizer


def clip(corpus, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    expression = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    train_bpe(tokenizer, corpus, size, special("<|startoftext|>", "<|endoftext|>"), end_of_word_suffix="</w>")
    begin, end = tokenizer.token_to_id("<|startoftext|>"), tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", end), ("<|startoftext|>", begin), trim_offsets=False, add_prefix_space=False)
    return tokenizer


def roberta(corpus, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train_bpe(tokenizer, corpus, size, special("<s>", "<pad>", "</s>", "<unk>"))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def gpt2(corpus, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    train_bpe(tokenizer, corpus, size, special("<|endoftext|>"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def qwen(corpus, size):
    expression = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                  r"\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    train_bpe(tokenizer, corpus, size, special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="$A:0 <|endoftext|>:0", pair="$A:0 $B:1 <|endoftext|>:1",
                                      special_tokens=[("<|endoftext|>", 0)])])
    return tokenizer


def modern_bert(corpus, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train_bpe(tokenizer, corpus, size, special("[UNK]", "[CLS]", "[SEP]", "[PAD]"))
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (2, 3, 4)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


def charsmap(rules):
    """SentencePiece's map of characters: of a rule's name, or of {what: by what}."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"normalization_rule_name": rules}
        if isinstance(rules, dict):
            table = Path(folder) / "rules.tsv"
            points = {" ".join(f"{ord(c):X}" for c in a): " ".join(f"{ord(c):X}" for c in b) for a, b in rules.items()}
            table.write_text("".join(f"{a}\t{b}\n" for a, b in points.items()))
            options = {"normalization_rule_tsv": str(table)}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e f g"] * 10), model_prefix=folder + "/m", vocab_size=12, minloglevel=3,
            hard_vocab_limit=False, **options)
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(Path(folder, "m.model").read_bytes())
        return model.normalizer_spec.precompiled_charsmap


def small_rules():
    """What NFKC makes of some characters, with machine translation's blanks."""
    rules = {chr(c): " " for c in (9, 10, 13, 0xA0, 0x1680, 0x200B, 0x2028, 0x3000)} | {chr(c): "" for c in (1, 0x1B, 0x7F)}
    single = (0x2122, 0x2126, 0x212A, 0xFB01, 0xFDFA, 0x3382)
    for c in [*range(0xA0, 0x250), *single, *range(0xFF21, 0xFF3B), *range(0x2460, 0x2470)]:
        normal = unicodedata.normalize("NFKC", chr(c))
        if normal != chr(c):
            rules[chr(c)] = normal
    for c in range(0xC0, 0x180):
        parts = unicodedata.normalize("NFD", chr(c))
        if len(parts) == 2:
            rules[parts] = chr(c)
    return rules


def train_unigram(tokenizer, corpus, size, tokens, unknown="<unk>"):
    """Of lines in a few scripts where few tokens have to do, as each character is one."""
    if size < 5000:
        corpus = [line[2:] for line in corpus if max(line[2:], default="a") < "\u0590"]
    tokenizer.train_from_iterator(corpus, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=tokens, unk_token=unknown, show_progress=False, max_piece_length=12))
    return tokenizer


def xlm_roberta(corpus, size):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap("nmt_nfkc" if size > 5000 else small_rules()))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    train_unigram(tokenizer, corpus, size, special("<s>", "<pad>", "</s>", "<unk>"))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def siglip(corpus, size):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Lowercase(), normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    train_unigram(tokenizer, corpus, size, special("<pad>", "</s>", "<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def llama(corpus, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bytes_ = special("<unk>", "<s>", "</s>") + [f"<0x{b:02X}>" for b in range(256)]
    train_bpe(tokenizer, (line[:60] for line in corpus), size, bytes_, alphabet=False, limit_alphabet=size // 3,
              max_token_length=10)
    made = json.loads(tokenizer.to_str())  # the bytes are tokens of the model alone
    made["added_tokens"] = made["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(made))


def gemma(corpus, size):
    """No bytes to fall back to: unknown characters that are not fused, and Metaspace before BPE."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)])
    train_bpe(tokenizer, corpus, size, special("<unk>", "<s>"), alphabet=False, limit_alphabet=size // 3)
    tokenizer.add_tokens([AddedToken("yesterday", single_word=True), AddedToken("today", rstrip=True, normalized=False)])
    return tokenizer


def unigram_bytes(corpus, size):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("merged_with_next"), pre_tokenizers.Metaspace(prepend_scheme="never", split=False)])
    train_unigram(tokenizer, corpus, size, special("<unk>"))
    made = json.loads(tokenizer.to_str())
    made["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
    made["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(made))


def words(corpus, size):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        corpus, trainers.WordLevelTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False))
    tokenizer.add_tokens([AddedToken("yesterday", single_word=True), AddedToken("New York", lstrip=True, rstrip=True)])
    return tokenizer


def delimiters(corpus, size):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.CharDelimiterSplit("e"), pre_tokenizers.Digits(), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Split(" ", "merged_with_previous"), pre_tokenizers.Split(Regex(r"a|"), "merged_with_next"),
        pre_tokenizers.FixedLength(3)])
    tokenizer.train_from_iterator(
        corpus, trainers.WordLevelTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


KINDS = [bert_uncased, bert_cased, clip, roberta, gpt2, qwen, modern_bert, xlm_roberta, siglip, llama, gemma, unigram_bytes,
         words, delimiters]


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
