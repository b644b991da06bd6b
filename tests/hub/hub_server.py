"""A server on loopback that behaves as the hub does: metadata and redirects here, bytes and ranges on another host."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Answer:
    """What the hub answers instead of the file, once."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    """Files by "repository/file"; what goes wrong, in the order of the requests; what was asked and sent."""

    files: dict[str, bytes] = field(default_factory=dict)
    # Answers to the next requests at the hub, then the files.
    answers: list[Answer] = field(default_factory=list)
    # After how many bytes the next transfers are cut, then none is.
    cuts: list[int] = field(default_factory=list)
    # Whether the host of the bytes knows ranges, and what it sends in place of a file.
    ranges: bool = True
    sends: dict[str, bytes] = field(default_factory=dict)
    # Headers that the host of the bytes adds.
    store_headers: dict[str, str] = field(default_factory=dict)
    gives_digest: bool = True
    needs_token: str | None = None
    sent_bytes: int = 0
    paths: list[str] = field(default_factory=list)
    ranges_asked: list[str | None] = field(default_factory=list)
    authorizations: list[tuple[str, str | None]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        # Two ports are two hosts.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (_hub(self), _store(self))]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def store_address(self) -> str:
        return f"http://localhost:{self._servers[1].server_port}"


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hub(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Hub(_Quiet):
        def do_GET(self) -> None:
            hub.paths.append(self.path)
            hub.authorizations.append(("hub", self.headers.get("Authorization")))
            if hub.needs_token and self.headers.get("Authorization") != f"Bearer {hub.needs_token}":
                self.answer(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."})
            elif hub.answers:
                answer = hub.answers.pop(0)
                self.answer(answer.status, answer.headers)
            elif self.path.startswith(("/api/models/", "/api/datasets/")):
                self.list_files()
            else:
                self.redirect()

        do_HEAD = do_GET

        def list_files(self) -> None:
            repository = self.path.split("/", 3)[3].split("/revision/")[0]
            names = [name.removeprefix(f"{repository}/") for name in hub.files if name.startswith(f"{repository}/")]
            if not names:
                self.answer(401, {"X-Error-Code": "RepoNotFound"})
                return
            body = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in sorted(names)]}
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

        def redirect(self) -> None:
            repository, _, rest = unquote(self.path).removeprefix("/datasets").strip("/").partition("/resolve/")
            _, _, file = rest.partition("/")
            key = f"{repository}/{file}"
            if not any(name.startswith(f"{repository}/") for name in hub.files):
                self.answer(401, {"X-Error-Code": "RepoNotFound"})
            elif key not in hub.files:
                self.answer(404, {"X-Error-Code": "EntryNotFound"})
            else:
                content = hub.files[key]
                etag = hashlib.sha256(content).hexdigest() if hub.gives_digest else hashlib.sha1(content).hexdigest()
                headers = {
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{etag}"',
                    "X-Linked-Size": str(len(content)),
                    "Location": f"{hub.store_address}/{key}?signature=x",
                }
                self.answer(302, headers)

    return Hub


def _store(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Store(_Quiet):
        def do_GET(self) -> None:
            hub.authorizations.append(("store", self.headers.get("Authorization")))
            asked = self.headers.get("Range")
            hub.ranges_asked.append(asked)
            key = unquote(self.path).strip("/").partition("?")[0]
            content = hub.sends.get(key, hub.files[key])
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and hub.ranges else 0
            part = content[start:]
            self.send_response(206 if asked and hub.ranges else 200)
            self.send_header("Content-Length", str(len(part)))
            for name, value in hub.store_headers.items():
                self.send_header(name, value)
            if asked and hub.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if hub.cuts:
                part = part[: hub.cuts.pop(0)]
                self.close_connection = True
            # Before they are sent: whoever has read the last byte may ask at once.
            hub.sent_bytes += len(part)
            self.wfile.write(part)

    return Store


def published_source(content: bytes, count: int, /, **changes: object) -> str:
    """A source of the hub as the recipe describes it, as JSON."""
    source = {
        "format": "sharegpt",
        "path": None,
        "repository": "someone/conversations",
        "revision": COMMIT,
        "file": "rows.json",
        "files": None,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": count,
        "licence": "cc0-1.0",
    }
    return json.dumps(source | changes)
