"""Run a model hub on this machine. It gives those answers of the Hugging Face Hub that huggingface_hub needs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

GATED = "org/gated"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A running hub.

    Attributes:
        endpoint: its address.
        repositories: the directory of each repository, by its id.
        fetched: the paths of the fetched files, in the order of the requests.
    """

    endpoint: str
    repositories: dict[str, Path]
    fetched: list[str] = field(default_factory=list)


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Run a hub with `repositories` until the `with` statement ends."""
    hub = Hub("", repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/models/"):
                self.answer_api(path.removeprefix("api/models/"))
            else:
                self.answer_file(*path.partition("/resolve/")[::2])

        def do_HEAD(self):
            self.do_GET()

        def answer_file(self, repository, revision_and_name):
            if self.refuse(repository):
                return
            name = revision_and_name.partition("/")[2]
            file = hub.repositories[repository] / name
            if not file.is_file():
                self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            content = file.read_bytes()
            if self.command == "GET":
                hub.fetched.append(name)
            self.send(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

        def answer_api(self, path):
            repository = "/".join(path.split("/")[:2])
            if self.refuse(repository):
                return
            root = hub.repositories[repository]
            files = [file for file in sorted(root.rglob("*")) if file.is_file()]
            names = [file.relative_to(root).as_posix() for file in files]
            if path.split("/")[2:3] == ["tree"]:
                answer = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": COMMIT}
                    for name, file in zip(names, files, strict=True)
                ]
            else:
                siblings = [{"rfilename": name} for name in names]
                answer = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
            self.send(200, json.dumps(answer).encode(), {})

        def refuse(self, repository):
            if repository == GATED:
                self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif repository not in hub.repositories:
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            else:
                return False
            return True

        def send(self, status, content, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
