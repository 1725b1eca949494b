"""`embedder.encode_to_file`: runs that are killed at any moment, and what a run refuses to go on with."""

import itertools
import os
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedder
from embedder.engine import batching
from embedder.errors import InputError
from embedder.files import shards
from embedder.files.journal import Journal, Progress, Tally
from embedder.files.parquet import ParquetSource
from tests.killed_runs import KINDS, counting_embedder, kill_after, lines_of, random_texts, read_vectors
from tests.tiny import WORDS, write_tiny_artifact

KILLS = 13  # of each of the four kinds of output: fifty-two in all
ROWS = 150
ROWS_PER_BLOCK = 8
TEXTS = [f"{word} {number}" for number in (1, 2) for word in WORDS.split()[4:20]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(model_path):
    with embedder.Embedder(model_path, threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(batching, "_WINDOW_ITEMS", ROWS_PER_BLOCK)
    monkeypatch.setattr(batching, "_BUDGET_TOKENS_PER_ITEM", 10**9)  # as on a CPU: one window at a time
    monkeypatch.setattr(shards, "SHARD_ROWS", 5 * ROWS_PER_BLOCK)


def write_table(path, texts):
    """Write texts and other columns, in two row groups."""
    table = pa.table({"id": range(len(texts)), "text": texts, "tags": [["a"], []] * (len(texts) // 2)})
    pq.write_table(table, path, row_group_size=len(texts) // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_nothing_is_there_twice_after_kills_at_any_moment(model, tmp_path, kind):
    source = tmp_path / "in.parquet"
    write_table(source, random_texts(kind, ROWS))
    wanted = tmp_path / "wanted" / kind
    wanted.parent.mkdir()

    def run(output):
        return embedder.encode_to_file(source, f"{output}/" if kind.endswith("/") else output, model=model, resume=True)

    lines = lines_of(lambda: run(wanted))
    draw, kills, number = random.Random(kind), 0, 0
    while kills < KILLS:
        number += 1
        output = tmp_path / f"killed-{number}" / kind
        output.parent.mkdir()
        while kills < KILLS and kill_after(draw.randint(0, lines), lambda output=output: run(output)):
            kills += 1
        assert run(output) == ROWS
        vectors, fields = read_vectors(output)
        np.testing.assert_array_equal(vectors, read_vectors(wanted)[0])
        assert fields == read_vectors(wanted)[1]
        assert names_below(output.parent) == names_below(wanted.parent)


def names_below(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def stop_after(rows, texts):
    """Yield so many texts, then fail."""
    yield from texts[:rows]
    raise InputError("stopped")


@pytest.fixture
def stopped(model, tmp_path):
    """A function that leaves what a run has written that was stopped after 24 of 32 texts. It returns the output."""

    def stop(name, texts=TEXTS, **options):
        output = f"{tmp_path / name}/" if name.endswith("/") else str(tmp_path / name)
        with pytest.raises(InputError, match="stopped") as error:
            embedder.encode_to_file(stop_after(24, texts), output, model=model, **options)
        assert "the finished vectors are kept: " in error.value.__notes__[0]
        return output

    return stop


@pytest.mark.parametrize("name", KINDS)
def test_run_that_was_stopped_goes_on_and_encodes_only_the_rest(model, model_path, stopped, name):
    output = stopped(name)
    counting, asked = counting_embedder(model_path)
    with counting:
        assert embedder.encode_to_file(TEXTS, output, model=counting, resume=True) == 32
    assert asked == TEXTS[24:]
    np.testing.assert_allclose(read_vectors(Path(output))[0], model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_left_is_not_overwritten(model, stopped, name):
    output = stopped(name)
    with pytest.raises(InputError, match=r"Go on by --resume \(in Python resume=True\), or "):
        embedder.encode_to_file(TEXTS, output, model=model)
    assert embedder.encode_to_file(TEXTS, output, model=model, resume=True) == 32


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "the"}, "prompt was '', and is now 'the'"),
        ({"truncate_dim": 4, "normalize_embeddings": True}, "dimension was 8, and is now 4; normalize_embeddings was"),
        ({"precision": "binary"}, "precision was 'float32', and is now 'binary'"),
        ({"column": "body"}, "column was 'text', and is now 'body'"),
    ],
)
def test_other_options_are_refused(model, stopped, name, options, message):
    with pytest.raises(InputError, match=message):
        embedder.encode_to_file(TEXTS, stopped(name), model=model, resume=True, **options)


@pytest.mark.parametrize("name", KINDS)
def test_another_model_is_refused(model, stopped, tmp_path, name):
    output = stopped(name)
    with (
        embedder.Embedder(write_tiny_artifact(tmp_path / "other", normalize=False)) as other,
        pytest.raises(InputError, match=r"model_digest was '[0-9a-f]{64}', and is now '[0-9a-f]{64}'. Give the same"),
    ):
        embedder.encode_to_file(TEXTS, output, model=other, resume=True)


@pytest.mark.parametrize("name", KINDS)
def test_another_input_is_refused(model, stopped, name):
    output = stopped(name)
    with pytest.raises(InputError, match="not that of the stopped run: its first 24 records differ"):
        embedder.encode_to_file([*TEXTS[:23], "another", *TEXTS[24:]], output, model=model, resume=True)
    with pytest.raises(InputError, match="not that of the stopped run: it has fewer than 24 records"):
        embedder.encode_to_file(TEXTS[:20], output, model=model, resume=True)
    assert embedder.encode_to_file(TEXTS, output, model=model, resume=True) == 32


@pytest.mark.parametrize("name", KINDS)
def test_options_that_do_not_change_the_vectors_may_differ(model, stopped, name):
    assert embedder.encode_to_file(TEXTS, stopped(name), model=model, resume=True, batch_size=3) == 32


@pytest.mark.parametrize("name", KINDS)
def test_resume_begins_where_nothing_is_left(model, tmp_path, name):
    output = f"{tmp_path / name}/" if name.endswith("/") else tmp_path / name
    for _ in range(2):
        assert embedder.encode_to_file(TEXTS, output, model=model, resume=True) == 32
        np.testing.assert_allclose(read_vectors(tmp_path / name)[0], model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_no_text_at_all(model, tmp_path, name):
    output = f"{tmp_path / name}/" if name.endswith("/") else tmp_path / name
    assert embedder.encode_to_file([], output, model=model) == 0
    assert len(read_vectors(tmp_path / name)[0]) == 0


def test_damaged_end_of_a_partial_file_is_computed_again(model, stopped):
    output = stopped("out.npy")
    partial = Path(f"{output}.partial")
    content = bytearray(partial.read_bytes())
    content[-1] ^= 1
    partial.write_bytes(content)
    assert embedder.encode_to_file(TEXTS, output, model=model, resume=True) == 32
    np.testing.assert_allclose(np.load(output), model.encode(TEXTS), atol=1e-6)


def test_partial_file_without_a_journal_is_left_alone(model, tmp_path):
    partial = tmp_path / "out.npy.partial"
    partial.write_bytes(b"hours of work")
    for resume in (True, False):
        with pytest.raises(InputError, match=r"no journal of this version says what is in it. Rename it, or delete it"):
            embedder.encode_to_file(TEXTS, tmp_path / "out.npy", model=model, resume=resume)
    assert partial.read_bytes() == b"hours of work"
    assert list(tmp_path.iterdir()) == [partial]


@pytest.mark.parametrize("size_bytes", [1, 20, None])
def test_journal_without_a_partial_file_is_of_a_run_that_had_finished(model, tmp_path, size_bytes):
    content = Journal({"format": "npy"}, Progress(Tally(), 0, 128)).content()
    (tmp_path / "out.npy.journal").write_bytes(content[:size_bytes])
    assert embedder.encode_to_file(TEXTS, tmp_path / "out.npy", model=model) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_journal_of_somebody_else_is_left_alone(model, tmp_path):
    (tmp_path / "out.npy.journal").write_bytes(b"dear diary")
    with pytest.raises(InputError, match=r"out.npy.journal is there, and is no journal of embedder. Rename it, or"):
        embedder.encode_to_file(TEXTS, tmp_path / "out.npy", model=model, resume=True)
    assert (tmp_path / "out.npy.journal").read_bytes() == b"dear diary"


@pytest.mark.parametrize("ending", ["partial", "journal"])
def test_links_and_other_files_in_the_place_of_the_two(model, tmp_path, ending):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    place = tmp_path / f"out.npy.{ending}"
    if ending == "partial":
        (tmp_path / "out.npy.journal").write_bytes(b"")
    place.symlink_to(target)
    with pytest.raises((InputError, OSError)):
        embedder.encode_to_file(TEXTS, tmp_path / "out.npy", model=model, resume=True)
    assert target.read_bytes() == b"precious"
    place.unlink()
    os.mkfifo(place)
    with pytest.raises((InputError, OSError)):
        embedder.encode_to_file(TEXTS, tmp_path / "out.npy", model=model, resume=True)


@pytest.mark.parametrize("name", KINDS)
def test_two_runs_at_once(model, tmp_path, name):
    output = f"{tmp_path / name}/" if name.endswith("/") else tmp_path / name

    def texts():
        yield from TEXTS[:9]
        with pytest.raises(InputError, match=f"another process is writing {tmp_path / name}"):
            embedder.encode_to_file(TEXTS, output, model=model, resume=True)
        yield from TEXTS[9:]

    assert embedder.encode_to_file(texts(), output, model=model) == 32


def test_shards(model, tmp_path):
    output = tmp_path / "out"
    texts = random_texts("shards", 100)
    assert embedder.encode_to_file(texts, f"{output}/", model=model) == 100
    assert [len(pq.read_table(path)) for path in sorted(output.iterdir())] == [40, 40, 20]
    for path in sorted(output.iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match=r"out has files of an earlier run. Go on by --resume"):
        embedder.encode_to_file(texts, output, model=model)
    with pytest.raises(InputError, match=r"part-00000.parquet is of another run: prompt was '', and is now 'a'"):
        embedder.encode_to_file(texts, output, model=model, resume=True, prompt="a")
    assert embedder.encode_to_file(texts, output, model=model, resume=True) == 100
    np.testing.assert_allclose(read_vectors(output)[0], model.encode(texts), atol=1e-6)


def test_shards_of_others(model, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(InputError, match=r"part-00000.parquet was not written by embedder. Choose another directory"):
        embedder.encode_to_file(TEXTS, tmp_path, model=model, resume=True)
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-00000.parquet was not written by embedder"):
        embedder.encode_to_file(TEXTS, tmp_path, model=model, resume=True)


def test_shard_that_does_not_follow_the_one_before_it(model, tmp_path):
    embedder.encode_to_file(random_texts(1, 100), f"{tmp_path / 'out'}/", model=model)
    (tmp_path / "out/part-00002.parquet").rename(tmp_path / "first")
    (tmp_path / "out/part-00000.parquet").rename(tmp_path / "out/part-00002.parquet")
    (tmp_path / "first").rename(tmp_path / "out/part-00000.parquet")
    with pytest.raises(InputError, match=r"part-00000.parquet does not follow the file before it"):
        embedder.encode_to_file(random_texts(1, 100), tmp_path / "out", model=model, resume=True)


def test_copy_of_the_last_shard(model, tmp_path):
    embedder.encode_to_file(random_texts(1, 100), f"{tmp_path / 'out'}/", model=model)
    shutil.copy(tmp_path / "out/part-00002.parquet", tmp_path / "out/part-00003.parquet")
    with pytest.raises(InputError, match=r"part-00003.parquet does not follow the file before it"):
        embedder.encode_to_file(random_texts(1, 100), tmp_path / "out", model=model, resume=True)


@pytest.mark.parametrize(("number", "resume"), [(1, True), (0, True), (0, False)])
def test_shard_that_is_missing_among_others(model, tmp_path, number, resume):
    embedder.encode_to_file(random_texts(1, 100), f"{tmp_path / 'out'}/", model=model)
    (tmp_path / f"out/part-0000{number}.parquet").unlink()
    with pytest.raises(InputError, match=rf"out/part-0000{number + 1}.parquet is there, but .*0000{number}.parquet is"):
        embedder.encode_to_file(random_texts(1, 100), tmp_path / "out", model=model, resume=resume)


def test_outputs_that_would_be_inputs_of_the_next_run(model, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"text": [name]}), data / f"{name}.parquet")
    (tmp_path / "link").symlink_to(data)
    for output in (f"{data}/", data, f"{data}/out/", tmp_path / "link"):
        with pytest.raises(InputError, match=r"lies in the directory of the inputs. Choose another directory"):
            embedder.encode_to_file(data, output, model=model)
    with pytest.raises(InputError, match=r"has inputs of this run. Choose another directory"):
        embedder.encode_to_file(f"{data}/*", data, model=model)
    with pytest.raises(InputError, match=r"is also an input. Choose another name, or a pattern that leaves it out"):
        embedder.encode_to_file(f"{data}/*", data / "b.parquet", model=model)
    assert sorted(path.name for path in data.iterdir()) == ["a.parquet", "b.parquet"]
    assert embedder.encode_to_file(data / "a.parquet", data / "a.parquet", model=model) == 1  # one file, in its place


@pytest.mark.parametrize("name", KINDS)
def test_parquet_with_other_values_and_the_same_footer_is_another_input(model, tmp_path, name):
    def write(ids):
        table = pa.table({"id": ids, "text": ["the cat"] * 32})
        pq.write_table(table, tmp_path / "in.parquet", compression="none", use_dictionary=False)
        content = (tmp_path / "in.parquet").read_bytes()
        return content[-8 - int.from_bytes(content[-8:-4], "little") :]

    def stopping(self, **options):
        yield from itertools.islice(rows(self, **options), 24)
        raise InputError("stopped")

    output = f"{tmp_path / name}/" if name.endswith("/") else tmp_path / name
    rows, footer = ParquetSource.rows, write(range(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParquetSource, "rows", stopping)
        with pytest.raises(InputError, match="stopped"):
            embedder.encode_to_file(tmp_path / "in.parquet", output, model=model)
    assert write([0, 2, 1, *range(3, 32)]) == footer
    with pytest.raises(InputError, match="the input is not that of the stopped run: its first 24 records differ"):
        embedder.encode_to_file(tmp_path / "in.parquet", output, model=model, resume=True)


@pytest.mark.parametrize(
    ("inputs", "output", "options", "message"),
    [
        (TEXTS[:2], "out.gz", {}, "does not show the output format. Let it end in .npy, .jsonl or .parquet"),
        (TEXTS[:2], "out.npy", {"precision": "int8"}, "precision int8 needs the range of each dimension over all vec"),
        (TEXTS[:2], "out/", {"precision": "uint8"}, "precision uint8 .* One file .parquet has room for them. Or write"),
        (TEXTS[:2], "out.jsonl", {"column": "embedding"}, "column 'embedding': the vectors are written to this column"),
        (TEXTS[:2], "out.npy", {"resume": 1}, "resume should be True or False, not 1"),
        (TEXTS[:2], "out.npy", {"batch": 1}, "encode has no option 'batch'"),
        (TEXTS[:2], "out.npy", {"prompt_name": "poem"}, "poem"),
        (TEXTS[:2], "no/out.npy", {}, "no/out.npy cannot be written: "),
        (TEXTS[:2], "no/out/", {}, "no/out cannot be written: "),
        (b"text", "out.npy", {}, "inputs should be a path, or many texts, not b'text'"),
        (7, "out.npy", {}, "inputs should be a path, or many texts, not 7"),
        ({"text": "a"}, "out.npy", {}, "inputs should be a path, or many texts, not {'text': 'a'}"),
        ([7, "a"], "out.npy", {}, r"inputs\[0\]: the column 'text' is not a string but 7"),
        ([{"text": "a", 1: "b"}], "out.npy", {}, r"inputs\[0\]: the name of a field should be a string, not 1"),
        ([{"body": "a"}], "out.npy", {}, r"inputs\[0\]: the column 'text' is missing. .* Choose one with column="),
        ("no*.csv", "out.npy", {}, r"no file has a name such as no\*.csv"),
        ("notes.xyz", "out.npy", {}, "the name 'notes.xyz' does not show the input format"),
    ],
)
def test_what_is_refused(model, tmp_path, monkeypatch, inputs, output, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        embedder.encode_to_file(inputs, output, model=model, **options)
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_directory_and_of_a_pattern_follow_each_other(model, tmp_path):
    source = tmp_path / "texts"
    source.mkdir()
    for number in (2, 1):
        (source / f"{number}.csv").write_text(f"text\na {number}\nb {number}\n")
    for number, inputs in enumerate((source, source / "*.csv", str(source / "[12].csv"))):
        assert embedder.encode_to_file(inputs, tmp_path / f"{number}.jsonl", model=model) == 4
        rows = read_vectors(tmp_path / f"{number}.jsonl")[1]
        assert rows == [{"text": text} for text in ("a 1", "b 1", "a 2", "b 2")]
    (source / "3.txt").write_text("a")
    with pytest.raises(InputError, match=r"texts has files of several formats \(csv, lines\). Choose by a pattern"):
        embedder.encode_to_file(source, tmp_path / "out.npy", model=model)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"there are no files of texts in .*none"):
        embedder.encode_to_file(tmp_path / "none", tmp_path / "out.npy", model=model)


def test_texts_that_were_cut_are_counted_over_all_runs(model, stopped):
    long = ["cat " * 40, *TEXTS[1:]]
    output = stopped("out.npy", texts=long, warn_if_cut=True)
    with pytest.warns(embedder.CutTextWarning, match=r"cut after 16 tokens: 1 of 32 inputs, the first is inputs\[0\]"):
        embedder.encode_to_file(long, output, model=model, resume=True, warn_if_cut=True)


def test_model_by_its_path_and_vectors_in_bits(model, model_path, tmp_path):
    assert embedder.encode_to_file(TEXTS, tmp_path / "out.npy", model=model_path, precision="ubinary") == 32
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.encode(TEXTS, precision="ubinary"))


def test_digest_is_of_what_decides_the_vectors(model, model_path):
    with embedder.Embedder(model_path, threads=2) as same, embedder.Embedder(model_path, max_seq_length=8) as shorter:
        assert same.digest == model.digest != shorter.digest


def test_many_files_are_open_one_at_a_time(model, tmp_path):
    for number in range(300):
        (tmp_path / f"{number:03}.txt").write_text(f"a {number}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert embedder.encode_to_file(tmp_path / "*.txt", tmp_path / "out.npy", model=model) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
