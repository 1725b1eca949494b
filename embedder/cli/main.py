"""The parser of the command line `embedder`, and its exit status. Each command has its own module."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from embedder.cli import (
    bench_server,
    clusters,
    duplicates,
    encode,
    index,
    info,
    list_models,
    map,
    prepack,
    pull,
    remove,
    rerank,
    search,
    serve,
    similarity,
    verify,
)
from embedder.cli.commands import CommandParser
from embedder.cli.console import discard_output, flush_output, say
from embedder.errors import EmbedderError

_DESCRIPTION = "Sentence and image embeddings, and re-ranking, without PyTorch."
_EPILOG = "`embedder COMMAND --help` describes a command and shows an example."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Returns:
        0 after success. 1 after an error; a message on standard error explains it. 130 after Ctrl-C. 128 plus the
        number of the signal after another signal.

    Raises:
        SystemExit: the arguments are wrong (status 2), or `--help` or `--version` was given (status 0).

    Example:
        >>> main(["similarity", "a dog", "a puppy"])  # doctest: +SKIP
        0.8039
        0
    """
    options = _parser().parse_args(arguments)
    if not sys.warnoptions:  # Pillow also warns of damage in images that it can read
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        options.run(options)
        flush_output()
        return 0
    except EmbedderError as error:
        return _failed(error, str(error))
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        discard_output()
        return 1
    except OSError as error:
        discard_output()
        return _failed(error, f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except MemoryError as error:
        return _failed(error, "out of memory")
    except KeyboardInterrupt as error:
        _say_notes(error)
        return getattr(error, "status", 130)


def _failed(error: Exception, message: str) -> int:
    say(f"error: {message}")
    _say_notes(error)
    return 1


def _say_notes(error: BaseException) -> None:
    """Print the notes of the error. A note says, for example, where the finished part of the output is."""
    for note in getattr(error, "__notes__", []):
        say(note)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="embedder", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=CommandParser)
    for command in (
        encode,
        index,
        search,
        rerank,
        duplicates,
        clusters,
        map,
        similarity,
        pull,
        list_models,
        info,
        verify,
        remove,
        prepack,
        serve,
        bench_server,
    ):
        command.add_parser(commands)
    return parser


class _PrintVersion(argparse.Action):
    """Print the version. argparse's own action needs the version, and so an import of embedder, in each command."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        import embedder

        print(f"embedder {embedder.__version__}")
        parser.exit()
