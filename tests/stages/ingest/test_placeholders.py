from pathlib import Path
from tempfile import mkdtemp

import pytest

from capfilt.data_contracts.records import IngestedImage
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.ingest.placeholders import ALIKE, FindPlaceholders, likeness
from tests.stages.rows import picture, run_global, site

THINGS = [
    *("Acme toaster X200", "Red mountain bike", "Leather wallet for men", "Organic green tea 100g"),
    *("Wireless mouse", "Garden hose 20m", "Baby blanket", "Ceramic coffee mug"),
    *("The Great Gatsby hardcover", "USB-C cable 2m", "Dog food", "Purple yoga mat"),
]
SHIRTS = [f"Blue cotton shirt for men, size {size}" for size in range(36, 48)]
COLOURS = [
    f"{colour} cotton shirt for men"
    for colour in ["Red", "Green", "Blue", "Black", "White", "Grey", "Pink", "Brown", "Navy", "Olive"]
]
MONA = [
    *("Mona Lisa by Leonardo da Vinci", "The Mona Lisa in the Louvre, Paris", "Leonardo's Mona Lisa"),
    *("La Gioconda - Mona Lisa", "Portrait of Lisa Gherardini, the Mona Lisa", "Mona Lisa painting"),
    *("a visitor looks at the Mona Lisa", "Mona Lisa poster 60x90", "why is Mona Lisa smiling?"),
    *("Mona Lisa, oil on poplar", "the world's most famous painting, Mona Lisa"),
]
CHINESE = [
    "红色山地自行车",
    "男士真皮钱包",
    "有机绿茶一百克",
    "无线鼠标",
    "花园水管",
    "婴儿毛毯",
    "陶瓷咖啡杯",
    "数据线两米",
    "狗粮",
    "紫色瑜伽垫",
]


def rows(number: int, texts: list[str], hosts: int = 1) -> list[IngestedImage]:
    return [
        picture(number, text, url=f"https://host{at % hosts}.example/{number}/{at}.png")
        for at, text in enumerate(texts)
    ]


def found(tmp_path: Path, *given: IngestedImage, many: int = 10) -> dict[str, dict]:
    inputs = MemoryInput.of(*given, empty=[IngestedImage])
    scratch = Path(mkdtemp(dir=tmp_path))
    made, _ = run_global(FindPlaceholders(many), site(scratch), inputs)
    return {row["image_id"]: row for row in made}


def test_one_image_under_many_unrelated_texts_is_a_placeholder(tmp_path: Path) -> None:
    given = [*rows(1, THINGS, 3), *rows(2, CHINESE), *(picture(n, text) for n, text in enumerate(THINGS, 10))]
    made = found(tmp_path, *given)
    assert made.keys() == {picture(1).image_id, picture(2).image_id}
    one = made[picture(1).image_id]
    assert (one["rows"], one["hosts"], one["texts"]) == (12, 3, 12)
    assert one["example"] == "https://host0.example/1/0.png"
    assert 0 <= one["likeness"] < ALIKE


@pytest.mark.parametrize(
    "texts", [SHIRTS, COLOURS, MONA, ["A red bike"] * 50, THINGS[:9], [*THINGS[:9], THINGS[0]]]
)
def test_one_thing_under_many_texts_is_none(tmp_path: Path, texts: list[str]) -> None:
    assert not found(tmp_path, *rows(1, texts, 5))


def test_many_texts_in_few_rows_and_rows_without_texts_are_none(tmp_path: Path) -> None:
    few = [picture(1, *THINGS, url=f"https://a.example/{n}") for n in range(9)]
    silent = [picture(2, url=f"https://a.example/silent{n}") for n in range(50)]
    assert not found(tmp_path, *few, *silent)
    assert found(tmp_path, *few, picture(1, url="https://b.example/tenth"))
    assert found(tmp_path, *few, many=5)
    assert not found(tmp_path)


def test_likeness_needs_no_words() -> None:
    assert likeness(["红色山地自行车", "红色山地自行车"]) == 1.0
    assert likeness(CHINESE) < 0.05 < ALIKE < likeness(MONA) < likeness(COLOURS) < likeness(SHIRTS)
