"""A web server that misbehaves as real ones do, on loopback, in raw sockets; its log holds what it was asked."""

import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import responses
from urllib.parse import unquote

from PIL import Image


@cache
def png(number: int) -> bytes:
    """A picture of one colour, another one for every number below 65536."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(data, "PNG")
    return data.getvalue()


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]
    when: float


class Hostile:
    """Serves until ``close``. ``on`` adds or replaces what happens at a first path segment.

    A handler gets the connection and the rest of the path, and leaves the closing to the server.
    """

    def __init__(
        self, address: str = "127.0.0.1", wrap: Callable[[socket.socket], socket.socket] = lambda s: s
    ):
        self.log: list[Asked] = []
        self.connections = 0
        self.together: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._wrap = wrap
        self._handlers: dict[str, Callable[[socket.socket, str], None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }
        self._closing = threading.Event()
        self._listener = socket.create_server((address, 0), backlog=1024)
        self.address, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str, host: str = "") -> str:
        return f"http://{host or self.address}:{self.port}/{path}"

    def on(self, name: str, handler: Callable[[socket.socket, str], None]) -> None:
        self._handlers[name] = handler

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(entry.path == f"/{path}" for entry in self.log)

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> "Hostile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- the server ---------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            try:
                connection = self._wrap(connection)
                request = b""
                while b"\r\n\r\n" not in request:
                    received = connection.recv(65536)
                    if not received:
                        return
                    request += received
                first, *lines = request.decode("latin-1").split("\r\n")
                path = first.split(" ")[1]
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
                with self._lock:
                    self.log.append(Asked(path, headers, time.monotonic()))
                name, _, rest = path.removeprefix("/").partition("/")
                self._handlers.get(name, self._missing)(connection, rest)
            finally:
                connection.close()

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        with self._lock:
            self._inside[name] += 1
            self.together[name] = max(self.together[name], self._inside[name])
        try:
            yield
        finally:
            with self._lock:
                self._inside[name] -= 1

    def _missing(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 404, b"no such path", "text/plain")

    def _wait(self, seconds: float = 60) -> None:
        self._closing.wait(seconds)

    # -- what can happen ----------------------------------------------------------------------------------

    def _do_image(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, png(int(rest.partition("?")[0])))

    def _do_late(self, connection: socket.socket, rest: str) -> None:
        """late/0.5/7: image 7 after half a second."""
        seconds, _, number = rest.partition("/")
        with self._counted("late"):  # not over the answer: who has it may ask again at once
            self._wait(float(seconds))
        answer(connection, 200, png(int(number)))

    def _do_hang(self, connection: socket.socket, rest: str) -> None:
        self._wait()

    def _do_hang_in_headers(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n")
        self._wait()

    def _do_hang_in_body(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + png(0))
        self._wait()

    def _do_drip(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        self._slowly(connection, b"\x89PNG" * 25000)

    def _do_drip_headers(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        self._slowly(connection, b"X-Slow: " + b"x" * 100000)

    def _slowly(self, connection: socket.socket, data: bytes) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            if self._closing.wait(0.2):
                return

    def _do_endless(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while not self._closing.is_set():
            connection.sendall(b"\x89PNG" * 10000)

    def _do_endless_chunks(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not self._closing.is_set():
            connection.sendall(b"1;" + b"x" * 1000 + b"\r\nP\r\n")

    def _do_endless_headers(self, connection: socket.socket, rest: str) -> None:
        while not self._closing.is_set():
            connection.sendall(b"HTTP/1.1 100 Continue\r\nX-More: yes\r\n\r\n" * 100)

    def _do_gzip(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, gzip.compress(png(int(rest))), extra="Content-Encoding: gzip")

    def _do_deflate(self, connection: socket.socket, rest: str) -> None:
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(png(int(rest))) + packer.flush()
        answer(connection, 200, packed, extra="Content-Encoding: deflate")

    def _do_gzip_bomb(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, bomb(), extra="Content-Encoding: gzip")

    def _do_gzip_cut(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, gzip.compress(png(1))[:-12], extra="Content-Encoding: gzip")

    def _do_brotli(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, b"\x0b\x02\x80", extra="Content-Encoding: br")

    def _do_says_more(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + png(0))

    def _do_says_huge(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n" + png(0))
        self._wait()

    def _do_chunks(self, connection: socket.socket, rest: str) -> None:
        data = png(int(rest))
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(data), 20):
            piece = data[at : at + 20]
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")

    def _do_chunks_cut(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n\x89PNG")

    def _do_reset(self, connection: socket.socket, rest: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _do_gone(self, connection: socket.socket, rest: str) -> None:
        """Closes without a word."""

    def _do_no_http(self, connection: socket.socket, rest: str) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.0\r\n")

    def _do_status(self, connection: socket.socket, rest: str) -> None:
        answer(connection, int(rest.partition("/")[0]), b"", "text/plain")

    def _do_loop(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 302, b"", extra=f"Location: /{'loop/b' if rest == 'a' else 'loop/a'}")

    def _do_hops(self, connection: socket.socket, rest: str) -> None:
        """hops/3: three redirects, then an image."""
        left = int(rest)
        if left:
            answer(connection, 301, b"", extra=f"Location: /hops/{left - 1}")
        else:
            answer(connection, 200, png(0))

    def _do_to(self, connection: socket.socket, rest: str) -> None:
        """to/URL, quoted: redirects there."""
        answer(connection, 302, b"", extra=f"Location: {unquote(rest)}")

    def _do_busy(self, connection: socket.socket, rest: str) -> None:
        """busy/429/1/5: once 429 with Retry-After 1, then image 5; without a number, always."""
        status, seconds, *number = rest.split("/")
        if number and self.asked(f"busy/{rest}") > 1:
            answer(connection, 200, png(int(number[0])))
        else:
            answer(connection, int(status), b"", extra=f"Retry-After: {unquote(seconds)}" if seconds else "")

    def _do_page(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, b"\n<!DOCTYPE html><html><body>Not here" + b" " * 100, "image/png")

    def _do_svg(self, connection: socket.socket, rest: str) -> None:
        answer(
            connection,
            200,
            b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
            "image/svg+xml",
        )

    def _do_json(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, b'{"error": "gone"}', "image/jpeg")

    def _do_as_html(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, png(int(rest)), "text/html")

    def _do_empty(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, b"")

    def _do_opt_out(self, connection: socket.socket, rest: str) -> None:
        answer(connection, 200, png(0), extra=f"X-Robots-Tag: {unquote(rest)}")


def answer(
    connection: socket.socket, status: int, body: bytes, kind: str = "image/png", extra: str = ""
) -> None:
    lines = [f"HTTP/1.1 {status} {responses.get(status, 'Odd')}", f"Content-Type: {kind}", extra]
    head = "\r\n".join(filter(None, (*lines, f"Content-Length: {len(body)}", "Connection: close")))
    connection.sendall(head.encode("utf-8") + b"\r\n\r\n" + body)


@cache
def bomb(size: int = 100_000_000) -> bytes:
    """That many zeros, gzipped to a thousandth."""
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000))
    return packed + packer.flush()


@contextmanager
def deaf(address: str) -> Iterator[int]:
    """A port that never takes a connection: its queue is full. Yields the port."""
    listener = socket.socket()
    listener.bind((address, 0))
    listener.listen(0)
    waiting = []
    for _ in range(4):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(listener.getsockname())
        waiting.append(connection)
    time.sleep(0.1)
    try:
        yield listener.getsockname()[1]
    finally:
        for connection in (*waiting, listener):
            connection.close()
