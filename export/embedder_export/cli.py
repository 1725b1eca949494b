"""The command line, `embedder-export`."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from embedder.artifact.manifest import Parity
from embedder.errors import EmbedderError

from embedder_export import __version__
from embedder_export.body.convert import CONVERTERS, check_converter
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.pipeline import DTYPES, export
from embedder_export.verify.verify import VERIFICATIONS, check_verification

_DESCRIPTION = """Export a sentence-transformers checkpoint to an artifact for embedder: an ONNX graph with pooling and
normalisation baked in, its tokenizer and a manifest. The export ends by comparing its embeddings with those of
sentence-transformers on some 250 sentences, where that is installed, else with those of the checkpoint's own
onnx/model.onnx, where it has one; it fails, writing nothing, unless every cosine is at least 0.99999 and no number
differs by more than 1e-4 of the vector's length."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that the message explains, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="embedder-export", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"embedder-export {__version__}")
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a local directory; org/name on the Hub; or a name, which means sentence-transformers/NAME",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="where to write; an artifact there is replaced"
    )
    parser.add_argument(
        "--converter",
        choices=CONVERTERS,
        default="auto",
        help="native: a graph written directly, for the families of BERT, MPNet and T5; optimum: a traced one, which "
        "needs the extra [torch]; auto, the default: native where it can be",
    )
    parser.add_argument(
        "--verify",
        choices=VERIFICATIONS,
        default="auto",
        help="reference: compare with sentence-transformers, which needs the extra [torch]; auto, the default: with "
        "the best reference that is here",
    )
    parser.add_argument(
        "--dtypes",
        type=_dtypes,
        metavar="NAME,...",
        help=f"which of {','.join(DTYPES)} to write; default: all that are good enough",
    )
    options = parser.parse_args(arguments)
    report = _reporter()
    try:
        check_converter(options.converter)
        check_verification(options.verify)
        report(f"reading the checkpoint {options.model}")
        _quieten_libraries()
        checkpoint = read_checkpoint(options.model)
        manifest = export(
            checkpoint,
            options.output,
            report,
            converter=options.converter,
            dtypes=options.dtypes,
            verification=options.verify,
        )
    except EmbedderError as error:
        # Other libraries' messages, which ours may end in, have many lines.
        print(f"embedder-export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"embedder-export: error: {error.filename or options.output}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report(f"{options.output}: {_describe(manifest.parity)}")
    return 0


def _dtypes(names: str) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in names.split(","))
    for name in wanted:
        if name not in DTYPES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(DTYPES)}")
    return wanted


def _describe(parity: Parity | None) -> str:
    if parity is None:
        return (
            "not compared: no sentence-transformers that reads the checkpoint is installed, and the checkpoint has no "
            "usable graph of its own; the tests compare the builder of every family"
        )
    return (
        f"with {parity.reference}, smallest cosine {parity.min_cosine:.8f}, largest difference "
        f"{parity.max_difference:.1e}, over {parity.samples} sentences"
    )


def _reporter() -> Callable[[str], None]:
    start = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {line}", file=sys.stderr, flush=True)

    return report


def _quieten_libraries() -> None:
    """Silence the libraries' advice, which is for people who call them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
