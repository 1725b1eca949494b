"""Build the zip of an AWS Lambda function, as `make lambda` does."""

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from tests.distributions import ROOT


def build_zip(export_bin: Path, model: Path, output: Path, *options: str) -> str:
    """Build the zip of `model` in `output`, for the Python of this test. Return what the builder prints.

    It runs in the exporter's environment, as there.
    """
    command = [export_bin / "python", "-m", "deploy.aws_lambda.builder", model, "--python", sys.executable]
    answer = subprocess.run(
        [*map(str, command), "--output", str(output), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")])},
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def build_once(export_bin: Path, model: Path, shared: Path) -> Path:
    """Return the zip of `model` in `shared`, a directory of all processes of a test run. The first one builds it."""
    output = shared / "lambda"
    with FileLock(shared / "lambda.lock"):
        if not output.exists():
            # The directory appears when the zip and the printed table are whole.
            partial = shared / "lambda.partial"
            printed = build_zip(export_bin, model, partial)
            (partial / "printed.txt").write_text(printed, encoding="utf-8")
            partial.rename(output)
    (found,) = output.glob("*.zip")
    return found
