"""The two distributions fit together, and each text that names them has their names and extras right."""

import re
from itertools import chain

import pytest
from packaging.requirements import Requirement

from tests.distributions import DIRECTORIES, PACKAGES, ROOT, project, version

NAMES = list(DIRECTORIES)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "export/README.md", *(ROOT / "docs").rglob("*.md")]
BUILD_FILES = [ROOT / "Makefile", *(directory / "pyproject.toml" for directory in DIRECTORIES.values())]
SOURCES = list(chain.from_iterable((DIRECTORIES[name] / PACKAGES[name]).rglob("*.py") for name in NAMES))
# A name with extras, such as "embedder-onnx[cpu,export]", or a directory with extras, such as "./export[torch]".
WITH_EXTRAS = re.compile(r"(embedder(?:[-_]\w+)?|(?<=[\s\"'])\.(?:/export)?)\[([a-z][a-z,]*)\]")


def requirements(name):
    table = project(name)
    return [Requirement(line) for line in chain(table["dependencies"], *table["optional-dependencies"].values())]


def test_versions_agree():
    assert version("embedder-onnx") == version("embedder-export")


@pytest.mark.parametrize("name", NAMES)
def test_each_takes_exactly_the_version_of_the_other_that_is_beside_it(name):
    """The exporter uses modules of the runtime that are not public."""
    others = [item for item in requirements(name) if item.name in NAMES and item.name != name]
    assert [str(other.specifier) for other in others] == [f"=={version(other.name)}" for other in others] != []


def test_exporter_leaves_the_choice_of_onnxruntime_to_the_user():
    """Otherwise a user of onnxruntime-gpu would get onnxruntime too, and their files would overwrite each other."""
    (runtime,) = (item for item in requirements("embedder-export") if item.name == "embedder-onnx")
    assert runtime.extras == {"image"}
    assert not [item for item in requirements("embedder-export") if item.name.startswith("onnxruntime")]


def test_licences_agree():
    assert (ROOT / "export/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("path", [*PAGES, *BUILD_FILES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_extras_exist(path):
    for name, extras in WITH_EXTRAS.findall(path.read_text(encoding="utf-8")):
        distribution = {".": "embedder-onnx", "./export": "embedder-export"}.get(name, name)
        assert distribution in NAMES, f"there is no distribution {name}"
        assert set(extras.split(",")) <= set(project(distribution)["optional-dependencies"])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_name_the_distributions_and_no_directory_of_a_clone(path):
    assert not re.search(r"pip install [\"']?\.(?!\.)|\./export", path.read_text(encoding="utf-8"))


def test_names_and_extras_are_found():
    text = """pip install "embedder-onnx[cpu,export]" ".[cpu]" './export[torch]' embedder[faiss] values.[0] x[cpu]"""
    assert WITH_EXTRAS.findall(text) == [
        ("embedder-onnx", "cpu,export"),
        (".", "cpu"),
        ("./export", "torch"),
        ("embedder", "faiss"),
    ]
