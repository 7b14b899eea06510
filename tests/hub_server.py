"""A Hub on the loopback: as much of the protocol as huggingface_hub's client speaks with the real one about models.

Repositories, branches, commits, regular and LFS files, redirects to a "CDN" of another host name, private and gated
repositories, tokens, all in memory; and faults on demand: see :class:`Hub`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# What the real one's .gitattributes keep in LFS.
LFS_SUFFIXES = {".safetensors", ".parquet", ".bin", ".npy"}


@dataclass
class Repository:
    """``commits``: files by path, by commit; a file is its bytes and whether LFS holds them."""

    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: dict[str, tuple[bytes, bool]], message: str) -> str:
        self.messages.append(message)
        oid = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        return oid

    def files(self, ref: str = "main") -> dict[str, tuple[bytes, bool]]:
        return self.commits[self.refs.get(ref, ref)]


class Hub:
    """The server; ``with Hub() as hub:`` runs it on a free port.

    Attributes:
        endpoint: for ``HF_ENDPOINT``.
        repositories: by ``owner/name``.
        tokens: user and whether the token may write, by token.
        requests: ``"METHOD path"``, as they came.
        drop: bytes after which the connection breaks while this file is sent, by path; once.
        fail: status with which the download of this file fails, by path; until removed.
        serve: bytes that are sent in place of this file's own, by path.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens = {"hf_writer": ("me", True), "hf_reader": ("you", False)}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.drop: dict[str, int] = {}
        self.fail: dict[str, int] = {}
        self.serve: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.connections: list[socket.socket] = []

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        port = self._server.server_port
        self.endpoint, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):  # the client may have closed it
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def asked(self, beginning: str) -> list[str]:
        return [request for request in self.requests if request.startswith(beginning)]


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", commit: str | None = None):
        self.status, self.code, self.message, self.commit = status, code, message, commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def setup(self) -> None:
        super().setup()
        self.server_hub.connections.append(self.connection)

    def log_message(self, *args) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        hub = self.server_hub
        body = self._body()
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        try:
            with hub.lock:
                hub.requests.append(f"{self.command} {unquote(url.path)}")
                answer = self._answer(parts, parse_qs(url.query), body)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            if refused.commit:
                headers["X-Repo-Commit"] = refused.commit
            answer = refused.status, json.dumps({"error": refused.message}).encode(), headers
        self._send(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, drop: int = 0) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if drop:
            self.wfile.write(content[:drop])
            self.close_connection = True
            return
        self.wfile.write(content)

    def _answer(self, parts: list[str], query: dict, body: bytes) -> tuple:
        match parts:
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "whoami-v2"]:
                return _json({"name": self._user()[0], "type": "user", "orgs": []})
            case ["api", "validate-yaml"]:
                return self._validate(json.loads(body)["content"])
            case ["api", "models", owner, name, *rest]:
                return self._model(f"{owner}/{name}", rest, query, body)
            case [owner, name, "info", "lfs", "objects", "batch"]:
                return self._lfs_batch(f"{owner}/{name.removesuffix('.git')}", json.loads(body))
            case ["lfs", oid]:
                return self._lfs_put(oid, body)
            case ["lfs", oid, "verify"]:
                return (200 if len(self.server_hub.lfs.get(oid, b"")) == json.loads(body)["size"] else 404), b""
            case [owner, name, "resolve", revision, *path]:
                return self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case ["cdn", oid, *path]:
                if "Authorization" in self.headers:
                    raise _Refused(400, message="a token was sent to the CDN")
                return self._content("/".join(path), self.server_hub.lfs[oid], {})
        raise _Refused(404, message=f"nothing at {self.path}")

    def _user(self) -> tuple[str, bool]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            raise _Refused(401, message="Invalid username or password.")
        if token not in self.server_hub.tokens:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return self.server_hub.tokens[token]

    def _repository(self, repo_id: str, write: bool = False, content: bool = False) -> Repository:
        """The repository, if who asks may know of it; ``content``: if they may read its files."""
        known = bool(self.headers.get("Authorization"))
        user, may_write = self._user() if known else ("", False)
        found = self.server_hub.repositories.get(repo_id)
        mine = user == repo_id.split("/")[0]
        if found is None or (found.private and not mine):
            raise _Refused(404 if known else 401, "RepoNotFound", "Repository not found")
        if content and found.gated and not mine:
            raise _Refused(403 if known else 401, "GatedRepo", f"Access to model {repo_id} is restricted")
        if write and not (mine and may_write):
            raise _Refused(403 if known else 401, message="You don't have the rights to write here")
        return found

    def _commit_of(self, found: Repository, revision: str) -> str:
        oid = found.refs.get(revision, revision)
        if oid not in found.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    def _create(self, wanted: dict) -> tuple:
        user, may_write = self._user()
        owner = wanted.get("organization") or user
        repo_id = f"{owner}/{wanted['name']}"
        url = {"url": f"{self.server_hub.endpoint}/{repo_id}"}
        if owner != user or not may_write:
            raise _Refused(403, message=f"You don't have the rights to create a model under the namespace {owner!r}")
        if repo_id in self.server_hub.repositories:
            return _json(url | {"error": "You already created this model repo"}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        found = self.server_hub.repositories[repo_id] = Repository(private=private)
        found.commit("main", {".gitattributes": (b"*.safetensors filter=lfs\n", False)}, "initial commit")
        return _json(url)

    def _validate(self, content: str) -> tuple:
        """The metadata must be YAML whose ``model-index`` is complete, with a licence that is known."""
        try:
            metadata = yaml.safe_load(content.split("---\n")[1])
            for entry in metadata.get("model-index", []):
                for result in entry["results"]:
                    for value in (result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]):
                        assert isinstance(value, str)
                    assert all(isinstance(metric["value"], int | float) for metric in result["metrics"])
            assert metadata.get("license", "other") in ("apache-2.0", "mit", "other")
        except (yaml.YAMLError, LookupError, AssertionError) as error:
            return _json({"errors": [{"message": f"invalid metadata: {error!r}"}], "warnings": []}, 400)
        return _json({"errors": [], "warnings": []})

    def _model(self, repo_id: str, rest: list[str], query: dict, body: bytes) -> tuple:
        match rest:
            case [] | ["revision", _]:
                found = self._repository(repo_id)
                oid = self._commit_of(found, rest[1] if rest else "main")
                siblings = [{"rfilename": path} for path in sorted(found.commits[oid])]
                return _json({"id": repo_id, "sha": oid, "private": found.private, "siblings": siblings, "tags": []})
            case ["tree", revision]:
                found = self._repository(repo_id)
                return _json(
                    [_entry(*file) for file in sorted(found.commits[self._commit_of(found, revision)].items())]
                )
            case ["branch", branch]:
                found = self._repository(repo_id, write=True)
                if branch in found.refs:
                    raise _Refused(409, message="Reference already exists")
                found.refs[branch] = self._commit_of(found, json.loads(body).get("startingPoint", "main"))
                return _json({})
            case ["preupload", revision]:
                found = self._repository(repo_id, write=True)
                files = found.commits[self._commit_of(found, revision)]
                return _json({"files": [self._upload_mode(file, files) for file in json.loads(body)["files"]]})
            case ["commit", revision]:
                return self._commit(repo_id, revision, bool(query.get("create_pr")), body)
        raise _Refused(404, message=f"nothing at {self.path}")

    @staticmethod
    def _upload_mode(file: dict, files: dict) -> dict:
        path = file["path"]
        large = PurePosixPath(path).suffix in LFS_SUFFIXES or b"\0" in base64.b64decode(file["sample"])
        there = _entry(path, files[path]) if path in files else {}
        return {
            "path": path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": there.get("lfs", there).get("oid"),
        }

    def _lfs_batch(self, repo_id: str, wanted: dict) -> tuple:
        self._repository(repo_id, write=True)
        hub, objects = self.server_hub, []
        for entry in wanted["objects"]:
            actions = {
                "upload": {"href": f"{hub.endpoint}/lfs/{entry['oid']}"},
                "verify": {"href": f"{hub.endpoint}/lfs/{entry['oid']}/verify"},
            }
            objects.append(entry if entry["oid"] in hub.lfs else entry | {"actions": actions})
        return _json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str, body: bytes) -> tuple:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, message="the content is not what its oid says")
        self.server_hub.lfs[oid] = body
        return 200, b""

    def _commit(self, repo_id: str, revision: str, create_pr: bool, body: bytes) -> tuple:
        found = self._repository(repo_id, write=True)
        files = dict(found.commits[self._commit_of(found, revision)])
        summary = ""
        for line in body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                summary = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"]), False
            elif key == "lfsFile":
                if value["oid"] not in self.server_hub.lfs:
                    raise _Refused(400, message=f"{value['path']} was never uploaded")
                files[value["path"]] = self.server_hub.lfs[value["oid"]], True
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _Refused(404, "EntryNotFound", "A file with this name doesn't exist")
            else:
                raise _Refused(400, message=f"unknown operation {key}")
        ref = f"refs/pr/{sum(name.startswith('refs/pr/') for name in found.refs) + 1}" if create_pr else revision
        oid = found.commit(ref, files, summary)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.server_hub.endpoint}/{repo_id}/commit/{oid}"}
        if create_pr:
            answer["pullRequestUrl"] = f"{self.server_hub.endpoint}/{repo_id}/discussions/{ref.split('/')[-1]}"
        return _json(answer)

    def _resolve(self, repo_id: str, revision: str, path: str) -> tuple:
        found = self._repository(repo_id, content=True)
        commit = self._commit_of(found, revision)
        if path not in found.commits[commit]:
            raise _Refused(404, "EntryNotFound", f"{path} does not exist", commit)
        content, large = found.commits[commit][path]
        headers = {"X-Repo-Commit": commit}
        if not large:
            return self._content(path, content, headers | {"ETag": f'"{_git_oid(content)}"'})
        oid = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return 302, b"", headers | {"Location": f"{self.server_hub.cdn}/cdn/{oid}/{path}"}

    def _content(self, path: str, content: bytes, headers: dict[str, str]) -> tuple:
        hub = self.server_hub
        if self.command == "GET" and path in hub.fail:
            raise _Refused(hub.fail[path], message="out of order")
        content = hub.serve.get(path, content)
        status, asked = 200, self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            status, content = 206, content[start:]
            hub.requests[-1] += f" from {start}"
        drop = hub.drop.pop(path, 0) if self.command == "GET" else 0
        return status, content, headers | {"Content-Type": "application/octet-stream"}, drop


def _json(value: object, status: int = 200) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _entry(path: str, file: tuple[bytes, bool]) -> dict:
    content, large = file
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
    if large:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
