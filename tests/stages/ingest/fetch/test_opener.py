"""The opener by itself, with names that resolve as the test says, and as the one that img2dataset asks."""

import datetime
import io
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.child import OPT_OUTS, _downloader_class, _original
from capfilt.stages.ingest.fetch.dns import Resolver
from capfilt.stages.ingest.fetch.error import FetchError, Later, read
from capfilt.stages.ingest.fetch.opener import GuardedOpener, _retry_after
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from tests.hostile import Hostile, deaf, png


def policy(**changed: Any) -> FetchPolicy:
    return FetchPolicy(**{"allow_private": ("127.0.0.1/32",), "timeout": 2.0, **changed})


def opener(lookup: Callable[[str], list[str]], lasting: float = 300.0, **changed: Any) -> GuardedOpener:
    return GuardedOpener(policy(**changed), Resolver(lookup, lasting))


def refused(made: GuardedOpener, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught, made.open(url) as response:
        response.read()
    return caught.value


def test_the_connection_goes_to_the_address_that_was_checked(server: Hostile, private: Hostile) -> None:
    """A name that is public for the check and private for whoever asks again: nobody asks again."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    made = opener(lambda host: answers.pop(0))
    with made.open(server.url("image/1", host="rebind.test")) as response:
        assert response.read() == png(1)
    assert len(answers) == 1
    assert server.log[0].headers["host"] == f"rebind.test:{server.port}"


def test_a_name_that_turns_private_is_refused_on_the_next_hop(server: Hostile, private: Hostile) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    made = opener(lambda host: answers.pop(0), lasting=-1.0)
    away = f"to/http:%2F%2Frebind.test:{private.port}%2Fimage%2F1"
    assert refused(made, server.url(away, host="rebind.test")).reason is Reason.PRIVATE_ADDRESS


def test_one_private_address_among_public_ones_is_enough(server: Hostile) -> None:
    made = opener(lambda host: ["127.0.0.1", "10.0.0.1"])
    assert refused(made, server.url("image/1", host="both.test")).reason is Reason.PRIVATE_ADDRESS
    assert server.connections == 0


def test_the_next_address_is_tried(server: Hostile) -> None:
    made = opener(lambda host: ["127.0.0.3", "127.0.0.1"], allow_private=("127.0.0.0/29",))
    with made.open(server.url("image/1", host="two.test")) as response:
        assert response.read() == png(1)


def test_a_look_up_that_hangs_is_given_up() -> None:
    over = threading.Event()
    made = opener(lambda host: [str(over.wait(30))], timeout=0.5)
    began = time.monotonic()
    assert refused(made, "http://slow.test/").reason is Reason.DNS
    assert time.monotonic() - began < 2
    over.set()


def test_a_resolver_in_trouble_is_asked_again() -> None:
    def lookup(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    made = opener(lookup, retries=1)
    with pytest.raises(Later):
        made.open("http://some.test/")
    assert refused(made, "http://some.test/").reason is Reason.DNS


def test_a_connection_that_is_never_taken_ends_with_the_time_limit() -> None:
    with deaf("127.0.0.1") as port:
        began = time.monotonic()
        assert refused(opener(lambda host: []), f"http://127.0.0.1:{port}/").reason is Reason.TIMEOUT
        assert 1.9 < time.monotonic() - began < 3


def test_the_time_limit_holds_over_all_redirects(server: Hostile) -> None:
    def slow(connection: socket.socket, rest: str) -> None:
        time.sleep(0.5)
        connection.sendall(f"HTTP/1.1 302 F\r\nLocation: /slow/{rest}x\r\nContent-Length: 0\r\n\r\n".encode())

    server.on("slow", slow)
    began = time.monotonic()
    assert refused(opener(lambda host: [], max_redirects=50), server.url("slow/")).reason is Reason.TIMEOUT
    assert time.monotonic() - began < 3


def test_tries_are_bounded(server: Hostile) -> None:
    made = opener(lambda host: [], retries=2, timeout=10.0)  # no back-off is longer than that
    for _ in range(2):
        with pytest.raises(Later):
            made.open(server.url("status/503"))
    assert refused(made, server.url("status/503")).reason is Reason.HTTP_503
    assert server.asked("status/503") == 3


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:,x", "ftp://127.0.0.1/x", "http://127.0.0.2/"])
def test_nothing_but_the_web_opens(url: str) -> None:
    assert refused(opener(lambda host: []), url).reason in (Reason.SCHEME, Reason.PRIVATE_ADDRESS)


def test_img2dataset_asks_through_the_installed_opener(
    server: Hostile, private: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it passed a `context` to urlopen, urllib would build an opener of its own, and nothing would be guarded."""
    monkeypatch.setattr(urllib.request, "_opener", None)
    urllib.request.install_opener(opener(lambda host: []))
    _downloader_class()
    from img2dataset.downloader import download_image

    _, stream, error = download_image((0, server.url("image/1")), 10, "capfilt", set(OPT_OUTS))
    assert error is None
    assert stream.read() == png(1)
    assert server.log[0].headers["user-agent"] == policy().user_agent
    for url in (private.url("image/1"), server.url(f"to/http:%2F%2F127.0.0.2:{private.port}%2F")):
        _, stream, error = download_image((0, url), 10, "capfilt", set(OPT_OUTS))
        assert stream is None
        assert read(error).reason is Reason.PRIVATE_ADDRESS
    _, _, error = download_image((0, server.url("opt_out/noai")), 10, "capfilt", set(OPT_OUTS))
    assert read(error).reason is Reason.OPT_OUT


def test_img2datasets_downloader_comes_without_its_package() -> None:
    code = (
        "import sys; from capfilt.stages.ingest.fetch.child import _downloader_class; _downloader_class();"
        "print(sorted({'torch', 'ray', 'cv2', 'albumentations', 'pandas'} & set(sys.modules)),"
        " hasattr(sys.modules['wandb'], '__file__'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["[]", "False"]


def test_our_resizer_is_img2datasets_without_reencoding() -> None:
    code = (
        "import io; from img2dataset.resizer import Resizer;"
        "print(Resizer(256, 'border', False, disable_all_reencoding=True)(io.BytesIO(b'bytes')))"
    )
    environment = {"NO_ALBUMENTATIONS_UPDATE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == repr(_original(io.BytesIO(b"bytes")))


def test_retry_after_is_seconds_or_a_date() -> None:
    assert _retry_after("7") == 7
    later = _retry_after(formatdate(time.time() + 90, usegmt=True))
    assert later is not None
    assert 88 < later < 91
    assert _retry_after(formatdate(time.time() - 90, usegmt=True)) == 0
    assert _retry_after("soon") is _retry_after(None) is None


# -- TLS ------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate with its key, for one name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Hostile, ssl.SSLContext]]:
    """A server of `pictures.test`, and a context that trusts it."""
    path = certificate(tmp_path, "pictures.test")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(path)
    with Hostile(wrap=lambda connection: serving.wrap_socket(connection, server_side=True)) as server:
        yield server, ssl.create_default_context(cafile=str(path))


def test_tls_is_checked_against_the_name(secure: tuple[Hostile, ssl.SSLContext]) -> None:
    server, trusting = secure
    resolver = Resolver(lambda host: ["127.0.0.1"])
    with GuardedOpener(policy(), resolver, trusting).open(
        f"https://pictures.test:{server.port}/image/1"
    ) as response:
        assert response.read() == png(1)
    other = GuardedOpener(policy(), resolver, trusting)
    assert refused(other, f"https://other.test:{server.port}/image/1").reason is Reason.CONNECT
    strict = GuardedOpener(policy(), resolver)
    found = refused(strict, f"https://pictures.test:{server.port}/image/1")
    assert (found.reason, found.detail) == (Reason.CONNECT, "TLS: CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize("path", ["drip", "hang_in_body", "drip_headers"])
def test_a_slow_body_is_given_up_over_tls_too(secure: tuple[Hostile, ssl.SSLContext], path: str) -> None:
    server, trusting = secure
    made = GuardedOpener(policy(), Resolver(lambda host: ["127.0.0.1"]), trusting)
    began = time.monotonic()
    assert refused(made, f"https://pictures.test:{server.port}/{path}").reason is Reason.TOO_SLOW
    assert time.monotonic() - began < 2


def test_a_handshake_that_hangs_is_given_up(server: Hostile) -> None:
    made = opener(lambda host: ["127.0.0.1"], timeout=0.5)
    assert refused(made, f"https://pictures.test:{server.port}/").reason is Reason.TIMEOUT
