"""Fetching from the Hugging Face Hub; the only file that knows huggingface_hub, imported when something is fetched."""

import re
from collections.abc import Sequence
from pathlib import Path

from embedder.errors import ModelNotFoundError

# A name without an organisation is one of this organisation's models.
DEFAULT_ORGANISATION = "sentence-transformers/"

_REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository_id(name: str) -> bool:
    """Whether `name` has the form `organisation/name` of a Hub repository."""
    return _REPOSITORY_ID.fullmatch(name) is not None


def fetch(repository: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """Fetch the files of `repository` that match `patterns` into the Hub's cache, and return their directory.

    The directory's name is the commit. What the cache already holds is not fetched again, and serves offline.

    Raises:
        ModelNotFoundError: the repository does not exist, is private, or cannot be reached and is not cached.
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
    except Exception as error:
        # huggingface_hub lets errors of whichever HTTP library it was built on through; all mean the same here.
        advice = "check the connection, or give the path of a local directory"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelNotFoundError(f"{repository!r} could not be fetched from the Hub ({reason}): {advice}") from error
