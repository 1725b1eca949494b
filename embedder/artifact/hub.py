"""Fetch files from the Hugging Face Hub into its cache. Imports huggingface_hub when it is needed.

huggingface_hub does the transport, the retries and the cache. It reads HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN
and the variables of proxies. The cache may hold only a part of a repository. So this module writes the list of the
files of a commit into the cache before it fetches the first one. A cached copy is used only if all wanted files are
there.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess, is_repository_id
from embedder.artifact.hub_errors import (
    HubUnreachableError,
    RepositoryFileError,
    describe,
    is_about_revision,
    is_refused_connection,
    is_timeout,
    seconds_to_wait,
    status_of,
)
from embedder.artifact.hub_listing import Listing, ask_for_files, cached_listing, folder_of, kept_files
from embedder.common.files import remove_leftovers
from embedder.common.progress import is_watched
from embedder.errors import ArtifactError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
# A fetch fails if the Hub asks to wait longer than this.
_MAX_WAIT_S = 60


def fetch(
    repository: str, patterns: Sequence[str], access: HubAccess = DEFAULT_ACCESS, *, cached_first: bool = False
) -> Path:
    """Fetch files of a Hub repository into the Hub's cache. If the Hub cannot be reached, cached files are used.

    Args:
        repository: its id, such as "org/name".
        patterns: names of files, which must all exist; or patterns such as "*.json", which may match nothing.
        access: the revision, the token, and whether the network may be used.
        cached_first: do not ask the network if the cache has all of the files.

    Returns:
        The directory of the files. Its name is the commit.

    Raises:
        RepositoryFileError: the repository has no file of one of the names.
        HubUnreachableError: the Hub gave no usable answer, and the cache does not have all of the files.
        ModelNotFoundError: the repository or the revision does not exist, or is private or gated; or the cache cannot
            be written.

    Example:
        >>> (fetch("BAAI/bge-small-en-v1.5", ["config.json"]) / "config.json").is_file()  # doctest: +SKIP
        True
    """
    pinned = access.revision is not None and _COMMIT.fullmatch(access.revision)  # a commit never changes
    if access.local_files_only or cached_first or pinned:
        cached = _find_cached(repository, patterns, access.revision, needs_listing=not access.local_files_only)
        if cached is not None:
            return cached
    if access.local_files_only:
        raise HubUnreachableError(
            f"the Hub's cache does not have all files of {repository!r}{_at(access.revision)}, and local_files_only "
            "forbids a fetch. Load the model once with a network"
        )
    with _described_errors(repository, access), _quiet_unless_watched():
        try:
            commit, files = _files_of(repository, patterns, access)
        except Exception as error:
            cached = None
            if not is_about_revision(error):
                cached = _find_cached(repository, patterns, access.revision)
            if cached is None:
                raise
            return cached
        wanted = _matching(files, patterns)
        missing = [name for name in patterns if not _is_pattern(name) and name not in wanted]
        if missing:
            where = f"the Hub repository {repository!r}{_at(access.revision)}"
            raise RepositoryFileError(f"{where} has no file {', '.join(missing)}")
        return _download(repository, commit, wanted, access)


def list_files(repository: str, access: HubAccess = DEFAULT_ACCESS) -> Listing:
    """Return the files of a Hub repository. If the Hub cannot be reached, the cache tells what it knows.

    Raises:
        HubUnreachableError: the Hub gave no usable answer, and the cache has nothing of this revision.
        ModelNotFoundError: the repository or the revision does not exist, or is private or gated.

    Example:
        >>> "config.json" in list_files("BAAI/bge-small-en-v1.5").names  # doctest: +SKIP
        True
    """
    if not access.local_files_only:
        with _described_errors(repository, access):
            try:
                commit, files = ask_for_files(repository, access.revision, access.token)
                return Listing(commit, tuple(files), is_complete=True, is_current=True)
            except Exception as error:
                cached = None if is_about_revision(error) else cached_listing(repository, access.revision)
                if cached is None:
                    raise
                return cached
    cached = cached_listing(repository, access.revision)
    if cached is None:
        raise HubUnreachableError(
            f"the Hub's cache has no file of {repository!r}{_at(access.revision)}, and local_files_only forbids a fetch"
        )
    return cached


def is_known_absent(repository: str, commit: str, name: str) -> bool:
    """Return whether the cache knows that a commit has no file of this name, because a program once asked for it.

    Example:
        >>> is_known_absent("org/name", "0" * 40, "modules.json")
        False
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=commit)
    return found is not None and not isinstance(found, str)  # a marker object stands for a known absence


def check_fetched(directory: Path, names: Iterable[str]) -> None:
    """Check files of `directory`, which `fetch` returned, against the digests that the Hub gave for them.

    The cache names a file's content after its ETag: the SHA-256 or git's SHA-1 of the content. Files with another name
    are not checked. All damaged files are removed, so that the next fetch gets them again. The error names the first.

    Raises:
        ArtifactError: a file is damaged.

    Example:
        >>> check_fetched(fetch("org/name", ["config.json"]), ["config.json"])  # doctest: +SKIP
    """
    damaged = [(path, discard(path)) for path in (directory / name for name in names) if _is_damaged(path)]
    if damaged:
        path, advice = damaged[0]
        raise ArtifactError(f"{path} was damaged during the download from the Hub. {advice}")


def _is_damaged(path: Path) -> bool:
    """Return whether a file of a snapshot has another digest than that of its name in the cache."""
    if not path.is_symlink():  # a copy, because the file system has no links
        return False
    folder, name = os.path.split(os.path.normpath(os.readlink(path)))
    if os.path.basename(folder) != "blobs":  # the ETag was a path, such as "../x"
        return True
    return _DIGEST.fullmatch(name) is not None and name not in _digests(path)


def discard(path: Path) -> str:
    """Remove a damaged file of a snapshot from the Hub's cache. Return what the user can do now.

    Example:
        >>> discard(fetch("org/name", ["config.json"]) / "config.json")  # doctest: +SKIP
        'It has been removed. Run this again to fetch it once more'
    """
    try:
        content = [path.parent / os.readlink(path), Path(os.path.realpath(path))] if path.is_symlink() else []
        for file in (*content, path):
            file.unlink(missing_ok=True)
    except OSError as error:
        return f"Remove it, and run this again ({error})"
    return "It has been removed. Run this again to fetch it once more"


def snapshots_with(name: str) -> list[tuple[str, str, Path]]:
    """Return the snapshots of the Hub's cache that have a file `name`: repository, commit and directory. Never raises.

    Example:
        >>> snapshots_with("embedder.json")  # doctest: +SKIP
        [('org/name', '3f2a...', PosixPath('/home/ann/.cache/huggingface/hub/models--org--name/snapshots/3f2a...'))]
    """
    from huggingface_hub import constants

    try:
        found = sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{name}"))
    except OSError:
        return []
    directories = [path.parent for path in found]
    names = [directory.parents[1].name.removeprefix("models--").replace("--", "/") for directory in directories]
    return [(name, path.name, path) for name, path in zip(names, directories, strict=True) if is_repository_id(name)]


def _files_of(repository: str, patterns: Sequence[str], access: HubAccess) -> tuple[str, list[str]]:
    """Return the commit of the revision, and the names of all of its files.

    They are asked for once for each commit. If a file is missing that `patterns` names, they are asked for again: an
    earlier answer may have been damaged.
    """
    commit = access.revision or ""
    kept = kept_files(repository, commit) if _COMMIT.fullmatch(commit) else None
    if kept is None or not all(_is_pattern(name) or name in kept for name in patterns):
        return ask_for_files(repository, access.revision, access.token)
    return commit, kept


def _digests(path: Path) -> set[str]:
    """Return the SHA-256, git's SHA-1 and the plain SHA-1 of a file."""
    sha256, sha1, git = hashlib.sha256(), hashlib.sha1(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            for digest in (sha256, sha1, git):
                digest.update(chunk)
    return {sha256.hexdigest(), sha1.hexdigest(), git.hexdigest()}


def _at(revision: str | None) -> str:
    return "" if revision is None else f" at {revision!r}"


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _matching(files: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in files if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _download(repository: str, commit: str, files: list[str], access: HubAccess) -> Path:
    """Download files of a commit, unless they are cached. Return their directory."""
    from huggingface_hub import hf_hub_download

    directory = folder_of(repository) / "snapshots" / commit
    remove_leftovers(folder_of(repository).parent)  # of a killed `embedder remove`
    revision = access.revision or "main"
    for name in files:
        if not (directory / name).exists():
            _stop_if_the_hub_stalls(repository, name, revision, access.token)
        # The first file is asked for by the branch, so that the cache knows the branch's commit when it is offline.
        path = Path(hf_hub_download(repository, name, revision=revision, token=access.token))
        _remove_partial_downloads(path)
        directory = path.parents[name.count("/")]
        revision = directory.name
    return directory


def _remove_partial_downloads(path: Path) -> None:
    """Remove what killed processes left of a download that is now complete. `path` is the file in its snapshot.

    One process at a time downloads a file, because huggingface_hub locks it. So nobody writes to these files any more.
    """
    with suppress(OSError):
        blob = path.resolve()
        for partial in blob.parent.glob(f"{glob.escape(blob.name)}*.incomplete"):
            partial.unlink(missing_ok=True)


def _stop_if_the_hub_stalls(repository: str, name: str, revision: str, token: str | None) -> None:
    """Raise the HTTP library's error if the Hub does not answer for a file within HF_HUB_ETAG_TIMEOUT, 10 seconds.

    huggingface_hub would ask six more times, and wait a minute each time. It would also try again for half a minute
    where there is no network. If the Hub says when to come back, it would wait so long, even for a day. Failures that
    may pass are left to it.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, name, revision=revision)
    try:
        get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        refused = status_of(error) in (401, 403, 404)
        hopeless = is_timeout(error) or is_refused_connection(error)
        if refused or hopeless or (seconds_to_wait(error) or 0) > _MAX_WAIT_S:
            raise


def _find_cached(
    repository: str, patterns: Sequence[str], revision: str | None, *, needs_listing: bool = False
) -> Path | None:
    """Return the directory of cached files, or None if one of them is missing.

    Args:
        repository: its id.
        patterns: names and patterns, as in `fetch`.
        revision: a branch, tag or commit.
        needs_listing: if `patterns` has a wildcard, return None unless the cache has the list of the commit's files.
            Without the list, nobody knows which files the wildcard matches.
    """
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_files_only=True)
    except (OSError, ValueError):  # not cached, or not completely; or not a possible name
        return None
    directory = Path(found)
    files = kept_files(repository, directory.name)
    if files is None and needs_listing and any(map(_is_pattern, patterns)):
        return None
    names = [name for name in patterns if not _is_pattern(name)]
    expected = [*names, *_matching(files or [], patterns)]
    return directory if all((directory / name).is_file() for name in expected) else None


@contextmanager
def _described_errors(repository: str, access: HubAccess) -> Iterator[None]:
    """Raise errors of huggingface_hub as errors for the user."""
    from huggingface_hub import get_token

    try:
        yield
    except RepositoryFileError:
        raise
    except Exception as error:  # huggingface_hub also raises errors of its HTTP library
        secrets = [secret for secret in (access.token, get_token()) if secret]
        described = describe(error, repository, access.revision, secrets)
        # The traceback shows the cause, so the cause must not show a token.
        shows_secret = any(secret in f"{cause!r} {cause}" for secret in secrets for cause in _causes(error))
        raise described from (None if shows_secret else error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _quiet_unless_watched() -> Iterator[None]:
    """Hide huggingface_hub's progress bars unless standard error is a terminal. HF_HUB_DISABLE_PROGRESS_BARS wins."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if is_watched() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
