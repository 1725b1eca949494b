"""`embedder bench-server`: put a server for embeddings under load, and measure it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from embedder.cli.commands import Commands, add_command
from embedder.cli.console import print_json, print_text, say
from embedder.cli.texts import add_format_options, text_source
from embedder.common.counted import counted
from embedder.errors import EmbedderError, InputError
from embedder.files.inputs import open_records

if TYPE_CHECKING:
    from embedder.serve.load_test import LoadResult, LoadSettings

_SAMPLE_COUNT = 5000
_PERCENTILES = (50, 95, 99)

_DESCRIPTION = """Put a server for embeddings under load, and print how much it answers. The
server may be `embedder serve`, or any other with the interface of OpenAI.

Each client sends its next request when it has its answer. The texts are sent in
turn. By default they are sentences of mixed lengths. Measure with texts of your
own: the speed depends on their lengths. No vector is printed or kept.

A request that is refused or gets no answer counts as failed. A client that was
refused waits as long as the server asks it to."""
_EXAMPLE = "  embedder bench-server http://127.0.0.1:8080 --clients 8 --texts questions.txt"


def add_parser(commands: Commands) -> None:
    """Add `embedder bench-server`."""
    parser = add_command(
        commands, "bench-server", "measure a server under load", usage="URL", description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument("url", metavar="URL", help="the address of the server, such as http://127.0.0.1:8080")
    parser.add_argument(
        "--clients", type=int, default=32, metavar="N", help="clients that ask at the same time; default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how long answers are counted; default: %(default)g"
    )
    parser.add_argument(
        "--texts-per-request", type=int, default=1, metavar="N", help="texts of a request; default: %(default)s"
    )
    parser.add_argument("-m", "--model", metavar="NAME", help="model that the requests name; default: the only one")
    parser.add_argument("--key-file", metavar="FILE", help="a file of API keys; the first one is sent")
    parser.add_argument(
        "--encoding-format",
        choices=("float", "base64"),  # ENCODING_FORMATS, without the import
        default="float",
        help="how the vectors come; OpenAI's own client asks for base64; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print the result as a line of JSON")
    texts = parser.add_argument_group("texts")
    texts.add_argument("--texts", metavar="FILE", help="texts to send: lines, JSONL, CSV or TSV; - is stdin")
    add_format_options(texts, "text, or the only one")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the server, and print the result."""
    from embedder.serve.load_test import LoadSettings, check_server, measure_load

    settings = LoadSettings(
        options.url,
        clients=options.clients,
        seconds=options.seconds,
        texts_per_request=options.texts_per_request,
        model=options.model,
        key=None if options.key_file is None else _read_key(options.key_file),
        encoding_format=options.encoding_format,
    )
    texts = _read_texts(options)
    check_server(settings, texts)
    say(_described(settings))
    result = measure_load(settings, texts)
    if options.json:
        print_json(_fields(settings, result))
    else:
        _print_lines(result)
    if not result.requests:
        raise EmbedderError("no request was answered")


def _read_texts(options: argparse.Namespace) -> list[str]:
    if options.texts is None:
        from embedder.serve.sample_texts import sample_texts

        return sample_texts(_SAMPLE_COUNT)
    with open_records(text_source(options, options.texts, options.column)) as records:
        texts = [record.text for record in records.stream]
    if not texts:
        raise InputError(f"there are no texts in {options.texts}")
    return texts


def _read_key(path: str) -> str:
    from embedder.serve.access import read_keys

    return read_keys(path)[0].decode("ascii")


def _described(settings: LoadSettings) -> str:
    texts = counted(settings.texts_per_request, "text")
    return f"{counted(settings.clients, 'client')}, {texts} a request, {settings.seconds:g} s"


def _fields(settings: LoadSettings, result: LoadResult) -> dict[str, object]:
    return {
        "clients": settings.clients,
        "texts_per_request": settings.texts_per_request,
        "seconds": settings.seconds,
        "texts_per_s": round(result.texts_per_s, 2),
        "requests_per_s": round(result.requests_per_s, 2),
        **{f"p{percent}_ms": round(result.percentile_ms(percent), 3) for percent in _PERCENTILES},
        "failures": result.failures,
    }


def _print_lines(result: LoadResult) -> None:
    rows = [
        ("texts/s", f"{result.texts_per_s:,.1f}"),
        ("requests/s", f"{result.requests_per_s:,.1f}"),
        *((f"p{percent} ms", f"{result.percentile_ms(percent):,.1f}") for percent in _PERCENTILES),
        ("failed", f"{sum(result.failures.values()):,}"),
    ]
    width = max(len(number) for _, number in rows)
    for name, number in rows:
        print_text(f"{name:<10}  {number:>{width}}")
    for reason, count in result.failures.items():
        print_text(f"  {count:,} x {reason}")
