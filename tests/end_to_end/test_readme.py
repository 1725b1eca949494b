"""The README and the pages in docs/ are correct: commands run, snippets print the output shown, numbers are current.

Small random models replace the large ones, and a small checkpoint replaces the one to export. `make --dry-run` shows
the commands that make would run. `make test` has made the environments that the commands need.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedder
from benchmarks.pages import with_tables
from embedder.artifact.scores import ScoreSettings
from tests.checkpoints import write_checkpoint
from tests.clips import write_clip
from tests.distributions import INSTALLS
from tests.hub_server import serve
from tests.pages import assert_same, code_blocks, hard_link, output_of
from tests.siglips import write_siglip
from tests.static_models import write_sentence_transformers
from tests.tiny import write_tiny_multi_vector, write_tiny_ranker, write_tiny_sparse

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
MAX_README_LINES = 130
MAX_LINES_BEFORE_PYTHON = 30

# With these options, a benchmark takes seconds and does not change the files in benchmarks/results.
BENCHMARKS = {
    "make bench": "BENCH_OPTIONS=--programs embedder --rounds 1 --texts 8",
    "make parity": "PARITY_OPTIONS=--families all-MiniLM-L12-v2",
    "make converters": "CONVERTERS_OPTIONS=--families all-MiniLM-L12-v2 --small --seconds 0",
    "make kernels": "KERNELS_OPTIONS=--vectors 2000 --rounds 1",
    "make bench-scaling": "BENCH_OPTIONS=--dtypes int8 --rounds 1 --texts 8",
    "make faults": "FAULTS_OPTIONS=--parts mutations --cases 50",
}
# Their blocks of `sh` start a server and ask it. The tests that are named here do the same.
SERVER_PAGES = {
    "service.md": "tests/end_to_end/test_service.py",
    "serve.md": "tests/end_to_end/test_serve_page.py",
}
# Their blocks of Python need the clients of other projects, vector stores, or a GPU. The tests that are named here run
# them.
CLIENT_PAGES = {
    "serve.md": "tests/frameworks/test_serve_page.py",
    "gpu.md": "tests/unit/test_cuda.py",
    "vector-stores.md": "tests/frameworks/test_vector_stores.py",
}
LAMBDA = re.compile(r"make lambda MODEL=(all-MiniLM-L6-v2)")
EXPORT = re.compile(r"make export (TORCH=1 )?MODEL=((?:[\w-]+/)?([\w-]+))")


# The pages in docs/frameworks and docs/jobs need other packages. tests/frameworks and tests/clusters run them.
BLOCKS = [block for page in PAGES if page.parent.name not in ("frameworks", "jobs") for block in code_blocks(page)]
# A command that is on several pages runs only once.
COMMANDS = list({(block.code, block.output): block for block in BLOCKS if block.language == "console"}.values())
SLOW = [pytest.param(block, marks=pytest.mark.slow) for block in COMMANDS if block.code in BENCHMARKS]
SNIPPETS = [block for block in BLOCKS if block.language == "python" and block.page.name not in CLIENT_PAGES]


@pytest.fixture(scope="module")
def small_models(export_bin, tmp_path_factory):
    """A directory with the artifacts of small random models, under the names of large ones, and a checkpoint."""
    directory = tmp_path_factory.mktemp("models")
    checkpoints = {
        "instructor-base": write_checkpoint(directory / "checkpoint"),
        "clip-ViT-B-32": write_clip(directory / "clip"),
        "google/siglip-base-patch16-224": write_siglip(directory / "siglip"),
    }
    for name, checkpoint in checkpoints.items():
        output_of([export_bin / "embedder-export", checkpoint, "--output", directory / name, "--dtypes", "fp32"])
    write_sentence_transformers(directory / "potion-base-8M")
    (directory / "cross-encoder").mkdir()
    write_tiny_ranker(directory / "cross-encoder/ms-marco-MiniLM-L6-v2", max_seq_length=512)
    (directory / "lightonai").mkdir()
    write_tiny_multi_vector(directory / "lightonai/GTE-ModernColBERT-v1")
    (directory / "naver").mkdir()
    write_tiny_sparse(directory / "naver/splade-v3")
    labels = ScoreSettings("identity", ("contradiction", "entailment", "neutral"), "longest_first", parity=None)
    write_tiny_ranker(directory / "cross-encoder/nli-distilroberta-base", labels=3, scores=labels)
    return directory


@pytest.fixture
def checkout(minilm, small_models, tmp_path):
    """A directory with the files that the commands read. The commands also write there."""
    for name in ("examples", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(minilm, tmp_path / "artifacts" / minilm.name, copy_function=hard_link)
    for name in ("instructor-base", "clip-ViT-B-32", "cross-encoder", "google", "lightonai", "naver"):
        shutil.copytree(small_models / name, tmp_path / "artifacts" / name, copy_function=hard_link)
    shutil.copytree(small_models / "checkpoint", tmp_path / "checkpoints" / minilm.name)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(tmp_path / f"photos/{number}.jpg")
    return tmp_path


@pytest.fixture
def hub(small_models):
    """A model hub with the small checkpoint. It takes uploads."""
    served = {
        "sentence-transformers/all-MiniLM-L6-v2": small_models / "checkpoint",
        "minishlab/potion-base-8M": small_models / "potion-base-8M",
    }
    with serve(served) as hub:
        yield hub


@pytest.fixture
def run(checkout, hub, lean_bin, export_bin, tmp_path):
    """A function that runs a command in the checkout and returns its output.

    The environment is the smallest one that has all packages of the command.
    """
    home = {"EMBEDDER_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint}

    def run(command, text):
        needs_more = any(word in text for word in ("photos", "embedder-export", "fastapi", "minishlab", "parquet"))
        place = export_bin if needs_more else lean_bin
        path = os.pathsep.join([str(place), os.environ["PATH"]])
        return output_of(command, cwd=checkout, env={**os.environ, **home, "NO_PROXY": "127.0.0.1", "PATH": path})

    return run


def is_in_makefile(command):
    """Whether the Makefile installs the same from the checkout. It has done so for the environments of this test."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = command.replace("embedder-onnx[", ".[").replace("embedder-export[", "./export[")
    return all(word in makefile for word in command.removeprefix("pip install ").split())


def planned(command, *variables):
    """Return the last line that `make` would run. The lines before it make environments and models."""
    make_variables = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # they are set if `make test` runs this test
    environment = {name: value for name, value in os.environ.items() if name not in make_variables}
    words = [*command.split(), "--dry-run", "--no-print-directory", *variables]
    return output_of(words, cwd=ROOT, env=environment).splitlines()[-1]


def with_python(line):
    """Return `line`. If its environment does not exist, put the interpreter of this test and this checkout in it."""
    python = next(word for word in line.split() if word.endswith("/bin/python"))
    if (ROOT / python).exists():
        return line
    return line.replace(python, sys.executable).replace("PYTHONPATH=.", "PYTHONPATH=.:export")


@pytest.mark.parametrize("block", [block for block in COMMANDS if block.code not in BENCHMARKS] + SLOW, ids=str)
def test_command(block, run, tmp_path):
    command = block.code
    if command.startswith("pip install "):
        assert command in INSTALLS or is_in_makefile(command)
    elif command == "make test":
        assert "pytest" in planned(command)
    elif command == "make parity-full":  # the same program as `make parity`, which is run below
        assert planned(command).split() == [*planned("make parity").split(), "--full"]
    elif command == "make demo":
        answer = run(str(ROOT / planned(command)), command)
        assert "1. 0." in answer
        assert "re-ranked 20 passages for each question in " in answer
    elif match := EXPORT.fullmatch(command):
        torch, model, name = match.groups()
        source = f"checkpoints/{model}" if model == "all-MiniLM-L6-v2" else model
        program = f".venv/{'torch' if torch else 'export'}/bin/embedder-export"
        assert planned(command) == f"{program} {source} --output artifacts/{name}"
    elif match := LAMBDA.fullmatch(command):  # tests/end_to_end/test_lambda_zip.py builds one
        builder = "PYTHONPATH=.:export .venv/export/bin/python -m deploy.aws_lambda.builder"
        assert planned(command, "PYTHON=python3.13").split() == [
            *builder.split(), f"artifacts/{match[1]}", "--python", "python3.13", "--output", "dist"
        ]  # fmt: skip
    elif command in BENCHMARKS:
        line = planned(command, f"{BENCHMARKS[command]} --output {tmp_path / 'table.md'}")
        output_of(with_python(line), cwd=ROOT)
        assert "|---" in (tmp_path / "table.md").read_text(encoding="utf-8")
    else:
        printed = run(command, command)
        if block.output:
            assert_same(printed, block.output)


@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_snippet(block, run, checkout):
    (checkout / "snippet.py").write_text(block.code, encoding="utf-8")
    printed = run("python snippet.py", block.code)
    if block.output:
        assert_same(printed, block.output)


def test_every_block_is_run():
    assert {block.language for block in BLOCKS} == {"console", "python", "sh", "text"}
    assert {block.page.name for block in BLOCKS if block.language == "sh"} == set(SERVER_PAGES)
    assert all((ROOT / test).exists() for test in (*SERVER_PAGES.values(), *CLIENT_PAGES.values()))
    assert {"make demo", "make test"} <= {block.code for block in COMMANDS if block.page == README}


def test_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    assert text[: text.index("```python")].count("\n") < MAX_LINES_BEFORE_PYTHON


def rows_of(text):
    """Return the rows of the tables in `text`, as {first cell: other cells}. A range after a median is left out."""
    rows = {}
    for line in text.splitlines():
        if line.startswith("| "):
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.setdefault(name, []).extend(cell.split(" (")[0] for cell in cells)
    return rows


def test_numbers_in_the_readme_are_those_of_the_benchmarks():
    results = rows_of((ROOT / "benchmarks/results/comparison.md").read_text(encoding="utf-8"))
    table = rows_of(README.read_text(encoding="utf-8").split("\n\n")[2])
    assert len(table) == 6  # the header, and five programs
    for name, cells in list(table.items())[1:]:
        short, long, _, query, _, cold, _, peak, _, _, _, _, installed, *_ = results[name]
        assert cells == [short, long, query, cold, peak, installed]


@pytest.mark.parametrize("page", [README, ROOT / "docs/gpu.md"], ids=lambda page: page.name)
def test_figures_of_a_gpu_are_those_of_the_benchmark(page):
    lines = (ROOT / "benchmarks/results/gpu.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| all-MiniLM-L6-v2 | short | "))
    own, other = row.split(" | ")[2:4]
    text = page.read_text(encoding="utf-8").replace("\n", " ")
    assert re.search(rf"embedder encodes {own} short texts\S* .*and sentence-transformers {other}\b", text)


def test_tables_on_the_benchmarks_page_are_the_results():
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    written = (ROOT / "benchmarks/results/comparison.md").read_text(encoding="utf-8").strip()
    assert with_tables(page, written, ("<!-- comparison -->", "<!-- /comparison -->")) == page
    images = rows_of((ROOT / "benchmarks/results/images.md").read_text(encoding="utf-8"))
    shown = rows_of(page.split("## Images")[1])
    for name in ("embedder", "embedder, int8", "sentence-transformers, torch", "fastembed"):
        assert shown[name] == images[name][:2]
    speeds = (ROOT / "benchmarks/results/rerankers.md").read_text(encoding="utf-8").split("\n\n")[0]
    assert with_tables(page, speeds, ("<!-- rerankers -->", "<!-- /rerankers -->")) == page


def test_tables_on_the_page_of_aws_lambda_are_the_results():
    page = (ROOT / "docs/aws-lambda.md").read_text(encoding="utf-8")
    written = (ROOT / "benchmarks/results/functions.md").read_text(encoding="utf-8").strip()
    assert with_tables(page, written, ("<!-- functions -->", "<!-- /functions -->")) == page


def test_tables_on_the_page_of_vector_stores_are_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from compare import with_tables

    page = (ROOT / "docs/vector-stores.md").read_text(encoding="utf-8")
    written = (ROOT / "benchmarks/results/stores.md").read_text(encoding="utf-8").strip()
    assert with_tables(page, written, ("<!-- stores -->", "<!-- /stores -->")) == page


def test_table_on_the_trust_page_is_the_result():
    result = (ROOT / "benchmarks/results/faults.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/trust.md").read_text(encoding="utf-8")
    table = re.search(r"^\| what .*?\n\n", result, re.MULTILINE | re.DOTALL)[0]
    assert table in page
    assert "## Findings" not in result


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_targets_of_links_exist(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def anchors_of(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_name_every_public_name_and_only_existing_targets_and_variables():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in set(embedder.__all__) - {"__version__"}:
        assert re.search(rf"\b{name}\b", text), f"no page names {name}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make has no {target}"
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "embedder").rglob("*.py"))
    options = (ROOT / "docs/command-line.md").read_text(encoding="utf-8").partition("### embedder serve")[2]
    for variable in re.findall(r"`(EMBEDDER_\w+)", text):
        option = f"  --{variable.removeprefix('EMBEDDER_').lower().replace('_', '-')} "
        assert variable in source or option in options, f"embedder reads no {variable}"
