"""The zip of an AWS Lambda function, built from this checkout, unpacked and called where nothing can be written."""

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deploy.aws_lambda.builder.archive import unpack_zip
from deploy.aws_lambda.builder.needless import TABLE
from deploy.aws_lambda.builder.target import choose_target
from embedder import Embedder
from tests.distributions import ROOT

pytestmark = pytest.mark.slow

TEXTS = ["A cat sits outside.", "", "Le chat est assis dehors. " * 100]
# Reads events from standard input, one a line, and prints the answers and the places of all modules.
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import lambda_function
answers = [lambda_function.handler(json.loads(line), None) for line in sys.stdin]
places = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(json.dumps([answers, places]))
"""


@pytest.fixture(scope="module")
def task(lambda_zip, tmp_path_factory):
    """The unpacked zip. Nobody may write there, but root always may."""
    directory = tmp_path_factory.mktemp("lambda") / "task"
    unpack_zip(lambda_zip, directory)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield directory
    for path in (directory, *directory.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)  # so that pytest can remove it


def call(task, home, *events):
    """Return the answers of the handler to events, and where each module came from."""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", PROGRAM, task],
        input="\n".join(map(json.dumps, events)),
        capture_output=True,
        text=True,
        cwd="/",
        env={"HOME": str(home), "TMPDIR": str(home), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769"},
    )
    assert answer.returncode == 0, answer.stderr
    answers, places = json.loads(answer.stdout)
    return answers, {name: place for name, place in places.items() if place}


def contents(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_handler_gives_the_vectors_of_the_runtime_and_writes_nothing(task, minilm, tmp_path):
    expected = Embedder(minilm, dtype="int8", provider="cpu").encode(TEXTS)
    before = contents(task)
    body = json.dumps({"inputs": TEXTS, "truncate_dim": 3, "encoding_format": "base64"})
    events = [
        {"inputs": TEXTS},
        {"requestContext": {"http": {"method": "POST"}}, "body": body, "isBase64Encoded": False},
        {"inputs": 3},
    ]
    (direct, http, wrong), _ = call(task, tmp_path, *events)
    assert contents(task) == before
    assert contents(tmp_path) == {}
    np.testing.assert_allclose(direct["embeddings"], expected, atol=1e-5)
    assert (http["statusCode"], json.loads(http["body"])["dimension"]) == (200, 3)
    found = [np.frombuffer(base64.b64decode(text), "<f4") for text in json.loads(http["body"])["embeddings"]]
    np.testing.assert_allclose(found, expected[:, :3], atol=1e-5)
    assert wrong["error"]["status"] == 400


def test_modules_are_bytecode_of_the_zip_or_of_python(task, tmp_path):
    _, places = call(task, tmp_path, {"inputs": TEXTS})
    own = {name: Path(place) for name, place in places.items() if Path(place).is_relative_to(task)}
    assert {"embedder", "numpy", "onnxruntime", "tokenizers", "lambda_function"} <= set(own)
    assert {path.suffix for path in own.values()} == {".py", ".pyc", ".so"}
    assert [name for name, path in own.items() if path.suffix == ".py"] == ["lambda_function"]
    others = {place for name, place in places.items() if name not in own}
    assert not [place for place in others if "site-packages" in place]


def test_zip_holds_what_a_function_needs(lambda_zip):
    target = choose_target(sys.executable, None)
    assert lambda_zip.name == f"lambda-all-MiniLM-L6-v2-{target.architecture}.zip"
    with zipfile.ZipFile(lambda_zip) as archive:
        names = archive.namelist()
        assert names == sorted(names, key=Path)
        assert sum(entry.file_size for entry in archive.infolist()) < 150e6
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        settings = json.loads(archive.read("model/embedder.json"))
    assert [graph["dtype"] for graph in settings["graphs"]] == ["int8"]
    assert "prepacked" in settings["extra"]
    assert not [name for name in names if name.startswith(("huggingface_hub", "hf_xet", "embedder_export", "deploy"))]
    # The wheel of tokenizers has no licence.
    assert {"onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"} <= set(names)
    assert [name for name in names if name.startswith("numpy-") and name.endswith("/licenses/LICENSE.txt")]


def rows_of(text):
    """Return the tables in `text`: the cells of each row, by the first cell."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {name: cells for name, *cells in rows}


def test_page_has_the_tables_that_the_build_prints(lambda_zip):
    printed = rows_of((lambda_zip.parent / "printed.txt").read_text(encoding="utf-8"))
    page = (ROOT / "docs/aws-lambda.md").read_text(encoding="utf-8")
    # Other tables of the page have rows of the same names.
    shown = rows_of(page.split("## What is in the zip")[1].split("\n## ")[0])
    for name in printed.keys() - {"part", "left out"}:
        *words, megabytes = printed[name]
        assert shown[name][:-2] == words
        # Versions of NumPy differ: 2.5 has a sixth less of linear algebra than 2.4.
        assert float(shown[name][-2]) == pytest.approx(float(megabytes), rel=0.25, abs=1), name


def test_table_that_the_build_prints(lambda_zip):
    printed = (lambda_zip.parent / "printed.txt").read_text(encoding="utf-8")
    for row in TABLE:
        assert f"| {row.what} | {row.why} | " in printed
        assert f"| {row.what} | {row.why} | 0.0 |" not in printed, "nothing fits the row: mend its patterns"
    megabytes = float(printed.split("| all | ")[1].split()[0])
    with zipfile.ZipFile(lambda_zip) as archive:
        assert megabytes == pytest.approx(sum(entry.file_size for entry in archive.infolist()) / 1e6, abs=0.06)
