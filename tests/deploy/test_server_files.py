"""The files in deploy/ that run the server: what they name is there, and the server takes it."""

import argparse
import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from embedder.cli.serve import OPTIONS, read_settings
from embedder.serve.settings import ServerSettings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy/docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
STAGES = [stage.splitlines() for stage in DOCKERFILE.split("FROM python:3.13-slim")[1:]]
UNIT = ROOT / "deploy/systemd/embedder.service"
KUBERNETES = ROOT / "deploy/kubernetes/embedder.yaml"


class Unset(argparse.Namespace):
    """A command line without options."""

    words = ()

    def __getattr__(self, name):
        return None


def settings_of(variables):
    """Return the settings that the server reads from environment variables. It must know each of them."""
    known = {option.variable for option in OPTIONS} | {"EMBEDDER_MODELS", "EMBEDDER_HOME"}
    assert {name for name in variables if name.startswith("EMBEDDER_")} <= known
    return read_settings(Unset(), variables)


def values(stage, instruction):
    return [line.partition(" ")[2] for line in stage if line.startswith(f"{instruction} ")]


class TestDocker:
    def test_both_stages_have_one_python(self):
        assert DOCKERFILE.count("FROM ") == len(STAGES) == 2

    def test_what_is_copied_is_there_and_let_in(self):
        lines = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        let_in = {line[1:] for line in lines if line.startswith("!")}
        assert lines[1] == "*"
        for value in values(STAGES[0], "COPY"):
            for source in value.split()[:-1]:
                assert source.split("/")[0] in let_in
                assert (ROOT / source).exists() or source == "artifacts/${MODEL}"

    def test_the_extras_that_are_installed_exist(self):
        (extras,) = re.findall(r'pip install --no-cache-dir "\.\[([\w,]+)\]"', DOCKERFILE)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert {*extras.split(",")} == {"cpu", "serve"} <= set(project["optional-dependencies"])

    def test_it_serves_the_model_without_rights(self):
        variables = dict(word.split("=", 1) for value in values(STAGES[1], "ENV") for word in shlex.split(value))
        settings = settings_of(variables)
        assert (settings.models, settings.host, settings.log_format) == (("${MODEL}",), "0.0.0.0", "json")
        assert values(STAGES[1], "EXPOSE") == [str(settings.port)]
        (health,) = values(STAGES[1], "HEALTHCHECK")
        assert f"http://127.0.0.1:{settings.port}/ready" in health
        compile(json.loads(health.partition("CMD ")[2])[2], "health", "exec")
        assert int(*values(STAGES[1], "USER")) > 0
        assert json.loads(*values(STAGES[1], "ENTRYPOINT")) == ["embedder", "serve"]
        assert values(STAGES[0], "ARG") == values(STAGES[1], "ARG")


class TestSystemd:
    def unit(self):
        parser = configparser.RawConfigParser(strict=False, interpolation=None)
        parser.optionxform = str
        parser.read(UNIT, encoding="utf-8")
        return parser["Service"]

    def test_options_are_those_of_the_server(self):
        text = UNIT.read_text(encoding="utf-8")
        words = [word for value in re.findall(r"^Environment=(.*)", text, re.MULTILINE) for word in value.split()]
        settings = settings_of(dict(word.split("=", 1) for word in words))
        assert (settings.host, settings.api_key_file) == ("127.0.0.1", "%d/keys")
        assert self.unit()["LoadCredential"].startswith("keys:")
        assert int(self.unit()["TimeoutStopSec"]) > settings.request_timeout_s + settings.drain_s
        assert self.unit()["ExecStart"].endswith("embedder serve all-MiniLM-L6-v2")

    def test_systemd_takes_it(self, tmp_path):
        program = shutil.which("systemd-analyze")
        if program is None:
            pytest.skip("systemd-analyze is not installed (the package systemd of Debian)")
        text = UNIT.read_text(encoding="utf-8").replace("/opt/embedder/bin/embedder", "/bin/true")
        (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
        answer = subprocess.run([program, "verify", tmp_path / UNIT.name], capture_output=True, text=True)
        assert (answer.returncode, answer.stderr) == (0, "")


def test_nginx(tmp_path):
    site = (ROOT / "deploy/nginx/embedder.conf").read_text(encoding="utf-8")
    assert f"server {ServerSettings().host}:{ServerSettings().port};" in site
    assert f"client_max_body_size {ServerSettings().max_body_bytes // 1_000_000}m;" in site
    (wait_s,) = re.findall(r"proxy_read_timeout (\d+)s;", site)
    assert int(wait_s) > ServerSettings().request_timeout_s
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    (tmp_path / "site").write_text(site.replace("listen 80;", "listen unix:socket;"), encoding="utf-8")
    main = (
        f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ access_log off; include {tmp_path}/site; }}"
    )
    (tmp_path / "main").write_text(main, encoding="utf-8")
    answer = subprocess.run([program, "-t", "-p", tmp_path, "-c", tmp_path / "main"], capture_output=True, text=True)
    assert (answer.returncode, "emerg" in answer.stderr) == (0, False), answer.stderr


def test_kubernetes():
    deployment, service = yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = settings_of({each["name"]: each["value"] for each in container["env"]})
    # For a Service named embedder, Kubernetes would set EMBEDDER_PORT=tcp://10.0.0.1:80.
    assert service["metadata"]["name"] == "embedder"
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] > settings.request_timeout_s + settings.drain_s > 60
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert [probe["path"] for probe in probes.values()] == ["/ready", "/ready", "/health"]
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    assert {each["name"] for each in pod["volumes"]} == {each["name"] for each in container["volumeMounts"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert settings.api_key_file.startswith(mounts["keys"])
