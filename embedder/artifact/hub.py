"""Fetch files from the Hugging Face Hub. Only this file knows huggingface_hub, and imports it when it is needed."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from embedder.errors import ModelNotFoundError

# The organisation of models that are named without one.
DEFAULT_ORGANISATION = "sentence-transformers/"

_REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository_id(name: str) -> bool:
    """Return whether `name` has the form of a Hub repository's id.

    Example:
        >>> is_repository_id("BAAI/bge-small-en-v1.5")
        True
    """
    return _REPOSITORY_ID.fullmatch(name) is not None


def fetch(repository: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """Fetch files of a Hub repository into the Hub's cache. Cached files are used offline.

    Args:
        repository: its id, such as "org/name".
        patterns: file names, or patterns such as "*.json".
        revision: a branch, tag or commit. None takes the main branch.

    Returns:
        The directory of the files. Its name is the commit.

    Raises:
        ModelNotFoundError: the repository does not exist or is private; or it cannot be reached and is not cached.

    Example:
        >>> (fetch("BAAI/bge-small-en-v1.5", ["config.json"]) / "config.json").is_file()  # doctest: +SKIP
        True
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), revision=revision))
    except GatedRepoError as error:
        advice = "accept its terms on its page, then log in with `hf auth login`"
        raise ModelNotFoundError(f"the Hub repository {repository!r} is gated: {advice}") from error
    except RepositoryNotFoundError as error:
        advice = "check the name, or log in with `hf auth login` if it is private"
        raise ModelNotFoundError(f"the Hub has no repository {repository!r}: {advice}") from error
    except Exception as error:  # huggingface_hub also raises errors of its HTTP library
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        problem = f"{repository!r} could not be fetched from the Hub ({reason})"
        raise ModelNotFoundError(f"{problem}: {_advice(error)}") from error


def _advice(error: Exception) -> str:
    """Return what the user can do if a fetch failed for any other reason."""
    from huggingface_hub.errors import RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return "check the revision"
    # The errors of HTTP libraries are OSErrors too, but without a file.
    if isinstance(error, OSError) and error.filename is not None:
        return "check the directory of the Hub's cache, which $HF_HOME names"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "make room on the disk of the Hub's cache, which $HF_HOME names"
    return "check the connection, or give the path of a local directory"
