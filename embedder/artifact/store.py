"""The two directories of models, and where in them a model lies.

The model directory is this user's own: `$EMBEDDER_HOME`, or `embedder` in the data directory of the platform. The
other one is `artifacts` in the working directory. Names of models may come from strangers, so nothing outside of the
two directories is ever looked up or written.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

from embedder.artifact.artifact import Place
from embedder.artifact.hub_access import DEFAULT_ORGANISATION, is_repository_id
from embedder.artifact.manifest import MANIFEST_NAME, MULTI_VECTOR, SPARSE, read_manifest
from embedder.common import files
from embedder.errors import ArtifactError, InputError

# The folder of the locks, in the model directory. No model can have this name.
LOCKS = ".locks"
# A part of a model's name is one folder. `@` divides the name from the revision. The others mean something to Windows.
_PART = re.compile(r"[^\x00-\x20\x7f/\\:*?\"<>|@~.\ud800-\udfff][^\x00-\x1f\x7f/\\:*?\"<>|@\ud800-\udfff]{0,199}")
_MAX_PARTS = 2
# An artifact for one of these tasks is stored under a name of its own.
CHOSEN_TASKS = (SPARSE, MULTI_VECTOR)


def model_directory() -> Path:
    """Return this user's directory of models. It need not exist.

    Raises:
        InputError: EMBEDDER_HOME is not set, and the user has no home directory.

    Example:
        >>> model_directory()  # doctest: +SKIP
        PosixPath('/home/ann/.local/share/embedder')
    """
    try:
        home = os.environ.get("EMBEDDER_HOME")
        return Path(home).expanduser().absolute() if home else _data_directory() / "embedder"
    except RuntimeError as error:  # pathlib's, if there is no home directory
        raise InputError(
            f"there is no home directory for models ({error}). Set EMBEDDER_HOME to a directory"
        ) from error


def _data_directory() -> Path:
    if sys.platform == "win32":
        variable, default = "LOCALAPPDATA", "AppData/Local"
    elif sys.platform == "darwin":
        return Path.home() / "Library/Application Support"
    else:
        variable, default = "XDG_DATA_HOME", ".local/share"
    directory = Path(os.environ.get(variable, ""))
    return directory if directory.is_absolute() else Path.home() / default


def local_artifacts() -> Path:
    """Return the directory `artifacts` in the working directory."""
    return Path("artifacts")


def stores() -> Iterator[tuple[Place, Path]]:
    """Yield the two directories of models, in the order in which they are looked at. They need not exist.

    Example:
        >>> [place.value for place, directory in stores()]
        ['model directory', 'artifacts in the working directory']
    """
    with suppress(InputError):  # the user has no home directory
        yield Place.MODEL_DIRECTORY, model_directory()
    yield Place.ARTIFACTS, local_artifacts()


def name_for_task(model: str, task: str | None) -> str:
    """Return the name under which the artifact of `model` for a chosen task is stored.

    A checkpoint may have several heads. No repository of the Hub has two hyphens in its name.

    Args:
        model: the name of the model.
        task: the chosen task; None if the checkpoint decides.

    Example:
        >>> name_for_task("BAAI/bge-m3", "sparse"), name_for_task("BAAI/bge-m3", None)
        ('BAAI/bge-m3--sparse', 'BAAI/bge-m3')
    """
    return f"{model}--{task}" if task in CHOSEN_TASKS else model


def target_directory(model: str, revision: str | None = None, task: str | None = None) -> Path:
    """Return the directory that an export of `model` at first use writes, in the model directory.

    Args:
        model: the id of a Hub repository, or the name of one of sentence-transformers.
        revision: its branch, tag or commit; None if the user named none.
        task: the chosen task; None if the checkpoint decides.

    Raises:
        InputError: `model` is not the name of a repository.

    Example:
        >>> target_directory("all-MiniLM-L6-v2").relative_to(model_directory()).as_posix()
        'sentence-transformers/all-MiniLM-L6-v2'
    """
    repository = repository_of(model)
    if repository is None or name_parts(repository) is None:
        raise InputError(f"{model!r} is not the name of a model on the Hub, such as 'BAAI/bge-small-en-v1.5'")
    return model_directory() / _with_revision(name_for_task(repository, task), revision)


def repository_of(model: str) -> str | None:
    """Return the id of the Hub repository that `model` names, or None if it cannot name one.

    Example:
        >>> repository_of("all-MiniLM-L6-v2")
        'sentence-transformers/all-MiniLM-L6-v2'
    """
    repository = model if "/" in model else DEFAULT_ORGANISATION + model
    return repository if is_repository_id(repository) else None


def name_parts(model: str) -> list[str] | None:
    """Return the organisation and the name of a model, or the name alone. None if `model` cannot be a name in a store.

    Example:
        >>> name_parts("BAAI/bge-small-en-v1.5"), name_parts("../secret")
        (['BAAI', 'bge-small-en-v1.5'], None)
    """
    parts = model.split("/")
    good = all(_PART.fullmatch(part) and part[-1] not in ". " for part in parts)  # Windows drops a dot at the end
    return parts if good and len(parts) <= _MAX_PARTS else None


def find(store: Path, model: str, revision: str | None = None) -> Path | None:
    """Return the directory of `model` in `store`, or None if it is not there.

    Looked at, in this order: `store/model`; `store/sentence-transformers/model` for a name without an organisation;
    `store/<last part of the name>`, which counts only if its manifest says that it was made from `model`. With a
    revision, the directory's name must have that revision, or the artifact must be made from that commit.

    Raises:
        ArtifactError: the model is there, but its manifest is damaged.

    Example:
        >>> find(Path("artifacts"), "all-MiniLM-L6-v2")  # doctest: +SKIP
        PosixPath('artifacts/all-MiniLM-L6-v2')
    """
    parts = name_parts(model)
    if parts is None:
        return None
    names = [model, *([DEFAULT_ORGANISATION + model] if len(parts) == 1 else [])]
    for name in names:
        if revision is not None and _is_artifact(store, _with_revision(name, revision)):
            return store / _with_revision(name, revision)
        if _is_artifact(store, name) and (revision is None or read_manifest(store / name).source.revision == revision):
            return store / name
    last = parts[-1]
    if len(parts) > 1 and _is_artifact(store, last) and _was_made_from(store / last, model, revision):
        return store / last
    return None


def stored(store: Path) -> Iterator[tuple[str, str | None, Path]]:
    """Yield the name, the revision and the directory of each model in `store`, sorted by name. Never raises.

    Example:
        >>> [name for name, revision, directory in stored(Path("artifacts"))]  # doctest: +SKIP
        ['all-MiniLM-L6-v2']
    """
    for folder in _folders(store):
        nested = [] if _has_manifest(folder) else _folders(folder)
        for directory in [path for path in (folder, *nested) if _has_manifest(path)]:
            name, _, revision = directory.relative_to(store).as_posix().partition("@")
            yield name, unquote(revision) or None, directory


def remove_leftovers(store: Path) -> None:
    """Remove what killed exports of any model have left in `store`. It may be gigabytes.

    Example:
        >>> remove_leftovers(model_directory())  # doctest: +SKIP
    """
    for folder in (store, *_folders(store)):
        files.remove_leftovers(folder)


def _folders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _has_manifest(directory: Path) -> bool:
    return os.path.lexists(directory / MANIFEST_NAME)


def _with_revision(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name}@{quote(revision, safe='')}"


def _is_artifact(store: Path, name: str) -> bool:
    """Return whether `store/name` is an artifact, in the same upper and lower case."""
    directory = store
    try:
        for part in name.split("/"):
            if part not in os.listdir(directory):  # some file systems also open names in another case
                return False
            directory /= part
    except (OSError, ValueError):
        return False
    return _has_manifest(directory)


def _was_made_from(directory: Path, model: str, revision: str | None) -> bool:
    try:
        source = read_manifest(directory).source
    except ArtifactError:  # the artifact of another model, as far as anyone can tell
        return False
    return source.model == model.removeprefix(DEFAULT_ORGANISATION) and revision in (None, source.revision)
