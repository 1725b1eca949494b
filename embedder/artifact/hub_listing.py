"""List the files of Hub repositories. A list comes from the Hub, and is kept in the Hub's cache for later."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from embedder.common.files import read_regular, replacing
from embedder.common.json_text import parse_json
from embedder.common.records import frozen

# The folder of our lists, in the repository's folder of the Hub's cache.
_LISTINGS = "embedder"
_MAX_LISTING_BYTES = 100_000_000
# A pattern that no file matches.
_NO_FILE = "\0"


@frozen
class Listing:
    """The files of a repository at a commit.

    Attributes:
        commit: the commit.
        names: the names of the files, with their folders.
        is_complete: whether these are all files. If not, they are those that the cache happens to have.
        is_current: whether the Hub was asked just now. If not, the commit is that of an earlier fetch.
    """

    commit: str
    names: tuple[str, ...]
    is_complete: bool
    is_current: bool


def ask_for_files(repository: str, revision: str | None, token: str | None) -> tuple[str, list[str]]:
    """Return the commit of the revision, and the names of all of its files. The list is kept for later.

    Raises:
        Exception: what huggingface_hub and its HTTP library raise.

    Example:
        >>> commit, files = ask_for_files("BAAI/bge-small-en-v1.5", None, None)  # doctest: +SKIP
        >>> "config.json" in files  # doctest: +SKIP
        True
    """
    from huggingface_hub import HfApi, constants

    # Without a time limit, a server that never answers would hang this process.
    limit_s = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi(token=token).model_info(repository, revision=revision, timeout=limit_s)
    commit, files = str(info.sha), [str(sibling.rfilename) for sibling in info.siblings or []]
    path = _listing_path(repository, commit)
    with suppress(OSError):  # the cache cannot be written: a download says so, and files that are there need no list
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(files), encoding="utf-8")
    return commit, files


def kept_files(repository: str, commit: str) -> list[str] | None:
    """Return the names of all files of a commit, if an earlier fetch has kept them.

    Example:
        >>> kept_files("org/name", "0" * 40) is None
        True
    """
    try:
        files = parse_json(read_regular(_listing_path(repository, commit), _MAX_LISTING_BYTES))
    except (OSError, ValueError):
        return None
    return files if isinstance(files, list) and all(isinstance(name, str) for name in files) else None


def cached_listing(repository: str, revision: str | None) -> Listing | None:
    """Return what the cache knows of the files at a revision. None if it has none of them.

    Example:
        >>> cached_listing("org/name", None) is None
        True
    """
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=[_NO_FILE], local_files_only=True)
    except (OSError, ValueError):  # not cached; or not a possible name
        return None
    directory = Path(found)
    commit = directory.name
    files = kept_files(repository, commit)
    if files is None:
        files = _files_of_huggingface_hub(repository, commit)
    if files is not None:
        return Listing(commit, tuple(files), is_complete=True, is_current=False)
    present = [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file()]
    return Listing(commit, tuple(present), is_complete=False, is_current=False)


def folder_of(repository: str) -> Path:
    """Return the folder of a repository in the Hub's cache. It need not exist.

    Example:
        >>> folder_of("org/name").name
        'models--org--name'
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))


def _files_of_huggingface_hub(repository: str, commit: str) -> list[str] | None:
    """Return the names that huggingface_hub has kept. Versions before 2 keep none."""
    try:
        from huggingface_hub import get_cached_repo_tree

        return [str(file.path) for file in get_cached_repo_tree(repository, revision=commit)]
    except Exception:  # an older version; or nothing is kept, for which it has an error of its own
        return None


def _listing_path(repository: str, commit: str) -> Path:
    return folder_of(repository) / _LISTINGS / f"{commit}.json"
