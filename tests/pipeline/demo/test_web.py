import csv
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.demo.command import prepare
from capfilt.pipeline.demo.web import served


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    prepare(out, 0, http=True, human=60, web=40)
    return out


def urls(out: Path) -> list[str]:
    with (out / "urls.csv").open(newline="") as file:
        return [row["url"] for row in csv.DictReader(file)]


def test_what_is_listed_is_served_but_for_the_dead(demo: Path) -> None:
    listed = urls(demo)
    alive = [url for url in listed if "gone" not in url]
    assert len({*alive}) == 40
    assert len(listed) > len(alive)
    with served(demo):
        for url in alive:
            with urllib.request.urlopen(url) as answer:
                assert answer.read() == (demo / "crawl" / url.rpartition("/")[2]).read_bytes()
        for url in set(listed) - set(alive):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(alive[0])


def test_called_again_the_list_and_its_port_stay(demo: Path) -> None:
    before = urls(demo)
    recipe = prepare(demo, 0, http=True, human=60, web=40)
    assert urls(demo) == before
    values = yaml.safe_load(recipe.read_text())
    assert values["web"] == {"format": "urls", "path": "urls.csv"}
    assert values["fetch"] == {"allow_private": ["127.0.0.1/32"]}


def test_a_taken_port_is_told(demo: Path) -> None:
    with served(demo), pytest.raises(UsageError, match="cannot listen"), served(demo):
        pytest.fail("two servers at one port")


@pytest.mark.parametrize("http", [True, False])
def test_a_demo_of_the_other_kind_is_refused(demo: Path, tmp_path: Path, http: bool) -> None:
    out = tmp_path / "demo"
    if http:
        prepare(out, 0, human=60, web=40)
    else:
        shutil.copytree(demo, out)
    with pytest.raises(UsageError, match="reads its crawl"):
        prepare(out, 0, http=http, human=60, web=40)
