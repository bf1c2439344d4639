"""The demo's crawl behind http: a list of urls, and the server on loopback that has most of them."""

import csv
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from capfilt.data_contracts.errors import UsageError

LIST = "urls.csv"
DEAD = 20  # of so many images one more url is listed that nobody serves, as in any crawl
_FILES = "web:                     # what was crawled: images, and a table file,text that is half noise\n"
_FILES += "  format: folder\n  path: crawl\n"
_FETCHED = """\
web:                     # what was crawled: urls and texts, half of them noise, some urls dead
  format: urls
  path: urls.csv
fetch:
  allow_private: [127.0.0.1/32]   # the demo's own server; by default only public addresses are connected to
"""


def over_http(recipe: str) -> str:
    """The demo's recipe with its crawl fetched instead of read."""
    if _FILES not in recipe:
        raise ValueError("the demo's recipe reads its crawl in another way")
    return recipe.replace(_FILES, _FETCHED)


def write_list(out: Path) -> None:
    """Write ``out/urls.csv`` from the crawl's captions, once: its port stays, and with it every row's identity."""
    if (out / LIST).exists():
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        root = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (out / "crawl/captions.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["file"], row["text"]) for row in csv.DictReader(file)]
    rows += [(f"gone-{name}", text) for name, text in rows[::DEAD]]
    part = out / f"{LIST}.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("url", "text"))
        writer.writerows((f"{root}/{name}", text) for name, text in rows)
    part.replace(out / LIST)


@contextmanager
def served(out: Path) -> Iterator[None]:
    """Serve ``out/crawl`` where ``out/urls.csv`` says.

    Raises:
        UsageError: another program has taken the port meanwhile.
    """
    with (out / LIST).open(newline="", encoding="utf-8") as file:
        place = urlsplit(next(csv.DictReader(file))["url"])
    handler = partial(_Quiet, directory=str(out / "crawl"))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", place.port or 80), handler)
    except OSError as error:
        raise UsageError(
            what=f"the demo's server cannot listen at {place.netloc}, where its list says",
            evidence=str(error),
            remedy="end the other program, or make the demo in another folder",
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True, name="demo server").start()
        yield
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""
