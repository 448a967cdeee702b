"""The names of HTML in data/tokenizers/html_entities.cpp are Python's. Argument: the source folder."""

import html
import html.entities
import re
import sys
import unittest
from pathlib import Path

SOURCE = Path()


class HtmlEntitiesTest(unittest.TestCase):
    def test_names(self) -> None:
        text = (SOURCE / "data/tokenizers/html_entities.cpp").read_text()
        quoted = re.search(r"kNames =((?:\s*\"[^\"]*\")+);", text).group(1)
        found = {}
        for word in "".join(re.findall(r"\"([^\"]*)\"", quoted)).split():
            name, mark, characters = re.fullmatch(r"(\w+)([:=^])([0-9A-F+]+)", word).groups()
            found[name] = mark, "".join(chr(int(number, 16)) for number in characters.split("+"))
        names = html.entities.html5
        expected = {name[:-1]: ("=" if name[:-1] in names else ":", characters)
                    for name, characters in names.items() if name.endswith(";")}
        # And ftfy's: in capitals, where that is no reference by itself and its characters have capitals.
        for name, characters in names.items():
            capitals = name.upper()
            if (name.endswith(";") and name == name.lower() and characters.upper() != characters
                    and html.unescape("&" + capitals) == "&" + capitals):
                expected[capitals[:-1]] = "^", characters.upper()
        self.assertEqual(found, expected)


if __name__ == "__main__":
    SOURCE = Path(sys.argv.pop(1))
    unittest.main()
