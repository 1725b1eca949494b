"""What the message says when a fetch from the Hub fails."""

import errno

import pytest

from embedder.artifact.hub import fetch
from embedder.errors import ModelNotFoundError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("refused"), r"\(ConnectionError: refused\): check the connection, or give the path"),
        (PermissionError(errno.EACCES, "denied", "/cache"), "check the directory of the Hub's cache, which .HF_HOME"),
        (OSError(errno.ENOSPC, "no space left"), "make room on the disk of the Hub's cache, which .HF_HOME names"),
    ],
)
def test_the_advice_fits_the_error(error, message, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelNotFoundError, match=f"'org/name' could not be fetched from the Hub .*{message}"):
        fetch("org/name", ["*.json"])
