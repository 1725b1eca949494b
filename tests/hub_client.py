"""Let huggingface_hub, in this process, ask a hub on this machine and use a cache of the test's own.

huggingface_hub reads the environment when it is imported, which another test may have caused. So its constants are set.
"""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

NOBODY = "http://127.0.0.1:9"  # no hub answers there


def use_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the hub at `endpoint`."""
    from huggingface_hub import constants, file_download, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for module in (constants, file_download, hf_api):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the cache at `folder`, and no hub until a test names one. Return `folder`."""
    from huggingface_hub import constants

    retry_at_once(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # older versions have no Xet
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_hub(NOBODY, monkeypatch)
    return folder


def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub try again at once. Some versions wait for 23 seconds in all when a hub does not answer."""
    for module in ("file_download", "utils._http"):
        clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
        monkeypatch.setattr(f"huggingface_hub.{module}.time", clock)
