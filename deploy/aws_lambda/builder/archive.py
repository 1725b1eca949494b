"""Write and read the zip. The same files give the same bytes."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from deploy.aws_lambda.builder.needless import files_in

# The first date that a zip can have.
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
# Lambda runs the code as a user who does not own it.
_READABLE_FILE = 0o100644
_LEVEL = 9


def write_zip(directory: Path, target: Path) -> None:
    """Write the files in `directory` to the zip `target`, in the order of their paths.

    Example:
        >>> write_zip(Path("build"), Path("dist/lambda-all-MiniLM-L6-v2-x86_64.zip"))  # doctest: +SKIP
    """
    with zipfile.ZipFile(target, "w") as archive:
        for file in files_in(directory):
            entry = zipfile.ZipInfo(file.relative_to(directory).as_posix(), _DATE)
            entry.create_system, entry.external_attr = _UNIX, _READABLE_FILE << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, _LEVEL)


def unpack_zip(archive: Path, directory: Path) -> None:
    """Unpack a zip into `directory`, which must not exist.

    Example:
        >>> unpack_zip(Path("dist/lambda-all-MiniLM-L6-v2-x86_64.zip"), Path("task"))  # doctest: +SKIP
    """
    shutil.unpack_archive(archive, directory, "zip")
