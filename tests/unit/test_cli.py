"""The commands, their options, their errors and their exit status."""

import inspect
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.artifact.int8_products import Int8Products, int8_products, with_int8_products
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.artifact.measurements import Parity, ScoreParity, ScoreQuality
from embedder.cli.commands import DEFAULT_MODEL
from embedder.cli.main import main
from tests.command_help import PAGE, command_names, help_of, with_help
from tests.tiny import add_int8_graph, expected, ids_of, write_tiny_artifact, write_tiny_multi_vector, write_tiny_ranker

TEXTS = ["the cat", "", "dog \u0085 sat", "字 é \u2028 mat", "   "]


@pytest.fixture
def encode(tiny, run_command):
    """A function that runs `embedder encode` and returns its status, standard output and standard error."""
    return partial(run_command, "encode", "--model", tiny)


def vectors_of(jsonl):
    return [json.loads(line)["embedding"] for line in jsonl.decode().removesuffix("\n").split("\n")]


def expected_vectors(texts):
    return [expected(ids_of(text)) for text in texts]


def test_lines_from_stdin_to_jsonl_on_stdout(encode):
    status, out, err = encode(stdin="\n".join(TEXTS).encode())
    assert (status, err) == (0, "")
    np.testing.assert_allclose(vectors_of(out), expected_vectors(TEXTS), atol=1e-6)
    assert [json.loads(line)["text"] for line in out.decode().removesuffix("\n").split("\n")] == TEXTS


def test_jsonl_keeps_every_bit_of_float32(encode, tiny):
    _, out, _ = encode(stdin=b"the cat")
    np.testing.assert_array_equal(np.float32(vectors_of(out)[0]), embedder.Embedder(tiny).encode("the cat"))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_from_a_file_to_npy(encode, tmp_path, ending, mark):
    (tmp_path / "in.txt").write_bytes((mark + ending.join([*TEXTS, ""])).encode())
    assert encode(tmp_path / "in.txt", "--output", tmp_path / "out.npy")[0] == 0
    array = np.load(tmp_path / "out.npy")
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, expected_vectors(TEXTS), atol=1e-6)


def test_npy_on_stdout(encode):
    status, out, _ = encode("--output-format", "npy", stdin=b"the cat\na\n")
    assert status == 0
    np.testing.assert_allclose(np.load(io.BytesIO(out)), expected_vectors(["the cat", "a"]), atol=1e-6)


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_empty_input_gives_no_rows(encode, tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    assert encode("--output", path, "--truncate-dim", 3)[0] == 0
    assert np.load(path).shape == (0, 3) if kind == "npy" else path.read_bytes() == b""


def test_jsonl_output_keeps_all_fields(encode, tmp_path):
    records = [
        {"id": 1, "body": "the cat", "tags": ["x", None]},
        {"id": 2, "body": "字", "odd": "\ud83d", "embedding": "old"},
        {"body": ""},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    status, out, err = encode(tmp_path / "in.jsonl", "--column", "body")
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.decode().removesuffix("\n").split("\n")]
    for record, before in zip(found, records, strict=True):
        np.testing.assert_allclose(record.pop("embedding"), expected(ids_of(before["body"])), atol=1e-6)
        before.pop("embedding", None)
    assert found == records


def test_csv_column(encode, tmp_path):
    (tmp_path / "in.csv").write_bytes('\ufeffid,text\r\n1,"the cat, \n""sat"""\r\n2,\r\n'.encode())
    status, out, err = encode(tmp_path / "in.csv")
    assert (status, err) == (0, "")
    first, second = (json.loads(line) for line in out.decode().removesuffix("\n").split("\n"))
    assert (first["id"], first["text"], second["text"]) == ("1", 'the cat, \n"sat"', "")
    np.testing.assert_allclose(first["embedding"], expected(ids_of('the cat, "sat"')), atol=1e-6)


def test_long_csv_field(encode):
    status, out, _ = encode("--input-format", "csv", stdin=b"text\n" + b"cat " * 100_000)
    assert status == 0
    np.testing.assert_allclose(vectors_of(out), expected_vectors(["cat " * 100]), atol=1e-6)


def test_options_are_passed_to_the_model(encode, tiny):
    _, out, _ = encode("--prompt", "query : ", "--truncate-dim", 3, "--normalize", "--batch-size", 1, stdin=b"cat\na")
    model = embedder.Embedder(tiny)
    options = {"prompt": "query : ", "truncate_dim": 3, "normalize_embeddings": True}
    np.testing.assert_allclose(vectors_of(out), model.encode(["cat", "a"], **options), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truncate-dim", "99"], "truncate_dim should be a whole number, at least 1 and at most 8, not 99"),
        (["--batch-size", "0"], "batch_size should be a whole number, at least 1, not 0"),
        (["--prompt-name", "x"], "unknown prompt_name 'x'"),
        (["--provider", "tpu"], "unknown provider 'tpu'"),
        (["--provider-options", "use_tf32"], "--provider-options should be NAME=VALUE, or several of them with commas"),
        (
            ["--provider", "cpu", "--provider-options", "use_tf32=0"],
            "'cpu' takes no provider_options (here 'use_tf32')",
        ),
        (
            ["--output", "vectors"],
            "the name 'vectors' does not show the output format. Let it end in .npy, .jsonl or .parquet, or",
        ),
        (["--column", "embedding"], "--column embedding: the vectors are written to this column. Rename the column"),
        (["--precision", "int8"], "--precision int8 needs the range of each dimension over all vectors"),
        (["--precision", "uint8"], "--precision uint8 needs the range of each dimension over all vectors"),
        (
            ["--precision", "int4"],
            "--precision should be one of float32, float16, int8, uint8, binary, ubinary, not 'int4'",
        ),
        (["--delimiter", ";"], "--delimiter is for csv and tsv, but the input format is lines"),
        (["--input-format", "csv", "--delimiter", ", "], "should be one character such as ; or the word tab, not ', '"),
        (["table.xlsx"], "the name 'table.xlsx' does not show the input format. Add --input-format lines, jsonl"),
        (["no/such/file"], "no/such/file: No such file or directory"),
        (["--output", "no/such/place.npy"], "no/such is not a directory"),
        (["--model", "./nobody"], "no exported model at './nobody': there is no embedder.json"),
    ],
)
def test_error_message_is_one_line_without_traceback(encode, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = encode(*arguments, stdin=b"a")
    assert status == 1
    assert err.startswith("embedder: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_all_records_before_a_bad_one_are_written(encode, tmp_path):
    texts = ["the cat", "a", "dog"] * 500
    status, _, err = encode("--output", tmp_path / "out.npy", stdin="\n".join(texts).encode() + b"\n\xff\n")
    assert (status, "1,500 records in" in err) == (1, True)
    found = np.load(tmp_path / "out.npy.partial")
    np.testing.assert_allclose(found, expected_vectors(texts), atol=1e-6)


def test_warning_of_texts_that_are_cut(encode):
    texts = "\n".join(["a", "cat " * 99, "dog " * 99]).encode()
    assert encode(stdin=texts)[2] == ""
    status, _, err = encode("--warn-if-cut", stdin=texts)
    assert status == 0
    assert err == "embedder: warning: 2 texts cut after 16 tokens. The first is text 2 of the input\n"


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_precision(encode, tiny, tmp_path, precision):
    vectors = embedder.Embedder(tiny).encode(["the cat", "a"])
    wanted = embedder.quantize_embeddings(vectors[:, :7], precision)
    options = ["--precision", precision, "--truncate-dim", 7]
    assert encode(*options, "--output", tmp_path / "out.npy", stdin=b"the cat\na")[0] == 0
    found = np.load(tmp_path / "out.npy")
    assert (found.dtype, found.shape) == (wanted.dtype, (2, 1))
    np.testing.assert_array_equal(found, wanted)
    assert vectors_of(encode(*options, stdin=b"the cat\na")[1]) == wanted.tolist()


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_precision_with_ranges(encode, tiny, tmp_path, precision):
    words = [
        ["--precision", precision, "--output", f"{tmp_path}/{name}"] for name in ("out.parquet", "out/", "out.npy")
    ]
    assert encode(*words[0], stdin=b"the cat\ndog\n") == (0, b"", "")
    found = pq.read_table(tmp_path / "out.parquet")["embedding"].to_pylist()
    wanted = embedder.Embedder(tiny).encode(["the cat", "dog"], precision=precision)
    np.testing.assert_array_equal(found, wanted)
    for refused in words[1:]:
        status, _, err = encode(*refused, stdin=b"the cat\ndog\n")
        assert status == 1
        assert "search needs the ranges too. One file .parquet has room for them. Or write float32 vectors" in err


def test_precision_without_rows(encode, tmp_path):
    assert encode("--precision", "binary", "--output", tmp_path / "out.npy")[0] == 0
    found = np.load(tmp_path / "out.npy")
    assert (found.dtype, found.shape) == (np.int8, (0, 1))


@pytest.mark.parametrize(
    ("shell", "status", "stderr"),
    [
        ("{embedder} encode -m {model} --output-format npy < in.txt >> out.npy", 0, ""),
        ("{embedder} encode -m {model} --output-format npy --output /dev/stdout in.txt | cat > out.npy", 0, ""),
        ("{embedder} encode -m {model} in.txt | head -c 1 > out.txt", 0, ""),
        ("{embedder} info {model} > /dev/full", 1, "embedder: error: No space left on device\n"),
        ("{embedder} similarity -m {model} a b > /dev/full", 1, "embedder: error: No space left on device\n"),
        ("{embedder} encode -m {model} in.txt > /dev/full", 1, "embedder: error: No space left on device\n"),
        ("{embedder} encode -m {model} in.txt >&-", 1, "embedder: error: stdout is closed\n"),
        ("{embedder} encode -m {model} <&-", 1, "embedder: error: stdin is closed\n"),
        ("{embedder} encode -m {model} --output out.npy in.txt 2>&-", 0, ""),
        ("PYTHONIOENCODING=ascii {embedder} info {model}", 0, ""),
    ],
)
def test_in_a_shell(make_artifact, tmp_path, shell, status, stderr):
    directory = make_artifact("字", prompts={"query": "é: "})
    (tmp_path / "in.txt").write_text("a\ncat\n")
    command = shell.format(embedder=f"{sys.executable} -m embedder", model=directory)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["PYTHONPATH"] = str(Path(embedder.__file__).parents[1])
    answer = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (status, stderr)
    if "out.npy" in command:
        assert np.load(tmp_path / "out.npy").shape == (2, 8)


def test_progress_is_shown_on_a_terminal_only(encode, monkeypatch):
    assert encode(stdin=b"a\n" * 30)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "Encoding: 30text" in encode(stdin=b"a\n" * 30)[2]


def test_progress_shows_the_number_of_texts_of_a_file(encode, monkeypatch, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a\n" * 30)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "30/30" in encode(tmp_path / "in.txt")[2]


def test_output_to_a_device(encode):
    assert encode("--output", "/dev/null", "--output-format", "npy", stdin=b"a")[0] == 0


def test_standard_output_can_be_used_after_an_error(tiny, tmp_path):
    code = "import sys; from embedder.cli.main import main; main(sys.argv[1:]); print('still here')"
    command = [sys.executable, "-c", code, "encode", "-m", str(tiny), "no-such-file"]
    answer = subprocess.run(command, cwd=Path(embedder.__file__).parents[1], capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == (
        "still here\n",
        "embedder: error: no-such-file: No such file or directory\n",
    )


def test_damaged_artifact_has_no_traceback(encode, tiny):
    (tiny / "model.onnx").write_bytes(b"")
    status, _, err = encode(stdin=b"a")
    assert status == 1
    assert "model.onnx has 0 bytes, the manifest says" in err


def test_similarity(tiny, capsys):
    assert main(["similarity", "the cat", "the cat", "--model", str(tiny)]) == 0
    assert capsys.readouterr().out == "1.0000\n"


def test_info(make_artifact, capsys):
    parity = Parity("sentence-transformers 5.7.0", 252, 0.9999999, 3.1e-7)
    prompts = {"query": "query : "}
    directory = make_artifact(parity=parity, prompts=prompts, default_prompt_name="query")
    assert main(["info", str(directory)]) == 0
    out = capsys.readouterr().out
    for piece in [
        "model           tiny\n",
        "task            embed\n",
        "dimension       8\n",
        "similarity      cosine\n",
        "max_seq_length  16 tokens\n",
        "head            mean pooling, normalize\n",
        "query (default): 'query : '",
        "with sentence-transformers 5.7.0, over 252 sentences",
        "smallest cosine 0.99999990, largest difference 3.1e-07",
        "dtypes here     fp32\n",
        f"directory       {directory}\n",
        "found in        path\n",
    ]:
        assert piece in out


def test_info_of_an_artifact_without_parity(make_artifact, capsys):
    assert main(["info", str(make_artifact(parity=None))]) == 0
    out = capsys.readouterr().out
    assert "not measured for sentences, because the export had no reference" in out
    assert "form: traced\n" in out


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"count": 24, "fp32": [], "split": []}, ", products in fp32: 0 of 24\n"),
        ({"count": 24, "fp32": [3, 7], "split": [11]}, ", products in fp32: 2 of 24, with outliers in fp32: 1\n"),
        ({"count": 24}, ", form: traced"),
        ({"count": 24, "fp32": ["a"], "split": [], "more": 1}, ", form: traced"),
        (["fp32"], ", form: traced"),
        (None, ", form: traced"),
    ],
)
def test_info_of_the_products_of_an_int8_graph(tiny, capsys, entry, expected):
    """`extra` may hold anything. What has another form is passed over."""
    add_int8_graph(tiny)
    manifest = read_manifest(tiny)
    write_manifest(replace(manifest, extra={"int8_products": {"model.int8.onnx": entry}}), tiny)
    assert main(["info", str(tiny)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines(keepends=True) if "  int8, " in line]
    assert expected in line
    assert ("products in" in line) == ("products in" in expected)
    write_manifest(replace(manifest, extra={"int8_products": [entry]}), tiny)
    assert main(["info", str(tiny)]) == 0
    assert "products in" not in capsys.readouterr().out


def test_products_of_graphs_that_are_gone_leave_the_manifest(tiny):
    manifest = replace(read_manifest(tiny), extra={"other": 1})
    changed = with_int8_products(manifest, {"model.int8.onnx": Int8Products(24, (3,), ())})
    assert changed.extra["other"] == 1
    assert int8_products(changed, manifest.graphs[0]) is None
    assert with_int8_products(changed, {}).extra == {"other": 1}


def test_info_of_an_artifact_that_gives_scores(tmp_path, capsys):
    directory = write_tiny_ranker(tmp_path / "ranker", labels=2)
    manifest = read_manifest(directory)
    assert manifest.scores is not None
    assert main(["info", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "task            rank\nlabels          2, activation_fn: identity\n" in out
    assert "max_seq_length  16 tokens of a pair\n" in out
    assert "not measured for pairs, because the export had no reference" in out
    assert not any(word in out for word in ("dimension", "similarity", "head"))
    parity = ScoreParity("sentence-transformers 6.2.0", 96, 0.999999, 2.5e-7)
    scores = replace(manifest.scores, label_names=("no", "yes"), parity=parity)
    (fp32,) = manifest.graphs
    int8 = replace(fp32, dtype="int8", score_quality=ScoreQuality(96, 0.99953, 0.0123))
    write_manifest(replace(manifest, scores=scores, graphs=(fp32, int8)), directory)
    assert main(["info", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "labels          2 ('no', 'yes'), activation_fn: identity\n" in out
    assert "Spearman with fp32: 0.9995, largest difference 1.23 % of the range, over 96 pairs" in out
    assert "with sentence-transformers 6.2.0, over 96 pairs:" in out
    assert "Spearman 0.99999900, largest difference 2.5e-07 of the range" in out


def test_info_of_a_model_of_tokens(tmp_path, capsys):
    assert main(["info", str(write_tiny_multi_vector(tmp_path / "colbert"))]) == 0
    out = capsys.readouterr().out
    assert "task            multi_vector\ndimension       8 for each token\n" in out
    assert "query           up to 8 tokens, filled up to 8 with token 1, which is not attended to\n" in out
    assert "document        up to 12 tokens; 3 tokens, such as punctuation, give no vector\n" in out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"embedder {embedder.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["dance"], ["similarity", "one"], ["encode", "--batch-size", "many"], ["encode", "--truncate", "4"]],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: embedder" in capsys.readouterr().err


def test_unknown_option_shows_the_usage_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "a", "--model-id", "b"])
    assert capsys.readouterr().err == (
        "usage: embedder serve [options] [MODEL ...]\n"
        "embedder serve: error: unrecognized arguments: --model-id b. See embedder serve --help\n"
    )


@pytest.mark.parametrize("command", command_names())
def test_help_has_an_example_and_fits_a_terminal(command):
    out = help_of(command)
    assert re.search(rf"example:\n  embedder {command}\s", out)
    assert max(map(len, out.splitlines())) <= 80


def test_page_has_the_help_of_every_command():
    page = PAGE.read_text(encoding="utf-8")
    assert {"encode", "index", "search", "duplicates", "clusters", "map", "info"} <= set(command_names())
    assert with_help(page) == page, "run make command-help"


def test_default_model_equals_that_of_embedder():
    assert inspect.signature(embedder.Embedder).parameters["model"].default == DEFAULT_MODEL


def test_parser_imports_neither_numpy_nor_onnxruntime():
    """The `__init__` of the package is replaced, so that only the imports of the command line count."""
    code = (
        "import sys, types\n"
        "package = types.ModuleType('embedder')\n"
        f"package.__path__ = {list(embedder.__path__)!r}\n"
        "sys.modules['embedder'] = package\n"
        "from embedder.cli.main import main\n"
        "try: main(['encode', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'onnxruntime', 'tokenizers', 'huggingface_hub', 'tqdm', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stderr == "[]\n"


def test_interrupt(tiny, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("embedder.Embedder", interrupt)
    assert main(["similarity", "a", "b", "--model", str(tiny)]) == 130


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r")), min_size=1, max_size=20))
def test_every_line_is_a_text_and_order_is_kept(tiny_path, texts):
    output = tiny_path.parent / "out.npy"
    source = tiny_path.parent / "in.txt"
    source.write_bytes("".join(text + "\n" for text in texts).encode())
    assert main(["encode", str(source), "--model", str(tiny_path), "--output", str(output)]) == 0
    texts = [texts[0].removeprefix("\ufeff"), *texts[1:]]
    np.testing.assert_allclose(np.load(output), expected_vectors(texts), atol=1e-6)


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("cli") / "tiny")
