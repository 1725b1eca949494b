"""Say in one sentence why a fetch from the Hub failed, and what to do. Knows the errors of huggingface_hub.

huggingface_hub also raises the errors of its HTTP library. This is requests before its version 1.0, and httpx since
then. Their errors are told apart by the names of their classes, so that neither library is imported here.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from embedder.artifact.hub_access import DEFAULT_ORGANISATION
from embedder.errors import ModelNotFoundError

_MAX_REASON_LENGTH = 300


class HubUnreachableError(ModelNotFoundError):
    """The Hub gave no usable answer, so nothing is known about the repository. Its files may still be cached.

    Example:
        >>> issubclass(HubUnreachableError, ModelNotFoundError)
        True
    """


class RepositoryFileError(ModelNotFoundError):
    """The repository exists on the Hub, but has no file of that name.

    Example:
        >>> issubclass(RepositoryFileError, ModelNotFoundError)
        True
    """


def describe(error: Exception, repository: str, revision: str | None, secrets: list[str]) -> ModelNotFoundError:
    """Return the error to raise in place of `error`, with a message for the user.

    Args:
        error: what huggingface_hub raised.
        repository: the id of the repository.
        revision: the revision that was asked for.
        secrets: tokens. They are removed from the message.

    Example:
        >>> describe(ConnectionError("refused"), "org/name", None, [])
        HubUnreachableError("'org/name' could not be fetched from the Hub (ConnectionError: refused): check the ...")
    """
    chain = list(chain_of(error))
    refusal = _refusal(chain, repository, revision)
    if refusal is not None:
        return ModelNotFoundError(refusal)
    advice, reached = _advice(chain, repository)
    problem = f"{repository!r} could not be fetched from the Hub ({reason_of(chain, secrets)}): {advice}"
    return ModelNotFoundError(problem) if reached else HubUnreachableError(problem)


def is_about_revision(error: Exception) -> bool:
    """Return whether the Hub says that the repository has no such revision. A cached copy is then no answer."""
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error, RevisionNotFoundError)


def is_timeout(error: BaseException) -> bool:
    """Return whether the Hub did not answer in time.

    Example:
        >>> is_timeout(TimeoutError("timed out"))
        True
    """
    return "Timeout" in type(error).__name__ or "timed out" in str(error)


def is_refused_connection(error: BaseException) -> bool:
    """Return whether no connection to the Hub could be made.

    Example:
        >>> is_refused_connection(ConnectionError("refused"))
        True
    """
    return type(error).__name__ in ("ConnectError", "ConnectionError", "ConnectionRefusedError")


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, and the errors behind it.

    Example:
        >>> [str(found) for found in chain_of(ValueError("first"))]
        ['first']
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _refusal(chain: list[BaseException], repository: str, revision: str | None) -> str | None:
    """Return the message if the Hub answered that this user cannot have the repository."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for error in chain:
        if isinstance(error, GatedRepoError):  # a subclass of RepositoryNotFoundError
            return f"the Hub repository {repository!r} is gated: accept its terms on its page, then {_LOG_IN}"
        if isinstance(error, RepositoryNotFoundError):
            check = f"check the name{_other_name(repository)}"
            return f"the Hub has no repository {repository!r}: {check}; if it is private, {_LOG_IN}"
        if isinstance(error, RevisionNotFoundError):
            return f"the Hub repository {repository!r} has no revision {revision!r}: check the branch, tag or commit"
        if isinstance(error, HFValidationError):
            return f"the Hub has no repository {repository!r}: this is not a possible name of a repository"
        if status_of(error) == 401:
            return f"the Hub refuses {repository!r} without a valid token (status 401): check the name, and {_LOG_IN}"
        if status_of(error) == 403:
            return f"the Hub refuses access to {repository!r} (status 403): check the rights of your token"
    return None


def _other_name(repository: str) -> str:
    """Return a hint for a name that may have been given without its organisation."""
    if not repository.startswith(DEFAULT_ORGANISATION):
        return ""
    name = repository.removeprefix(DEFAULT_ORGANISATION)
    return f", and give the organisation if it is another one, such as 'cross-encoder/{name}'"


_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def _advice(chain: list[BaseException], repository: str) -> tuple[str, bool]:
    """Return what the user can do, and whether the Hub was reached."""
    for error in chain:
        if type(error).__name__ == "OfflineModeIsEnabled":
            return f"HF_HUB_OFFLINE is set. Unset it, or {_path_of(repository)}", False
        status = status_of(error)
        if status == 429:
            return f"the Hub had too many requests from here. {_wait(error)}", False
        if status == 404:
            return "the Hub lists the file but does not have it. Try again later", True
        if status is not None and status >= 500:
            return "the Hub has a problem of its own. Try again later", False
    for error in chain:
        advice = _advice_by_error(error)
        if advice is not None:
            return advice
    return f"check the connection, or {_path_of(repository)}", False


def _advice_by_error(error: BaseException) -> tuple[str, bool] | None:
    """Return what `_advice` returns, as far as this error alone tells."""
    name, text = type(error).__name__, str(error)
    if name in ("FileMetadataError", "JSONDecodeError"):
        return "this is no answer of a Hub. Check HF_ENDPOINT and the proxy", False
    if "Proxy" in name or "proxy" in text:
        return "check the proxy, which HTTPS_PROXY and HTTP_PROXY name", False
    if "SSL" in name or "CERTIFICATE" in text:
        return "check the certificates of this machine, or those of the proxy", False
    if is_timeout(error):
        return "the Hub did not answer in time. Try again; HF_HUB_DOWNLOAD_TIMEOUT sets how many seconds to wait", False
    if "Consistency check failed" in text:
        return "the download was cut off. Try again", False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk of the Hub's cache, which HF_HOME names", True
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the Hub's cache cannot be written. Set HF_HOME to a directory of yours", True
    # The errors of HTTP libraries are OSErrors too, but without a file.
    if isinstance(error, OSError) and error.filename is not None:
        return "check the directory of the Hub's cache, which HF_HOME names", True
    return None


def _path_of(repository: str) -> str:
    return f"give the path of a local copy of {repository}"


def status_of(error: BaseException) -> int | None:
    """Return the status code of the answer that an error of an HTTP library holds. None if it holds none.

    Example:
        >>> status_of(ConnectionError("refused")) is None
        True
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _wait(error: BaseException) -> str:
    """Return how long to wait, as the Hub says."""
    seconds = seconds_to_wait(error)
    return "Try again later" if seconds is None else f"Try again in {seconds} second{'s' if seconds != 1 else ''}"


def seconds_to_wait(error: BaseException) -> int | None:
    """Return the seconds of the header Retry-After in the Hub's answer. None if there are none.

    Example:
        >>> seconds_to_wait(ConnectionError("refused"))
    """
    headers = getattr(getattr(error, "response", None), "headers", {})
    seconds = str(headers.get("Retry-After", "")).strip()
    return int(seconds) if seconds.isdecimal() and len(seconds) < 9 else None


def reason_of(chain: list[BaseException], secrets: list[str]) -> str:
    """Return the first line of the cause. huggingface_hub's own errors often say less than the error behind them.

    Args:
        chain: the error, and the errors behind it.
        secrets: tokens. They are removed from the line.

    Example:
        >>> reason_of([ConnectionError("refused")], [])
        'ConnectionError: refused'
    """
    with_status = [error for error in chain if status_of(error) is not None]
    told = [error for error in chain if type(error).__name__ != "LocalEntryNotFoundError"]
    error = (with_status or told or chain)[0]
    text = next(iter(str(error).strip().splitlines()), "")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = re.sub(r"://[^/\s@]*@", "://***@", text)  # the password of a proxy
    return f"{type(error).__name__}: {text[:_MAX_REASON_LENGTH]}"
