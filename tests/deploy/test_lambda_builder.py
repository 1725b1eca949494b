"""The builder of zips for AWS Lambda: what it leaves out, how it compiles and packs, and what it refuses.

No test here builds a whole zip; tests/end_to_end/test_lambda_zip.py does.
"""

import ast
import ctypes
import json
import marshal
import os
import platform
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.aws_lambda.builder import __main__ as command
from deploy.aws_lambda.builder import packages, pipeline
from deploy.aws_lambda.builder.archive import unpack_zip, write_zip
from deploy.aws_lambda.builder.bytecode import compile_directory, without_docstrings
from deploy.aws_lambda.builder.elf_file import is_library, strip_library
from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.model import check_model, choose_dtype, write_model
from deploy.aws_lambda.builder.needless import TABLE, remove_needless
from deploy.aws_lambda.builder.packages import install_packages, needed_glibc
from deploy.aws_lambda.builder.pipeline import Contents, compile_modules
from deploy.aws_lambda.builder.sizes import LeftOut, parts_of
from deploy.aws_lambda.builder.target import Target, choose_target
from deploy.aws_lambda.builder.trial import call_handler, try_directory
from embedder import Embedder
from embedder.artifact.locate import open_artifact
from tests.processes import run_python
from tests.tiny import add_image_graph, add_int8_graph, write_tiny_ranker

ARCHITECTURES = ("arm64", "x86_64") if platform.machine() == "aarch64" else ("x86_64", "arm64")
HERE, OTHER = (Target(sys.executable, sys.version_info[:2], architecture) for architecture in ARCHITECTURES)


def write(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def names(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


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
            write(tmp_path, {f"{name}.dist-info/WHEEL": "".join(f"Tag: {tag}\n" for tag in found)})
        assert needed_glibc(tmp_path) == (2, 27)


class TestNeedless:
    FILES = (
        "onnxruntime/capi/libonnxruntime.so.1.32.0",
        "onnxruntime/tools/x/y.py",
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
        "tokenizers/tools/e.py",
        "numpy-2.dist-info/licenses/numpy/random/LICENSE.md",
        "numpy-2.dist-info/licenses/LICENSE.txt",
    )

    def test_files_of_the_table_are_removed_and_all_others_stay(self, tmp_path):
        write(tmp_path, dict.fromkeys([*self.FILES, *self.KEPT], "12345"))
        removed = remove_needless(tmp_path)
        assert names(tmp_path) == sorted(self.KEPT)
        assert sum(removed.values()) == 5 * len(self.FILES)
        assert removed["libonnxruntime.so"] == 5
        assert not (tmp_path / "bin").exists()

    def test_modules_that_are_imported_are_emptied(self, tmp_path):
        write(tmp_path, {"numpy/_core/_add_newdocs.py": "text", "numpy/_core/_add_newdocs_scalars.py": "text"})
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
        write(tmp_path, {"handler.py": "value = 1", "package/__init__.py": SOURCE, "package/data.txt": "text"})
        compile_directory(tmp_path, "handler")
        cached = f"__pycache__/handler.{sys.implementation.cache_tag}.pyc"
        assert names(tmp_path) == [cached, "handler.py", "package/__init__.pyc", "package/data.txt"]
        for name in (cached, "package/__init__.pyc"):
            flags = (tmp_path / name).read_bytes()[4:8]
            assert flags == b"\1\0\0\0", "Python would look for the source, or compare its time"

    def test_compiled_modules_are_imported_and_name_their_place(self, tmp_path):
        write(tmp_path, {"package/__init__.py": "def fail():\n    1 / 0\n"})
        compile_modules(tmp_path, HERE)
        answer = subprocess.run(
            [sys.executable, "-S", "-c", "import package; package.fail()"],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        assert 'File "package/__init__.py", line 2, in fail' in answer.stderr

    def test_same_sources_give_the_same_bytes(self, tmp_path):
        source = {"a.py": "x = {1, 'b', 'c', 'd'}\ny = 'k' in {'e', 'f', 'g', 'h'}\n", "b.py": SOURCE}
        for name in ("first", "second"):
            compile_modules(write(tmp_path / name, source), HERE)
        assert names(tmp_path / "first") == ["a.pyc", "b.pyc"]
        for name in ("a.pyc", "b.pyc"):
            content = (tmp_path / "first" / name).read_bytes()
            assert content == (tmp_path / "second" / name).read_bytes()
            assert marshal.loads(content[16:]).co_filename == name.replace(".pyc", ".py")

    def test_python_fails(self, tmp_path):
        write(tmp_path, {"wrong.py": "def"})
        with pytest.raises(BuildError, match=r"cannot compile the packages: (?s:.*)SyntaxError"):
            compile_modules(tmp_path, HERE)


class TestModel:
    def test_int8_is_taken_if_it_is_there(self, tiny):
        assert choose_dtype(open_artifact(tiny)) == "fp32"
        add_int8_graph(tiny)
        assert choose_dtype(open_artifact(tiny)) == "int8"

    def test_model_of_images(self, tiny):
        add_image_graph(tiny)
        with pytest.raises(BuildError, match="tiny takes images, and a function takes only texts"):
            check_model(open_artifact(tiny))

    def test_model_for_another_task(self, tmp_path):
        ranker = open_artifact(write_tiny_ranker(tmp_path / "ranker"))
        with pytest.raises(BuildError, match=r"is for the task 'rank'. A function needs one for 'embed'"):
            check_model(ranker)

    @pytest.mark.parametrize("runs_here", [True, False])
    def test_weights_are_prepacked_for_this_machine_only(self, tiny, tmp_path, runs_here):
        write_model(open_artifact(tiny), "fp32", HERE if runs_here else OTHER, tmp_path / "model")
        assert any("prepacked" in name for name in names(tmp_path / "model")) == runs_here
        np.testing.assert_array_equal(Embedder(tmp_path / "model").encode("the cat"), Embedder(tiny).encode("the cat"))

    def test_zip_too_large(self):
        pipeline.check_size({"the model": 1_144_000, "NumPy": 261_000_000})
        with pytest.raises(BuildError) as caught:
            pipeline.check_size({"the model": 1_144_001, "NumPy": 261_000_000})
        assert "the zip holds 262,144,001 bytes, and Lambda takes at most 262,144,000 (250 MB)" in str(caught.value)
        assert "| NumPy | 261.0 |" in str(caught.value)


class TestArchive:
    def test_same_files_give_the_same_bytes(self, tmp_path):
        files = {"b.txt": "b" * 1000, "a/c.so": b"\x7fELF"}
        first, second = write(tmp_path / "first", files), write(tmp_path / "second", dict(reversed(files.items())))
        os.utime(second / "b.txt", (10**9, 10**9))
        (second / "b.txt").chmod(0o600)
        write_zip(first, tmp_path / "first.zip")
        write_zip(second, tmp_path / "second.zip")
        assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()

    def test_all_users_may_read_the_files(self, tmp_path):
        source = write(tmp_path / "task", {"a.txt": "text"})
        (source / "a.txt").chmod(0o600)
        write_zip(source, tmp_path / "task.zip")
        with zipfile.ZipFile(tmp_path / "task.zip") as archive:
            (entry,) = archive.infolist()
        assert stat.filemode(entry.external_attr >> 16) == "-rw-r--r--"
        unpack_zip(tmp_path / "task.zip", tmp_path / "unpacked")
        assert (tmp_path / "unpacked/a.txt").read_text() == "text"


class TestTrial:
    def test_handler_fails(self, tmp_path):
        write(tmp_path, {"lambda_function.py": "raise SystemExit('it is broken')"})
        with pytest.raises(BuildError, match="the handler fails: it is broken"):
            call_handler(tmp_path, ["a"], sys.executable)

    def test_handler_answers_with_an_error(self, tmp_path):
        write(tmp_path, {"lambda_function.py": "def handler(event, context): return {'error': {'status': 500}}"})
        with pytest.raises(BuildError, match=r"the handler fails: \{\"error\": \{\"status\": 500\}\}"):
            call_handler(tmp_path, ["a"], sys.executable)

    @pytest.mark.parametrize("width", [3, 8])
    def test_other_vectors(self, tiny, tmp_path, width):
        source = f"def handler(event, context): return {{'embeddings': [[0.5] * {width}] * len(event['inputs'])}}"
        write(tmp_path / "task", {"lambda_function.py": source})
        with pytest.raises(BuildError, match=r"the vectors of the handler are not those of .*tiny: they differ by "):
            try_directory(tmp_path / "task", open_artifact(tiny), "fp32", HERE)

    def test_right_vectors(self, tiny, tmp_path):
        vectors = Embedder(tiny).encode(["the cat", "a dog"])
        write(
            tmp_path,
            {"lambda_function.py": f"def handler(event, context): return {{'embeddings': {vectors.tolist()}}}"},
        )
        np.testing.assert_array_equal(call_handler(tmp_path, ["the cat", "a dog"], sys.executable), vectors)

    def test_nothing_runs_for_another_architecture(self, tiny, tmp_path):
        try_directory(tmp_path, open_artifact(tiny), "fp32", OTHER)


class TestCommand:
    CONTENTS = Contents("int8", (2, 28), {"NumPy": 5_000_000}, [LeftOut("tests", "they test NumPy", 1_260_000)])

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "lambda-tiny-x86_64.zip"
        path.write_bytes(b"zip" * 100_000)
        return path

    def test_tables_and_summary(self, path):
        printed = command.report(self.CONTENTS, HERE, path)
        assert "| NumPy | 5.0 |\n| all | 5.0 |" in printed
        assert "| tests | they test NumPy | 1.3 |" in printed
        assert (
            f"{path}: 0.3 MB, unpacked 5.0 MB. Runtime {HERE.runtime}, architecture {HERE.architecture}, "
            "handler lambda_function.handler"
        ) in printed

    def test_note_on_the_dtype(self, path):
        printed = command.report(replace(self.CONTENTS, dtype="fp32"), replace(HERE, version=(3, 13)), path)
        assert printed.splitlines()[-1] == (
            "note: the model has no int8 graph, so the function runs fp32, which is larger and slower"
        )

    def test_note_on_the_runtime(self, path):
        printed = command.report(self.CONTENTS, replace(HERE, version=(3, 11)), path)
        assert printed.splitlines()[-1] == (
            "note: Lambda's own runtime python3.11 has glibc 2.26, and the packages need 2.28. For Lambda, set PYTHON "
            "to python3.12 or later"
        )
        assert "note:" not in command.report(self.CONTENTS, replace(HERE, version=(3, 12)), path)

    def test_note_on_another_architecture(self, path):
        printed = command.report(self.CONTENTS, replace(OTHER, version=(3, 13)), path)
        assert printed.splitlines()[-1] == (
            f"note: nothing was tried or prepacked, because this machine is no Linux on {OTHER.architecture}"
        )

    def test_note_on_large_zips(self, path, monkeypatch):
        monkeypatch.setattr(command, "MAX_UPLOAD_BYTES", 2)
        printed = command.report(self.CONTENTS, replace(HERE, version=(3, 13)), path)
        assert printed.splitlines()[-1] == "note: Lambda takes a zip above 50 MB from S3 only"

    def test_an_image_has_no_limits_of_a_zip(self):
        printed = command.report(self.CONTENTS, replace(HERE, version=(3, 11)))
        assert printed.splitlines()[-1] == "| tests | they test NumPy | 1.3 |"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["no/such/model"], "no exported model"),
            (["tiny", "--arch", "i386"], "Lambda has no architecture 'i386'"),
            (["tiny", "--unpacked", "tiny"], "[Errno 17] File exists: 'tiny'"),
        ],
    )
    def test_errors(self, tiny, monkeypatch, capsys, options, message):
        monkeypatch.chdir(tiny.parent)
        assert command.main([*options, "--output", "dist"]) == 1
        assert capsys.readouterr().err.startswith(f"make lambda: {message}")
        assert not Path("dist").exists()

    def test_name_is_that_of_the_model(self, tiny, monkeypatch, capsys):
        monkeypatch.chdir(tiny)
        found = []

        def build_zip(artifact, target, path):
            found.append(path)
            path.write_bytes(b"zip")
            return self.CONTENTS

        monkeypatch.setattr(command, "build_zip", build_zip)
        for model in ("./", "../tiny/"):
            assert command.main([model, "--arch", "arm64", "--output", ".."]) == 0
        assert found == [Path("../lambda-tiny-arm64.zip")] * 2

    def test_failing_trial_keeps_the_zip_that_was_there(self, tiny, path, monkeypatch):
        def assemble(artifact, target, directory):
            write(directory, {"lambda_function.py": "raise SystemExit('it is broken')"})
            return replace(self.CONTENTS, dtype="fp32")

        monkeypatch.setattr(pipeline, "assemble", assemble)
        before = path.read_bytes()
        with pytest.raises(BuildError, match="it is broken"):
            pipeline.build_zip(open_artifact(tiny), HERE, path)
        assert path.read_bytes() == before
        assert set(os.listdir(path.parent)) == {path.name, "tiny"}


class TestDockerfile:
    FOLDER = pipeline.CHECKOUT / "deploy/aws_lambda"

    def test_image_runs_the_handler_as_a_user_who_is_not_root(self):
        text = (self.FOLDER / "Dockerfile").read_text(encoding="utf-8")
        last_stage = text.rpartition("\nFROM ")[2]
        assert last_stage.splitlines()[-3:] == [
            "USER embedder",
            'ENTRYPOINT ["python", "-m", "awslambdaric"]',
            f'CMD ["{pipeline.HANDLER}.handler"]',
        ]
        assert "RUN useradd --no-create-home embedder" in last_stage

    def test_both_stages_have_one_python(self):
        text = (self.FOLDER / "Dockerfile").read_text(encoding="utf-8")
        images = [line.split()[1] for line in text.splitlines() if line.startswith("FROM ")]
        assert len(images) == 2
        assert len(set(images)) == 1

    def test_what_the_image_is_built_from_is_there(self):
        lines = (self.FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        kept = [line[1:] for line in lines if line.startswith("!")]
        assert lines[1] == "*"
        assert all((pipeline.CHECKOUT / path).exists() for path in kept if path != "artifacts")


def test_parts_of_a_zip(tmp_path):
    paths = (
        "numpy/a.so numpy-2.dist-info/b numpy.libs/openblas.so onnxruntime/c tokenizers/d embedder/e.pyc "
        "lambda_function.py __pycache__/lambda_function.cpython-311.pyc model/model.onnx"
    )
    parts = parts_of(write(tmp_path, dict.fromkeys(paths.split(), "1")))
    assert list(parts.values()) == [1, 1, 2, 1, 3, 1]


@pytest.mark.parametrize(("memory", "threads"), [("128", 1), ("1769", 1), ("3008", 2), ("10240", 6)])
def test_threads_are_the_vcpus_that_the_memory_gives(tiny, tmp_path, memory, threads):
    """The handler loads the model beside it when it is imported, so another process imports it."""
    task = tmp_path / "task"
    shutil.copytree(tiny, task / "model")
    shutil.copy(pipeline.CHECKOUT / "deploy/aws_lambda/lambda_function.py", task)
    code = (
        "import gc, sys; sys.path.insert(0, sys.argv[1]); import lambda_function as module; "
        "answer = module.handler({'inputs': 'the cat'}, None); "
        "print(module.thread_count(sys.argv[2]), answer['dimension'], gc.isenabled())"
    )
    answer = run_python("-c", code, task, memory)
    assert answer.stdout.split() == [str(threads), "8", "True"], answer.stderr
