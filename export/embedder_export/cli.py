"""The command line, `embedder-export`."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from embedder.errors import EmbedderError

from embedder_export import __version__
from embedder_export.checkpoint import read_checkpoint

_DESCRIPTION = """Export a sentence-transformers checkpoint to an artifact for embedder: an ONNX graph with pooling and
normalisation baked in, its tokenizer and a manifest. The export ends by comparing its vectors with those of
sentence-transformers on some 250 sentences, and fails, writing nothing, unless every cosine is at least 0.99999 and
no number differs by more than 1e-4 of the vector's length."""


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
    options = parser.parse_args(arguments)
    report = _reporter()
    try:
        report(f"reading the checkpoint {options.model}")
        _quieten_libraries()
        checkpoint = read_checkpoint(options.model)
        report("loading torch, transformers and optimum")
        from embedder_export.pipeline import export

        manifest = export(checkpoint, options.output, report)
    except EmbedderError as error:
        # Other libraries' messages, which ours may end in, have many lines.
        print(f"embedder-export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"embedder-export: error: {error.filename or options.output}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    parity = manifest.parity
    assert parity is not None
    report(
        f"{options.output}: smallest cosine {parity.min_cosine:.8f}, largest difference "
        f"{parity.max_difference:.1e}, over {parity.sentences} sentences"
    )
    return 0


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
