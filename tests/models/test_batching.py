from capfilt.models.batching import batches, match_in_batches
from capfilt.models.protocols import Match
from tests.models.drawn_images import pictures


def test_batches_hold_everything_in_order() -> None:
    assert [list(batch) for batch in batches([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert list(batches([], 3)) == []


def test_every_pair_is_judged_once_and_an_image_without_texts_is_not_seen() -> None:
    images = pictures(5)
    looks: list[list[int]] = []

    def see(shown: list) -> list[int]:
        looks.append([images.index(image) for image in shown])
        return looks[-1]

    def judge(seen: list[int], rows: list[int], texts: list[str]) -> list[Match]:
        assert len(rows) == len(texts) <= 2
        return [Match(seen[row], float(text)) for row, text in zip(rows, texts, strict=True)]

    texts = [["1", "2", "3"], [], ["4"], ["5", "6"], []]
    found = match_in_batches(images, texts, 2, see, judge)
    assert looks == [[0, 2], [3]]
    assert found == [[Match(i, float(text)) for text in own] if own else [] for i, own in enumerate(texts)]
