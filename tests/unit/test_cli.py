import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.cli.main import main
from embedder.cli.records import open_output, write_npy
from tests.tiny import expected, flip_a_bit, ids_of, write_tiny_artifact

TEXTS = ["the cat", "", "dog \u0085 sat", "字 é \u2028 mat", "   "]


@pytest.fixture
def encode(tiny, capsysbinary, monkeypatch):
    """Runs `embedder encode`; gives its status, standard output and standard error."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(["encode", "--model", str(tiny), *map(str, arguments)])
        captured = capsysbinary.readouterr()
        return status, captured.out, captured.err.decode()

    return run


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


def test_npy_on_a_pipe():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *arguments):
            raise OSError("a pipe")

    pipe = Pipe()
    write_npy(pipe, [([], np.ones((2, 3), np.float32))] * 3, 3)
    np.testing.assert_array_equal(np.load(io.BytesIO(pipe.getvalue())), np.ones((6, 3)))


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_no_input_no_rows(encode, tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    assert encode("--output", path, "--truncate-dim", 3)[0] == 0
    assert np.load(path).shape == (0, 3) if kind == "npy" else path.read_bytes() == b""


def test_jsonl_records_come_back_whole(encode, tmp_path):
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


def test_options_reach_the_model(encode, tiny):
    _, out, _ = encode("--prompt", "query : ", "--truncate-dim", 3, "--normalize", "--batch-size", 1, stdin=b"cat\na")
    model = embedder.Embedder(tiny)
    options = {"prompt": "query : ", "truncate_dim": 3, "normalize_embeddings": True}
    np.testing.assert_allclose(vectors_of(out), model.encode(["cat", "a"], **options), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (
            ["--input-format", "jsonl"],
            b'{"text": "a"}\n{"text": 3}\n',
            "stdin, line 2: the column 'text' is not a string but 3",
        ),
        (["--input-format", "jsonl"], b'{"text": "a"}\n{"x": "y"}\n', "stdin, line 2: the column 'text' is missing"),
        (["--input-format", "jsonl"], b'{"text": null}', "stdin, line 1: the column 'text' is not a string but None"),
        (["--input-format", "jsonl"], b'{"text": "a"}\nnonsense\n', "stdin, line 2 is not JSON"),
        (["--input-format", "jsonl"], b"[1]", "stdin, line 1 should be a JSON object, not [1]"),
        (["--input-format", "csv"], b"id\n1\n", "stdin, line 2: the column 'text' is missing"),
        (["--input-format", "csv"], b"text\na,b\n", "stdin, line 2 has more fields than the header"),
        (["--input-format", "csv"], b'text\n"a"b\n', "stdin, line 2 is not CSV"),
        ([], b"fine\n\xff\n", "stdin, line 2 is not UTF-8: invalid start byte at byte 0"),
        (["--truncate-dim", "99"], b"a", "truncate_dim should be a whole number, at least 1 and at most 8, not 99"),
        (["--batch-size", "0"], b"a", "batch_size should be a whole number, at least 1, not 0"),
        (["--prompt-name", "x"], b"a", "unknown prompt_name 'x'"),
        (["--provider", "tpu"], b"a", "unknown provider 'tpu'"),
        (["--output", "vectors"], b"a", "what to write to 'vectors'?"),
        (["--column", "embedding"], b"a", "JSONL output has the vectors there"),
        (["table.tsv"], b"", "what is in 'table.tsv'? Say --input-format lines, jsonl or csv"),
        (["--output", "/dev/full", "--output-format", "npy"], b"a", "error: No space left on device"),
        (["no/such/file"], b"", "no/such/file: No such file or directory"),
        (["--output", "no/such/place.npy"], b"", "no/such is not a directory"),
        (["--model", "nobody"], b"a", "make export MODEL=nobody"),
    ],
)
def test_error_is_a_line_without_traceback(encode, monkeypatch, tmp_path, arguments, stdin, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = encode(*arguments, stdin=stdin)
    assert status == 1
    assert err.startswith("embedder: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_output_appears_only_when_whole(encode, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("of an earlier run")
    assert encode("--output", output, stdin=b"a\n" * 1024 + b"\xff")[0] == 1
    assert output.read_text() == "of an earlier run"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.jsonl"]


def test_output_keeps_its_mode_and_two_may_write_at_once(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with open_output(str(path)) as one, open_output(str(path)) as two:
        one.write(b"1" * 9999)
        two.write(b"2" * 9999)
    assert path.read_bytes() == b"1" * 9999
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


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


def test_progress_is_shown_to_a_person(encode, monkeypatch):
    assert encode(stdin=b"a\n" * 30)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "Encoding: 30text" in encode(stdin=b"a\n" * 30)[2]


def test_output_to_a_device(encode):
    assert encode("--output", "/dev/null", "--output-format", "npy", stdin=b"a")[0] == 0


def test_an_error_leaves_standard_output_alone(tiny, tmp_path):
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
    from embedder.artifact.manifest import Parity

    parity = Parity("sentence-transformers 5.7.0", 252, 0.9999999, 3.1e-7)
    prompts = {"query": "query : "}
    directory = make_artifact(parity=parity, prompts=prompts, default_prompt_name="query")
    assert main(["info", str(directory)]) == 0
    out = capsys.readouterr().out
    for piece in [
        "model           tiny\n",
        "dimension       8\n",
        "max_seq_length  16 tokens\n",
        "head            mean pooling, normalize\n",
        "query (default): 'query : '",
        "with sentence-transformers 5.7.0, over 252 sentences",
        "smallest cosine 0.99999990, largest difference 3.1e-07",
        "all with the right sha256",
    ]:
        assert piece in out


def test_info_of_an_artifact_that_was_compared_with_nothing(make_artifact, capsys):
    assert main(["info", str(make_artifact(parity=None))]) == 0
    out = capsys.readouterr().out
    assert "not measured: the export had nothing to compare with" in out
    assert "form: traced\n" in out


def test_info_reads_every_file(tiny, capsys):
    flip_a_bit(tiny / "model.onnx.data")
    assert main(["info", str(tiny)]) == 1
    assert "has been altered" in capsys.readouterr().err


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


def test_interrupt(tiny, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("embedder.cli.main.Embedder", interrupt)
    assert main(["similarity", "a", "b", "--model", str(tiny)]) == 130


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r")), min_size=1, max_size=20))
def test_every_line_is_a_text_in_its_place(tiny_path, texts):
    output = tiny_path.parent / "out.npy"
    source = tiny_path.parent / "in.txt"
    source.write_bytes("".join(text + "\n" for text in texts).encode())
    assert main(["encode", str(source), "--model", str(tiny_path), "--output", str(output)]) == 0
    texts = [texts[0].removeprefix("\ufeff"), *texts[1:]]
    np.testing.assert_allclose(np.load(output), expected_vectors(texts), atol=1e-6)


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("cli") / "tiny")
