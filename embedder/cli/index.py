"""`embedder index`: keep the texts of a collection with their vectors in one file, to search in it."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from embedder.cli.collection import encode_texts, entries_of, is_index, open_index
from embedder.cli.commands import DEFAULT_MODEL, Commands, add_command, add_model_options, load_model
from embedder.cli.console import print_json, print_path
from embedder.cli.texts import Entry, add_format_options, read_collection
from embedder.common.counted import counted
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.files.targets import file_to_write

if TYPE_CHECKING:
    from embedder import Embedder, VectorIndex

_DESCRIPTION = """Encode the texts of a collection, and keep them with their vectors in one file.
`embedder search`, `duplicates`, `clusters` and `map` read it.

SOURCE is a file of texts, as `embedder encode` reads it, or a directory. Each
record of a file is an entry, with its other fields as metadata. The text files
in a directory and below, such as .txt, .md and .rst, are cut into pieces that
the model can read. Empty texts are left out.

Run it again after a change: only new texts are encoded. The file is replaced
when all is done. After an error or Ctrl-C it is as it was."""
_EXAMPLE = """  embedder index notes -o notes.index
  embedder index reviews.csv --column review -o reviews.index
  embedder search notes.index "when is the next meeting\""""


def add_parser(commands: Commands) -> None:
    """Add `embedder index`."""
    parser = add_command(
        commands, "index", "keep texts to search in", usage="SOURCE -o FILE", description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument("source", metavar="SOURCE", help="a file of texts, or a directory")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the index, such as notes.index")
    parser.add_argument("--json", action="store_true", help="print the counts as a line of JSON")
    add_format_options(parser, column="text, or the only one")
    add_model_options(parser, None, f"the model of FILE if it exists, otherwise {DEFAULT_MODEL}")
    parser.set_defaults(run=run)


@frozen
class Changes:
    """What an update does to an index: how many of its texts are new, stay, or are removed."""

    new: int
    kept: int
    removed: int


def run(options: argparse.Namespace) -> None:
    """Write an index, or bring it up to date."""
    from embedder import VectorIndex

    target = file_to_write(options.output)
    opened = _open_old(options) if target.exists() else None
    model, found = read_collection(
        options, options.source, lambda: opened[0] if opened else load_model(options, options.model or DEFAULT_MODEL)
    )
    index = opened[1] if opened else VectorIndex(model=model)
    changes = _update(index, found.entries, model)
    index.save(options.output)
    if options.json:
        print_json({"index": options.output, "texts": len(index)} | asdict(changes))
    else:
        print_path(
            f"{options.output}: {counted(len(index), 'text')} ({changes.new:,} new, {changes.kept:,} kept, "
            f"{changes.removed:,} removed)"
        )
    found.check_complete()


def _open_old(options: argparse.Namespace) -> tuple[Embedder, VectorIndex]:
    """Open the index to bring up to date. Refuse a file that this command has not written."""
    if not is_index(options.output):
        raise InputError(f"{options.output} is there, and is not an index. Choose another FILE")
    model, index = open_index(options, options.output)
    if len(index) and not isinstance(index.ids[0], str):
        raise InputError(f"{options.output} was made by a program, not by `embedder index`. Choose another FILE")
    made_by = index.made_by
    if made_by is not None and made_by.dtype not in (None, model.dtype):
        raise InputError(
            f"{options.output} has vectors of dtype {made_by.dtype}. Vectors of dtype {model.dtype} differ slightly, "
            "and are not mixed with them. Leave out --dtype, or choose another FILE"
        )
    return model, index


def _update(index: VectorIndex, entries: list[Entry], model: Embedder) -> Changes:
    """Make the index hold these texts and no others. Only texts that it does not have are encoded."""
    from embedder.vectors.index.metadata import encode_metadata

    old = {entry.id: entry for entry, _ in entries_of(index)}
    id_of_text = {entry.text: entry.id for entry in old.values()}
    for entry in entries:
        encode_metadata(entry.metadata, str(entry.id))  # before hours of work; an error names the line
    changed = [entry for entry in entries if old.get(entry.id) != entry]
    moved = [entry for entry in changed if entry.text in id_of_text]
    found = [index.get(id_of_text[entry.text]) for entry in moved]
    vectors = [entry.vector for entry in found if entry is not None]
    added = [entry for entry in changed if entry.text not in id_of_text]
    if added:
        vectors += list(encode_texts(model, added))
    gone = old.keys() - {entry.id for entry in entries}
    if gone:
        index.delete(list(gone))
    if vectors:
        both = moved + added
        index.upsert(
            vectors,
            [entry.id for entry in both],
            texts=[entry.text for entry in both],
            metadata=[entry.metadata or None for entry in both],
        )
    kept = (Counter(entry.text for entry in old.values()) & Counter(entry.text for entry in entries)).total()
    return Changes(new=len(entries) - kept, kept=kept, removed=len(old) - kept)
