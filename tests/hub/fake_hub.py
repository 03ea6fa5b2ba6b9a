"""A hub on this machine: the three requests that a download makes, with byte ranges; it can cut a file short."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves one folder under one name. `cut` ends a file early, once; `damaged` are changed."""

    daemon_threads = True

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.name = folder, name
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.cut: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.answers_html = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self) -> dict[str, Any]:
        """Return the answer about the model, as `model_info` reads it."""
        siblings = []
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            siblings.append({"rfilename": path.name, "size": len(content), "blobId": "0" * 40})
            if path.suffix in (".bin", ".model"):
                digest = hashlib.sha256(content).hexdigest()
                siblings[-1]["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        return {"id": self.name, "modelId": self.name, "sha": COMMIT, "private": False, "siblings": siblings}

    def tree(self) -> list[dict[str, Any]]:
        """Return the same files as `snapshot_download` reads them."""
        return [
            {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"]}
            for file in self.listing()["siblings"]
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if self.server.answers_html:
            self._send(b"<html>Please log in</html>", "text/html")
        elif path.startswith(f"/api/models/{self.server.name}"):
            found = self.server.tree() if "/tree/" in path else self.server.listing()
            self._send(json.dumps(found).encode(), "application/json")
        elif (file := self.server.folder / path.rsplit("/", 1)[-1]).is_file():
            self._send_file(file)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _send_file(self, file: Path) -> None:
        content = file.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        if file.name in self.server.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            self.server.ranges.append(f"{file.name} {found[0]}")
            start = int(found[1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            end = self.server.cut.pop(file.name, len(content))
            self.wfile.write(content[start:end])
            self.close_connection = end < len(content)


@contextmanager
def serve(folder: Path, name: str) -> Iterator[FakeHub]:
    """Serve the folder while the block runs."""
    hub = FakeHub(folder, name)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
