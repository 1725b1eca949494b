"""Run a model hub on this machine. It speaks the part of the Hugging Face Hub's protocol that huggingface_hub uses.

Repositories have branches and commits. Small files carry a git blob's SHA-1 as their ETag. Large files carry their
SHA-256, and a redirect leads to a second address, as on the Hub. New repositories and commits are accepted, too.
`tests/hub_faults.py` makes the answers fail.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

GATED = "org/gated"
# The first commit of each repository.
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Files with these endings are stored in LFS, however small, as the Hub's own .gitattributes has it.
_LFS_ENDINGS = (".bin", ".data", ".h5", ".msgpack", ".onnx", ".ot", ".safetensors")
_LFS_SIZE = 10_000_000

# The content of files, by their paths.
Files: TypeAlias = Mapping[str, bytes]


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        method: "GET", "HEAD", "POST" or "PUT".
        path: its path, without the slash in front and with no escapes.
        query: its parameters.
        headers: its headers, by lower-case name.
        content: its content.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> dict[str, object]:
        """The content, read as JSON."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        status: its status code.
        content: its content. The answer to HEAD announces the content and does not send it.
        headers: its headers. `Content-Length` is added unless it is here.
        cut_after: the connection ends after so many bytes of the content. A negative number ends it before the status.
        stall_after: no byte follows after so many bytes of the content. A negative number sends no status either.
        name: the file of a repository that this is. It is noted in `Hub.fetched`.
    """

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    stall_after: int | None = None
    name: str | None = None

    def having(self, **headers: str) -> "Answer":
        """Return this answer with more headers. An underscore stands for a hyphen."""
        return replace(self, headers={**self.headers, **{name.replace("_", "-"): headers[name] for name in headers}})


# Changes an answer. The request says what was asked.
Fault: TypeAlias = Callable[[Request, Answer], Answer]


@dataclass
class Repository:
    """A repository: its branches by name, and the files of each commit."""

    commits: dict[str, Files]
    branches: dict[str, str]

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch or of a commit's own id. None if there is neither."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Hub:
    """A running hub.

    Attributes:
        endpoint: its address.
        storage: the address of its large files.
        repositories: its repositories, by their ids.
        token: the token that each request to the Hub must carry. None lets everybody in.
        may_write: whether the token may write.
        faults: change an answer, one after the other. A request to write is then not carried out.
        requests: the method and the path of each request, in order, such as "GET api/models/org/name".
        fetched: the names of the fetched files, in order.
        objects: the uploaded large files, by their SHA-256.
    """

    endpoint: str = ""
    storage: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str | None = None
    may_write: bool = True
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    stopped: Event = field(default_factory=Event)

    def commit(self, repository: str, files: Path | Files, branch: str = "main") -> str:
        """Make a commit of `files` in a repository, at the head of a branch, and return its id."""
        files = _Folder(files) if isinstance(files, Path) else files
        kept = self.repositories.setdefault(repository, Repository({}, {}))
        number = len(kept.commits)
        commit = COMMIT if number == 0 else hashlib.sha1(f"{repository} {number}".encode()).hexdigest()
        kept.commits[commit] = files
        kept.branches[branch] = commit
        return commit

    def files(self, repository: str, revision: str = "main") -> Files:
        """Return the files of a repository at a revision."""
        kept = self.repositories[repository]
        return kept.commits[kept.find(revision) or ""]


@contextmanager
def serve(repositories: Mapping[str, Path | Files], *, token: str | None = None) -> Iterator[Hub]:
    """Run a hub until the `with` statement ends.

    Args:
        repositories: the files of the branch "main" of each repository, or their directory, by the repository's id. A
            directory is read anew at each request.
        token: the token that each request must carry.

    Example:
        >>> with serve({"org/tiny": {"embedder.json": b"{}"}}) as hub:  # doctest: +SKIP
        ...     hub.endpoint
        'http://127.0.0.1:43210'
    """
    hub = Hub(token=token)
    for repository, files in repositories.items():
        hub.commit(repository, files)
    with (
        _listen(lambda request: _ask_hub(hub, request), hub) as hub.endpoint,
        _listen(lambda request: _ask_storage(hub, request), hub) as hub.storage,
    ):
        try:
            yield hub
        finally:
            hub.stopped.set()


def is_lfs(name: str, size: int) -> bool:
    """Return whether the hub stores a file of this name and size in LFS."""
    return name.endswith(_LFS_ENDINGS) or size > _LFS_SIZE


def blob_id(content: bytes) -> str:
    """Return the id that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Folder(Mapping[str, bytes]):
    """The files in a directory. They are read when they are asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _names(self) -> list[str]:
        return [path.relative_to(self._root).as_posix() for path in sorted(self._root.rglob("*")) if path.is_file()]

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names():
            raise KeyError(name)
        return (self._root / name).read_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


# The answers, by what is asked.


def _ask_hub(hub: Hub, request: Request) -> Answer:
    refusal = _check_token(hub, request)
    if refusal is not None:
        return refusal
    for pattern, answer in _ROUTES.items():
        method, _, path = pattern.partition(" ")
        found = re.fullmatch(path, request.path)
        if found and request.method in method.split("|"):
            return answer(hub, request, **found.groupdict())
    return _refuse(404, "NotFound", "there is no such page")


def _check_token(hub: Hub, request: Request) -> Answer | None:
    if hub.token is None:
        return None
    given = request.headers.get("authorization")
    if given is None:
        return _refuse(401, "RepoNotFound", "Repository not found")
    if given != f"Bearer {hub.token}":
        return _refuse(401, "", "Invalid credentials in Authorization header")
    if request.method in ("POST", "PUT") and not hub.may_write:
        return _refuse(403, "", "Forbidden: you must use a write token to upload to a repository")
    return None


def _info(hub: Hub, request: Request, repository: str, revision: str = "main") -> Answer:
    commit = _resolve(hub, repository, revision)
    if isinstance(commit, Answer):
        return commit
    siblings = []
    for name, content in hub.repositories[repository].commits[commit].items():
        sibling: dict[str, object] = {"rfilename": name}
        if "blobs" in request.query:
            sibling |= _describe(name, content, oid="blobId", sha256="sha256")
        siblings.append(sibling)
    return _as_json(
        {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False}
    )


def _tree(hub: Hub, request: Request, repository: str, revision: str) -> Answer:
    commit = _resolve(hub, repository, revision)
    if isinstance(commit, Answer):
        return commit
    files = hub.repositories[repository].commits[commit]
    return _as_json(
        [
            {"type": "file", "path": name} | _describe(name, content, oid="oid", sha256="oid")
            for name, content in files.items()
        ]
    )


def _describe(name: str, content: bytes, *, oid: str, sha256: str) -> dict[str, object]:
    """Return the size and the digests of a file. The Hub's listings name the digests in two ways."""
    if not is_lfs(name, len(content)):
        return {"size": len(content), oid: blob_id(content)}
    digest = hashlib.sha256(content).hexdigest()
    pointer = lfs_pointer(content)
    lfs = {sha256: digest, "size": len(content), "pointerSize": len(pointer)}
    return {"size": len(content), oid: blob_id(pointer), "lfs": lfs}


def lfs_pointer(content: bytes) -> bytes:
    """Return the pointer that git keeps in the place of a file in LFS."""
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()


def _file(hub: Hub, request: Request, repository: str, revision: str, name: str) -> Answer:
    commit = _resolve(hub, repository, revision)
    if isinstance(commit, Answer):
        return commit
    files = hub.repositories[repository].commits[commit]
    if name not in files:
        return _refuse(404, "EntryNotFound", "Entry not found").having(X_Repo_Commit=commit)
    content = files[name]
    if not is_lfs(name, len(content)):
        answer = _part(request, Answer(content=content, name=name))
        return answer.having(X_Repo_Commit=commit, ETag=f'"{blob_id(content)}"')
    digest = hashlib.sha256(content).hexdigest()
    return Answer(302).having(
        X_Repo_Commit=commit,
        X_Linked_Etag=f'"{digest}"',
        X_Linked_Size=str(len(content)),
        Location=f"{hub.storage}/{repository}/{commit}/{name}",
    )


def _ask_storage(hub: Hub, request: Request) -> Answer:
    if request.method == "PUT":
        digest = request.path
        if hashlib.sha256(request.content).hexdigest() != digest:
            return _refuse(400, "", "the content has another SHA-256")
        hub.objects[digest] = request.content
        return Answer()
    organisation, name, commit, file = request.path.split("/", 3)
    content = hub.repositories[f"{organisation}/{name}"].commits[commit][file]
    return _part(request, Answer(content=content, name=file)).having(ETag=f'"{hashlib.sha256(content).hexdigest()}"')


def _part(request: Request, answer: Answer) -> Answer:
    """Return the part of an answer's content that the request asks for."""
    found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    if found is None:
        return answer
    start, size = int(found[1]), len(answer.content)
    rest = replace(answer, status=206, content=answer.content[start:])
    return rest.having(Content_Range=f"bytes {start}-{size - 1}/{size}")


def _create(hub: Hub, request: Request) -> Answer:
    repository = f"{request.json['organization']}/{request.json['name']}"
    url = {"url": f"{hub.endpoint}/{repository}"}
    if repository in hub.repositories:
        return replace(_as_json({"error": "You already created this model repo", **url}), status=409)
    hub.commit(repository, {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"})
    return _as_json(url)


def _check_card(hub: Hub, request: Request) -> Answer:
    front = re.match(r"---\n(.*?)\n---\n", str(request.json["content"]), re.DOTALL)
    try:
        facts = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        return replace(_as_json({"errors": [{"message": str(error)}], "warnings": []}), status=400)
    warnings = [] if facts else [{"message": "empty or missing yaml metadata in repo card"}]
    return _as_json({"errors": [], "warnings": warnings})


def _preupload(hub: Hub, request: Request, repository: str, revision: str) -> Answer:
    commit = _resolve(hub, repository, revision)
    if isinstance(commit, Answer):
        return commit
    files = hub.repositories[repository].commits[commit]
    modes = []
    for file in request.json["files"]:
        name, size = file["path"], file["size"]
        mode = {"path": name, "uploadMode": "lfs" if is_lfs(name, size) else "regular", "shouldIgnore": False}
        if name in files:
            mode["oid"] = _describe(name, files[name], oid="oid", sha256="oid")["oid"]
        modes.append(mode)
    return _as_json({"files": modes})


def _batch(hub: Hub, request: Request, repository: str) -> Answer:
    objects = []
    for wanted in request.json["objects"]:
        upload = {"upload": {"href": f"{hub.storage}/{wanted['oid']}"}}
        objects.append(dict(wanted) if wanted["oid"] in hub.objects else {**wanted, "actions": upload})
    return _as_json({"transfer": "basic", "objects": objects})


def _commit(hub: Hub, request: Request, repository: str, revision: str) -> Answer:
    if revision not in hub.repositories[repository].branches:
        return _refuse(404, "RevisionNotFound", "Invalid rev id")
    files = dict(hub.files(repository, revision))
    for line in request.content.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        match operation["key"]:
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile" if value["oid"] in hub.objects:
                files[value["path"]] = hub.objects[value["oid"]]
            case "lfsFile":
                return _refuse(400, "", f"the large file {value['path']} was not uploaded")
            case "deletedFile":
                del files[value["path"]]
    commit = hub.commit(repository, files, revision)
    return _as_json({"success": True, "commitUrl": f"{hub.endpoint}/{repository}/commit/{commit}", "commitOid": commit})


def _resolve(hub: Hub, repository: str, revision: str) -> str | Answer:
    """Return the commit of a revision, or the answer that refuses it."""
    if repository == GATED:
        return _refuse(403, "GatedRepo", "Access to this model is restricted")
    if repository not in hub.repositories:
        return _refuse(404, "RepoNotFound", "Repository not found")
    return hub.repositories[repository].find(revision) or _refuse(404, "RevisionNotFound", "Invalid rev id")


def _refuse(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return replace(_as_json({"error": message}), status=status).having(**headers)


def _as_json(content: object) -> Answer:
    return Answer(content=json.dumps(content).encode(), headers={"Content-Type": "application/json"})


_REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: dict[str, Callable[..., Answer]] = {
    rf"GET api/models/{_REPOSITORY}": _info,
    rf"GET api/models/{_REPOSITORY}/revision/{_REVISION}": _info,
    rf"GET api/models/{_REPOSITORY}/tree/{_REVISION}": _tree,
    rf"GET|HEAD {_REPOSITORY}/resolve/{_REVISION}/(?P<name>.+)": _file,
    r"POST api/repos/create": _create,
    r"POST api/validate-yaml": _check_card,
    rf"POST api/models/{_REPOSITORY}/preupload/{_REVISION}": _preupload,
    rf"POST {_REPOSITORY}\.git/info/lfs/objects/batch": _batch,
    rf"POST api/models/{_REPOSITORY}/commit/{_REVISION}": _commit,
}


# The transport.


@contextmanager
def _listen(ask: Callable[[Request], Answer], hub: Hub) -> Iterator[str]:
    """Answer requests by `ask` until the `with` statement ends, and yield the address."""

    def answer_with_faults(request: Request) -> Answer:
        changes = request.method in ("POST", "PUT")
        nothing = Answer()
        answer = nothing if changes else ask(request)
        for fault in hub.faults:
            answer = fault(request, answer)
        # A hub that fails has changed nothing.
        return ask(request) if changes and answer is nothing else answer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            request = self.read()
            hub.requests.append(f"{request.method} {request.path}")
            answer = answer_with_faults(request)
            if answer.name is not None and request.method == "GET" and answer.status < 300:
                hub.fetched.append(answer.name)
            try:
                self.send(answer)
            except OSError:  # the client is gone
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 # http.server's names

        def read(self) -> Request:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("transfer-encoding") == "chunked":
                content = b"".join(iter(self.read_chunk, b""))
            else:
                content = self.rfile.read(int(headers.get("content-length", 0)))
            return Request(self.command, unquote(address.path).strip("/"), query, headers, content)

        def read_chunk(self) -> bytes:
            size = int(self.rfile.readline(), 16)
            chunk = self.rfile.read(size)
            self.rfile.readline()
            return chunk

        def send(self, answer: Answer) -> None:
            limits = [limit for limit in (answer.cut_after, answer.stall_after) if limit is not None]
            if min(limits, default=0) >= 0:
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.content[: min(limits, default=None)])
            if answer.stall_after is not None:
                hub.stopped.wait()
            if limits:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
