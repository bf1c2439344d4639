"""An S3 of our own on loopback, and a proxy before it that has troubles when a test says so."""

import http.client
import logging
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>as the test says</Message></Error>'
CODES = {403: "InvalidAccessKeyId", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Trouble:
    """The next ``times`` requests of a kind fail: with a status, or (status 0) by a connection that breaks.

    With ``after`` the store has carried the request out, and only its answer is lost.
    """

    method: str
    status: int
    times: float = float("inf")
    path: str = ""
    after: bool = False
    met: int = 0


@dataclass
class Store:
    """Where the store answers, straight or through the proxy; ``troubles`` is what the proxy does to requests."""

    straight: str
    proxy: str
    troubles: list[Trouble] = field(default_factory=list)

    def environment(self, *, through_proxy: bool = False) -> dict[str, str]:
        """What a user has in the environment to reach it: never in a recipe."""
        return {
            "AWS_ENDPOINT_URL": self.proxy if through_proxy else self.straight,
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @contextmanager
    def trouble(self, *troubles: Trouble) -> Iterator[tuple[Trouble, ...]]:
        """These happen to requests through the proxy, one list at a time."""
        self.troubles = list(troubles)
        try:
            yield troubles
        finally:
            self.troubles = []


@contextmanager
def serving() -> Iterator[Store]:
    """The store and the proxy, on ports of their own, with one bucket."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = Store(f"http://{host}:{port}", "")
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store, host, port))
    proxy.daemon_threads = True
    store.proxy = f"http://127.0.0.1:{proxy.server_port}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    urllib.request.urlopen(urllib.request.Request(f"{store.straight}/{BUCKET}", method="PUT")).close()
    try:
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()


def _handler(store: Store, host: str, port: int) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            trouble = self._trouble()
            if trouble is None or trouble.after:
                connection = http.client.HTTPConnection(host, port, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                status, headers, content = answer.status, answer.getheaders(), answer.read()
                connection.close()
            if trouble is not None:
                if not trouble.status:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                status, headers = trouble.status, [("Content-Type", "application/xml")]
                content = ERROR.format(code=CODES[trouble.status]).encode()
            self.send_response(status)
            length = str(len(content))
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value  # of a HEAD: that of the object
                elif name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _trouble(self) -> Trouble | None:
            with lock:
                for trouble in store.troubles:
                    if (
                        self.command == trouble.method
                        and trouble.path in self.path
                        and trouble.met < trouble.times
                    ):
                        trouble.met += 1
                        return trouble
            return None

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def in_environment(store: Store, *, through_proxy: bool = False) -> Iterator[Store]:
    """The store as this process and its children find it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment(through_proxy=through_proxy).items():
            patch.setenv(name, value)
        yield store
