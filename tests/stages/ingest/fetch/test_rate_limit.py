import threading
import time

import pytest

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError, Later
from capfilt.stages.ingest.fetch.rate_limit import RateLimiter, Turn


def hang(place: Turn) -> None:
    place.hung()
    place.leave()


def test_a_place_that_becomes_free_is_taken_at_once() -> None:
    hosts = RateLimiter(1, 30)
    place = hosts.enter("a")
    hosts.enter("b")
    threading.Timer(0.1, place.leave).start()
    began = time.monotonic()
    hosts.enter("a", patience=10)
    assert time.monotonic() - began < 5
    with pytest.raises(Later):
        hosts.enter("a", patience=0.05)


def test_a_host_that_hangs_is_dead_after_one_more_try() -> None:
    hosts = RateLimiter(4, 0.4)
    for place in [hosts.enter("a") for _ in range(4)]:
        hang(place)
    with pytest.raises(Later):
        hosts.enter("a")
    time.sleep(0.25)
    last = hosts.enter("a")
    with pytest.raises(Later):
        hosts.enter("a", patience=0)
    hang(last)
    with pytest.raises(FetchError) as fetch_error:
        hosts.enter("a")
    assert fetch_error.value.reason is Reason.TIMEOUT
    hosts.enter("b")


def test_an_answer_makes_a_host_well_again() -> None:
    hosts = RateLimiter(4, 0.4)
    for place in [hosts.enter("a") for _ in range(4)]:
        hang(place)
    time.sleep(0.25)
    last = hosts.enter("a")
    last.answered()
    last.leave()
    for _ in range(4):
        hosts.enter("a", patience=0)


def test_hangs_between_answers_are_no_death() -> None:
    hosts = RateLimiter(2, 30)
    for _ in range(20):
        one, other = hosts.enter("a", patience=0), hosts.enter("a", patience=0)
        hang(one)
        other.answered()
        other.leave()


def test_rest_grows_and_requests_under_way_together_count_once() -> None:
    hosts = RateLimiter(4, 30)
    places = [hosts.enter("a") for _ in range(4)]
    assert [place.rest(None, Reason.HTTP_429) for place in places] == [1, 1, 1, 1]
    with pytest.raises(Later) as later:
        hosts.enter("a")
    assert 0.5 < later.value.ready - time.monotonic() <= 1
    hosts = RateLimiter(1, 30)
    waits = []
    for _ in range(3):
        place = hosts.enter("a", patience=0)
        waits.append(place.rest(None, Reason.HTTP_429))
        place.leave()
        next(iter(hosts._hosts.values())).resumes = 0
    assert waits == [1, 2, 4]


def test_who_asks_for_more_rest_than_we_wait_is_left_alone() -> None:
    hosts = RateLimiter(4, 30)
    hosts.enter("a").rest(3600, Reason.HTTP_503)
    with pytest.raises(FetchError) as fetch_error:
        hosts.enter("a")
    assert fetch_error.value.reason is Reason.HTTP_503
