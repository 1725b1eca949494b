"""The input files of the command line: the records of each format, and the files that are refused."""

import csv
import io
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import InputError
from embedder.files.directories import image_files
from embedder.files.inputs import TextSource, input_format, open_records, parse_delimiter

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


def records_of(folder, content, format, column="text", delimiter=None):
    """Write `content` to a file, and return the records that are read from it."""
    path = folder / "in"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_records(TextSource(str(path), format, column, delimiter)) as records:
        found = list(records.stream)
    assert records.count == len(found)
    assert [record.text for record in found] == [record.fields[record.column] for record in found]
    return [record.fields for record in found]


def texts_of(*arguments, column="text", **options):
    return [record[column] for record in records_of(*arguments, column=column, **options)]


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("lines", "a\n\nb\n"),
        ("lines", "a\r\n\r\nb"),
        ("jsonl", '{"text": "a"}\n{"text": ""}\n{"text": "b"}\n'),
        ("csv", "text\na\n\nb\n"),
        ("csv", 'text\r\na\r\n""\r\nb\r\n'),
        ("csv", "id,text\n1,a\n2,\n3,b\n"),
        ("tsv", "text\na\n\nb\n"),
    ],
)
def test_every_format_can_contain_an_empty_text(folder, format, content):
    assert texts_of(folder, content, format) == ["a", "", "b"]


@pytest.mark.parametrize(
    ("format", "content", "texts"),
    [
        ("lines", "a\n\n\n", ["a", "", ""]),
        ("csv", "text\na\n\n\n", ["a", "", ""]),
        ("csv", "id,text\n1,a\n\n\r\n", ["a"]),
        ("tsv", "id\ttext\n1\ta\n\n", ["a"]),
        ("jsonl", '{"text": "a"}\n\n \t\r\n', ["a"]),
        ("lines", "", []),
        ("jsonl", "", []),
        ("csv", "", []),
        ("csv", "text\n", []),
        ("lines", "\ufeff", []),
        ("lines", "\ufeff\n", [""]),
        ("jsonl", "\n\n", []),
    ],
)
def test_blank_lines_at_the_end_and_empty_files(folder, format, content, texts):
    assert texts_of(folder, content, format) == texts


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("csv", "id;text\n1;a, b"),
        ("csv", "id\ttext\n1\ta, b"),
        ("csv", "id|text\r\n1|a, b"),
        ("csv", '\ufeff"id";"text"\n1;"a, b"'),
        ("csv", 'id,text\n1,"a, b"'),
        ("tsv", 'id,text\n1,"a, b"'),
        ("tsv", "id\ttext\n1\ta, b\n"),
        ("csv", 'text,"a; b"\n"a, b",1'),
    ],
)
def test_delimiter_is_found_by_the_header(folder, format, content):
    assert texts_of(folder, content, format) == ["a, b"]


@pytest.mark.parametrize(("given", "used"), [(":", ":"), ("tab", "\t"), (r"\t", "\t"), ("\t", "\t"), (";", ";")])
def test_delimiter_that_is_given(folder, given, used):
    content = f"id{used}text\n1{used}a, b"
    assert texts_of(folder, content, "csv", delimiter=parse_delimiter(given)) == ["a, b"]


@pytest.mark.parametrize("delimiter", ["", ", ", '"', "\n", " ", "::"])
def test_delimiter_that_cannot_be_used(delimiter):
    with pytest.raises(InputError, match="--delimiter should be one character such as ; or the word tab"):
        parse_delimiter(delimiter)


def test_quoted_fields_may_contain_line_breaks_and_quotes(folder):
    content = '\ufeffid,"long\nname",text\r\n1,x,"a\r\nb ""c"""\r\n2,y,d\r\n'
    assert records_of(folder, content, "csv") == [
        {"id": "1", "long\nname": "x", "text": 'a\r\nb "c"'},
        {"id": "2", "long\nname": "y", "text": "d"},
    ]


def test_missing_fields_of_a_row_are_none(folder):
    assert records_of(folder, "text,id\na\n", "csv") == [{"text": "a", "id": None}]


def test_columns_without_a_name_are_numbered(folder):
    assert records_of(folder, ",text,\n0,a,b\n", "csv") == [{"column 1": "0", "text": "a", "column 3": "b"}]


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("lines", b"fine\n\xff\n", "line 2 is not UTF-8: invalid start byte at byte 0. Save the file as UTF-8"),
        ("lines", "a\n".encode("utf-16"), "line 1 is not UTF-8: it looks like UTF-16. Save the file as UTF-8"),
        ("jsonl", '{"text": "a"}\n{"text": 3}\n', "line 2: the column 'text' is not a string but 3"),
        ("jsonl", '{"text": null}', "line 1: the column 'text' is not a string but None"),
        (
            "jsonl",
            '{"text": "a"}\n{"x": "y"}',
            "line 2: the column 'text' is missing. The line has the column 'x'. Choos",
        ),
        (
            "jsonl",
            '{"x": 1, "y": 2}',
            "the column 'text' is missing. The line has the columns 'x', 'y'. Choose one with",
        ),
        ("jsonl", "{}", "the column 'text' is missing. The line has no columns"),
        ("jsonl", '{"text": "a"}\nnonsense\n', "line 2 is not JSON: Expecting value at column 1"),
        ("jsonl", "[1]", "line 1 should be a JSON object, not [1]"),
        ("jsonl", '{"text": "a"}\n\n\n{"text": "b"}', "line 2 is blank, and records follow. Remove the line"),
        ("jsonl", '{"text": "a\\ud83d"}', "is not valid Unicode: it contains the lone surrogate U+D83D at character 1"),
        ("csv", "id,text\n1,a\n\n2,b\n", "line 3 is blank, and records follow. Remove the line"),
        ("csv", "\ntext\na\n", "line 1 is blank. It should name the columns"),
        (
            "csv",
            "id\n1\n",
            "line 1: the column 'text' is missing. Split at ',', the header has the column 'id'. Choose",
        ),
        (
            "csv",
            "id;body\n",
            "Split at ';', the header has the columns 'id', 'body'. Choose one with --column, or set --del",
        ),
        ("csv", ",".join("abcdefghijklmnopqrstuvw"), "'s', 't' and 3 more. Choose one"),
        ("csv", "text,text\na,b\n", "line 1 names the column 'text' twice. Rename one"),
        ("csv", "text\na,b\n", "line 2 has 2 fields, but the header has 1. Quote a field that contains ','"),
        ("csv", "id,text\n1,a\n2\n", "line 3 has 1 field, but the header has 2. The column 'text' is missing"),
        ("csv", 'text\n"a"b\n', "line 2 is not CSV: ',' expected after '\"'"),
        ("csv", 'text\n"a\nb"\n"c\nd\ne\n', "line 4 is not CSV: a quoted field begins in it and never ends"),
    ],
)
def test_bad_record(folder, format, content, message):
    with pytest.raises(InputError) as error:
        records_of(folder, content, format)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{folder / 'in'}, line ")


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@given(texts=st.lists(TEXT, max_size=8))
def test_every_text_of_a_csv_is_read(folder, columns, delimiter, texts):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerows([["id", "text"][-columns:], *([str(index), text][-columns:] for index, text in enumerate(texts))])
    chosen = delimiter if columns == 1 else None  # a header with one column contains no delimiter
    assert texts_of(folder, stream.getvalue(), "csv", delimiter=chosen) == texts


@given(texts=st.lists(TEXT, max_size=8), ascii=st.booleans())
def test_every_text_of_a_jsonl_is_read(folder, texts, ascii):
    lines = [json.dumps({"body": text}, ensure_ascii=ascii) for text in texts]
    assert texts_of(folder, "\n".join(lines), "jsonl", column="body") == texts


@given(texts=st.lists(TEXT, max_size=8), ending=st.sampled_from(["\n", "\r\n"]))
def test_every_line_is_read(folder, texts, ending):
    texts = [text.replace("\n", " ").rstrip("\r") for text in texts]
    content = "\ufeff" + "".join(text + ending for text in texts)
    assert texts_of(folder, content, "lines") == texts


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a", "lines"),
        ("a.TXT", "lines"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.csv", "csv"),
        ("a.tsv", "tsv"),
    ],
)
def test_format_follows_from_the_file_name(name, format):
    assert input_format(name) == format


def test_unknown_format():
    with pytest.raises(
        InputError, match=r"'a\.gz' does not show the input .* Add --input-format lines, jsonl, csv, tsv or parquet"
    ):
        input_format("a.gz")


def test_standard_input_that_is_a_file_is_checked_first(tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_text("skipped\na\nb\n")
    with path.open() as stream:
        stream.buffer.readline()  # another program may have read the first lines
        monkeypatch.setattr(sys, "stdin", stream)
        with open_records(TextSource("-", "lines", "text")) as records:
            assert records.count == 2
            assert [(record.line, record.text) for record in records.stream] == [(1, "a"), (2, "b")]


def test_pipe_is_read_only_once(monkeypatch):
    read, write = os.pipe()
    os.write(write, b'{"text": "a"}\nnonsense\n')
    os.close(write)
    with open(read) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with open_records(TextSource("-", "jsonl", "text")) as records:
            assert records.count is None
            assert next(records.stream).fields == {"text": "a"}
            with pytest.raises(InputError, match="stdin, line 2 is not JSON"):
                next(records.stream)


def test_images_of_a_directory_are_sorted_and_links_are_not_followed(tmp_path):
    for name in ("b/2.png", "b/10.JPG", "a.webp", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = [str(path.relative_to(tmp_path)) for path in image_files(str(tmp_path))]
    assert found == ["a.webp", "b/10.JPG", "b/2.png", "gone.png"]
