"""Lines in many scripts, on which tokenizers are compared.

Those of emoji are CLDR's annotations (Debian's unicode-cldr-core), random ones are of Unicode's table of ages (unicode-data),
and messages are those of the programs on this machine.
"""

import gettext
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

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
