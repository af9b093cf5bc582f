"""A small Hub on this machine: what huggingface_hub asks of it, with repositories in memory and Git-LFS.

Every commit is kept. `Hub.log` has the requests, `Hub.received` and `Hub.sent` the bytes of each large or small file,
so that tests see what was transferred. Faults are set as attributes.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub

LFS_SUFFIXES = (".safetensors", ".npy", ".arrow", ".bin", ".pt", ".model")


@dataclass
class File:
    """A file of a commit."""

    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    """Commits by their id, and branches, tags and pull requests by name."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, File], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files)} {message}".encode()).hexdigest()
        self.commits[sha], self.refs[ref] = files, sha
        self.messages.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {name: file.content for name, file in self.commits[self.refs[revision]].items()}


class Hub:
    """A server in a thread."""

    def __init__(self) -> None:
        self.tokens = {"hf_me": "me", "hf_reader": "reader"}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        self.sent: dict[str, int] = defaultdict(int)
        self.received: dict[str, int] = defaultdict(int)
        self.seconds_per_block = 0.0  # A slow line.
        self.stop_after: int | None = None  # Bytes of a download after which the connection is cut.
        self.failing = False  # Every request is answered by 503.
        self.connections: list[socket.socket] = []  # Kept open by clients between requests.
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, repo_id: str, files: dict[str, bytes], **settings: bool) -> Repository:
        """A repository with one commit."""
        repository = self.repositories[repo_id] = Repository(**settings)
        made = {name: File(content, name.endswith(LFS_SUFFIXES)) for name, content in files.items()}
        repository.commit("main", made, "initial commit")
        self.objects.update({file.oid: file.content for file in made.values() if file.lfs})
        return repository

    def reset_counts(self) -> None:
        self.log.clear()
        self.sent.clear()
        self.received.clear()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    block = 16 * 1024

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *args: object) -> None:
        pass

    # Answers

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def send_file(self, name: str, content: bytes, **headers: str) -> None:
        start, total = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start = int(asked[1])
            content = content[start : int(asked[2]) + 1 if asked[2] else None]
            headers["Content_Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
        self.send_response(206 if asked else 200)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for position in range(0, len(content), self.block):
            if self.hub.stop_after is not None and position >= self.hub.stop_after:
                self.close_connection = True
                return
            part = content[position : position + self.block]
            self.wfile.write(part)
            self.hub.sent[name] += len(part)
            time.sleep(self.hub.seconds_per_block)

    def body(self) -> bytes:
        length, parts = int(self.headers.get("Content-Length", 0)), []
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        while length:
            part = self.rfile.read(min(self.block, length))
            if not part:
                raise ConnectionError("the client has gone")
            parts.append(part)
            length -= len(part)
            time.sleep(self.hub.seconds_per_block)
        return b"".join(parts)

    # Requests

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.route()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.hub.tokens.get(token)

    def route(self) -> None:
        address = urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        self.hub.log.append(f"{self.command} {path}")
        if self.hub.failing:
            return self.answer(503, {"error": "down"})
        if self.command in ("POST", "PUT"):
            self.content = self.body()
        if "Authorization" in self.headers and self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return getattr(self, name)(*found.groups())
        return self.answer(404, {"error": f"no route for {self.command} {path}"})

    def repository(self, repo_id: str, *, write: bool = False) -> Repository | None:
        """The repository, or an answer that says why not."""
        repository = self.hub.repositories.get(repo_id)
        owner = repo_id.split("/")[0] == self.user
        if repository is None or (repository.private and not owner):
            self.refuse(404 if self.user else 401, "RepoNotFound", "Repository not found")
            return None
        if write and self.user is None:
            self.answer(401, {"error": "Invalid username or password."})
            return None
        if write and not owner and self.query.get("create_pr") != ["1"]:
            self.answer(403, {"error": "Forbidden"}, X_Error_Message="You don't have the rights")
            return None
        return repository

    def files_at(self, repository: Repository, revision: str) -> tuple[str, dict[str, File]] | None:
        sha = repository.sha(revision)
        if sha is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return sha, repository.commits[sha]

    def whoami(self) -> None:
        if self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        return self.answer(200, {"type": "user", "name": self.user, "orgs": []})

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def create(self) -> None:
        if self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        asked = json.loads(self.content)
        owner = asked.get("organization") or self.user
        repo_id = f"{owner}/{asked['name']}"
        if repo_id in self.hub.repositories:
            return self.answer(
                409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}
            )
        if owner != self.user:
            return self.answer(403, {"error": "Forbidden"}, X_Error_Message="You don't have the rights")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        made = self.hub.repositories[repo_id] = Repository(private=private)
        made.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")
        return self.answer(200, {"url": f"{self.hub.url}/{repo_id}"})

    def branch(self, repo_id: str, name: str) -> None:
        if repository := self.repository(repo_id, write=True):
            if name in repository.refs:
                return self.answer(409, {"error": "Reference already exists"})
            repository.refs[name] = repository.refs["main"]
            self.answer(201, {})

    def info(self, repo_id: str, revision: str | None = None) -> None:
        repository = self.repository(repo_id)
        found = repository and self.files_at(repository, revision or "main")
        if found:
            names = [{"rfilename": name} for name in found[1]]
            self.answer(200, {"id": repo_id, "sha": found[0], "siblings": names, "private": False, "tags": []})

    def tree(self, repo_id: str, revision: str) -> None:
        repository = self.repository(repo_id)
        found = repository and self.files_at(repository, revision)
        if not found:
            return
        entries = []
        for name, file in sorted(found[1].items()):
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(file.content)}
            entry["oid"] = hashlib.sha1(name.encode() + file.content).hexdigest() if file.lfs else file.oid
            if file.lfs:
                entry["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": 130}
            entries.append(entry)
        self.answer(200, entries)

    def preupload(self, repo_id: str, revision: str) -> None:
        repository = self.repository(repo_id, write=True)
        found = repository and self.files_at(repository, revision)
        if not found:
            return
        answers = []
        for asked in json.loads(self.content)["files"]:
            name, there = asked["path"], found[1].get(asked["path"])
            mode = "lfs" if name.endswith(LFS_SUFFIXES) else "regular"
            oid = there.oid if there is not None else None
            answers.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": answers})

    def lfs_batch(self, repo_id: str) -> None:
        if self.repository(repo_id) is None:
            return None
        if self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        objects = []
        for asked in json.loads(self.content)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs-verify"},
                }
            objects.append(answer)
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        if hashlib.sha256(self.content).hexdigest() != oid:
            return self.answer(400, {"error": "other content"})
        self.hub.objects[oid] = self.content
        self.hub.received[oid] += len(self.content)
        return self.answer(200)

    def verify_object(self) -> None:
        asked = json.loads(self.content)
        there = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self.answer(200 if there else 404, {})

    def get_object(self, oid: str) -> None:
        self.send_file(oid, self.hub.objects[oid], ETag=f'"{oid}"')

    def commit(self, repo_id: str, revision: str) -> None:
        repository = self.repository(repo_id, write=True)
        found = repository and self.files_at(repository, revision)
        if not found:
            return
        assert repository is not None
        files, message = dict(found[1]), ""
        for line in self.content.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = File(content, False)
                self.hub.received[value["path"]] += len(content)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer(400, {"error": f"no object {value['oid']}"})
                files[value["path"]] = File(self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                return self.answer(400, {"error": f"unknown key {key}"})
        ref, request = revision, None
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.refs)
            ref, request = f"refs/pr/{number}", f"{self.hub.url}/{repo_id}/discussions/{number}"
        sha = repository.commit(ref, files, message)
        url = f"{self.hub.url}/{repo_id}/commit/{sha}"
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "pullRequestUrl": request})

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repository = self.repository(repo_id)
        found = repository and self.files_at(repository, revision)
        if not found:
            return
        assert repository is not None
        if repository.gated and self.user != repo_id.split("/")[0]:
            return self.refuse(403, "GatedRepo", "Access to this model is restricted")
        sha, files = found
        if name not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        file = files[name]
        if file.lfs:
            return self.answer(
                302,
                Location=f"{self.hub.url.replace('127.0.0.1', 'localhost')}/lfs/{file.oid}",
                X_Repo_Commit=sha,
                X_Linked_Etag=f'"{file.oid}"',
                X_Linked_Size=str(len(file.content)),
            )
        return self.send_file(name, file.content, ETag=f'"{file.oid}"', X_Repo_Commit=sha)


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"/api/models/{_REPO}/branch/(.+)", "branch"),
    ("GET", rf"/api/models/{_REPO}", "info"),
    ("GET", rf"/api/models/{_REPO}/revision/(.+)", "info"),
    ("GET", rf"/api/models/{_REPO}/tree/([^/]+|refs/pr/\d+)/?", "tree"),
    ("POST", rf"/api/models/{_REPO}/preupload/(.+)", "preupload"),
    ("POST", rf"/api/models/{_REPO}/commit/(.+)", "commit"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(\w+)", "put_object"),
    ("GET HEAD", r"/lfs/(\w+)", "get_object"),
    ("POST", r"/lfs-verify", "verify_object"),
    ("GET HEAD", rf"/{_REPO}/resolve/(refs/pr/\d+|[^/]+)/(.+)", "resolve"),
]


def take_for_the_hub(hub: Hub, monkeypatch: Any, cache: Path, token: str | None = "hf_me") -> None:
    """Let this process take a server for the Hub; its settings are read when huggingface_hub is imported."""
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "no-token"),
        "DEFAULT_ETAG_TIMEOUT": 30,
    }
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN", raising=False)
