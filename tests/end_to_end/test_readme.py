"""The README is true: its commands run, its output is what they print, its table is the benchmark's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedder_export import pipeline
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.samples.images import sample_images
from PIL import Image

from tests import families
from tests.clips import write_clip

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# What runs this test, and what the Makefile does word for word to make the environments that this test uses.
DONE_BY_MAKE = {
    "make test",
    'pip install ".[cpu]"',
    'pip install ".[cpu,image]"',
    "pip install ./export",
    'pip install "./export[torch]"',
}
# So that the benchmark takes seconds and leaves the results alone.
SHORTENED = {
    "make bench": [
        "make",
        "bench",
        "PEERS=",
        "BENCH_OPTIONS=--programs embedder torch --rounds 1 --texts 8 --output {}",
    ],
    "make parity": ["make", "parity", "PARITY_OPTIONS=--families instructor-base --output {}"],
    # The true sizes take gigabytes; the only one that does not is that of the real model.
    "make converters": ["make", "converters", "CONVERTERS_OPTIONS=--families all-MiniLM-L6-v2 --seconds 0 --output {}"],
    "make kernels": ["make", "kernels", "KERNELS_OPTIONS=--vectors 2000 --rounds 1 --output {}"],
    "make parity-full": ["make", "parity-full", "PARITY_OPTIONS=--families all-MiniLM-L6-v2 --output {}"],
}
# From the Hub: what make would run is looked at; tests/export/test_hub.py runs it.
FROM_HUB = re.compile(r"make export (TORCH=1 )?MODEL=((?:\w+/)?(?!all-MiniLM)([\w-]+))")


def console():
    """Each command of the README with the output that it shows, if any."""
    for language, block in BLOCKS:
        if language == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


@pytest.fixture
def environment(lean_bin):
    """Of a text: the environment to run it in, the lean one, or for images the one of this test, which has Pillow."""

    def environment(text):
        places = [lean_bin, Path(sys.executable).parent]
        if "photos" in text:
            places.reverse()
        return dict(os.environ, PATH=os.pathsep.join([*map(str, places), os.environ["PATH"]]))

    return environment


@pytest.fixture(scope="module")
def instructor(tmp_path_factory):
    """A small one in the place of the one from the Hub."""
    directory = tmp_path_factory.mktemp("instructor")
    checkpoint = families.seeded(families.instructor, directory / "checkpoint")
    pipeline.export(
        read_checkpoint(str(checkpoint)),
        directory / "artifact",
        lambda line: None,
        pipeline.ExportSettings(dtypes=("fp32",)),
    )
    return directory / "artifact"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Likewise."""
    directory = tmp_path_factory.mktemp("clip")
    checkpoint = read_checkpoint(str(write_clip(directory / "checkpoint")))
    pipeline.export(checkpoint, directory / "artifact", lambda line: None, pipeline.ExportSettings(dtypes=("fp32",)))
    return directory / "artifact"


@pytest.fixture
def checkout(minilm, minilm_checkpoint, instructor, clip, tmp_path):
    """A place with what the commands read, so that what they write does not land in the checkout."""
    for name in ("examples", "artifacts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    (tmp_path / "artifacts/instructor-base").symlink_to(instructor)
    (tmp_path / "artifacts/clip-ViT-B-32").symlink_to(clip)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(sample_images()[:6]):
        Image.fromarray(image).save(tmp_path / f"photos/{number}.jpg")
    return tmp_path


@pytest.mark.parametrize(("command", "output"), list(console()))
def test_command(command, output, environment, checkout, tmp_path):
    if command in DONE_BY_MAKE:
        assert command == "make test" or command.replace("pip", "-m pip") in (ROOT / "Makefile").read_text()
        return
    if model := FROM_HUB.fullmatch(command):
        planned = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True, text=True)
        place = ".venv/torch" if model[1] else ".venv/export"
        assert f"{place}/bin/embedder-export {model[2]} --output artifacts/{model[3]}\n" in planned.stdout
        return
    words = [word.format(tmp_path / "table.md") for word in SHORTENED[command]] if command in SHORTENED else command
    answer = subprocess.run(
        words,
        shell=isinstance(words, str),
        cwd=ROOT if command.startswith("make ") else checkout,
        env=environment(command),
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in answer.stderr
    if output:
        assert_same(answer.stdout, output)


@pytest.mark.parametrize("at", [at for at, (language, _) in enumerate(BLOCKS) if language == "python"])
def test_python_example(at, environment, checkout):
    (_, code), (following, output) = BLOCKS[at : at + 2]
    answer = subprocess.run(
        ["python", "-c", code], cwd=checkout, env=environment(code), check=True, capture_output=True, text=True
    )
    if following == "text":
        assert_same(answer.stdout, output)


def assert_same(printed, shown):
    """The same text, and the same numbers but for what another CPU may round otherwise."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    found, expected = ([float(number) for number in NUMBER.findall(text)] for text in (printed, shown))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_every_block_is_covered():
    assert {language for language, _ in BLOCKS} == {"console", "python", "text"}
    assert {"make demo", "make test"} <= {command for command, _ in console()}


def test_table_is_the_benchmarks():
    shown = README.split("<!-- comparison -->")[1].split("<!-- /comparison -->")[0]
    assert shown.strip() == (ROOT / "benchmarks/results/comparison.md").read_text(encoding="utf-8").strip()


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
