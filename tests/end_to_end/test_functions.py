"""Serverless functions on their platforms' own packages: functions-framework, azure-functions, gunicorn, uvicorn.

AWS Lambda has a file of its own, test_lambda.py.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import numpy as np
import pytest
from packaging.requirements import Requirement

from embedder.functions import Function
from embedder.functions.wsgi import wsgi_app
from tests.servers import ask, free_port, serving
from tests.tiny import DIMENSION, expected, ids_of, write_tiny_artifact

ROOT = Path(__file__).parents[2]
REQUEST = {"inputs": ["cat", "the dog sat"], "task": "query"}
FAULTS = [
    ("GET", b"", 405),
    ("HEAD", b"", 405),
    ("OPTIONS", b"", 405),
    ("PUT", b"{}", 405),
    ("POST", b"", 400),
    ("POST", b"{", 400),
    ("POST", b"\xff", 400),
    ("POST", b'{"inputs": [3]}', 400),
    ("POST", b'{"inputs": [], "model": "x"}', 400),
    ("POST", json.dumps({"inputs": ["a"] * 1001}).encode(), 413),
    ("POST", b" " * 6_000_001, 413),
    ("POST", b" " * 20_000_000, 413),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny")


def deployment(name, model, directory):
    """Copy a folder of deploy/, and put the model beside it as its page says."""
    target = directory / name
    shutil.copytree(ROOT / "deploy" / name, target)
    shutil.copytree(model, target / "model")
    return target


def check_answers(port):
    """Check that a server answers requests and refuses faults, one after another and many at once."""
    for _ in range(2):
        status, headers, content = ask(port, json.dumps(REQUEST))
        assert (status, headers["Content-Type"]) == (200, "application/json")
        answer = json.loads(content)
        assert answer["dimension"] == DIMENSION
        np.testing.assert_allclose(answer["embeddings"], [expected(ids_of(t)) for t in REQUEST["inputs"]], atol=1e-6)
        for method, body, expected_status in FAULTS:
            status, headers, content = ask(port, body, method=method)
            assert (status, headers["Content-Type"]) == (expected_status, "application/json"), (method, body[:99])
            assert method == "HEAD" or json.loads(content)["error"]["status"] == expected_status
            assert headers["Allow"] == ("POST" if status == 405 else None)
    in_chunks = iter([b'{"inputs": ', b'["cat"]}'])
    assert ask(port, in_chunks)[0] == 200
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: ask(port, json.dumps(REQUEST)), range(32)))
    assert {status for status, _, _ in answers} == {200}
    assert len({content for _, _, content in answers}) == 1


@pytest.mark.slow
def test_google_functions_framework(model, tmp_path):
    pytest.importorskip("functions_framework", reason="functions-framework is not installed")
    directory, port = deployment("google_functions", model, tmp_path), free_port()
    command = ["-m", "functions_framework", "--target", "embed", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, port, cwd=directory):
        check_answers(port)
    assert (directory / "log").read_text() == ""


@pytest.mark.slow
def test_google_function_without_its_model_does_not_start(tmp_path):
    pytest.importorskip("functions_framework", reason="functions-framework is not installed")
    shutil.copytree(ROOT / "deploy/google_functions", tmp_path / "function")
    command = [sys.executable, "-m", "functions_framework", "--target", "embed"]
    ended = subprocess.run(
        command, cwd=tmp_path / "function", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert "embedder.errors.ModelNotFoundError: no exported model at " in ended.stderr


@pytest.fixture(scope="module")
def azure_app(model, tmp_path_factory):
    """The module of the Azure function, as Azure's worker imports it."""
    pytest.importorskip("azure.functions", reason="azure-functions is not installed")
    path = deployment("azure_functions", model, tmp_path_factory.mktemp("azure")) / "function_app.py"
    spec = importlib.util.spec_from_file_location("function_app", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def azure_function(azure_app):
    """The function that Azure finds in the module."""
    (function,) = azure_app.app.get_functions()
    return function


def azure_request(body, method="POST"):
    import azure.functions as func

    return func.HttpRequest(method, "https://name.azurewebsites.net/api/embed", body=body)


def azure_answer(function, request):
    """Call the function, and return status, headers and body as Azure would send them."""
    from azure.functions.http import HttpResponseConverter

    answer = function.get_user_function()(request)
    sent = HttpResponseConverter.encode(answer, expected_type=None).value
    headers = {name.lower(): value.value for name, value in sent["headers"].items()}
    return int(sent["status_code"].value), headers, sent["body"].value


def test_azure_function(azure_function):
    status, headers, content = azure_answer(azure_function, azure_request(json.dumps(REQUEST).encode()))
    assert (status, headers["content-type"]) == (200, "application/json")
    vectors = json.loads(content)["embeddings"]
    np.testing.assert_allclose(vectors, [expected(ids_of(text)) for text in REQUEST["inputs"]], atol=1e-6)


@pytest.mark.parametrize(("method", "body", "status"), FAULTS)
def test_azure_function_refuses(azure_function, method, body, status):
    found, headers, content = azure_answer(azure_function, azure_request(body, method))
    assert (found, headers["content-type"]) == (status, "application/json")
    assert json.loads(content)["error"]["status"] == status
    assert azure_answer(azure_function, azure_request(b'{"inputs": "cat"}'))[0] == 200


def test_azure_finds_the_function(azure_function):
    assert azure_function.get_function_name() == "embed"
    trigger = azure_function.get_trigger()
    assert (trigger.type, trigger.route) == ("httpTrigger", "embed")
    assert trigger.auth_level.name == "FUNCTION"
    assert trigger.methods is None  # every method reaches the function, which refuses all but POST


def test_azure_ends_requests_before_the_platform_does(azure_app):
    host = json.loads((ROOT / "deploy/azure_functions/host.json").read_text())
    hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
    assert azure_app.function.limits.timeout_s < 230 < 3600 * hours + 60 * minutes + seconds


def write_service(directory, interface, model, first=""):
    """Write service.py with an application `app` of "asgi" or "wsgi". It runs the statements `first` before."""
    (directory / "service.py").write_text(
        "from embedder.functions import Function\n"
        f"from embedder.functions.{interface} import {interface}_app\n"
        f"function = Function({model!r})\n"
        f"{first}"
        f"app = {interface}_app(function)\n"
    )


@pytest.mark.slow
def test_asgi_under_uvicorn(model, tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    write_service(tmp_path, "asgi", str(model))
    port = free_port()
    command = ["-m", "uvicorn", "service:app", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with serving(command, port, cwd=tmp_path):
        check_answers(port)
    assert (tmp_path / "log").read_text() == ""


def test_uvicorn_does_not_start_without_the_model(tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    write_service(tmp_path, "asgi", "./none")
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "ModelNotFoundError: no exported model at './none'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_wsgi_under_gunicorn(model, tmp_path):
    """gunicorn closes a connection when the body was not read."""
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    write_service(tmp_path, "wsgi", str(model), "function.load()\n")
    port = free_port()
    command = ["-m", "gunicorn", "service:app", "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
    with serving(
        [*command, "--workers", "2", "--preload"], port, cwd=tmp_path
    ):  # the workers are forked after the load
        check_answers(port)
    assert (tmp_path / "log").read_text() == ""


class QuietHandler(WSGIRequestHandler):
    """Keeps requests out of the log."""

    def log_message(self, *arguments):
        pass


def test_wsgi_under_wsgiref(model):
    server = make_server("127.0.0.1", 0, wsgi_app(Function(model)), handler_class=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        status, headers, content = ask(server.server_port, json.dumps(REQUEST))
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(content)["dimension"] == DIMENSION
        assert ask(server.server_port, b"{")[0] == 400
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["google_functions", "azure_functions"])
def test_requirements_are_those_of_the_project(name):
    """What is deployed has the runtime, and a version of the platform's package that the tests run."""
    from tests.distributions import project

    lines = (ROOT / "deploy" / name / "requirements.txt").read_text().splitlines()
    runtime, package = map(Requirement, lines)
    assert (runtime.name, runtime.extras) == ("embedder-onnx", {"cpu"})
    assert str(package) in project("embedder-onnx")["optional-dependencies"]["dev"]
