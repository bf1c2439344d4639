import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.models.statistics.bootstrap import Floats
from capfilt.models.statistics.mixture import Bins, HeldOutScores, fit

KINDS = {"own": 2.5, "shuffled": -3.0, "hard": 0.0}


def scores(kind: str, count: int, seed: int) -> Floats:
    """Probabilities whose logits are normal about the kind's mean."""
    logits = KINDS[kind] + np.random.default_rng(seed).standard_normal(count)
    return np.asarray(1 / (1 + np.exp(-logits)))


def held(count: int, *also: float) -> HeldOutScores:
    itm = np.concatenate([scores(kind, count, number) for number, kind in enumerate(KINDS)])
    return HeldOutScores.of(
        itm, np.repeat(list(KINDS), count), np.tile(np.arange(count), len(KINDS)), "own", *also
    )


def drawn(shares: dict[str, float], count: int = 20_000) -> tuple[Floats, np.ndarray]:
    """Texts of a crawl in these shares, and whether each matches."""
    counts = {kind: int(count * share) for kind, share in shares.items()}
    texts = [scores(kind, number, 100 + at) for at, (kind, number) in enumerate(counts.items())]
    return np.concatenate(texts), np.repeat([kind == "own" for kind in counts], list(counts.values()))


@pytest.mark.parametrize(
    "shares",
    [
        {"own": 0.45, "shuffled": 0.45, "hard": 0.1},
        {"own": 0.1, "shuffled": 0.5, "hard": 0.4},
        {"own": 0.95, "shuffled": 0.0, "hard": 0.05},
        {"own": 0.1, "shuffled": 0.9, "hard": 0.0},
    ],
)
def test_shares_and_noise_of_a_crawl_are_found_without_its_labels(shares: dict[str, float]) -> None:
    """Saerens' single mismatch class would take the mixture of the held-out pairs for the crawl's."""
    known = held(1000, 0.5)
    texts, match = drawn(shares)
    found = known.fit(known.bins.count(texts))
    assert dict(zip(known.kinds, found.weights, strict=True)) == pytest.approx(shares, abs=0.03)
    assert found.prior == found.weights[0]
    kept = texts >= 0.5
    assert found.noise(known.bins.count(texts[kept])) == pytest.approx(1 - match[kept].mean(), abs=0.05)


def test_images_drawn_again_tell_how_sure_it_is() -> None:
    texts, _ = drawn({"own": 0.4, "shuffled": 0.4, "hard": 0.2})
    spread = []
    for count in (50, 1000):
        known = held(count)
        again = known.redrawn(known.bins.count(texts), 0, 50)
        assert again.prior.shape == again.noise(known.bins.count(texts)).shape == (50,)
        spread.append(np.ptp(again.prior))
    assert spread[0] > 2 * spread[1] > 0


def test_a_kind_that_scores_like_a_match_is_left_out_and_named() -> None:
    itm = np.concatenate([scores("own", 200, 0), scores("shuffled", 200, 1), scores("own", 200, 2), [0.5]])
    kinds = np.repeat(["own", "shuffled", "relation", "object"], [200, 200, 200, 1])
    known = HeldOutScores.of(itm, kinds, np.arange(601), "own")
    assert (known.kinds, known.blind) == (("own", "shuffled"), ("relation",))  # of one pair nothing is said
    assert len(known.itm) == 400


def test_a_threshold_is_an_edge_of_a_bin() -> None:
    known = held(100, 0.4321)
    texts, _ = drawn({"own": 0.5, "shuffled": 0.5, "hard": 0.0}, 500)
    above = known.bins.count(texts)[known.bins.above(0.4321)].sum()
    assert above == (texts >= 0.4321).sum()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=50),
    st.lists(st.floats(0, 1), max_size=50),
    st.floats(0, 1),
)
def test_every_score_has_a_bin(some: list[float], others: list[float], edge: float) -> None:
    bins = Bins.of(some, len(some), edge)
    assert bins.count(others).sum() == len(others)
    assert len(bins.count([])) == len(bins.edges) + 1 == len(bins.above(edge))
    assert bins.count(others)[bins.above(edge)].sum() == sum(other >= edge for other in others)


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=2, max_size=4),
    st.lists(st.integers(0, 99), min_size=4, max_size=4),
)
def test_shares_are_shares_and_chances_are_chances(counts: list[list[int]], crawl: list[int]) -> None:
    found = fit(np.array(counts, float), np.array(crawl, float))
    assert found.weights.sum() == pytest.approx(1)
    assert ((found.match >= 0) & (found.match <= 1)).all()
    assert sum(crawl) == 0 or 0 <= found.noise(np.array(crawl, float)) <= 1
