from capfilt.data_contracts.records import HumanImage, Split
from capfilt.stages.evaluation.human_pairs import held_out
from capfilt.stages.in_memory import MemoryInput
from tests.stages.rows import human, number_of, picture


def test_a_split_with_its_texts_as_the_models_read_them() -> None:
    found = held_out(
        MemoryInput.of(
            human(1, "A Dog!", split=Split.TEST),
            human(2, "not this", split=Split.CALIBRATE),
            human(3, "...", split=Split.TEST),
            human(4, "c", "***", "d", split=Split.TEST),
        ),
        Split.TEST,
    )
    assert found.texts == (("a dog",), ("c", "d"))
    assert found.image_ids == (picture(1).image_id, picture(4).image_id)
    assert [number_of(image) for image in found.images] == [1, 4]
    assert found.owner.tolist() == [0, 1, 1]
    assert found.flat == ["a dog", "c", "d"]


def test_an_image_counts_once_and_not_when_the_crawl_has_it_too() -> None:
    rows = [human(number, "t", split=Split.TEST) for number in (1, 2, 3)]
    twice = HumanImage(**{**rows[2].model_dump(), "row_id": "d" * 32})
    found = held_out(MemoryInput.of(*rows, twice), Split.TEST, besides=frozenset([picture(2).image_id]))
    assert found.image_ids == (picture(1).image_id, picture(3).image_id)


def test_of_too_many_images_those_whose_ids_come_first() -> None:
    rows = [human(number, "t", split=Split.TEST) for number in range(9)]
    found = held_out(MemoryInput.of(*rows), Split.TEST, most=4)
    assert sorted(found.image_ids) == sorted(row.image_id for row in rows)[:4]
    assert [picture(number_of(image)).image_id for image in found.images] == [*found.image_ids]
