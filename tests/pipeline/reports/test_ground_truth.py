from pathlib import Path

import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.ground_truth import Truth, against, read_truth
from tests.pipeline.local import WEB


def judge(url: str, text: str) -> Truth | None:
    """In the world of these tests a text is true of n.png when it starts with n."""
    number = Path(url).stem
    if text.split(" ")[0] != number:
        return Truth.NOISE
    return Truth.PARTIAL if number == "1" else Truth.MATCH


def test_noise_before_and_after(finished: Ledger) -> None:
    found = against(finished, judge)
    odd, even = (WEB + 1) // 2, WEB // 2
    assert found["web"] == {
        "pairs": WEB,
        "noise": odd / WEB,
        "kept": even,
        "kept_noise": 0,
        "kept_partial": 0,
        "true_kept": 1,
    }
    assert (found["synthetic"]["pairs"], found["synthetic"]["noise"]) == (WEB - 1, 0)
    assert found["synthetic"]["kept_partial"] == 1 / (WEB - 1)
    assert found["all"]["pairs"] == 2 * WEB - 1
    assert found["web_auc_itm"] == {"value": 1, "low": 1, "high": 1}


def test_shares_are_of_what_was_kept_and_partial_texts_are_left_out_of_the_auc(finished: Ledger) -> None:
    known = {
        "2.png": Truth.MATCH,  # kept, as all even ones are
        "3.png": Truth.MATCH,
        "4.png": Truth.NOISE,
        "5.png": Truth.PARTIAL,
        "6.png": Truth.PARTIAL,
    }
    found = against(finished, lambda url, text: known.get(url) if text.endswith("web") else None)
    assert found["web"] == {
        "pairs": 5,
        "noise": 1 / 5,
        "kept": 3,
        "kept_noise": 1 / 3,
        "kept_partial": 1 / 3,
        "true_kept": 1 / 2,
    }
    assert found["web_auc_itm"]["value"] == 0.25


def test_pairs_of_which_nothing_is_known_do_not_count(finished: Ledger) -> None:
    found = against(finished, lambda url, text: judge(url, text) if url == "2.png" else None)
    assert (found["web"]["pairs"], found["web"]["true_kept"]) == (1, 1)
    assert "web_auc_itm" not in found  # there is no noise to tell from
    assert against(finished, lambda url, text: None) == {}


def test_a_table_of_the_truth(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text('file,text,match,more\na.png,"a  dog, big",1,x\na.png,a cat,0,y\n7,8,1,z\n')
    known = read_truth(path)
    assert known("a.png", "a dog, big") is Truth.MATCH
    assert known("a.png", "a cat") is Truth.NOISE
    assert known("7", "8") is Truth.MATCH
    assert known("a.png", "a cow") is None


@pytest.mark.parametrize(
    "table", [None, "", "file,text\na,b\n", "file,text,match\na,b\n", "file,text,match\na,b,no\n"]
)
def test_a_table_that_is_none(tmp_path: Path, table: str | None) -> None:
    path = tmp_path / "truth.csv"
    if table is not None:
        path.write_text(table)
    with pytest.raises(SourceError, match=r"truth table .* cannot be read"):
        read_truth(path)
