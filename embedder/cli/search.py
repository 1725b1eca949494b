"""`embedder search`: find the texts of a collection, or the images of a directory, that are nearest to a query."""

from __future__ import annotations

import argparse

from embedder.cli.collection import COLLECTION_HELP, fields_of, search_collection
from embedder.cli.commands import (
    DEFAULT_IMAGE_MODEL,
    DEFAULT_MODEL,
    NO_RESULTS,
    Commands,
    add_command,
    add_model_options,
    add_result_options,
    check_result_options,
)
from embedder.cli.console import print_json, print_table, say
from embedder.cli.search_images import search_images
from embedder.cli.texts import add_format_options

_USAGE = """COLLECTION QUERY
       embedder search [options] --images DIR QUERY
       embedder search [options] --images DIR --query-image FILE"""
_DESCRIPTION = f"""Find the texts that are nearest to a question or another text, or the images
that are nearest to a text or another image. They are printed with their scores,
the nearest first.

{COLLECTION_HELP}

With --images, the model must take images, or name an image model. In the second
case, the image model encodes the images, and the model encodes the text. QUERY
is always a text, even if a file has that name."""
_EXAMPLE = """  embedder search notes.index "when is the next meeting"
  embedder search reviews.csv --column review "the battery is empty too soon"
  embedder search notes.index "when do we meet" -k 50 --json | embedder rerank
  embedder search --images photos "a dog in the snow"
  embedder search --images photos --query-image photos/dog.jpg"""


def add_parser(commands: Commands) -> None:
    """Add `embedder search`."""
    parser = add_command(
        commands, "search", "find texts or images", usage=_USAGE, description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument(
        "words", nargs="*", metavar="COLLECTION QUERY", help="where to search, and a text to search for"
    )
    add_result_options(parser, "results")
    group = parser.add_argument_group("texts")
    add_format_options(group, column="text, or the only one")
    group = parser.add_argument_group("images")
    group.add_argument("--images", metavar="DIR", help="search in the images of this directory and its subdirectories")
    group.add_argument("--query-image", metavar="FILE", help="search for images that are like this image")
    add_model_options(
        parser, None, f"the model of the index, {DEFAULT_MODEL} for texts, {DEFAULT_IMAGE_MODEL} for images"
    )
    parser.set_defaults(run=lambda options: run(parser, options))


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Print what is nearest to the query."""
    check_result_options(options)
    if options.images is not None:
        search_images(options, _query_for_images(parser, options))
    else:
        _search_texts(options, *_collection_and_query(parser, options))


def _query_for_images(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str | None:
    """Return the text to search for, or None if it is an image. Exit with a message if the arguments do not fit."""
    for name in ("input_format", "column", "delimiter"):
        if getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for texts. It cannot be used with --images")
    if len(options.words) != (0 if options.query_image is not None else 1):
        parser.error("--images takes one query: a text in quotation marks, or --query-image FILE")
    return options.words[0] if options.words else None


def _collection_and_query(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Return the two words. Exit with a message if the arguments do not fit."""
    if options.query_image is not None:
        parser.error("--query-image needs --images DIR")
    if len(options.words) != 2:
        parser.error("give a COLLECTION to search in, and one text in quotation marks to search for")
    words: list[str] = options.words
    return words


def _search_texts(options: argparse.Namespace, collection: str, query: str) -> None:
    hits, source = search_collection(options, collection, query)
    if options.json:
        for hit in hits:
            print_json({"query": query, "score": round(hit.score, 6)} | fields_of(hit.entry))
    else:
        print_table([(f"{hit.score:.4f}", str(hit.entry.id), hit.entry.text) for hit in hits])
    if not hits:
        say(NO_RESULTS)
    source.check_complete()
