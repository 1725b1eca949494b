"""The tests in this folder need a GPU. Where none works they are skipped, and the reason says why."""

import pytest

from embedder.backends import select_device
from embedder.errors import EmbedderError


@pytest.fixture(autouse=True, scope="session")
def _gpu():
    try:
        select_device("cuda")
    except EmbedderError as error:
        pytest.skip(str(error))
