"""Functions that several commands use: they build parsers and load the model."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from embedder.errors import InputError

if TYPE_CHECKING:
    from embedder import CrossEncoder, Embedder

# `Embedder` has the same default. It is repeated here, so that `--help` does not import the model's code.
DEFAULT_MODEL, DEFAULT_IMAGE_MODEL = "all-MiniLM-L6-v2", "clip-ViT-B-32"
DEFAULT_RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
NO_RESULTS = "note: nothing has such a score. Try a lower --min-score"
# The result of `argparse.ArgumentParser.add_subparsers`. Its class is private.
Commands = Any


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows an option as Python 3.13 does, `-o, --output FILE`, so that the help is the same on every version."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # the name of a model stays on one line


class CommandParser(argparse.ArgumentParser):
    """The parser of a command.

    Until Python 3.12.7, argparse reads `A --option X B` as one word and an unknown argument, if the number of words is
    open. This parser reads B as the second word.
    """

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments; see argparse. The words are in `options.words`."""
        options, rest = super().parse_known_args(*args, **kwargs)
        while hasattr(options, "words") and rest and not rest[0].startswith("-"):
            options.words.append(rest.pop(0))
        if rest:  # argparse would show the usage of `embedder`, which has none of the command's options
            self.error(f"unrecognized arguments: {' '.join(rest)}. See {self.prog} --help")
        return options, rest


def add_command(
    commands: Commands, name: str, help: str, *, usage: str, description: str, example: str
) -> argparse.ArgumentParser:
    """Add and return the parser of a command. Its help shows `description` and `example` line by line, as they are.

    `usage` has the words after the options.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        usage=f"embedder {name} [options] {usage}".rstrip(),
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_result_options(parser: argparse.ArgumentParser, results: str) -> None:
    """Add the options that say which results are printed, and how. `results` is what the help calls them."""
    parser.add_argument(
        "-k", "--top-k", type=int, default=10, metavar="N", help=f"print N {results}; default: %(default)s"
    )
    parser.add_argument("--min-score", type=float, metavar="X", help="leave out results with a score below X")
    parser.add_argument("--json", action="store_true", help="print each result as a line of JSON")


def check_result_options(options: argparse.Namespace) -> None:
    """Raise InputError if an option of `add_result_options` is out of range."""
    from embedder.common.checks import check_count, check_number

    check_count("top_k", options.top_k)
    if options.min_score is not None:
        check_number("min_score", options.min_score)


def add_model_options(parser: argparse.ArgumentParser, default: str | None, described: str | None = None) -> None:
    """Add the options that choose the model, its dtype and its device.

    Args:
        parser: the parser of the command.
        default: the default of `--model`.
        described: what the help says of the default, if it is not `default` itself.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        default=default,
        metavar="NAME",
        help=f"name or path of a model; default: {described or default}",
    )
    add_revision_option(group)
    group.add_argument("--provider", metavar="NAME", help="the device, such as cpu; default: a GPU if one works")
    group.add_argument(
        "--provider-options",
        metavar="NAME=VALUE,...",
        help="options of onnxruntime for a GPU, such as gpu_mem_limit=4000000000",
    )
    group.add_argument(
        "--dtype", metavar="NAME", help="fp32, fp16, int8, int4, or auto; default: fp32 if the model has it"
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="at most N threads on a CPU; default: one for each core"
    )


def add_revision_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option that chooses the revision of a model of the Hub."""
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the model on the Hub")


def load_model(
    options: argparse.Namespace, model: str, *, dtype: str | None = None, local_files_only: bool = False
) -> Embedder:
    """Load `model` with the options of `add_model_options`. `dtype` is the one to take if no option names one."""
    from embedder import Embedder

    chosen = _load_options(options)
    return Embedder(model, **chosen | {"dtype": options.dtype or dtype, "local_files_only": local_files_only})


def load_cross_encoder(options: argparse.Namespace, model: str) -> CrossEncoder:
    """Load a model that gives scores to pairs of texts, with the options of `add_model_options`."""
    from embedder import CrossEncoder

    return CrossEncoder(model, **_load_options(options))


def _load_options(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {name: getattr(options, name) for name in ("provider", "dtype", "threads", "revision")}
    if options.provider_options is not None:
        from embedder.common.checks import read_assignments

        chosen["provider_options"] = read_assignments("--provider-options", options.provider_options)
    return chosen


def check_takes_images(model: Embedder) -> None:
    """Raise InputError unless the model takes images."""
    if "image" not in model.modalities:
        name = model.manifest.source.model
        raise InputError(f"{name!r} takes no images. Choose another --model, such as {DEFAULT_IMAGE_MODEL}")
