from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from capfilt.data_contracts.contract import Contract, matrix
from capfilt.data_contracts.errors import ModelError
from capfilt.data_contracts.records import Embedding, IngestedImage, Record
from capfilt.models.open import open_filter
from capfilt.models.protocols import Inference
from capfilt.stages.dedup.embed import TOGETHER, EmbedImages, embed_images, embed_texts
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import BroughtModel
from tests.stages.rows import FakeFilter, picture, site

Made = Callable[[str], Path]
WORDS = ["dog", "cat", "red", "blue", "a", "picture", "of"]


def rows(count: int) -> list[IngestedImage]:
    """Images with none to three texts."""
    return [
        picture(1000 * number, *(f"a {WORDS[(number + n) % 7]} {WORDS[n]}" for n in range(number % 4)))
        for number in range(count)
    ]


def embedded(
    tmp_path: Path, model: Path, parts: Sequence[Sequence[Record]], batch: int = 2, **inference: Any
) -> tuple[pa.Table, dict[str, Any]]:
    """All rows by their row_id, and the facts of the last part."""
    checkpoint = BroughtModel("d", str(model))
    stage = EmbedImages(checkpoint, Inference(**inference))
    where = site(tmp_path, checkpoint, batch=batch)
    embedder = open_filter(str(model), "cpu", TOGETHER, stage.inference)
    found, facts = [], {}
    for part in parts:
        for made in stage._transform(MemoryInput.of(*part, empty=[IngestedImage]), embedder, where):
            found.append(Contract(Embedding).check(made.kept))
            facts = {**facts, **made.facts}
    return pa.concat_tables(found).sort_by("row_id"), facts


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vectors_are_the_same_to_the_bit_however_the_crawl_is_cut(
    tmp_path: Path, blip_filter: Path, precision: str
) -> None:
    given = rows(75)
    whole, _ = embedded(tmp_path, blip_filter, [given], precision=precision)
    for size, batch in ((1, 1), (7, 64), (40, 3)):
        parts = [given[start : start + size] for start in range(0, 75, size)]
        again, _ = embedded(tmp_path, blip_filter, parts, batch, precision=precision)
        assert again.equals(whole), size


def test_a_row_has_its_vectors_its_hash_and_its_best_cosine(tmp_path: Path, blip_filter: Path) -> None:
    given = rows(6)
    table, facts = embedded(tmp_path, blip_filter, [given])
    model = open_filter(str(blip_filter))
    for row in table.to_pylist():
        (own,) = [one for one in given if one.row_id == row["row_id"]]
        assert row["image_id"] == own.image_id
        assert (row["pixels"], len(row["hash"]), len(row["texts"])) == (64, 64, len(own.texts))
        if own.texts:
            best = max(np.dot(row["image"], text) for text in row["texts"])
            assert row["itc"] == pytest.approx(best, abs=1e-6)
            assert np.allclose(row["texts"], model.embed_texts(own.texts), atol=1e-3)
        else:
            assert row["itc"] is None
    assert pa.types.is_fixed_size_list(table.schema.field("image").type)
    assert matrix(table["image"]).dtype == np.float16
    assert np.allclose(np.linalg.norm(matrix(table["image"]).astype(float), axis=1), 1, atol=1e-3)
    assert facts == {"dim": matrix(table["image"]).shape[1], "texts": 7, "texts_truncated": 0}


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_other_checkpoints_embed_as_well(tmp_path: Path, adapter_checkpoint: Made, name: str) -> None:
    table, facts = embedded(tmp_path, adapter_checkpoint(name), [rows(5)])
    assert len(table) == 5
    assert facts["dim"] == table.schema.field("image").type.list_size


@pytest.mark.parametrize("name", ["filter", "clip", "siglip2", "blip2_filter"])
def test_texts_longer_than_the_model_reads_are_cut_and_counted(
    blip_filter: Path, adapter_checkpoint: Made, name: str
) -> None:
    model = open_filter(str(blip_filter if name == "filter" else adapter_checkpoint(name)))
    texts = ["a dog", " ".join(["dog"] * 200), "a cat", " ".join(["cat"] * 31)]
    assert model.count_truncated(texts) == 2
    assert model.count_truncated([]) == 0
    assert np.isfinite(model.embed_texts(texts)).all()
    assert 0 < model.temperature < 2


def test_a_crawl_without_images_or_texts_has_vectors_of_the_right_length(
    tmp_path: Path, blip_filter: Path
) -> None:
    table, facts = embedded(tmp_path, blip_filter, [[]])
    assert len(table) == 0
    assert table.schema.field("image").type.list_size == facts["dim"] > 0
    some, _ = embedded(tmp_path, blip_filter, [[picture(1)]])
    assert some.schema == table.schema


class Broken(FakeFilter):
    """Gives a vector that cannot be compared, for image or text 3."""

    def __init__(self, value: float) -> None:
        self.value = value

    def _directions(self, numbers: Sequence[int]) -> Any:  # type: ignore[override]
        found = super()._directions(numbers)
        found[np.array(numbers, dtype=int) == 3] = self.value
        return found


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_that_cannot_be_compared_is_an_error_that_names_its_image(value: float) -> None:
    from capfilt.models.images.decode import decode

    pictures = [decode(picture(number).image) for number in (1, 2, 3)]
    with pytest.raises(ModelError, match="image vectors cannot be compared") as caught:
        embed_images(Broken(value), pictures, ["one", "two", "three"])
    assert "1 of 3, such as that of 'three'" in caught.value.evidence
    with pytest.raises(ModelError, match="text vectors cannot be compared"):
        embed_texts(Broken(value), ["2 dogs", "3 dogs"])


def test_what_goes_through_the_model_is_always_as_many(tmp_path: Path) -> None:
    seen: list[int] = []

    class Counting(FakeFilter):
        def embed_texts(self, texts: Sequence[str]) -> Any:
            seen.append(len(texts))
            return super().embed_texts(texts)

    assert embed_texts(Counting(), ["1 dog"] * (TOGETHER + 1)).shape == (TOGETHER + 1, 2)
    assert seen == [TOGETHER, TOGETHER]
