"""`embedder serve` as a command: its options, the environment, and what keeps it from starting."""

import argparse
import os
import socket
import sys

import pytest

from embedder import DependencyError, EmbedderError, InputError
from embedder.cli import serve
from embedder.cli.main import main
from embedder.serve.listening import addresses, close, is_public, listen
from embedder.serve.settings import ServerSettings


def settings_of(*arguments, **environment):
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return serve.read_settings(parser.parse_args(["serve", *arguments]), environment)


def test_every_setting_is_an_option_and_its_default_is_the_same():
    assert {option.field for option in serve.OPTIONS} | {"models"} == set(vars(ServerSettings()))
    assert settings_of() == ServerSettings()


def test_options_go_before_the_environment():
    read = settings_of("a", "b", "--port", "9000", EMBEDDER_PORT="1", EMBEDDER_CACHE_SIZE="5", EMBEDDER_MODELS="c")
    assert (read.models, read.port, read.cache_size) == (("a", "b"), 9000, 5)


def test_environment_names_models_and_origins():
    read = settings_of(EMBEDDER_MODELS="a, org/b", EMBEDDER_CORS_ORIGIN="https://a.example,https://b.example")
    assert read.models == ("a", "org/b")
    assert read.cors_origins == ("https://a.example", "https://b.example")
    assert settings_of("--cors-origin", "https://c.example").cors_origins == ("https://c.example",)
    assert settings_of(EMBEDDER_PORT="", EMBEDDER_HOME="/x") == ServerSettings()


def test_variables_that_do_nothing_are_named(monkeypatch, capsys):
    known = {option.variable: "" for option in serve.OPTIONS}
    services = {"EMBEDDER_SERVICE_HOST": "10.0.0.1", "EMBEDDER_PORT_80_TCP": "tcp://10.0.0.1:80"}
    assert serve.unknown_variables({**known, **services, "EMBEDDER_MODELS": "", "EMBEDDER_HOME": ""}) == []
    monkeypatch.setenv("EMBEDDER_API_KEY", "secret")
    monkeypatch.setattr(serve, "_serve", lambda *unused: 0)
    assert main(["serve", "--port", "0"]) == 0
    lines = capsys.readouterr().err
    assert "warning: EMBEDDER_API_KEY is no option of embedder serve, and does nothing. See embedder serve" in lines
    assert "secret" not in lines


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "x"], {}, "--port should be a whole number, not 'x'"),
        ([], {"EMBEDDER_PORT": "x"}, "EMBEDDER_PORT should be a whole number, not 'x'"),
        (
            [],
            {"EMBEDDER_PORT": "tcp://10.0.0.1:80"},
            "EMBEDDER_PORT should be a whole number, not 'tcp://10.0.0.1:80'. Kubernetes sets this variable for a "
            "Service named embedder. Set enableServiceLinks: false in the spec of the Pod",
        ),
        ([], {"EMBEDDER_DRAIN_S": "x"}, "EMBEDDER_DRAIN_S should be a number, not 'x'"),
        (["--port", "70000"], {}, "--port: port should be a whole number, at least 0 and at most 65535, not 70000"),
        ([], {"EMBEDDER_WORKERS": "0"}, "EMBEDDER_WORKERS: workers should be a whole number, at least 1, not 0"),
        (["--cache-size", "-1"], {}, "--cache-size: cache_size should be a whole number, at least 0"),
        (
            ["--read-timeout-s", "0"],
            {},
            "--read-timeout-s: read_timeout_s should be a number of seconds above 0, not 0",
        ),
        (["--drain-s", "inf"], {}, "--drain-s: drain_s should be a number of seconds, at least 0, not inf"),
        (["--request-timeout-s", "nan"], {}, "request_timeout_s should be a number of seconds above 0, not nan"),
        (["--uds", ""], {}, "--uds: uds should be a path, not ''"),
        (
            ["--cors-origin", "https://example.org/"],
            {},
            '--cors-origin: an origin is such as "https://example.org", without a path, or "*", not ',
        ),
        ([], {"EMBEDDER_CORS_ORIGIN": "*, example.org"}, "EMBEDDER_CORS_ORIGIN: an origin is such as"),
        (
            [],
            {"EMBEDDER_PROVIDER_OPTIONS": "x"},
            "EMBEDDER_PROVIDER_OPTIONS: provider_options should be NAME=VALUE, or",
        ),
        (["--log-format", "xml"], {}, "--log-format: log_format should be one of plain, json, not 'xml'"),
    ],
)
def test_wrong_values_name_their_source(arguments, environment, message):
    with pytest.raises(InputError) as error:
        settings_of(*arguments, **environment)
    assert message in str(error.value)


def test_no_model():
    with pytest.raises(InputError, match="there is no model to serve"):
        ServerSettings(models=())


def test_windows_has_no_server(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbedderError, match="does not run on Windows itself"):
        serve.run(argparse.Namespace())


def test_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(serve, "_PACKAGES", ("starlette", "a_package_that_is_not_there"))
    with pytest.raises(DependencyError, match=r'pip install "embedder-onnx\[cpu,serve\]"'):
        serve.run(argparse.Namespace())


def test_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"error: cannot listen on 127.0.0.1, port {port}: Address already in use. Choose another --port" in (
        capsys.readouterr().err
    )


# 192.0.2.1 is an address of documentation, which no machine has.
@pytest.mark.parametrize("host", ["256.1.1.1.1", "a b", "192.0.2.1", "a..b", "a" * 80])
def test_host_that_is_unknown(host):
    with pytest.raises(InputError, match=f"cannot listen on {host}.*Give an address of this machine as --host"):
        listen(ServerSettings(host=host))


def test_addresses_and_who_reaches_them():
    for host, public in (("127.0.0.1", False), ("0.0.0.0", True)):
        settings = ServerSettings(host=host, port=0)
        sockets = listen(settings)
        assert addresses(sockets)[0].startswith(f"http://{host}:")
        assert is_public(sockets) is public
        close(sockets, settings)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_unix_sockets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    settings = ServerSettings(uds="s")
    sockets = listen(settings)
    assert (addresses(sockets), is_public(sockets)) == (["unix:s"], False)
    with pytest.raises(InputError, match="cannot listen on s: another server does"):
        listen(settings)
    sockets[0].close()  # as a killed server leaves it
    close(listen(settings), settings)
    assert not os.path.exists("s")
    ended = listen(settings)
    ended[0].close()
    sockets = listen(settings)
    close(ended, settings)
    assert os.path.exists("s"), "the file is of another server by now"
    close(sockets, settings)
    (tmp_path / "s").write_text("a file")
    with pytest.raises(InputError, match="there is a file that is no socket"):
        listen(settings)
    assert (tmp_path / "s").read_text() == "a file"
    with pytest.raises(InputError, match="cannot listen on no/s: No such file"):
        listen(ServerSettings(uds="no/s"))
