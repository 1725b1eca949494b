"""Jobs of many files: which output each input gets, which outputs are done, and what does not fit together."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedder
from embedder.common.file_locks import try_lock
from embedder.errors import InputError
from embedder.files.file_pairs import FilePair, pair_files, rows_done
from embedder.integrations.table_encoder import TableEncoder

TEXTS = ["the cat", "dog", "sat on mat"]


@pytest.fixture
def model(tiny):
    with embedder.Embedder(tiny) as model:
        yield model


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    embedder.release_models()


def write(path, texts=TEXTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path)


@pytest.fixture
def encode(tmp_path, model):
    """A function that writes the input, and encodes it. It returns both files, and the job."""

    def encode(texts=TEXTS, **options):
        write(tmp_path / "in.parquet", texts)
        embedder.encode_to_file("in.parquet", "out.parquet", model=model, resume=True, **options)
        return FilePair("in.parquet", "out.parquet"), TableEncoder(model, encode_kwargs=options).job()

    return encode


def in_directory(pairs, directory):
    """The pairs with paths relative to a directory. They are absolute before."""
    return [tuple(path.removeprefix(f"{directory}/") for path in (pair.input, pair.output)) for pair in pairs]


def test_outputs_have_the_names_of_the_inputs(tmp_path):
    for name in ("a.parquet", "deeper/a.pq", "deeper/still/b.parquet"):
        write(tmp_path / "in" / name)
    expected = [
        ("in/a.parquet", "out/a.parquet"),
        ("in/deeper/a.pq", "out/deeper/a.parquet"),
        ("in/deeper/still/b.parquet", "out/deeper/still/b.parquet"),
    ]
    for inputs, output in [("in", "out"), ("in/", "out/"), ("in/**/*.p*", f"{tmp_path}/in/../out")]:
        assert in_directory(pair_files(inputs, output), tmp_path) == expected
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["deeper", "still"]
    assert in_directory(pair_files("in/deeper/a.pq", "one"), tmp_path) == [("in/deeper/a.pq", "one/a.parquet")]


def test_other_formats(tmp_path):
    (tmp_path / "notes.txt").write_text("a\n")
    assert in_directory(pair_files("notes.txt", "out"), tmp_path) == [("notes.txt", "out/notes.parquet")]


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["a.parquet", "a.pq"], "out", "in/a.pq and .*in/a.parquet would both get .*out/a.parquet. Rename one"),
        (["a.parquet"], "in", "in/ lies in the directory of the inputs. Choose another directory"),
        (["a.parquet"], "file", "file cannot be written: File exists"),
        (["a.parquet"], "missing/out", "missing/out cannot be written: No such file or directory"),
        ([], "out", "in is not there"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, names, output, message):
    (tmp_path / "file").write_bytes(b"")
    for name in names:
        write(tmp_path / "in" / name)
    with pytest.raises(InputError, match=message):
        pair_files("in", output)


def test_output_without_an_input_is_refused(tmp_path):
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "out/b.parquet")
    with pytest.raises(InputError, match=r"out/b.parquet is there, and no input has this name. Choose an empty"):
        pair_files("in", "out")


@pytest.mark.parametrize("texts", [TEXTS, []])
def test_output_rows_done_when_it_has_all_texts(encode, texts):
    pair, job = encode(texts)
    assert rows_done(pair, job) == len(texts)
    assert rows_done(FilePair(pair.input, "other.parquet"), job) is None


@pytest.mark.parametrize("change", [["the cat", "dog", "changed"], [*TEXTS, "more"], TEXTS[:2], []])
def test_input_that_has_changed_is_named(encode, tmp_path, change):
    pair, job = encode()
    write(tmp_path / "in.parquet", change)
    with pytest.raises(InputError, match=r"in.parquet has changed since out.parquet was written. Delete the output"):
        rows_done(pair, job)


def test_bad_record_of_a_changed_input_is_named(encode, tmp_path):
    pair, job = encode()
    write(tmp_path / "in.parquet", ["the cat", None])
    with pytest.raises(InputError, match="row 2: the column 'text' is null"):
        rows_done(pair, job)


def test_output_of_another_job_is_refused(encode):
    pair, job = encode(prompt="query: ")
    message = r"out.parquet is of another run: model_digest was .*, and is now '0'; prompt was 'query: ', and is now ''"
    with pytest.raises(InputError, match=message + r"\. Give the same options, or choose an empty directory"):
        rows_done(pair, {**job, "prompt": "", "model_digest": "0"})


def test_output_of_another_program_is_refused(encode, tmp_path):
    pair, job = encode()
    write(tmp_path / "out.parquet")
    with pytest.raises(InputError, match=r"out.parquet was not written by embedder"):
        rows_done(pair, job)


def test_part_of_another_job_is_refused(model, tmp_path):
    write(tmp_path / "in.parquet", ["a"] * 1024 + [None])
    job = TableEncoder(model).job()
    texts = iter(["a"] * 1024 + [3])
    with pytest.raises(InputError, match="input"):
        embedder.encode_to_file(texts, "out.parquet", model=model)
    pair = FilePair("in.parquet", "out.parquet")
    assert rows_done(pair, job) is None
    with pytest.raises(InputError, match=r"out.parquet.partial is of another run: prompt was '', and is now 'query: '"):
        rows_done(pair, {**job, "prompt": "query: "})


def test_parts_beside_a_complete_output_are_removed_unless_a_process_writes_them(encode, model, tmp_path):
    pair, job = encode()
    names = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "out.parquet").rename(tmp_path / "kept.parquet")
    texts = iter(["a"] * 1024 + [3])
    with pytest.raises(InputError, match="input"):
        embedder.encode_to_file(texts, "out.parquet", model=model)
    (tmp_path / "kept.parquet").rename(tmp_path / "out.parquet")
    left = {path.name for path in tmp_path.iterdir()} - names
    assert left == {"out.parquet.partial", "out.parquet.journal"}
    with (tmp_path / "out.parquet.journal").open("rb") as writer:
        try_lock(writer.fileno())
        assert rows_done(pair, job) == 3
        assert left < {path.name for path in tmp_path.iterdir()}
    assert rows_done(pair, job) == 3
    assert not left & {path.name for path in tmp_path.iterdir()}
