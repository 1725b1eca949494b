"""The command `embedder-export`."""

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
from embedder_export.pipeline import DTYPES, ExportSettings, export
from embedder_export.verify.parity import VERIFICATIONS, check_verification

_DESCRIPTION = """Export a sentence-transformers checkpoint to an artifact for embedder: an ONNX graph that includes
pooling and normalisation, a tokenizer and a manifest. At the end the embeddings of some 250 sentences are compared with
a reference. The reference is sentence-transformers if it is installed, otherwise the checkpoint's own onnx/model.onnx
if it has one. The artifact is written only if every cosine is at least 0.99999 and no component of a vector differs by
more than 1e-4 of the vector's length."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 1 for an error that the message explains, 130 for an interrupt.

    Raises:
        SystemExit: after --help and --version with status 0, after wrong arguments with status 2.

    Example:
        >>> main(["all-MiniLM-L6-v2", "--output", "artifacts/all-MiniLM-L6-v2"])  # doctest: +SKIP
        0
    """
    options = _parser().parse_args(arguments)
    report = _timed_reporter()
    try:
        check_converter(options.converter)
        check_verification(options.verify)
        report(f"reading the checkpoint {options.model}")
        _quieten_libraries()
        checkpoint = read_checkpoint(options.model)
        settings = ExportSettings(options.converter, options.dtypes, options.verify)
        manifest = export(checkpoint, options.output, report, settings)
    except EmbedderError as error:
        # The message may quote another library's error of many lines. Here it becomes one line.
        print(f"embedder-export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"embedder-export: error: {_describe_os_error(error, options.output)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report(f"{options.output}: {_describe_parity(manifest.parity)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="embedder-export", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"embedder-export {__version__}")
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a local directory; org/name on the Hub; or a name, which means sentence-transformers/NAME",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="the directory to write; an artifact there is replaced",
    )
    parser.add_argument(
        "--converter",
        choices=CONVERTERS,
        default="auto",
        help="native: write the graph directly, for BERT and its kin, MPNet, ALBERT, T5 and CLIP; optimum: trace the "
        "model, which needs the extra [torch]; auto (default): native if it knows the model, otherwise optimum",
    )
    parser.add_argument(
        "--verify",
        choices=VERIFICATIONS,
        default="auto",
        help="reference: compare with sentence-transformers, which needs the extra [torch]; auto (default): compare "
        "with the best reference that is installed",
    )
    parser.add_argument(
        "--dtypes",
        type=_parse_dtypes,
        metavar="NAME,...",
        help=f"the dtypes to write, out of {','.join(DTYPES)}; default: fp32, and int8 if it is close enough to fp32",
    )
    return parser


def _parse_dtypes(names: str) -> tuple[str, ...]:
    dtypes = tuple(name.strip() for name in names.split(","))
    for name in dtypes:
        if name not in DTYPES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(DTYPES)}")
    return dtypes


def _describe_os_error(error: OSError, output: Path) -> str:
    """Return the file that failed, and the reason. An error that names no file comes from the output."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename or output}: {reason}"


def _describe_parity(parity: Parity | None) -> str:
    if parity is None:
        return (
            "not compared with a reference: sentence-transformers is not installed or cannot read the checkpoint, and "
            "the checkpoint has no usable graph of its own"
        )
    return (
        f"compared with {parity.reference} over {parity.samples} sentences: smallest cosine {parity.min_cosine:.8f}, "
        f"largest difference {parity.max_difference:.1e}"
    )


def _timed_reporter() -> Callable[[str], None]:
    """Return a function that prints a line with the seconds since this call."""
    start = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {line}", file=sys.stderr, flush=True)

    return report


def _quieten_libraries() -> None:
    """Silence the libraries' warnings. A user of this command does not call these libraries."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
