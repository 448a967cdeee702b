"""Whether the real MiniLM, which a package of PyPI holds, embeds sentences as sentence-transformers embeds them, loaded
and saved by this library.

    ./run reference minilm
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demos" / "minilm_finetune"))
from minilm_finetune import cache_folder  # noqa: E402
from minilm_folder import minilm_folder  # noqa: E402

SENTENCES, TOLERANCE = 200, 1e-5
WORDS = ("a the of to and in gradient cache batch model Paris river 1984 café naïve 東京 running quickly why not cat dog tree "
         "blue engine train loss memory kernel print error bug fast slow unbelievable antidisestablishmentarianism").split()


def sentences():
    draw = random.Random(18)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(SENTENCES)]


def tokens(folder, texts):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    return {"ids": numpy.array([e.ids for e in encodings], numpy.int32),
            "valid": numpy.array([e.attention_mask for e in encodings], bool)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="tests/reference_model of a build folder")
    parser.add_argument("model", type=Path, nargs="?", help="the folder of the package's model, which is fetched by default")
    arguments = parser.parse_args()
    arguments.model = arguments.model or minilm_folder(cache_folder())
    texts = sentences()
    theirs = SentenceTransformer(str(arguments.model), device="cpu").encode(texts)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_file(tokens(arguments.model, texts), work / "ids.safetensors")
        subprocess.run([arguments.program, "embed", str(arguments.model), str(work / "ids.safetensors"),
                        str(work / "out.safetensors")], check=True)
        ours = load_file(work / "out.safetensors")["embeddings"]
        subprocess.run([arguments.program, "save", str(arguments.model), str(work / "saved")], check=True)
        again = SentenceTransformer(str(work / "saved"), device="cpu").encode(texts)
    print(f"{len(texts)} sentences: embedded here {abs(ours - theirs).max():.1e}, "
          f"by the saved folder {abs(again - theirs).max():.1e}")
    for what, found in (("embeddings", ours), ("those of the saved folder", again)):
        if not abs(found - theirs).max() <= TOLERANCE:
            raise SystemExit(f"{what} differ by more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
