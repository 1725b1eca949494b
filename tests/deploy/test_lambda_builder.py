"""The builder of Lambda zips: the model, the archive, the trial, the command, and the recipe of the image.

No test here builds a whole zip; tests/end_to_end/test_lambda_zip.py does.
"""

import os
import shutil
import stat
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.aws_lambda.builder import __main__ as command
from deploy.aws_lambda.builder import pipeline
from deploy.aws_lambda.builder.archive import unpack_zip, write_zip
from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.model import check_model, choose_dtype, write_model
from deploy.aws_lambda.builder.pipeline import Contents
from deploy.aws_lambda.builder.sizes import LeftOut, parts_of, size_of
from deploy.aws_lambda.builder.trial import call_handler, try_directory
from embedder import Embedder
from embedder.artifact.locate import open_artifact
from tests.lambda_files import HERE, OTHER, names_in, write_files
from tests.processes import run_python
from tests.tiny import add_image_graph, add_int8_graph, write_tiny_ranker


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
        target = HERE if runs_here else OTHER
        assert write_model(open_artifact(tiny), "fp32", target, tmp_path / "model", None) == runs_here
        assert any("prepacked" in name for name in names_in(tmp_path / "model")) == runs_here
        np.testing.assert_array_equal(Embedder(tmp_path / "model").encode("the cat"), Embedder(tiny).encode("the cat"))

    def test_weights_are_prepacked_only_if_the_zip_stays_small_enough(self, tiny, tmp_path):
        artifact = open_artifact(tiny)
        write_model(artifact, "fp32", HERE, tmp_path / "any", None)
        size = size_of(tmp_path / "any")
        assert write_model(artifact, "fp32", HERE, tmp_path / "fits", size)
        assert not write_model(artifact, "fp32", HERE, tmp_path / "large", size - 1)
        assert not any("prepacked" in name for name in names_in(tmp_path / "large"))
        np.testing.assert_array_equal(Embedder(tmp_path / "large").encode("the cat"), Embedder(tiny).encode("the cat"))

    def test_zip_too_large(self):
        pipeline.check_size({"the model": 1_144_000, "NumPy": 261_000_000})
        with pytest.raises(BuildError) as caught:
            pipeline.check_size({"the model": 1_144_001, "NumPy": 261_000_000})
        assert "the zip holds 262,144,001 bytes, and Lambda takes at most 262,144,000 (250 MB)" in str(caught.value)
        assert "| NumPy | 261.0 |" in str(caught.value)


class TestArchive:
    def test_same_files_give_the_same_bytes(self, tmp_path):
        files = {"b.txt": "b" * 1000, "a/c.so": b"\x7fELF"}
        first, second = (
            write_files(tmp_path / "first", files),
            write_files(tmp_path / "second", dict(reversed(files.items()))),
        )
        os.utime(second / "b.txt", (10**9, 10**9))
        (second / "b.txt").chmod(0o600)
        write_zip(first, tmp_path / "first.zip")
        write_zip(second, tmp_path / "second.zip")
        assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()

    def test_all_users_may_read_the_files(self, tmp_path):
        source = write_files(tmp_path / "task", {"a.txt": "text"})
        (source / "a.txt").chmod(0o600)
        write_zip(source, tmp_path / "task.zip")
        with zipfile.ZipFile(tmp_path / "task.zip") as archive:
            (entry,) = archive.infolist()
        assert stat.filemode(entry.external_attr >> 16) == "-rw-r--r--"
        unpack_zip(tmp_path / "task.zip", tmp_path / "unpacked")
        assert (tmp_path / "unpacked/a.txt").read_text() == "text"


class TestTrial:
    def test_handler_fails(self, tmp_path):
        write_files(tmp_path, {"lambda_function.py": "raise SystemExit('it is broken')"})
        with pytest.raises(BuildError, match="the handler fails: it is broken"):
            call_handler(tmp_path, ["a"], sys.executable)

    def test_handler_answers_with_an_error(self, tmp_path):
        write_files(tmp_path, {"lambda_function.py": "def handler(event, context): return {'error': {'status': 500}}"})
        with pytest.raises(BuildError, match=r"the handler fails: \{\"error\": \{\"status\": 500\}\}"):
            call_handler(tmp_path, ["a"], sys.executable)

    @pytest.mark.parametrize("width", [3, 8])
    def test_other_vectors(self, tiny, tmp_path, width):
        source = f"def handler(event, context): return {{'embeddings': [[0.5] * {width}] * len(event['inputs'])}}"
        write_files(tmp_path / "task", {"lambda_function.py": source})
        with pytest.raises(BuildError, match=r"the vectors of the handler are not those of .*tiny: they differ by "):
            try_directory(tmp_path / "task", open_artifact(tiny), "fp32", HERE)

    def test_right_vectors(self, tiny, tmp_path):
        vectors = Embedder(tiny).encode(["the cat", "a dog"])
        write_files(
            tmp_path,
            {"lambda_function.py": f"def handler(event, context): return {{'embeddings': {vectors.tolist()}}}"},
        )
        np.testing.assert_array_equal(call_handler(tmp_path, ["the cat", "a dog"], sys.executable), vectors)

    def test_nothing_runs_for_another_architecture(self, tiny, tmp_path):
        try_directory(tmp_path, open_artifact(tiny), "fp32", OTHER)


class TestCommand:
    CONTENTS = Contents("int8", True, (2, 28), {"NumPy": 5_000_000}, [LeftOut("tests", "they test NumPy", 1_260_000)])

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

    def test_note_on_weights_that_are_not_prepacked(self, path):
        plain = replace(self.CONTENTS, prepacked=False)
        note = "note: the weights are not prepacked, because Lambda takes no zip as large. The function starts later"
        assert note in command.report(plain, replace(HERE, version=(3, 13)), path)
        assert note not in command.report(plain, OTHER, path)

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
        def assemble(artifact, target, directory, max_bytes):
            write_files(directory, {"lambda_function.py": "raise SystemExit('it is broken')"})
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
    parts = parts_of(write_files(tmp_path, dict.fromkeys(paths.split(), "1")))
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
