"""The bookkeeping of files that are being written: whatever is left of them, a prefix of whole blocks is found."""

import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.files.journal import Journal, Progress, Tally, differences, read_journal

HEAD = b"head of the format"
JOB = {"model_digest": "0" * 64, "prompt": "query: ", "normalize_embeddings": True}
blocks_of_bytes = st.lists(st.binary(max_size=40), max_size=8)


def written(contents):
    """Return the journal and the partial file of a run that has written these blocks."""
    blocks, end = [], len(HEAD)
    for number, content in enumerate(contents, 1):
        end += len(content)
        tally = Tally(inputs=3 * number, digest=str(number), cut=number, first_cut=1)
        blocks.append(Progress(tally, 2 * number, end, zlib.crc32(content)))
    return Journal(JOB, Progress(Tally(), 0, len(HEAD)), tuple(blocks)), HEAD + b"".join(contents)


def line_of(content):
    return b"%08x %s\n" % (zlib.crc32(content), content)


@given(blocks_of_bytes)
def test_journal_is_read_as_it_was_written(contents):
    journal, partial = written(contents)
    assert read_journal(journal.content()) == journal
    assert journal.whole(io.BytesIO(partial)) == journal


@given(blocks_of_bytes, st.data())
def test_what_is_cut_off_anywhere_leaves_a_prefix_of_whole_blocks(contents, data):
    journal, partial = written(contents)
    content = journal.content()
    left_of_journal = content[: data.draw(st.integers(0, len(content)))]
    left_of_partial = partial[: data.draw(st.integers(len(HEAD), len(partial)))]
    found = read_journal(left_of_journal)
    lines = left_of_journal.count(b"\n")
    if lines == 0:
        assert found is None
        return
    ends = [block.size_bytes for block in journal.blocks[: lines - 1]]
    whole = found.whole(io.BytesIO(left_of_partial))
    assert whole.blocks == journal.blocks[: sum(end <= len(left_of_partial) for end in ends)]
    assert content.startswith(whole.content())


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8), st.data())
def test_damaged_block_and_all_after_it_are_dropped(contents, data):
    journal, partial = written(contents)
    place = data.draw(st.integers(len(HEAD), len(partial) - 1))
    damaged = partial[:place] + bytes([partial[place] ^ 1]) + partial[place + 1 :]
    whole = journal.whole(io.BytesIO(damaged))
    assert whole.blocks == tuple(block for block in journal.blocks if block.size_bytes <= place)


@given(blocks_of_bytes, st.data())
def test_damaged_line_and_all_after_it_are_dropped(contents, data):
    journal, _ = written(contents)
    content = bytearray(journal.content())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    found = read_journal(bytes(content))
    whole_lines = journal.content()[:place].count(b"\n")
    if whole_lines == 0:
        assert found is None
    else:
        # A digit of a checksum in the other case has the same value.
        assert found.blocks in (journal.blocks[: whole_lines - 1], journal.blocks)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"[]\n", b"1 \n", line_of(b"{}"), line_of(b"[]"), line_of(b'{"embedder_journal": 2}'), b"\xff\n"],
)
def test_what_is_no_journal_of_this_version(content):
    assert read_journal(content) is None


def test_differences_are_named():
    assert differences(JOB, JOB) == []
    assert differences(JOB, JOB | {"prompt": "", "dtype": "int8"}) == [
        "prompt was 'query: ', and is now ''",
        "dtype was None, and is now 'int8'",
    ]
