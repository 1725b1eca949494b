"""The command `embedder-export`."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import Manifest
from embedder.artifact.measurements import ScoreParity
from embedder.artifact.store import target_directory
from embedder.common.escapes import escape_line
from embedder.errors import EmbedderError, InputError

from embedder_export import __version__
from embedder_export.body.convert import CONVERTERS, check_converter
from embedder_export.checkpoint.kinds import TASKS
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.checkpoint.settings_files import get_settings_files
from embedder_export.distill.static import DEFAULT_DIMENSION, distill_static
from embedder_export.first_use import describe_os_error
from embedder_export.pipeline import DTYPES, ExportSettings, export
from embedder_export.publish.card import read_licence
from embedder_export.publish.upload import check_repository, upload
from embedder_export.support import REFUSED, TRACED, check_support
from embedder_export.verify.own_graph import OWN_GRAPH
from embedder_export.verify.parity import VERIFICATIONS, check_verification

_DESCRIPTION = """Export a sentence-transformers checkpoint to an artifact for embedder: an ONNX graph that includes
pooling and normalisation, or the head of a cross-encoder; a tokenizer; and a manifest. At the end the embeddings of
some 250 sentences are compared with a reference. The reference is sentence-transformers if it is installed, otherwise
the checkpoint's own onnx/model.onnx if it is on this machine. The artifact is written only if every cosine is at least
0.99999 and no component of a vector differs by more than 1e-4 of the vector's length. A cross-encoder is compared with
sentence-transformers on some 120 pairs: no score may differ by more than 1e-4 of the scores' range. A token for the Hub
comes from HF_TOKEN or from `hf auth login`."""
# By their names in argparse. --check goes with none of them.
_OPTIONS_OF_AN_EXPORT = ("output", "push_to", "distill", "dimension", "converter", "verify", "dtypes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 1 for an error that the message explains or a checkpoint that --check refuses,
        130 for an interrupt.

    Raises:
        SystemExit: after --help and --version with status 0, after wrong arguments with status 2.

    Example:
        >>> main(["all-MiniLM-L6-v2"])  # doctest: +SKIP
        0
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.check and any(getattr(options, name) != parser.get_default(name) for name in _OPTIONS_OF_AN_EXPORT):
        parser.error("--check exports nothing, so it goes only with --revision and --task")
    try:
        _quieten_libraries()
        if options.check:
            return _check(options)
        with _chosen_output(options) as output:
            return _run(options, output)
    except EmbedderError as error:
        # The message may quote another library's error of many lines. Here it becomes one line.
        print(f"embedder-export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, output: Path) -> int:
    """Export to `output`, and upload the artifact if the user asks for it."""
    report = _timed_reporter()
    if options.dimension is not None and options.distill is None:
        raise InputError("--dimension is the length of the vectors of a distilled model. Give it with --distill static")
    check_converter(options.converter)
    check_verification(options.verify)
    if options.push_to is not None:
        check_repository(options.push_to)
    try:
        report(f"reading the checkpoint {options.model}")
        settings = ExportSettings(options.converter, options.dtypes, options.verify)
        access = HubAccess(options.revision)
        if options.distill is None:
            checkpoint = read_checkpoint(options.model, access, options.task)
            manifest = export(checkpoint, output, report, settings)
            directory = checkpoint.directory
        else:
            manifest = distill_static(
                options.model, output, report, settings, dimension=options.dimension, access=access
            )
            directory = Path(options.model)
    except OSError as error:
        print(f"embedder-export: error: {escape_line(describe_os_error(error, output))}", file=sys.stderr)
        return 1
    report(f"{output}: {_describe_parity(manifest)}")
    if options.push_to is not None:
        report(f"uploading to {options.push_to}")
        url = upload(output, manifest, options.push_to, read_licence(directory))
        report(f"uploaded to {url}")
    return 0


def _check(options: argparse.Namespace) -> int:
    """Print whether the checkpoint can be exported. Return 0 if it can, otherwise 1."""
    name, files = get_settings_files(options.model, HubAccess(options.revision))
    support = check_support(name, files, options.task)
    needs = " (needs the extra [torch])" if support.verdict == TRACED else ""
    print(escape_line(": ".join([name, support.verdict + needs, *support.reasons])))
    return int(support.verdict == REFUSED)


@contextmanager
def _chosen_output(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the directory to write: the user's, or a temporary one for an upload, or one in the model directory."""
    if options.output is not None:
        yield options.output
    elif options.push_to is not None:
        with TemporaryDirectory() as scratch:
            yield Path(scratch, "artifact")
    elif options.distill is not None:
        raise InputError("a distilled model is a new model, so the artifact needs a place: --output DIR")
    elif os.path.isdir(os.path.expanduser(options.model)):
        raise InputError("the checkpoint is a local directory, so the artifact needs a place: --output DIR")
    else:
        yield target_directory(options.model, options.revision, options.task)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="embedder-export", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"embedder-export {__version__}")
    _add_checkpoint_options(parser)
    _add_result_options(parser)
    _add_export_options(parser)
    return parser


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a local directory; org/name on the Hub; or a name, which means sentence-transformers/NAME",
    )
    parser.add_argument(
        "--revision",
        metavar="NAME",
        help="a branch, tag or commit of the Hub's repository; default: the main branch",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="export nothing: fetch only the JSON files of settings, and print whether the export is native, needs the "
        "extra [torch], or is refused, and why. The status is 1 if it is refused",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="what the artifact is for, if the checkpoint has several heads, as BAAI/bge-m3 has. embed: one vector for "
        "each text; sparse: a weight for each word, also for a masked language model; multi_vector: a vector for each "
        "token. Default: what the checkpoint says, or else embed",
    )


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the directory to write; an artifact there is replaced. Default: the model's place in the model directory "
        "(EMBEDDER_HOME), where programs find it by its name",
    )
    parser.add_argument(
        "--push-to",
        metavar="ORG/NAME",
        help="also upload the artifact to this repository of the Hub, with a model card. It is created if it does not "
        "exist, public or private as the settings of the account say. Without --output no copy stays here",
    )
    parser.add_argument(
        "--distill",
        choices=("static",),
        help="write another model that this one teaches. static: a table with a vector for each token, hundreds of "
        "times faster and less exact. MODEL may be an artifact too",
    )
    parser.add_argument(
        "--dimension",
        type=int,
        metavar="N",
        help=f"length of the vectors of a distilled model; default: {DEFAULT_DIMENSION}, or less if MODEL has less",
    )


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--converter",
        choices=CONVERTERS,
        default="auto",
        help="native: write the graph directly, for the families on the page of models; optimum: "
        "trace the model, which needs the extra [torch]; auto (default): native if it knows the model, else optimum",
    )
    parser.add_argument(
        "--verify",
        choices=VERIFICATIONS,
        default="auto",
        help="reference: compare with sentence-transformers, which needs the extra [reference] or [torch]; graph: "
        "compare with the checkpoint's own onnx/model.onnx, which is as large as the weights; auto (default): compare "
        "with the best reference on this machine",
    )
    parser.add_argument(
        "--dtypes",
        type=_parse_dtypes,
        metavar="NAME,...",
        help=f"the dtypes to write, out of {','.join(DTYPES)}; default: fp32, int8 if it is close enough to fp32, and "
        "fp16 if a GPU works here. int4 is written only if it is asked for",
    )


def _parse_dtypes(names: str) -> tuple[str, ...]:
    dtypes = tuple(name.strip() for name in names.split(","))
    for name in dtypes:
        if name not in DTYPES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(DTYPES)}")
    return dtypes


def _describe_parity(manifest: Manifest) -> str:
    if manifest.scores is not None:
        return _describe_score_parity(manifest.scores.parity)
    parity = manifest.parity
    if parity is None:
        return (
            "not compared with a reference: sentence-transformers is not installed or cannot read the checkpoint, and "
            f"its own {OWN_GRAPH} is not on this machine or not usable. --verify graph fetches that of a Hub repository"
        )
    samples = "sentences" if manifest.multi_vector is None else "tokens of queries and documents"
    return (
        f"compared with {parity.reference} over {parity.samples} {samples}: smallest cosine {parity.min_cosine:.8f}, "
        f"largest difference {parity.max_difference:.1e}"
    )


def _describe_score_parity(parity: ScoreParity | None) -> str:
    if parity is None:
        return "not compared with a reference: sentence-transformers is not installed or cannot read the checkpoint"
    return (
        f"compared with {parity.reference} over {parity.samples} pairs: largest difference of scores "
        f"{parity.max_difference:.1e} of their range, Spearman {parity.spearman:.8f}"
    )


def _timed_reporter() -> Callable[[str], None]:
    """Return a function that prints a line with the seconds since this call."""
    start = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {escape_line(line)}", file=sys.stderr, flush=True)

    return report


def _quieten_libraries() -> None:
    """Silence the libraries' warnings. A user of this command does not call these libraries."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
