"""What the builder of Lambda zips installs, leaves out, strips and compiles."""

import ast
import ctypes
import doctest
import importlib
import json
import marshal
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.aws_lambda.builder import errors, packages, pipeline
from deploy.aws_lambda.builder.bytecode import compile_directory, without_docstrings
from deploy.aws_lambda.builder.elf_file import is_library, strip_library
from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.needless import TABLE, remove_needless
from deploy.aws_lambda.builder.packages import install_packages, needed_glibc
from deploy.aws_lambda.builder.pipeline import compile_modules
from deploy.aws_lambda.builder.target import Target, choose_target
from tests.lambda_files import HERE, OTHER, names_in, write_files


class TestTarget:
    def test_version_of_the_interpreter_and_architecture_of_this_machine(self):
        assert choose_target(sys.executable, None) == HERE
        assert HERE.runs_here

    @pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
    def test_architecture_by_default(self, monkeypatch, machine):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        assert choose_target(sys.executable, None).architecture == ("x86_64" if machine == "x86_64" else "arm64")

    def test_another_architecture_does_not_run_here(self):
        assert not choose_target(sys.executable, OTHER.architecture).runs_here

    def test_unknown_architecture(self):
        with pytest.raises(BuildError, match=r"no architecture 'amd64'. Set ARCH to one of: x86_64, arm64"):
            choose_target(sys.executable, "amd64")

    @pytest.mark.parametrize("python", ["no-such-python", "false"])
    def test_no_interpreter(self, python):
        with pytest.raises(BuildError, match=rf"'{python}' is no Python .*Set PYTHON to one, such as python3.13"):
            choose_target(python, None)

    @pytest.mark.parametrize("answer", [["cpython", 3, 10], ["pypy", 3, 11]])
    def test_wrong_interpreter(self, tmp_path, answer):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
        python.chmod(0o755)
        with pytest.raises(BuildError, match=rf"is {answer[0]} 3.{answer[2]}. embedder needs CPython 3.11 or later"):
            choose_target(str(python), None)

    def test_platforms_of_wheels_are_those_of_the_architecture(self):
        platforms = Target("python3", (3, 13), "arm64").platforms
        assert platforms[0] == "manylinux_2_34_aarch64"
        assert platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]

    @pytest.mark.parametrize(("minor", "glibc"), [(11, (2, 26)), (12, (2, 34)), (14, (2, 34))])
    def test_glibc_of_the_runtime(self, minor, glibc):
        assert Target("python3", (3, minor), "x86_64").glibc == glibc


class TestPackages:
    def test_pip_fails(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setattr(packages, "version", lambda name: "0.0.1")
        with pytest.raises(BuildError, match=r"pip cannot install numpy==0\.0\.1, .* for python3\.\d+ on .*:\n.*ERROR"):
            install_packages(HERE, pipeline.CHECKOUT, tmp_path / "task")

    def test_needed_glibc_is_that_of_the_package_that_needs_the_newest(self, tmp_path):
        tags = {
            "a": ["cp311-cp311-manylinux_2_27_x86_64", "cp311-cp311-manylinux_2_28_x86_64"],
            "b": ["cp39-abi3-manylinux_2_17_x86_64", "cp39-abi3-manylinux2014_x86_64"],
            "c": ["py3-none-any"],
        }
        for name, found in tags.items():
            write_files(tmp_path, {f"{name}.dist-info/WHEEL": "".join(f"Tag: {tag}\n" for tag in found)})
        assert needed_glibc(tmp_path) == (2, 27)


class TestNeedless:
    FILES = (
        "onnxruntime/capi/libonnxruntime.so.1.32.0",
        "onnxruntime/tools/x/y.py",
        "embedder/serve/app.py",
        "embedder/cli/main.py",
        "embedder/__main__.py",
        "numpy/random/a.so",
        "numpy/linalg/tests/b.py",
        "numpy/_core/_simd.cpython-311.so",
        "numpy/_core/tests/data/c.csv",
        "numpy/f2py/d.py",
        "numpy/__init__.pyi",
        "numpy-2.dist-info/METADATA",
        "tokenizers-0.dist-info/sboms/e.json",
        "bin/f2py",
    )
    KEPT = (
        "onnxruntime/capi/libonnxruntime_providers_shared.so",
        "onnxruntime/LICENSE",
        "onnxruntime/ThirdPartyNotices.txt",
        "numpy/linalg/a.so",
        "numpy/matrixlib/b.py",
        "numpy/_typing/c.py",
        "embedder/images/d.py",
        "embedder/functions/serve.py",
        "tokenizers/tools/e.py",
        "numpy-2.dist-info/licenses/numpy/random/LICENSE.md",
        "numpy-2.dist-info/licenses/LICENSE.txt",
    )

    def test_files_of_the_table_are_removed_and_all_others_stay(self, tmp_path):
        write_files(tmp_path, dict.fromkeys([*self.FILES, *self.KEPT], "12345"))
        removed = remove_needless(tmp_path)
        assert names_in(tmp_path) == sorted(self.KEPT)
        assert sum(removed.values()) == 5 * len(self.FILES)
        assert removed["libonnxruntime.so"] == 5
        assert not (tmp_path / "bin").exists()

    def test_modules_that_are_imported_are_emptied(self, tmp_path):
        write_files(tmp_path, {"numpy/_core/_add_newdocs.py": "text", "numpy/_core/_add_newdocs_scalars.py": "text"})
        removed = remove_needless(tmp_path)
        assert removed["documentation of NumPy's compiled functions"] == 8
        assert (tmp_path / "numpy/_core/_add_newdocs.py").read_bytes() == b""

    def test_each_row_has_a_reason(self):
        assert all(row.what and row.why and row.patterns for row in TABLE)


def library(segments, tail):
    """Return a file in the format ELF: `segments` as {offset: content}, and `tail` behind them."""
    header = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQ", 64, 999)
    header += b"\0" * 6 + struct.pack("<HHHHH", 56, len(segments) + 1, 64, 9, 8)
    header = header.ljust(64, b"\0")
    # The first segment holds the header and the table of segments.
    whole = {0: header.ljust(64 + 56 * (len(segments) + 1), b"\0"), **segments}
    rows = b"".join(struct.pack("<IIQQQQQQ", 1, 0, at, 0, 0, len(text), 0, 0) for at, text in whole.items())
    content = bytearray(b"?" * max(at + len(text) for at, text in whole.items()))
    for at, text in {**whole, 64: rows}.items():
        content[at : at + len(text)] = text
    return bytes(content) + tail


class TestElfFile:
    def test_what_is_not_loaded_is_cut_off_or_filled_with_zeros(self):
        stripped = strip_library(library({300: b"code", 400: b"data"}, b"symbols"))
        assert len(stripped) == 404
        assert (stripped[300:304], stripped[400:404]) == (b"code", b"data")
        assert stripped[304:400] == bytes(96)
        assert struct.unpack_from("<Q", stripped, 40) == (0,)
        assert struct.unpack_from("<HHHHH", stripped, 54) == (56, 3, 0, 0, 0)

    def test_stripping_twice_changes_nothing(self):
        stripped = strip_library(library({300: b"code"}, b"symbols"))
        assert strip_library(stripped) == stripped

    @pytest.mark.parametrize("content", [b"", b"\x7fELF\x01\x01", b"import os\n"])
    def test_other_files(self, content):
        assert not is_library(content)

    @pytest.mark.skipif(sys.platform != "linux", reason="its libraries have another format")
    def test_stripped_library_works(self, tmp_path):
        from numpy.linalg import _umath_linalg

        content = Path(_umath_linalg.__file__).read_bytes()
        assert is_library(content)
        (tmp_path / "library.so").write_bytes(strip_library(content))
        assert ctypes.PyDLL(str(tmp_path / "library.so")).PyInit__umath_linalg is not None


SOURCE = '''"""Text of the module."""

def function():
    """Text."""

async def wait():
    """Text."""
    return 1

class Class:
    """Text of the class."""
    def method(self):
        """Text."""
        assert self
        return "kept"
'''


class TestBytecode:
    def test_docstrings_of_modules_and_functions_are_left_out(self):
        module = {}
        exec(compile(without_docstrings(ast.parse(SOURCE)), "name", "exec"), module)
        assert "__doc__" not in module
        assert module["function"].__doc__ is module["Class"].method.__doc__ is module["wait"].__doc__ is None
        assert module["Class"].__doc__ == "Text of the class."
        assert (module["function"](), module["Class"]().method()) == (None, "kept")

    def test_modules_become_bytecode_and_the_handler_keeps_its_source(self, tmp_path):
        write_files(tmp_path, {"handler.py": "value = 1", "package/__init__.py": SOURCE, "package/data.txt": "text"})
        compile_directory(tmp_path, "handler")
        cached = f"__pycache__/handler.{sys.implementation.cache_tag}.pyc"
        assert names_in(tmp_path) == [cached, "handler.py", "package/__init__.pyc", "package/data.txt"]
        for name in (cached, "package/__init__.pyc"):
            flags = (tmp_path / name).read_bytes()[4:8]
            assert flags == b"\1\0\0\0", "Python would look for the source, or compare its time"

    def test_compiled_modules_are_imported_and_name_their_place(self, tmp_path):
        write_files(tmp_path, {"package/__init__.py": "def fail():\n    1 / 0\n"})
        compile_modules(tmp_path, HERE)
        answer = subprocess.run(
            [sys.executable, "-S", "-c", "import package; package.fail()"],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        assert 'File "package/__init__.py", line 2, in fail' in answer.stderr

    def test_same_sources_give_the_same_bytes(self, tmp_path):
        source = {"a.py": "x = {1, 'b', 'c', 'd'}\ny = 'k' in {'e', 'f', 'g', 'h'}\n", "b.py": SOURCE}
        for name in ("first", "second"):
            compile_modules(write_files(tmp_path / name, source), HERE)
        assert names_in(tmp_path / "first") == ["a.pyc", "b.pyc"]
        for name in ("a.pyc", "b.pyc"):
            content = (tmp_path / "first" / name).read_bytes()
            assert content == (tmp_path / "second" / name).read_bytes()
            assert marshal.loads(content[16:]).co_filename == name.replace(".pyc", ".py")

    def test_python_fails(self, tmp_path):
        write_files(tmp_path, {"wrong.py": "def"})
        with pytest.raises(BuildError, match=r"cannot compile the packages: (?s:.*)SyntaxError"):
            compile_modules(tmp_path, HERE)


MODULES = sorted(path.stem for path in Path(errors.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"deploy.aws_lambda.builder.{name}")
    for found in doctest.DocTestFinder().find(module):
        for example in found.examples:
            compile(example.source, found.name, "single")
    assert doctest.testmod(module, extraglobs={"Path": Path}, optionflags=doctest.ELLIPSIS).failed == 0
