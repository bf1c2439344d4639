from capfilt.models.random_numbers import CaptionRandom


def numbers(*key: object, count: int = 5) -> list[float]:
    stream = CaptionRandom(*key)  # type: ignore[arg-type]
    return [stream.uniform() for _ in range(count)]


def test_a_stream_is_its_key() -> None:
    assert numbers(1, "image", 0) == numbers(1, "image", 0)
    others = [numbers(2, "image", 0), numbers(1, "other", 0), numbers(1, "image", 1)]
    assert len({tuple(row) for row in [numbers(1, "image", 0), *others]}) == 4


def test_keys_do_not_run_into_each_other() -> None:
    assert numbers(1, "1", 0) != numbers(11, "", 0)


def test_numbers_are_even() -> None:
    drawn = numbers(0, "image", 0, count=4000)
    assert all(0 <= number < 1 for number in drawn)
    assert abs(sum(drawn) / 4000 - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
