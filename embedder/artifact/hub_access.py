"""How the Hugging Face Hub is asked: the options that every call passes on."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from embedder.common.checks import check_flag, shown
from embedder.common.records import frozen
from embedder.errors import InputError

# The organisation of models that are named without one.
DEFAULT_ORGANISATION = "sentence-transformers/"

# Patterns are compiled when they are used: most models are loaded without the Hub.
_REPOSITORY_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
# The characters that an HTTP header can carry.
_TOKEN = r"[!-~]+"
_REVISION = r"[!-~]{1,200}"


@frozen
class HubAccess:
    """How the Hub is asked.

    Attributes:
        revision: a branch, tag or commit. None takes the main branch.
        token: a token for private and gated repositories. None takes the one of HF_TOKEN or of `hf auth login`. It is
            neither shown nor compared nor pickled.
        local_files_only: use cached files alone, and no network.

    Raises:
        InputError: a value has a wrong type, or characters that it cannot have. The message does not show a token.

    Example:
        >>> HubAccess(revision="main", token="secret")
        HubAccess(revision='main', local_files_only=False)
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False, compare=False)
    local_files_only: bool = False

    def __post_init__(self) -> None:
        revision, token = self.revision, self.token
        plain = isinstance(revision, str) and re.fullmatch(_REVISION, revision) and ".." not in revision.split("/")
        if revision is not None and (not plain or "\\" in revision or revision.startswith("/")):
            raise InputError(f"revision should be a branch, a tag or a commit of the Hub, not {shown(revision)}")
        if token is not None and not (isinstance(token, str) and re.fullmatch(_TOKEN, token)):
            raise InputError("token should be a string of visible ASCII characters, such as 'hf_...'")
        check_flag("local_files_only", self.local_files_only)

    def options(self) -> dict[str, Any]:
        """Return the values as keyword arguments of `Embedder`.

        Example:
            >>> HubAccess("main").options()["revision"]
            'main'
        """
        return {"revision": self.revision, "token": self.token, "local_files_only": self.local_files_only}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle everything but the token."""
        return type(self), (self.revision, None, self.local_files_only)


# The Hub as it is without any option.
DEFAULT_ACCESS = HubAccess()


def is_repository_id(name: str) -> bool:
    """Return whether `name` has the form of a Hub repository's id.

    Example:
        >>> is_repository_id("BAAI/bge-small-en-v1.5")
        True
    """
    return re.fullmatch(_REPOSITORY_ID, name, re.ASCII) is not None
