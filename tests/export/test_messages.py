"""Error messages of the command line name the right file and the right cause."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from embedder_export import cli
from embedder_export.write.output import staged

from tests.checkpoints import write_checkpoint
from tests.distributions import ROOT
from tests.processes import run_python


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "artifact: No space left on device"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "model.safetensors"), "model.safetensors: Permission denied"),
        (OSError("shorter than expected"), "artifact: shorter than expected"),
        (TimeoutError(), "artifact: TimeoutError"),
    ],
)
def test_errors_of_the_system(tmp_path, monkeypatch, capsys, error, message):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cli, "read_checkpoint", fail)
    assert cli.main(["checkpoint", "--output", "artifact"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"embedder-export: error: {message}"


def test_interrupt(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read_checkpoint", interrupt)
    assert cli.main(["checkpoint", "--output", "artifact"]) == 130


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write everything")
def test_output_without_permission(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "locked/artifact")]) == 1
    assert "locked/artifact cannot be written: Permission denied" in capsys.readouterr().err


def test_errors_of_a_stage_are_not_reported_as_output_errors(tmp_path):
    with pytest.raises(OSError, match="disk quota"), staged(tmp_path / "artifact"):
        raise OSError("disk quota")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_export_are_removed(tmp_path):
    killed = """
import os, sys
from pathlib import Path
from embedder_export.write.output import staged
with staged(Path(sys.argv[1])) as stage:
    (stage / "model.onnx").write_text("half of a graph")
    os._exit(9)
"""
    assert run_python("-c", killed, tmp_path / "artifact").returncode == 9
    assert len(list(tmp_path.rglob("model.onnx"))) == 1
    with staged(tmp_path / "artifact") as stage:
        (stage / "embedder.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    assert [path.name for path in Path(tmp_path / "artifact").iterdir()] == ["embedder.json"]


def test_onnxruntime_is_not_installed():
    """The exporter needs onnxruntime at its import, before it reads the command line."""
    code = "import sys; sys.modules['onnxruntime'] = None; from embedder_export.__main__ import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")])}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert answer.returncode == 1
    assert answer.stderr == (
        'embedder-export: error: onnxruntime is not installed. Run: pip install "embedder-onnx[cpu]" '
        '(for an NVIDIA GPU instead: pip install "embedder-onnx[gpu]")\n'
    )
