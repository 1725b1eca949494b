"""What is said where onnxruntime is missing, damaged, or there twice. Stand-ins for it lie in small directories."""

import sys
import zipfile

import pytest

from embedder.backends import select_device
from embedder.backends.onnxruntime_package import (
    import_onnxruntime,
    install_command,
    installed_distributions,
    shadowed_place,
)
from embedder.errors import DependencyError, ProviderError

NOT_INSTALLED = (
    'onnxruntime is not installed. Run: pip install "embedder-onnx[cpu]" '
    '(for an NVIDIA GPU instead: pip install "embedder-onnx[gpu]")'
)
WORKING = "class InferenceSession: pass\n"


def write_site(directory, *distributions, module=WORKING):
    """Write a directory with the module onnxruntime, and with the metadata of distributions as pip writes it."""
    package = directory / "onnxruntime"
    package.mkdir(parents=True)
    if module is not None:
        (package / "__init__.py").write_text(module)
    for name in distributions:
        write_metadata(directory, name, "onnxruntime")
    return directory


def write_metadata(directory, name, module):
    metadata = directory / f"{name.replace('-', '_')}-1.32.0.dist-info"
    metadata.mkdir()
    (metadata / "RECORD").write_text(f"../../../bin/tool,,\n{module}/LICENSE,,\n{module}/__init__.py,sha256=x,9\n")
    return metadata


@pytest.fixture
def ask(monkeypatch):
    """A function that imports onnxruntime from a directory, and returns what becomes of it."""

    def run(directory):
        monkeypatch.setattr(sys, "path", [str(directory)])  # without the real onnxruntime
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # so that the stand-in is taken away in the end
        del sys.modules["onnxruntime"]
        try:
            return f"imported {import_onnxruntime().__name__}"
        except DependencyError as error:
            return str(error)

    return run


def test_one_is_imported(ask, tmp_path):
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"):
        assert ask(write_site(tmp_path / name, name)) == "imported onnxruntime"


@pytest.mark.parametrize(("version", "old"), [("1.24.4", True), ("1.9.0", True), ("1.25.0", False), ("2.0", False)])
def test_a_version_that_computes_wrong_vectors_is_refused(ask, tmp_path, version, old):
    module = f"{WORKING}__version__ = {version!r}\n"
    told = ask(write_site(tmp_path, "onnxruntime-gpu", module=module))
    too_old = (
        f"onnxruntime-gpu {version} is too old: embedder needs 1.25 or later. "
        "Run: pip install --upgrade onnxruntime-gpu"
    )
    assert told == (too_old if old else "imported onnxruntime")


def test_none(ask, tmp_path):
    assert ask(tmp_path) == NOT_INSTALLED


TWICE = [
    (
        ("onnxruntime", "onnxruntime-gpu"),
        "onnxruntime and onnxruntime-gpu are installed together, and overwrite each other's files. Run: "
        'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "embedder-onnx[gpu]"',
    ),
    (
        ("onnxruntime-directml", "onnxruntime"),
        "onnxruntime and onnxruntime-directml are installed together, and overwrite each other's files. Run: "
        "pip uninstall -y onnxruntime onnxruntime-directml && pip install onnxruntime-directml",
    ),
    (
        ("onnxruntime-openvino", "onnxruntime-gpu", "onnxruntime"),
        "onnxruntime and onnxruntime-gpu and onnxruntime-openvino are installed together, and overwrite each other's "
        "files. Run: pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino && "
        'pip install "embedder-onnx[gpu]"',
    ),
    (
        ("ort-nightly", "onnxruntime"),
        "onnxruntime and ort-nightly are installed together, and overwrite each other's files. Run: "
        "pip uninstall -y onnxruntime ort-nightly && pip install ort-nightly",
    ),
]


@pytest.mark.parametrize(("names", "message"), TWICE, ids=["gpu", "directml", "three", "nightly"])
@pytest.mark.parametrize(
    "module",
    [WORKING, "raise AttributeError('mixed')", "raise SystemError('mixed')", "import no_such_module", None],
    ids=["works", "AttributeError", "SystemError", "ImportError", "no files"],
)
def test_two_are_refused_whatever_the_mixture_does(ask, tmp_path, names, message, module):
    assert ask(write_site(tmp_path / "site", *names, module=module)) == message


def test_two_without_lists_of_files_are_refused(ask, tmp_path):
    site = write_site(tmp_path / "site")
    for name in ("onnxruntime-1.32.0", "ONNXRuntime.GPU-1.31.1"):
        (site / f"{name}.dist-info").mkdir()
    assert ask(site) == TWICE[0][1]


def test_add_ons_are_no_conflict(ask, tmp_path):
    site = write_site(tmp_path / "site", "onnxruntime")
    for name in ("onnxruntime-ep-webgpu", "onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-genai-cuda"):
        (site / f"{name.replace('-', '_')}-1.0.dist-info").mkdir()
    write_metadata(site, "onnxruntime-tools", "onnxruntime_tools")  # known by its files
    (site / "onnxruntime-1.31.0.dist-info").mkdir()  # left of an older version
    (site / "~nnxruntime_gpu-1.31.0.dist-info").mkdir()  # pip could not delete it
    (site / "onnxruntime_gpu.dist-info.json").write_text("")
    assert ask(site) == "imported onnxruntime"


def test_after_one_of_two_has_been_uninstalled(ask, tmp_path):
    """pip removes the files that both had, and the folder stays. Python imports it as an empty module."""
    site = write_site(tmp_path / "site", "onnxruntime-gpu", module=None)
    assert ask(site) == (
        "onnxruntime-gpu is damaged: files are missing. Run: pip install --force-reinstall --no-deps onnxruntime-gpu"
    )


def test_a_folder_that_no_distribution_has(ask, tmp_path):
    assert ask(write_site(tmp_path / "site", module=None)) == NOT_INSTALLED


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_import_fails(ask, tmp_path, name):
    site = write_site(tmp_path / "site", name, module="raise OSError('libcudart.so.13: cannot open')")
    assert ask(site) == (
        f"{name} is damaged: its import failed (libcudart.so.13: cannot open). "
        f"Run: pip install --force-reinstall --no-deps {name}"
    )


def test_import_fails_without_metadata(ask, tmp_path):
    site = write_site(tmp_path / "site", module="import no_such_module")
    assert "onnxruntime is damaged: its import failed (No module named 'no_such_module')" in ask(site)


def test_another_onnxruntime_is_found_before_that_of_a_gpu(ask, tmp_path, monkeypatch):
    """Each is alone in its directory, so nothing is overwritten, but the one for GPUs is never imported."""
    module = f"{WORKING}def get_available_providers(): return ['CPUExecutionProvider']\n"
    first, second = (
        write_site(tmp_path / "user", "onnxruntime", module=module),
        write_site(tmp_path / "venv", "onnxruntime-gpu"),
    )
    assert ask(first) == "imported onnxruntime"
    monkeypatch.setattr(sys, "path", [str(first), str(second)])
    assert shadowed_place("onnxruntime-gpu") == str(second)
    assert shadowed_place("onnxruntime") is None
    with pytest.raises(ProviderError) as raised:
        select_device("cuda")
    assert str(raised.value) == (
        f"onnxruntime-gpu is installed in {second}, but Python finds another onnxruntime first, in {first}. Uninstall "
        "that one, or make an environment with onnxruntime-gpu alone"
    )


def test_zip_file(ask, tmp_path):
    with zipfile.ZipFile(tmp_path / "site.zip", "w") as archive:
        archive.writestr("onnxruntime/__init__.py", WORKING)
        archive.writestr("onnxruntime_gpu-1.32.0.dist-info/RECORD", "onnxruntime/__init__.py,,\n")
    assert ask(tmp_path / "site.zip") == "imported onnxruntime"


def test_module_without_a_specification(monkeypatch):
    class Module:
        InferenceSession = object

    monkeypatch.setitem(sys.modules, "onnxruntime", Module)
    assert installed_distributions() == ()
    assert import_onnxruntime() is Module


def test_installed_here():
    """The environment of the tests has one, or it would not get as far as this."""
    assert len(installed_distributions()) == 1
    assert install_command("onnxruntime") == 'pip install "embedder-onnx[cpu]"'


def test_error_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError) as caught:
        import_onnxruntime()
    assert isinstance(caught.value, ImportError)
    assert str(caught.value) == NOT_INSTALLED
