"""The most used models, each with its files of settings: one file in `files/` for each model.

    {"name": "org/name", "task": "embeddings", "origins": {...}, "files": {"config.json": {...}, "vocab.txt": null}}

`files` has a checkpoint's files as `embedder_export.support.check_support` takes them. `origins` says for a file where
its content comes from; "default" stands for all other files.
"""

import json
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from embedder_export.checkpoint.files import SETTINGS, VOCABULARIES
from embedder_export.checkpoint.settings_files import SettingsFiles, fetch_settings_files

from embedder.artifact.hub_access import DEFAULT_ACCESS

FILES = Path(__file__).parent / "files"
# The order of the tables.
TASKS = ("embeddings", "re-ranking", "sparse", "late interaction", "images and texts")
DEFAULT = "default"


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        name: its id on the Hub.
        task: one of `TASKS`.
        origins: where the content of its files comes from, by path. `DEFAULT` stands for all other files.
        files: its files of settings.
    """

    name: str
    task: str
    origins: dict[str, str]
    files: SettingsFiles


def read_models(directory: Path = FILES) -> list[Model]:
    """Return all models, by task and name."""
    found = [Model(**json.loads(path.read_text(encoding="utf-8"))) for path in directory.glob("*.json")]
    return sorted(found, key=lambda model: (TASKS.index(model.task), model.name.lower()))


def write_model(model: Model, directory: Path = FILES) -> None:
    """Write the file of `model`."""
    text = json.dumps(asdict(model), indent=1, ensure_ascii=False)
    (directory / f"{model.name.replace('/', '__')}.json").write_text(text + "\n", encoding="utf-8")


def fetch_model(model: Model) -> Model:
    """Return `model` with the files that the Hub has now.

    Raises:
        EmbedderError: the Hub has no such model, cannot be reached, or a file is damaged.
    """
    found = fetch_settings_files(model.name, DEFAULT_ACCESS)
    folders = {PurePosixPath(path).parent for path, content in found.items() if content is not None}
    files = {
        path: _shortened(content)
        for path, content in found.items()
        if PurePosixPath(path).parent in folders and (content is not None or _is_part(path))
    }
    return replace(model, files=files, origins={DEFAULT: "the Hub"})


def _is_part(path: str) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatchcase(name, pattern) for pattern in (*SETTINGS, *VOCABULARIES))


def _shortened(content: Any) -> Any:
    """Return the content of a file with its long parts left out. Only their presence has a role."""
    if not isinstance(content, dict):
        return content
    short: dict[str, Any] = {"added_tokens_decoder": {}, "chat_template": "..."}
    return {key: short[key] if key in short and value is not None else value for key, value in content.items()}
