"""`embedder serve`: serve models over HTTP."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from embedder.cli.commands import DEFAULT_MODEL, Commands, add_command
from embedder.common.imports import import_optional
from embedder.common.records import frozen
from embedder.errors import EmbedderError, InputError

if TYPE_CHECKING:
    import socket

    from embedder.serve.settings import ServerSettings

_DESCRIPTION = """Serve models over HTTP, by the interfaces of OpenAI (/v1/embeddings), of
text-embeddings-inference (/embed, /rerank) and of Cohere (/v1/rerank). Open the
page at / to try it. /docs describes all routes.

Each option may also come from the environment: EMBEDDER_PORT=9000 is
--port 9000, and EMBEDDER_MODELS=A,B names the models. If both are given, the
command line counts.

The first SIGTERM or Ctrl-C ends the server when all accepted requests are
answered. A second one ends it at once."""
_EXAMPLE = """  embedder serve all-MiniLM-L6-v2 --port 8080
  embedder serve clip-ViT-B-32 all-MiniLM-L6-v2 --host 0.0.0.0 \\
    --api-key-file keys.txt"""
_PREFIX = "EMBEDDER_"
_SERVICE_LINK_HINT = (
    ". Kubernetes sets this variable for a Service named embedder. Set enableServiceLinks: false in the spec of the Pod"
)
_PACKAGES = ("starlette", "uvicorn", "httptools", "uvloop", "orjson", "prometheus_client")


@frozen
class _Option:
    """An option: its name without dashes, its type, the word that stands for its value, and its help."""

    name: str
    type: Callable[[str], Any]
    metavar: str
    help: str

    @property
    def field(self) -> str:
        """The field of ServerSettings."""
        return "cors_origins" if self.name == "cors-origin" else self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return _PREFIX + self.name.replace("-", "_").upper()

    def read(self, text: str, source: str) -> Any:
        """Return the value of a text. InputError names the `source`."""
        try:
            return self.type(text)
        except ValueError:
            kind = "a whole number" if self.type is int else "a number"
            hint = _SERVICE_LINK_HINT if source == "EMBEDDER_PORT" and text.startswith("tcp://") else ""
            raise InputError(f"{source} should be {kind}, not {text!r:.60}{hint}") from None


_GROUPS = {
    "network": (
        _Option("host", str, "ADDRESS", "address to listen on, 0.0.0.0 for all; default: 127.0.0.1"),
        _Option("port", int, "N", "port to listen on, 0 for a free one; default: 8080"),
        _Option("uds", str, "PATH", "listen on this Unix socket instead"),
        _Option("workers", int, "N", "number of processes; default: 1"),
    ),
    "models": (
        _Option("threads", int, "N", "threads of a model in each process; default: cores / workers"),
        _Option("dtype", str, "NAME", "fp32, fp16, int8, int4, or auto for the fastest; default: auto"),
        _Option("provider", str, "NAME", "the device, such as cpu; default: a GPU if one works"),
        _Option(
            "provider-options",
            str,
            "NAME=VALUE,...",
            "options of onnxruntime for a GPU, such as gpu_mem_limit=4000000000",
        ),
        _Option("max-batch-tokens", int, "N", "most tokens of a batch; default: best for the device"),
        _Option(
            "queue-size", int, "N", "most texts of a model that wait or are computed; more get 429; default: 16384"
        ),
        _Option("cache-size", int, "N", "number of vectors kept for texts that come again; default: 0"),
    ),
    "limits": (
        _Option("max-texts", int, "N", "most texts of a request; default: 2048"),
        _Option("max-characters", int, "N", "most characters of a text; default: 100000"),
        _Option("max-body-bytes", int, "N", "most bytes of a request; default: 10000000"),
        _Option("max-connections", int, "N", "most connections of a process; default: 1000"),
        _Option(
            "read-timeout-s", float, "S", "seconds to send headers, to send the body, to read the answer; default: 30"
        ),
        _Option("request-timeout-s", float, "S", "seconds to compute an answer; default: 60"),
        _Option("drain-s", float, "S", "seconds to accept requests after the first signal; default: 0"),
    ),
    "access": (
        _Option("api-key-file", str, "FILE", "file of API keys, one a line; default: no key is asked for"),
        _Option(
            "cors-origin",
            str,
            "ORIGIN",
            "web pages of this origin may ask, * for all; may be repeated; default: none may",
        ),
    ),
    "log": (_Option("log-format", str, "NAME", "plain or json; default: plain"),),
}
OPTIONS = tuple(option for group in _GROUPS.values() for option in group)
_KNOWN_VARIABLES = {option.variable for option in OPTIONS} | {"EMBEDDER_MODELS", "EMBEDDER_HOME", "EMBEDDER_PREPACK"}
# Kubernetes sets variables with these parts for its Services.
_SERVICE_PARTS = ("_SERVICE_", "_PORT_")


def add_parser(commands: Commands) -> None:
    """Add `embedder serve`."""
    parser = add_command(
        commands, "serve", "serve models over HTTP", usage="[MODEL ...]", description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument(
        "words", nargs="*", default=[], metavar="MODEL", help=f"names or paths of models; default: {DEFAULT_MODEL}"
    )
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            action = "append" if option.field == "cors_origins" else "store"
            group.add_argument(
                f"--{option.name}", dest=option.field, action=action, metavar=option.metavar, help=option.help
            )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve until a signal ends the process."""
    if sys.platform == "win32":  # uvloop is not made for it, and it has other signals
        raise EmbedderError("embedder serve does not run on Windows itself. Run it in the Windows Subsystem for Linux")
    for package in _PACKAGES:
        import_optional(package, needed_for="embedder serve", requirement="embedder-onnx[cpu,serve]")
    settings = read_settings(options, os.environ)

    from embedder.serve.access import ApiKeys
    from embedder.serve.access_log import ServerLog
    from embedder.serve.listening import addresses, close, is_public, listen

    has_keys = settings.api_key_file is not None and ApiKeys.read(settings.api_key_file)
    sockets = listen(settings)
    log = ServerLog(settings.log_format, in_thread=False)
    for address in addresses(sockets):
        log.say(f"listening on {address}")
    if is_public(sockets) and not has_keys:
        log.say("other machines may ask without an API key. --api-key-file asks for one", "warning")
    for name in unknown_variables(os.environ):
        log.say(f"{name} is no option of embedder serve, and does nothing. See embedder serve --help", "warning")
    try:
        number = _serve(settings, sockets, log)
    finally:
        close(sockets, settings)
    if number == signal.SIGINT:
        raise KeyboardInterrupt


def _serve(settings: ServerSettings, sockets: list[socket.socket], log: Any) -> int:
    """Serve until a signal comes, and return its number."""
    if settings.workers > 1:
        from embedder.serve.workers import Supervisor

        return Supervisor(settings, sockets, log).run()
    from embedder.serve.access_log import ServerLog
    from embedder.serve.server import run_server

    return run_server(settings, sockets, ServerLog(settings.log_format))


def read_settings(options: argparse.Namespace, environment: Mapping[str, str]) -> ServerSettings:
    """Return the settings that the command line and the environment name.

    Raises:
        InputError: a value is wrong. The message names the option or the variable.
    """
    from embedder.serve.settings import ServerSettings

    values: dict[str, Any] = {}
    for option in OPTIONS:
        given, source = getattr(options, option.field), f"--{option.name}"
        if given is None and environment.get(option.variable):
            given, source = environment[option.variable], option.variable
            given = _split(given) if option.field == "cors_origins" else given
        if given is None:
            continue
        value: dict[str, Any] = {option.field: tuple(given) if isinstance(given, list) else option.read(given, source)}
        try:
            ServerSettings(**value)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        values |= value
    models = options.words or _split(environment.get(f"{_PREFIX}MODELS", "")) or [DEFAULT_MODEL]
    return ServerSettings(models=tuple(models), **values)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that look like an option and are none. A key in EMBEDDER_API_KEY would protect nothing.

    Example:
        >>> unknown_variables({"EMBEDDER_API_KEY": "secret", "EMBEDDER_PORT": "80", "HOME": "/"})
        ['EMBEDDER_API_KEY']
    """
    return sorted(
        name
        for name in environment
        if name.startswith(_PREFIX)
        and name not in _KNOWN_VARIABLES
        and not any(part in name for part in _SERVICE_PARTS)
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
