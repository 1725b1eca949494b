"""`embedder rerank`: sort the texts that a search has found by the scores of a cross-encoder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from embedder.cli.collection import is_index
from embedder.cli.commands import (
    DEFAULT_RERANKER,
    NO_RESULTS,
    Commands,
    add_command,
    add_model_options,
    add_result_options,
    check_result_options,
    load_cross_encoder,
)
from embedder.cli.console import flush_output, print_json, print_table, print_text, say, shorten
from embedder.cli.stopping import stopped_by_signals
from embedder.cli.texts import add_format_options, place_of, text_source
from embedder.common.counted import counted
from embedder.common.progress import is_watched
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.files.inputs import STDIO, Fields, NotJsonError, Record, TextSource, check_unicode, open_records, text_of

_USAGE = """INPUT QUERY
       embedder rerank [options] [INPUT]"""
_DESCRIPTION = """Sort texts by how well they answer a query. They are printed with their scores,
the best first. A cross-encoder reads the query and a text together. It is more
exact than a search, but takes time for each text. So search first, and re-rank
what was found.

INPUT is a file of texts, as `embedder encode` reads it, or - for standard
input. Without QUERY, each record has its own query in the column "query", as
the lines of `embedder search --json` have. Standard input is JSONL then. Each
query has a list of its own. Empty texts are left out.

With --json, each line is a record of the input with its fields. The field
"score" has the score, and replaces a field of this name. "query" and "id" are
added if the record has none. "id" is then the place of the text, FILE:LINE."""
_EXAMPLE = """  embedder rerank reviews.csv --column review "the battery is empty too soon"
  embedder search notes.index "when do we meet" -k 50 --json | embedder rerank
  embedder rerank candidates.jsonl --query-column question --json"""
_DEFAULT_QUERY_COLUMN = "query"
_MAX_HEADING_COLUMNS = 100


def add_parser(commands: Commands) -> None:
    """Add `embedder rerank`."""
    parser = add_command(
        commands, "rerank", "sort found texts more exactly", usage=_USAGE, description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument("words", nargs="*", metavar="INPUT QUERY", help="a file of texts, and what they should answer")
    add_result_options(parser, "results of each query")
    group = parser.add_argument_group("texts")
    add_format_options(group, column="text, or the only one")
    group.add_argument(
        "--query-column",
        metavar="NAME",
        help=f"the field of a record with its query; default: {_DEFAULT_QUERY_COLUMN}",
    )
    add_model_options(parser, DEFAULT_RERANKER)
    parser.set_defaults(run=lambda options: run(parser, options))


@frozen
class Candidate:
    """A text that may answer a query.

    Attributes:
        id: the field "id" of its record, or the place of the text if there is none.
        text: the text.
        fields: all fields of its record.
    """

    id: Any
    text: str
    fields: Fields


Candidates = dict[str, list[Candidate]]


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Print the texts of each query, the best first."""
    check_result_options(options)
    path, query = _input_and_query(parser, options)
    with stopped_by_signals():
        try:
            candidates = _read(options, path, query)
        except NotJsonError as error:
            if path != STDIO or query is not None:
                raise
            hint = "Pipe `embedder search --json` here, or give a query: embedder rerank - QUERY"
            raise InputError(f"{error}. {hint}") from error
        printed_count = _print_results(options, candidates)
    if not printed_count:
        say(NO_RESULTS)


def _print_results(options: argparse.Namespace, candidates: Candidates) -> int:
    """Print the results of each query as soon as they are there. Return how many were printed."""
    printed_count = 0
    for query, scores in _scored(options, candidates):
        best = _best(options, candidates[query], scores)
        if options.json:
            for score, candidate in best:
                print_json(_fields(query, score, candidate))
        elif best:
            if printed_count:
                print_text("")
            if len(candidates) > 1:
                print_text(shorten(query, _MAX_HEADING_COLUMNS))
            print_table([(f"{score:.4f}", candidate.id, candidate.text) for score, candidate in best])
        flush_output()
        printed_count += len(best)
    return printed_count


def _input_and_query(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[str, str | None]:
    """Return the file to read, and the query if it is given. Exit with a message if the arguments do not fit."""
    words: list[str] = options.words
    if len(words) > 2:
        parser.error("give one INPUT, and one text in quotation marks as QUERY")
    if len(words) == 2 and options.query_column is not None:
        parser.error("--query-column is for queries in the records. It cannot be used with QUERY")
    if len(words) == 2:
        check_unicode(words[1], "the QUERY is")
    return words[0] if words else STDIO, words[1] if len(words) == 2 else None


def _read(options: argparse.Namespace, path: str, query: str | None) -> Candidates:
    """Return the texts of each query, in the order of the input. Empty texts are left out, and a note counts them."""
    _check_file(path, query)
    source = text_source(options, path, options.column, stdin_format="lines" if query is not None else "jsonl")
    candidates: Candidates = {}
    blank_count = 0
    with open_records(source) as records:
        for record in records.stream:
            wanted = query if query is not None else _query_of(options, record, source)
            if record.text.strip():
                candidates.setdefault(wanted, []).append(_candidate(record, source))
            else:
                blank_count += 1
    if blank_count:
        say(f"note: {counted(blank_count, 'empty text')} left out")
    if not candidates:
        raise InputError(f"there are no texts in {source.name}")
    return candidates


def _query_of(options: argparse.Namespace, record: Record, source: TextSource) -> str:
    column = options.query_column or _DEFAULT_QUERY_COLUMN
    line = f"{source.name}, line {record.line}"
    if record.column == column:
        raise InputError(
            f"{line}: the column {column!r} is the query, and there is no other text. Name one with --column"
        )
    return text_of(record.fields, column, line, "--query-column, or give a QUERY after the INPUT")


def _candidate(record: Record, source: TextSource) -> Candidate:
    own_id = record.fields.get("id")
    return Candidate(place_of(source, record.line) if own_id is None else own_id, record.text, record.fields)


def _check_file(path: str, query: str | None) -> None:
    """Raise InputError if `path` is a query, or something to search in."""
    if path == STDIO:
        return
    if query is None and not os.path.lexists(path):
        raise InputError(
            f"there is no file {path!r:.100}. If this is the query, name the INPUT before it. - is standard input"
        )
    if os.path.isdir(path) or is_index(path):
        command = f"embedder search {path} QUERY --top-k 50 --json | embedder rerank"
        raise InputError(f"{path} is no file of texts. Search in it, and re-rank what is found: {command}")


def _scored(options: argparse.Namespace, candidates: Candidates) -> Iterator[tuple[str, list[float]]]:
    """Yield each query with the scores of its texts. Progress is shown on a terminal."""
    model = load_cross_encoder(options, options.model)
    if model.label_count != 1:
        raise InputError(
            f"{options.model} gives each pair {model.label_count} scores, and a ranking needs one. "
            "Choose another --model"
        )
    pairs = [(query, candidate.text) for query, found in candidates.items() for candidate in found]
    blocks = model.predict_iter(pairs, show_progress_bar=is_watched())
    scores = chain.from_iterable(block.tolist() for block in blocks)
    for query, found in candidates.items():
        yield query, list(islice(scores, len(found)))


def _best(
    options: argparse.Namespace, candidates: list[Candidate], scores: list[float]
) -> list[tuple[float, Candidate]]:
    """Return the candidates to print with their scores, the best first. Equal scores keep the order of the input."""
    ranked = sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])[: options.top_k]
    return [pair for pair in ranked if options.min_score is None or pair[0] >= options.min_score]


def _fields(query: str, score: float, candidate: Candidate) -> Fields:
    """Return what a line of JSON says of a candidate."""
    fields = {"query": query, "score": round(score, 6), "id": candidate.id}
    return fields | {name: value for name, value in candidate.fields.items() if name not in fields}
