"""Export a checkpoint of the Hub when a program first asks for its model. The runtime finds this by an entry point."""

import warnings
from collections.abc import Callable
from pathlib import Path

from embedder.artifact.hub_access import HubAccess

from embedder_export.checkpoint.locate import locate_on_hub
from embedder_export.checkpoint.read import read_located
from embedder_export.errors import OutputError
from embedder_export.pipeline import export


def export_from_hub(
    model: str, output: Path, *, access: HubAccess, report: Callable[[str], None], task: str | None = None
) -> None:
    """Fetch the checkpoint `model` from the Hub, and export it to the directory `output` with the usual settings.

    `output` appears only after the comparison with the reference, if there is one, has passed.

    Args:
        model: `org/name`, or `name` for sentence-transformers/name. A directory of this name does not count.
        output: the directory to write.
        access: the revision, the token, and whether the network may be used.
        report: called with a line at each stage.
        task: one of `checkpoint.kinds.TASKS`, for a checkpoint that has several. None lets the checkpoint decide.

    Raises:
        EmbedderError: the checkpoint cannot be fetched or exported, or `output` cannot be written.

    Example:
        >>> output = Path("models/bge-small-en-v1.5")  # doctest: +SKIP
        >>> export_from_hub("BAAI/bge-small-en-v1.5", output, access=HubAccess(), report=print)  # doctest: +SKIP
    """
    report(f"fetching the checkpoint {model}")
    # The caller did not call the libraries that the export uses.
    with warnings.catch_warnings(action="ignore"):
        checkpoint = read_located(locate_on_hub(model, access), task)
        try:
            export(checkpoint, output, report)
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {describe_os_error(error, output)}") from error


def describe_os_error(error: OSError, output: Path) -> str:
    """Return the file that failed, and the reason. An error that names no file comes from the output.

    Example:
        >>> describe_os_error(OSError(28, "No space left on device"), Path("artifacts/small"))
        'artifacts/small: No space left on device'
    """
    return f"{error.filename or output}: {error.strerror or str(error) or type(error).__name__}"
