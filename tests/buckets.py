"""An S3 server for tests (moto), and a proxy before it that can hang, refuse or break off."""

import contextlib
import http.client
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "faces"


@dataclass
class Bucket:
    """s3://faces on a server of its own; `environment` is what a process needs to reach it."""

    host: str
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}"}

    def names(self, prefix: str = "") -> list[str]:
        """The names of what lies in it, sorted."""
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        return bytes(self._client().get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        self._client().put_object(Bucket=BUCKET, Key=key, Body=content)

    def _client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=f"http://{self.host}:{self.port}", region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip


@contextlib.contextmanager
def bucket(address: str = "127.0.0.1") -> Iterator[Bucket]:
    """An empty bucket, reached at an address of this machine."""
    server = ThreadedMotoServer("0.0.0.0", 0, verbose=False)
    server.start()
    made = Bucket(address, server.get_host_and_port()[1])
    try:
        # servers in one process share what they hold
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{made.port}/moto-api/reset", method="POST"))
        made._client().create_bucket(Bucket=BUCKET)
        yield made
    finally:
        server.stop()


Fault = Callable[["Handler"], bool]  # acts on a request, or returns False to let it pass


class FaultyServer(ThreadingHTTPServer):
    """Passes requests on to a bucket's server, except what `fault` takes."""

    daemon_threads = True

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(("0.0.0.0", 0), Handler)
        self.bucket = bucket
        self.fault: Fault | None = None
        self.taken = 0  # requests that the fault took
        self._lock = threading.Lock()

    def count(self) -> None:
        with self._lock:
            self.taken += 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def _serve(self) -> None:
        body = self._body()
        if self.server.fault and self.server.fault(self):
            self.close_connection = True
            return
        self.answer(*self.passed_on(body))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def passed_on(self, body: bytes = b"") -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and content that the bucket's server answers with."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.bucket.port, timeout=30)
        dropped = ("connection", "transfer-encoding", "content-length", "expect")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length", str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Silence."""


@contextlib.contextmanager
def faulty(bucket: Bucket) -> Iterator[tuple[Bucket, FaultyServer]]:
    """The bucket as it is reached through a server that can fail, and that server."""
    server = FaultyServer(bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Bucket(bucket.host, server.server_port), server
    finally:
        server.shutdown()


def refuse(handler: Handler) -> bool:
    """The connection is closed without an answer."""
    handler.server.count()
    return True


def hang(handler: Handler) -> bool:
    """No answer, for longer than anybody waits."""
    handler.server.count()
    time.sleep(30)
    return True


def half(part: str) -> Fault:
    """Of what is read and has `part` in its name the second half is missing."""

    def fault(handler: Handler) -> bool:
        if handler.command != "GET" or part not in handler.path:
            return False
        handler.server.count()
        status, headers, content = handler.passed_on()
        handler.send_response_only(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        return True

    return fault
