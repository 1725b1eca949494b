"""Upload an artifact to a repository of the Hub, in one commit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from embedder.artifact.hub_access import is_repository_id
from embedder.artifact.hub_errors import chain_of, reason_of, status_of
from embedder.artifact.manifest import MANIFEST_NAME, Manifest
from embedder.errors import InputError

from embedder_export import __version__
from embedder_export.errors import UploadError
from embedder_export.publish.card import CARD, Licence, write_card

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_repository(repository: str) -> None:
    """Check the name of a repository, and that there is a token for the public Hub. This comes before the export.

    Raises:
        InputError: it is not the name of a repository.
        UploadError: there is no token.

    Example:
        >>> check_repository("all-MiniLM-L6-v2")
        Traceback (most recent call last):
        ...
        embedder.errors.InputError: --push-to needs ORG/NAME, not 'all-MiniLM-L6-v2'
    """
    from huggingface_hub import constants, get_token

    if not is_repository_id(repository):
        raise InputError(f"--push-to needs ORG/NAME, not {repository!r:.100}")
    if get_token() is None and "huggingface.co" in constants.ENDPOINT:  # another hub may need none
        raise UploadError(f"there is no token to upload to {repository}: {_LOG_IN}")


def upload(directory: Path, manifest: Manifest, repository: str, licence: Licence | None) -> str:
    """Upload the files of an artifact and its model card in one commit. Other files of the repository stay.

    A new repository is public or private as the settings of the account or the organisation say.

    Args:
        directory: the artifact's directory.
        manifest: its manifest.
        repository: the id of the repository, such as "org/name". It is created if it does not exist.
        licence: the licence that the checkpoint's card states.

    Returns:
        The address of the repository.

    Raises:
        UploadError: the Hub refuses the upload, or cannot be reached. The repository may exist then, without the files.

    Example:
        >>> upload(directory, manifest, "ann/all-MiniLM-L6-v2", Licence("apache-2.0"))  # doctest: +SKIP
        'https://huggingface.co/ann/all-MiniLM-L6-v2'
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="embedder-export", library_version=__version__)
    card = write_card(manifest, repository, licence).encode()
    names = [MANIFEST_NAME, *(file.name for file in manifest.files)]
    with _described_errors(repository):
        url = str(api.create_repo(repository, exist_ok=True))
        try:
            _commit(api, repository, {CARD: card} | {name: directory / name for name in names}, manifest)
        except Exception as error:
            if not _lacks_xet(error):
                raise
            with ExitStack() as stack:
                opened = {name: stack.enter_context((directory / name).open("rb")) for name in names}
                _commit(api, repository, {CARD: card, **opened}, manifest)
    return url


def _commit(api: object, repository: str, files: dict[str, object], manifest: Manifest) -> None:
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    message = f"Artifact of {manifest.source.model} for embedder"
    api.create_commit(repository, operations, commit_message=message)  # type: ignore[attr-defined]


def _lacks_xet(error: Exception) -> bool:
    """Return whether a hub does not know the newer protocol for large files. Open files then go by the older one."""
    return any("xet-write-token" in str(cause) and "404" in str(cause) for cause in chain_of(error))


@contextmanager
def _described_errors(repository: str) -> Iterator[None]:
    """Raise errors of huggingface_hub as `UploadError`. A token never appears in a message or in a traceback."""
    from huggingface_hub import get_token

    try:
        yield
    except Exception as error:  # huggingface_hub also raises errors of its HTTP library
        secrets = [secret for secret in [get_token()] if secret]
        chain = list(chain_of(error))
        shown = any(secret in f"{cause!r} {cause}" for secret in secrets for cause in chain)
        raise UploadError(_describe(chain, repository, secrets)) from (None if shown else error)


def _describe(chain: list[BaseException], repository: str, secrets: list[str]) -> str:
    status = next((code for code in map(status_of, chain) if code is not None), None)
    if status == 401:
        return f"the Hub refuses the upload to {repository} (status 401): {_LOG_IN}"
    if status == 403:
        return f"the Hub refuses the upload to {repository} (status 403): the token may not write there"
    if status == 404:
        return f"the Hub has no place for {repository} (status 404): check the organisation's name, or {_LOG_IN}"
    if status == 429 or (status is not None and status >= 500):
        advice = "try again later"
    else:
        advice = "check the connection" if status is None else "nothing has been uploaded"
    return f"{repository} could not be uploaded ({reason_of(chain, secrets)}): {advice}"
