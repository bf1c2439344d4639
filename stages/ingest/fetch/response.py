"""A response on its way: headers at once, the body when it is asked for, within bounds."""

import http.client
import io
import ssl
import zlib
from collections.abc import Callable
from email.message import Message

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.connection import TimedConnection
from capfilt.stages.ingest.fetch.error import FetchError
from capfilt.stages.ingest.fetch.rate_limit import Turn

_CHUNK = 65536
_SPACE = b"\xef\xbb\xbf\xfe\xff \t\r\n\x00"


class Response:
    """What the opener returns in place of an http.client response: a context that has ``headers`` and ``read``.

    Leaving it closes the connection and gives up the place at the host. ``judge`` turns a refusal of the body
    into what is raised.
    """

    def __init__(
        self, response: http.client.HTTPResponse, connection: TimedConnection, turn: Turn, max_bytes: int
    ) -> None:
        self._response, self._connection, self._turn, self._max_bytes = response, connection, turn, max_bytes
        self.judge: Callable[[FetchError], Exception] = lambda fetch_error: fetch_error

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Message:
        return self._response.headers

    @property
    def turn(self) -> Turn:
        return self._turn

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()
        self._connection.close()
        self._turn.leave()

    def read(self) -> bytes:
        """The whole body, unpacked, if it can be a raster image.

        Raises:
            FetchError (as ``judge`` turns it): TOO_LARGE, TRUNCATED, TIMEOUT, TOO_SLOW, NOT_IMAGE, UNREADABLE.
        """
        try:
            body = self._body(self._max_bytes, sniff=True)
            if not body:
                raise FetchError(Reason.NOT_IMAGE, "an empty body")
            return body
        except FetchError as fetch_error:
            raise self.judge(fetch_error) from None

    def read_text(self, longest: int) -> bytes:
        """The body up to ``longest`` bytes; what is longer is cut. Raises FetchError."""
        return self._body(longest, cut=True)

    def _body(self, most: int, *, cut: bool = False, sniff: bool = False) -> bytes:
        if not cut and (self._response.length or 0) > most:
            raise FetchError(Reason.TOO_LARGE, f"says it has {self._response.length} bytes")
        unpack = _unpacker(self.headers.get("Content-Encoding", ""))
        body = io.BytesIO()
        received = 0
        while chunk := self._chunk():
            received += len(chunk)
            if unpack:
                chunk = unpack(chunk, most + 1 - body.tell())
            body.write(chunk)
            if max(received, body.tell()) > most:
                if cut:
                    return body.getvalue()[:most]
                raise FetchError(Reason.TOO_LARGE, "unpacked" if received <= most else "")
            if sniff and body.tell() >= 64:
                sniff = False
                _expect_image(body.getvalue())
        if self._response.length:
            raise FetchError(Reason.TRUNCATED, f"{self._response.length} bytes short", again=True)
        if unpack and not unpack.whole:
            raise FetchError(Reason.TRUNCATED, "the packed body ends early", again=True)
        if sniff:
            _expect_image(body.getvalue())
        return body.getvalue()

    def _chunk(self) -> bytes:
        try:
            return self._response.read(_CHUNK)
        except http.client.HTTPException as error:
            raise FetchError(Reason.TRUNCATED, type(error).__name__, again=True) from None
        except ssl.SSLError as error:
            raise FetchError(Reason.TRUNCATED, f"TLS: {error.reason}", again=True) from None
        except OSError as error:
            raise FetchError(Reason.TRUNCATED, error.strerror or type(error).__name__, again=True) from None


class _Unpacker:
    """Undoes a content coding, never beyond a number of bytes: what more there is stays packed."""

    def __init__(self, bits: int | None) -> None:
        self._bits = bits
        self._stream = zlib.decompressobj(bits) if bits else None
        self.whole = False

    def __call__(self, chunk: bytes, most: int) -> bytes:
        if self._stream is None:  # `deflate` means zlib's format, but some servers send the bare stream
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if chunk[0] & 15 == 8 else -zlib.MAX_WBITS)
        try:
            unpacked = self._stream.decompress(chunk, most)
        except zlib.error as error:
            raise FetchError(Reason.UNREADABLE, f"the packed body: {error}") from None
        self.whole = self._stream.eof
        return unpacked


def _unpacker(coding: str) -> _Unpacker | None:
    """Only `identity` was asked for; the two codings of old are undone all the same."""
    coding = coding.strip().lower()
    if coding in ("", "identity", "none"):
        return None
    if coding in ("gzip", "x-gzip"):
        return _Unpacker(zlib.MAX_WBITS + 16)
    if coding == "deflate":
        return _Unpacker(None)
    raise FetchError(Reason.UNREADABLE, f"content coding {coding[:40]}, which was not asked for")


def _expect_image(head: bytes) -> None:
    """Refuses markup, JSON and PDF by their first bytes: servers send error pages as image/jpeg."""
    start = head[:512].lstrip(_SPACE)
    if start[:1] in (b"<", b"{") or start.startswith(b"%PDF"):
        raise FetchError(Reason.NOT_IMAGE, repr(start[:16].decode("ascii", "replace")))
