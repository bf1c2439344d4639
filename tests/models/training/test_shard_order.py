from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.models.training.shard_order import Order

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(COUNTS, st.integers(1, 40), st.integers(0, 3))
def test_every_image_comes_once_an_epoch(counts: list[int], window: int, seed: int) -> None:
    order = Order.of(counts, window, seed)
    size = sum(counts)
    for epoch in range(2):
        places = order.places(epoch * size, size)
        assert {place.epoch for place in places} == {epoch}
        seen = Counter((place.shard, place.row) for place in places)
        assert seen == {(shard, row): 1 for shard, count in enumerate(counts) for row in range(count)}


@given(COUNTS, st.integers(1, 40), st.integers(0, 30), st.integers(1, 12))
def test_any_place_is_known_without_those_before(
    counts: list[int], window: int, first: int, count: int
) -> None:
    order = Order.of(counts, window, 7)
    assert order.places(first, count) == order.places(0, first + count)[first:]


@given(COUNTS, st.integers(1, 12))
def test_only_the_shards_of_one_group_are_open_at_a_time(counts: list[int], window: int) -> None:
    """A group has as few shards as make up the window."""
    order = Order.of(counts, window, 1)
    groups = [order.beside(place) for place in order.places(0, sum(counts))]
    for place, group in zip(order.places(0, sum(counts)), groups, strict=True):
        assert place.shard in group
    distinct = list(dict.fromkeys(groups))
    assert sum(len(group) for group in distinct) == len(counts)
    for group in distinct:
        assert sum(counts[shard] for shard in group) - min(counts[s] for s in group) < window + max(counts)
    # once a group is left it does not come back in its epoch
    assert [group for at, group in enumerate(groups) if at == 0 or groups[at - 1] != group] == distinct


@pytest.mark.parametrize("window", [5, 1000])
def test_orders_differ_by_seed_and_epoch(window: int) -> None:
    counts = [10] * 8
    one = [place[:2] for place in Order.of(counts, window, 1).places(0, 80)]
    two = [place[:2] for place in Order.of(counts, window, 2).places(0, 80)]
    later = [place[:2] for place in Order.of(counts, window, 1).places(80, 80)]
    assert one != two
    assert one != later


def test_a_small_set_is_shuffled_fully() -> None:
    """Within the first tenth of an epoch images of most shards have come."""
    places = Order.of([100] * 10, 1000, 3).places(0, 100)
    assert len({place.shard for place in places}) == 10
