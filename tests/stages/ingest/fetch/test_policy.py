from typing import Any

import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.fingerprint import identity_of
from capfilt.stages.ingest.fetch.policy import FetchPolicy


def test_what_may_be_fetched_is_identity_and_patience_is_not() -> None:
    patient = FetchPolicy(
        user_agent="capfilt/9", timeout=1, min_rate=1, threads=1, per_host=1, retries=0, shard_deadline=1
    )
    assert identity_of(patient) == identity_of(FetchPolicy())
    for changed in (
        FetchPolicy(allow_private=("10.0.0.0/8",)),
        FetchPolicy(max_bytes=1),
        FetchPolicy(max_redirects=0),
        FetchPolicy(robots=True),
    ):
        assert identity_of(changed) != identity_of(FetchPolicy())


@pytest.mark.parametrize(
    "wrong",
    [
        {"allow_private": ("10.0.0.1/8",)},
        {"allow_private": ("everything",)},
        {"max_bytes": 0},
        {"timeout": 0},
        {"retries": -1},
        {"user_agent": ""},
        {"user_agent": "capfilt\r\nCookie: a"},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"FetchPolicy.{next(iter(wrong))}"):
        FetchPolicy(**wrong)


def test_the_agent_is_honest() -> None:
    assert FetchPolicy().user_agent.startswith("capfilt/")
    assert FetchPolicy(user_agent="OurBot/2 (+https://us.org)").token == "ourbot"
