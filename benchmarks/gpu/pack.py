"""Pack what the GPU benchmark needs on a machine without network, in pieces of a limited size.

Usage: PYTHONPATH=.:export python -m benchmarks.gpu.pack OUTPUT [--wheel FILE ...] [--piece-mb 58]

OUTPUT gets the pieces, their digests, and start.sh, which unpacks them and runs the benchmark. Give --wheel
for each package that the machine lacks, such as onnxruntime-gpu. EMBEDDER_TEST_DATA is the directory with texts and
tokenizers.
"""

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu.models import MINILM

ROOT = Path(__file__).parents[2]
# The folders of this checkout that the benchmark uses.
SOURCE = ("benchmarks", "embedder", "export", "tests")
TOKENIZERS = ("all-mpnet-base-v2", "clip", "xlmr-like-128k-derived")


class Pieces:
    """A file for writing. Its content goes to files of at most `size` bytes."""

    def __init__(self, directory, size):
        self._directory, self._size = directory, size
        self._piece = None
        self.paths = []

    def write(self, data):
        view = memoryview(data)
        while view:
            if self._piece is None or self._piece.tell() == self._size:
                self.close()
                self.paths.append(self._directory / f"piece-{len(self.paths):03}")
                self._piece = self.paths[-1].open("wb")
            written = self._piece.write(view[: self._size - self._piece.tell()])
            view = view[written:]
        return len(data)

    def close(self):
        if self._piece is not None:
            self._piece.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--wheel", type=Path, action="append", default=[], metavar="FILE", help="a wheel to carry")
    parser.add_argument("--piece-mb", type=float, default=58, help="the largest size of a piece in MB")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / MINILM)
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    paths = pack(options.output, options)
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (options.output / "SHA256SUMS").write_text("".join(digests), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("start.sh"), options.output)
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def pack(output, options):
    """Write the pieces, and return their paths."""
    from benchmarks.quality import DATA

    pieces = Pieces(output, int(options.piece_mb * 1e6))
    with (
        TemporaryDirectory() as scratch,
        gzip.GzipFile(fileobj=pieces, mode="wb", compresslevel=3) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        texts = Path(scratch, "texts.json")
        texts.write_text(json.dumps(all_texts()), encoding="utf-8")
        archive.add(texts, "texts.json")
        for name in tracked_files():
            archive.add(ROOT / name, f"source/{name}")
        for wheel in options.wheel:
            archive.add(wheel, f"wheels/{wheel.name}")
        for path in (DATA / "tokenizers" / name for name in TOKENIZERS):
            if path.is_dir():
                archive.add(path, f"data/tokenizers/{path.name}")
            else:
                print(f"there is no {path}: a small tokenizer will take its place")
        if options.checkpoint.is_dir():
            archive.add(options.checkpoint, f"checkpoints/{MINILM}")
    pieces.close()
    return pieces.paths


def all_texts():
    """Return the texts of each workload, as {workload: texts}."""
    import sys

    sys.path.append(str(ROOT / "benchmarks"))
    import workloads

    return workloads.all_texts()


def tracked_files():
    """Return the paths of the files of `SOURCE` that git tracks, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z", *SOURCE], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


if __name__ == "__main__":
    main()
