"""Whole shards against a hostile server: every row ends as bytes or with the right reason, in time."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.shard import Fetched, fetch
from capfilt.stages.ingest.fetch.takedown import TakeDownFile
from tests.hostile import Hostile, answer, bomb, deaf, png

LOOPBACK = ("127.0.0.1/32",)


def policy(**changed: object) -> FetchPolicy:
    values = {
        "allow_private": LOOPBACK,
        "timeout": 3.0,
        "max_bytes": 1_000_000,
        "shard_deadline": 60.0,
        "per_host": 16,
        **changed,
    }
    return FetchPolicy(**values)  # type: ignore[arg-type]


def run(urls: list[str], how: FetchPolicy, folder: Path) -> list[Fetched]:
    rows = [(f"row{number}", url) for number, url in enumerate(urls)]
    made = list(fetch(rows, how, folder, lambda done, total, text: None))
    assert [row.row_id for row in made] == [row for row, _ in rows]
    assert all((row.data is None) != (row.reason is None) for row in made)
    return made


def children(of: int | None = None) -> list[int]:
    """The fetching processes that a process (this one by default) has."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if b"capfilt.stages.ingest.fetch.child" in words and parent == (of or os.getpid()):
            found.append(int(place.name))
    return found


def eventually(found: object, seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_every_row_ends_with_the_right_reason(server: Hostile, private: Hostile, tmp_path: Path) -> None:
    bomb()  # takes a second to make
    secret = f"127.0.0.2:{private.port}/image/1"
    with deaf("127.0.0.1") as port, Hostile() as resting, socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
        unused.close()
        expected: dict[str, bytes | Reason] = {
            server.url("image/1"): png(1),
            f"http://localhost:{server.port}/image/2": png(2),
            server.url("image/3#part"): png(3),
            f"  {server.url('image/4')} ": png(4),
            server.url("image/5?q=é ü"): png(5),
            server.url("hops/5"): png(0),
            server.url("chunks/6"): png(6),
            server.url("gzip/7"): png(7),
            server.url("deflate/8"): png(8),
            server.url("as_html/9"): png(9),
            server.url("late/0.5/10"): png(10),
            server.url("busy/503/1/11"): png(11),
            server.url("busy/429/1/12"): png(12),
            server.url("busy/500//13"): png(13),
            server.url("opt_out/otherbot: noai"): png(0),
            f"http://127.0.0.1:{port}/": Reason.TIMEOUT,
            f"http://127.0.0.1:{closed}/": Reason.CONNECT,
            server.url("hang"): Reason.TIMEOUT,
            server.url("hang_in_headers"): Reason.TOO_SLOW,
            server.url("hang_in_body"): Reason.TOO_SLOW,
            server.url("drip"): Reason.TOO_SLOW,
            server.url("drip_headers"): Reason.TOO_SLOW,
            server.url("endless"): Reason.TOO_LARGE,
            server.url("endless_chunks"): Reason.TOO_LARGE,
            server.url("endless_headers"): Reason.TOO_LARGE,
            server.url("says_huge"): Reason.TOO_LARGE,
            server.url("gzip_bomb"): Reason.TOO_LARGE,
            server.url("gzip_cut"): Reason.TRUNCATED,
            server.url("brotli"): Reason.UNREADABLE,
            server.url("says_more"): Reason.TRUNCATED,
            server.url("chunks_cut"): Reason.TRUNCATED,
            server.url("reset"): Reason.CONNECT,
            server.url("gone"): Reason.CONNECT,
            server.url("no_http"): Reason.CONNECT,
            f"https://127.0.0.1:{server.port}/image/1": Reason.TIMEOUT,
            server.url("loop/a"): Reason.REDIRECTS,
            server.url("hops/6"): Reason.REDIRECTS,
            server.url("page"): Reason.NOT_IMAGE,
            server.url("svg"): Reason.NOT_IMAGE,
            server.url("json"): Reason.NOT_IMAGE,
            server.url("empty"): Reason.NOT_IMAGE,
            server.url("opt_out/noai"): Reason.OPT_OUT,
            server.url("opt_out/capfilt: noindex, nofollow"): Reason.OPT_OUT,
            server.url("status/404"): Reason.HTTP_404,
            server.url("status/403"): Reason.HTTP_403,
            server.url("status/410"): Reason.HTTP_410,
            server.url("status/204"): Reason.HTTP_OTHER,
            server.url("status/206"): Reason.HTTP_OTHER,
            server.url("status/302"): Reason.HTTP_OTHER,
            server.url("status/418"): Reason.HTTP_OTHER,
            server.url("status/500"): Reason.HTTP_500,
            resting.url("busy/503/3600"): Reason.HTTP_503,
            f"http://{secret}": Reason.PRIVATE_ADDRESS,
            f"http://[::ffff:127.0.0.2]:{private.port}/image/1": Reason.PRIVATE_ADDRESS,
            "http://no-such-host.invalid/": Reason.DNS,
            "ftp://127.0.0.1/a.png": Reason.SCHEME,
            "file:///etc/passwd": Reason.SCHEME,
            "data:image/png;base64,iVBORw0KGgo=": Reason.SCHEME,
            "pictures/a.png": Reason.BAD_URL,
            "http://": Reason.BAD_URL,
            "http://user:hunter2@127.0.0.1/": Reason.BAD_URL,
            "http://127.0.0.1:99999/": Reason.BAD_URL,
            "http://a..b/": Reason.BAD_URL,
            "http://a\nb/": Reason.BAD_URL,
            "http://\ud800.com/": Reason.BAD_URL,
            "": Reason.BAD_URL,
        }
        for hidden, reason in {
            f"http://{secret}": Reason.PRIVATE_ADDRESS,
            f"http://2130706434:{private.port}/": Reason.PRIVATE_ADDRESS,
            f"http://0177.0.0.2:{private.port}/": Reason.PRIVATE_ADDRESS,
            f"http://0x7f.2:{private.port}/": Reason.PRIVATE_ADDRESS,
            f"http://127.2:{private.port}/": Reason.PRIVATE_ADDRESS,
            f"http://[::ffff:127.0.0.2]:{private.port}/": Reason.PRIVATE_ADDRESS,
            f"http://[::ffff:7f00:2]:{private.port}/": Reason.PRIVATE_ADDRESS,
            "http://[::1]/": Reason.PRIVATE_ADDRESS,
            "http://0.0.0.0/": Reason.PRIVATE_ADDRESS,
            "http://169.254.169.254/latest/meta-data/": Reason.PRIVATE_ADDRESS,
            f"//{secret}": Reason.PRIVATE_ADDRESS,
            "file:///etc/passwd": Reason.SCHEME,
            "data:image/png;base64,iVBORw0KGgo=": Reason.SCHEME,
            "ftp://127.0.0.1/a.png": Reason.SCHEME,
            "gopher://127.0.0.1/": Reason.SCHEME,
            "http://user:hunter2@127.0.0.1/": Reason.BAD_URL,
        }.items():
            expected[server.url(f"to/{quote(hidden, safe='')}")] = reason
        began = time.monotonic()
        made = run(list(expected), policy(), tmp_path)
        took = time.monotonic() - began
    wrong = [
        (url, wanted if isinstance(wanted, Reason) else "bytes", row.reason, row.detail)
        for (url, wanted), row in zip(expected.items(), made, strict=True)
        if (row.reason if isinstance(wanted, Reason) else row.data) != wanted
    ]
    assert not wrong
    assert took < 30
    assert not any("hunter2" in row.detail for row in made)
    assert {entry.headers["user-agent"] for entry in server.log} == {policy().user_agent}
    assert {entry.headers["accept-encoding"] for entry in server.log} == {"identity"}


def test_equal_urls_are_fetched_once(server: Hostile, tmp_path: Path) -> None:
    made = run([server.url("image/1"), server.url("image/2"), server.url("image/1")], policy(), tmp_path)
    assert [row.data for row in made] == [png(1), png(2), png(1)]
    assert server.asked("image/1") == 1


def test_no_rows(tmp_path: Path) -> None:
    assert run([], policy(), tmp_path) == []


def test_nothing_but_refused_rows_needs_no_child(tmp_path: Path) -> None:
    assert [row.reason for row in run(["ftp://a/"], policy(), tmp_path)] == [Reason.SCHEME]
    assert not list(tmp_path.rglob("log"))


def test_without_a_word_in_the_policy_loopback_is_private(private: Hostile, tmp_path: Path) -> None:
    made = run(
        [private.url("image/1"), f"http://localhost:{private.port}/"], policy(allow_private=()), tmp_path
    )
    assert [row.reason for row in made] == [Reason.PRIVATE_ADDRESS] * 2


def test_proxies_are_not_inherited(
    server: Hostile, private: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.2:{private.port}")
    assert run([server.url("image/1")], policy(), tmp_path)[0].data == png(1)


def test_at_the_deadline_finished_rows_are_kept(server: Hostile, tmp_path: Path) -> None:
    urls = [server.url(f"image/{number}") for number in range(20)]
    urls += [server.url(f"hang/{number}") for number in range(30)]
    began = time.monotonic()
    made = run(urls, policy(threads=64, per_host=64, timeout=60.0, shard_deadline=4.0), tmp_path)
    assert time.monotonic() - began < 8
    assert [row.data for row in made[:20]] == [png(number) for number in range(20)]
    assert {row.reason for row in made[20:]} == {Reason.DEADLINE}
    assert not children()


def test_a_dead_host_does_not_hold_up_the_others(server: Hostile, tmp_path: Path) -> None:
    with Hostile() as dead:
        urls = [url for n in range(200) for url in (server.url(f"image/{n}"), dead.url(f"hang/{n}"))]
        began, done = time.monotonic(), 0.0

        def progress(finished: int, total: int, text: str) -> None:
            nonlocal done
            if not done and len({entry.path for entry in server.log}) == 200:
                done = time.monotonic() - began

        rows = [(str(number), url) for number, url in enumerate(urls)]
        made = list(fetch(rows, policy(timeout=4.0, threads=8, per_host=4), tmp_path, progress))
        took = time.monotonic() - began
        assert [row.data for row in made[::2]] == [png(number) for number in range(200)]
        assert {row.reason for row in made[1::2]} == {Reason.TIMEOUT}
        assert done < took  # the living host was through while the dead one was still waited for
        assert len(dead.log) == 5  # four together, then one to see
        assert took < 4 + 2 + 4 + 5


def test_a_busy_host_is_asked_for_few_rows_at_once(server: Hostile, tmp_path: Path) -> None:
    urls = [server.url(f"late/0.05/{number}") for number in range(60)]
    made = run(urls, policy(per_host=3, threads=16), tmp_path)
    assert [row.data for row in made] == [png(number) for number in range(60)]
    assert server.together["late"] == 3


def test_a_host_that_asks_for_rest_gets_it_from_all_its_rows(server: Hostile, tmp_path: Path) -> None:
    urls = [server.url("busy/429/2/0"), *(server.url(f"late/0.3/{number}") for number in range(1, 20))]
    made = run(urls, policy(per_host=2, threads=4), tmp_path)
    assert [row.data for row in made] == [png(number) for number in range(20)]
    first = min(entry.when for entry in server.log if entry.path.startswith("/busy"))
    resting = [entry.path for entry in server.log if first + 0.5 < entry.when < first + 1.9]
    assert not resting


def test_what_is_taken_down_is_neither_asked_for_nor_kept(server: Hostile, tmp_path: Path) -> None:
    listed = tmp_path / "takedown.txt"
    away = f"http://localhost:{server.port}/image/3"
    entries = (server.url("image/1"), hashlib.sha256(png(2)).hexdigest(), "localhost")
    listed.write_text("# by request\n" + "\n".join(entries))
    urls = [server.url("image/1"), server.url("image/2"), away, server.url(f"to/{quote(away, safe='')}")]
    made = run([*urls, server.url("image/4")], policy(takedown=TakeDownFile.of(str(listed))), tmp_path / "at")
    assert [row.reason for row in made] == [Reason.TAKEN_DOWN] * 4 + [None]
    assert server.asked("image/1") == server.asked("image/3") == 0
    assert not any(png(2) in file.read_bytes() for file in (tmp_path / "at").rglob("*") if file.is_file())


def test_robots_txt_is_asked_once_and_heeded(server: Hostile, tmp_path: Path) -> None:
    text = b"User-agent: *\nDisallow: /\n\nUser-agent: Capfilt\nDisallow: /image/*2\nAllow: /\n"
    server.on("robots.txt", lambda connection, rest: answer(connection, 200, text, "text/plain"))
    with Hostile() as without, Hostile() as broken, Hostile() as hanging:
        broken.on("robots.txt", lambda connection, rest: answer(connection, 503, b""))
        hanging.on("robots.txt", lambda connection, rest: time.sleep(20))
        hosts = (server, without, broken, hanging)
        urls = [host.url(f"image/{number}") for host in hosts for number in range(12)]
        made = run(urls, policy(robots=True, timeout=2.0), tmp_path)
        heeded = [png(n) if n not in (2,) else None for n in range(12)]
        assert [row.data for row in made[:12]] == heeded
        assert [row.data for row in made[12:24]] == [png(number) for number in range(12)]
        assert made[2].reason is Reason.ROBOTS
        assert {(row.reason, row.detail) for row in made[24:36]} == {(Reason.HTTP_503, "robots.txt: 503")}
        assert {row.reason for row in made[36:]} == {Reason.TIMEOUT}
        assert all(host.asked("robots.txt") == 1 for host in hosts)
        assert all(len(host.log) == 1 for host in (broken, hanging))


# -- deaths ---------------------------------------------------------------------------------------------------


def test_a_killed_child_loses_nothing_that_was_finished(server: Hostile, tmp_path: Path) -> None:
    urls = [server.url(f"late/0.02/{number}") for number in range(300)]

    def kill() -> None:
        for finished in (60, 180):
            eventually(lambda finished=finished: len(server.log) >= finished)
            for child in children():
                os.kill(child, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    made = run(urls, policy(per_host=8, threads=8), tmp_path)
    killing.join()
    assert [row.data for row in made] == [png(number) for number in range(300)]
    again = len(server.log) - 300
    assert 0 <= again <= 2 * 3 * 8  # what was in hand, no more


def test_a_row_that_kills_its_process_leaves_alone(server: Hostile, tmp_path: Path) -> None:
    def kill(connection: socket.socket, rest: str) -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)

    server.on("poison", kill)
    urls = [server.url(f"image/{number}") for number in range(100)]
    urls.insert(50, server.url("poison/1"))
    urls.insert(70, server.url("poison/2"))
    made = run(urls, policy(threads=8), tmp_path)
    died = [row for row in made if row.reason]
    assert [(row.row_id, row.reason, row.detail) for row in died] == [
        ("row50", Reason.FETCH_DIED, "SIGKILL"),
        ("row70", Reason.FETCH_DIED, "SIGKILL"),
    ]
    assert [row.data for row in made if row.data] == [png(number) for number in range(100)]


def test_a_child_that_cannot_begin_is_no_rows_fault(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StageError, match="a broken installation"):
        run([server.url("image/1")], policy(), tmp_path / "at")


_FULL = """
import resource, sys
from pathlib import Path
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.shard import fetch

resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
list(fetch([("row", sys.argv[2])], FetchPolicy(allow_private=("127.0.0.1/32",)), Path(sys.argv[1]), print))
"""


def test_a_disk_that_takes_no_more_is_no_rows_fault(server: Hostile, tmp_path: Path) -> None:
    server.on("big", lambda connection, rest: answer(connection, 200, b"\x89PNG" * 10_000))
    command = [sys.executable, "-c", _FULL, str(tmp_path), server.url("big")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "could not write what it fetched" in done.stderr
    assert "File too large" in done.stderr


_PARENT = """
import sys
from pathlib import Path
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.shard import fetch

folder, *urls = sys.argv[1:]
how = FetchPolicy(allow_private=("127.0.0.1/32",), threads=4, per_host=4)
for row in fetch([(url, url) for url in urls], how, Path(folder), lambda *_: None):
    print(row.reason or "bytes")
"""


@pytest.fixture
def parent(server: Hostile, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    urls = [server.url(f"late/0.05/{number}") for number in range(200)]
    process = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path), *urls])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_child_does_not_outlive_its_parent_and_its_rows_do(
    server: Hostile, tmp_path: Path, parent: subprocess.Popen[bytes]
) -> None:
    eventually(lambda: len(server.log) >= 50)
    (child,) = children(parent.pid)
    parent.kill()
    parent.wait()
    eventually(lambda: not Path(f"/proc/{child}").exists(), 2)
    asked = len(server.log)
    urls = [server.url(f"late/0.05/{number}") for number in range(200)]
    rows = [(url, url) for url in urls]
    how = FetchPolicy(allow_private=LOOPBACK, threads=4, per_host=4)
    made = list(fetch(rows, how, tmp_path, lambda *_: None))
    assert [row.data for row in made] == [png(number) for number in range(200)]
    assert len(server.log) - asked <= 200 - asked + 3 * 4  # finished rows were not asked for again

    asked = len(server.log)
    assert list(fetch(rows, how, tmp_path, lambda *_: None)) == made
    assert len(server.log) == asked  # nor anything when all are there
    smaller = FetchPolicy(allow_private=LOOPBACK, max_bytes=10)
    assert {row.reason for row in fetch(rows[:10], smaller, tmp_path, lambda *_: None)} == {Reason.TOO_LARGE}
    assert [row.data for row in fetch(rows[:10], how, tmp_path, lambda *_: None)] == [
        png(number) for number in range(10)
    ]
    assert len(server.log) == asked + 20  # other rows or another policy: another spool


def test_a_torn_spool_is_cut_at_its_last_whole_row(server: Hostile, tmp_path: Path) -> None:
    urls = [server.url(f"image/{number}") for number in range(20)]
    run(urls, policy(threads=1), tmp_path)
    (spool,) = tmp_path.rglob("spool")
    data = bytearray(spool.read_bytes())
    data[-5] ^= 1
    spool.write_bytes(data)
    asked = len(server.log)
    assert [row.data for row in run(urls, policy(), tmp_path)] == [png(number) for number in range(20)]
    spool.write_bytes(spool.read_bytes()[:-3])
    assert [row.data for row in run(urls, policy(), tmp_path)] == [png(number) for number in range(20)]
    assert len(server.log) == asked + 2
