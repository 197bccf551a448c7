"""A small server that answers huggingface_hub as the hub does, for the repositories in a folder: `owner/name/...`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()
REVISIONS = ("main", "v1", COMMIT)


class Hub(BaseHTTPRequestHandler):
    """Model information, the list of files, and the files themselves, whole or a range of bytes."""

    root: Path
    requests: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)(/.*)?", path):
            repository, what, revision = found[1], found[2], found[3]
        elif found := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository, what, revision = found[1], "file", found[2]
        else:
            return self.refuse("EntryNotFound")
        folder = self.root / repository
        if not folder.is_dir():
            return self.refuse("RepoNotFound")
        if revision not in REVISIONS:
            return self.refuse("RevisionNotFound")
        if what == "file":
            return self.send_file(folder / found[3], body)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [str(p.relative_to(folder)) for p in files]
        if what == "revision":
            siblings = [{"rfilename": name} for name in names]
            return self.send_json({"id": repository, "sha": COMMIT, "siblings": siblings}, body)
        entries = [
            {"type": "file", "path": name, "size": p.stat().st_size, "oid": etag(p)}
            for name, p in zip(names, files, strict=True)
        ]
        return self.send_json(entries, body)

    def send_json(self, values: object, body: bool) -> None:
        self.send(200, json.dumps(values).encode(), body, {"Content-Type": "application/json"})

    def send_file(self, path: Path, body: bool) -> None:
        if not path.is_file():
            return self.refuse("EntryNotFound")
        data, headers = (
            path.read_bytes(),
            {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"},
        )
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self.send(206, data[first : last + 1], body, headers)
        return self.send(200, data, body, headers)

    def refuse(self, code: str) -> None:
        self.send(404, b"", False, {"X-Error-Code": code, "X-Error-Message": code})

    def send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the repositories in a folder; gives the address, and the requests that come."""
    requests: list[str] = []
    handler = type("Handler", (Hub,), {"root": root, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
