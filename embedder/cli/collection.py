"""The texts of a collection with their vectors: read from an index, or encoded now."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from embedder.cli.commands import DEFAULT_MODEL, add_model_options, load_model
from embedder.cli.console import say
from embedder.cli.texts import Entries, Entry, add_format_options, read_collection, refuse_options
from embedder.common.counted import counted
from embedder.common.progress import is_watched
from embedder.common.records import frozen
from embedder.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedder import Embedder, VectorIndex
    from embedder.vectors.index.header import ModelDescription

COLLECTION_HELP = """COLLECTION is one of these:
  an index      a file that `embedder index` has written
  a file        texts, as `embedder encode` reads them: .txt .jsonl .csv .tsv
                The text is the column "text", or the only one.
  a directory   the text files in it and below, such as .txt, .md and .rst.
                They are cut into pieces that the model can read.
Empty texts are left out."""
_FORMAT_OPTIONS = ("input_format", "column", "delimiter")
_MODEL_OPTIONS = ("model", "revision", "provider", "provider_options", "dtype", "threads")


@frozen
class Collection:
    """Texts with their vectors.

    Attributes:
        entries: the texts, and where they are.
        vectors: float32 (n, dim), the vector of each text.
        source: what was read. It knows whether a file is missing.
    """

    entries: list[Entry]
    vectors: NDArray[np.float32]
    source: Entries


class Hit(NamedTuple):
    """A text that a search has found, with its score."""

    score: float
    entry: Entry


def add_collection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the collection, and the options that say how it is read and encoded."""
    parser.add_argument("collection", metavar="COLLECTION", help="an index, a file of texts, or a directory")
    add_format_options(parser, column="text, or the only one")
    add_model_options(parser, None, DEFAULT_MODEL)


def open_collection(options: argparse.Namespace) -> Collection:
    """Return the texts of the collection with their vectors. Progress is shown on a terminal.

    Raises:
        InputError: there are no texts, or they cannot be read as the options say.
        OSError: a file cannot be read.
    """
    path = options.collection
    if is_index(path):
        refuse_options(options, (*_FORMAT_OPTIONS, *_MODEL_OPTIONS), "an index, which has the texts with their vectors")
        return _collection_of_index(path)
    return _encode_collection(options, path)[1]


def _encode_collection(options: argparse.Namespace, path: str) -> tuple[Embedder, Collection]:
    model, source = read_collection(options, path, lambda: load_model(options, options.model or DEFAULT_MODEL))
    return model, Collection(source.entries, encode_texts(model, source.entries), source)


def encode_texts(model: Embedder, entries: Sequence[Entry]) -> NDArray[np.float32]:
    """Return the vectors of texts as documents, (n, dim). Progress is shown on a terminal.

    A warning is printed if the model cannot read all of a text.
    """
    result = model.encode_readable(
        [entry.text for entry in entries],
        prompt_name="document",
        show_progress_bar=is_watched(),
        read_paths=False,
        warn_if_cut=True,
    )
    if len(result.cut):
        cut, first = counted(len(result.cut), "text"), entries[result.cut[0]].id
        limit = f"the model reads {model.max_seq_length:,} tokens of a text"
        say(f"warning: {limit}. {cut} cut there, the first at {first}")
    vectors: NDArray[np.float32] = result.embeddings
    return vectors


def _collection_of_index(path: str) -> Collection:
    import numpy as np

    from embedder import VectorIndex

    found = [(entry, vector) for entry, vector in entries_of(VectorIndex.load(path)) if entry.text.strip()]
    if not found:
        raise InputError(f"{path} has no texts. Make it with `embedder index`")
    entries = [entry for entry, _ in found]
    return Collection(entries, np.stack([vector for _, vector in found]), Entries(entries))


def entries_of(index: VectorIndex) -> Iterator[tuple[Entry, NDArray[np.float32]]]:
    """Yield each entry of an index with its vector. An entry without a text has an empty text."""
    for id in index.ids.tolist():
        entry = index.get(id)
        if entry is not None:
            yield Entry(id, entry.text or "", entry.metadata or {}), entry.vector


def is_index(path: str) -> bool:
    """Return whether `path` is the file of an index. Other files and directories are not."""
    from embedder.vectors.index.file_format import is_index_file

    return os.path.isfile(path) and is_index_file(path)


def open_index(options: argparse.Namespace, path: str) -> tuple[Embedder, VectorIndex]:
    """Open an index with its model: the one that the options name, or the one that made the index.

    An index may come from a stranger. So a model that only the index names must be on this machine: nothing is fetched.
    """
    from embedder import VectorIndex

    made_by = VectorIndex.load(path).made_by
    if options.model is not None:
        model = load_model(options, options.model, dtype=made_by.dtype if made_by else None)
    elif made_by is None:
        raise InputError(f"{path} does not say which model made its vectors. Add --model NAME")
    else:
        model = _load_own_model(options, path, made_by)
    return model, VectorIndex.load(path, model=model)


def _load_own_model(options: argparse.Namespace, path: str, made_by: ModelDescription) -> Embedder:
    try:
        return load_model(options, made_by.name, dtype=made_by.dtype, local_files_only=True)
    except ModelNotFoundError as error:
        raise InputError(
            f"{path} was made by the model {made_by.name!r}, which is not on this machine under this name. Add --model "
            "with a name or path of it"
        ) from error


def search_collection(options: argparse.Namespace, path: str, query: str) -> tuple[list[Hit], Entries]:
    """Return the texts of a collection that are nearest to a query, and what was read.

    Raises:
        InputError: there are no texts, or they cannot be read as the options say.
        OSError: a file cannot be read.
    """
    from embedder import VectorIndex

    if is_index(path):
        refuse_options(options, _FORMAT_OPTIONS, "an index")
        index = open_index(options, path)[1]
        found = index.search([query], options.top_k)[0]
        hits = [
            Hit(hit["score"], Entry(hit["corpus_id"], hit.get("text", ""), hit.get("metadata", {}))) for hit in found
        ]
        source = Entries([])
    else:
        model, collection = _encode_collection(options, path)
        index, source = VectorIndex(model=model), collection.source
        index.add(collection.vectors)
        found = index.search([query], options.top_k)[0]
        hits = [Hit(hit["score"], collection.entries[hit["corpus_id"]]) for hit in found]
    return [hit for hit in hits if options.min_score is None or hit.score >= options.min_score], source


def fields_of(entry: Entry) -> dict[str, Any]:
    """Return what a line of JSON says of a text."""
    return {"id": entry.id, "text": entry.text, "metadata": entry.metadata}
