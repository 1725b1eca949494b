"""The sockets that the server listens on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress

from embedder.errors import InputError
from embedder.serve.settings import ServerSettings

# Connections that wait until a process accepts them. A client whose connection does not fit tries again after a second.
BACKLOG = 1024


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Return the sockets that the settings name. They are bound and listen.

    Raises:
        InputError: the address is unknown or not of this machine, the port or the path is taken, or access is denied.

    Example:
        >>> sockets = listen(ServerSettings(port=0))
        >>> close(sockets, ServerSettings(port=0))
    """
    if settings.uds is not None:
        return [_listen_on_path(settings.uds)]
    host, port = settings.host, settings.port
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A free port is free for one address alone.
        return [_bind(place[0], place[4]) for place in dict.fromkeys(places[: None if port else 1])]
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no name of a machine"
        raise InputError(f"cannot listen on {host}: {reason}. Give an address of this machine as --host") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            hint = ". Give an address of this machine as --host, or 0.0.0.0 for all"
        else:
            hint = ". Choose another --port" if port else ""
        raise InputError(f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}{hint}") from error


def close(sockets: list[socket.socket], settings: ServerSettings) -> None:
    """Close the sockets, and remove the file of a Unix socket, unless another server listens on it by now."""
    for listener in sockets:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # an event loop that still has the socket hears no more of it
        listener.close()
    if settings.uds is not None:
        with suppress(OSError, InputError):
            _remove_left_over(settings.uds, socket.AF_UNIX)


def accept_waiting(sockets: list[socket.socket]) -> list[socket.socket]:
    """Return the connections that wait to be accepted. They would be reset if the sockets were closed.

    Example:
        >>> accept_waiting([])
        []
    """
    connections = []
    for listener in sockets:
        listener.setblocking(False)
        with suppress(OSError):  # there is no more, or no more file may be opened
            while True:
                connections.append(listener.accept()[0])
    return connections


def addresses(sockets: list[socket.socket]) -> list[str]:
    """Return how clients reach the sockets, such as "http://127.0.0.1:8080".

    Example:
        >>> addresses([])
        []
    """
    return [_address(listener) for listener in sockets]


def is_public(sockets: list[socket.socket]) -> bool:
    """Return whether other machines may reach one of the sockets.

    Example:
        >>> is_public([])
        False
    """
    return any(
        isinstance(name, tuple) and not ipaddress.ip_address(name[0].partition("%")[0]).is_loopback
        for name in (listener.getsockname() for listener in sockets)
    )


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _bind(family: int, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows, another program could take the port too
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_on_path(path: str) -> socket.socket:
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise InputError("this system has no Unix sockets. Use --host and --port")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        _remove_left_over(path, family)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {path}: {error.strerror or error}") from error
    except InputError:
        listener.close()
        raise
    return listener


def _remove_left_over(path: str, family: int) -> None:
    """Remove the socket of a server that was killed."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"cannot listen on {path}: there is a file that is no socket")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise InputError(f"cannot listen on {path}: another server does")
