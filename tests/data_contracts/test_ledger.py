import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from capfilt.data_contracts.ledger import InputPart, ShardRecord
from capfilt.data_contracts.rejects import Reason

COUNT = st.integers(0, 1000)


def record(**values: object) -> ShardRecord:
    given = {"run": "run", "stage": "score", "shard": "0000000", "fingerprint": "f", "contract": "Score/1"}
    given |= {
        "unit": "text",
        "units_in": 1,
        "kept": 1,
        "host": "here",
        "worker": "17-0a1b2c3d",
        "seconds": 0.5,
        "finished": "2026-01-01",
    }
    return ShardRecord.model_validate({**given, **values})


@given(COUNT, COUNT, COUNT, st.integers(1, 4))
def test_conserved_when_every_unit_was_kept_or_rejected(
    kept: int, missing: int, poison: int, fan_out: int
) -> None:
    total = kept + missing + poison
    rejected = {Reason.MISSING: missing, Reason.POISON: poison}
    whole = record(units_in=total, fan_out=fan_out, kept=kept, rejected=rejected)
    assert whole.conserved == (total * fan_out == total)
    assert record(units_in=total, kept=kept, rejected=rejected).conserved
    assert not record(units_in=total + 1, kept=kept, rejected=rejected).conserved
    assert not record(units_in=total, kept=kept + 1, rejected=rejected).conserved


@given(COUNT, COUNT, COUNT)
def test_texts_that_leave_images_which_stay_are_counted_apart(kept: int, missing: int, texts: int) -> None:
    whole = record(
        units_in=kept + missing,
        kept=kept,
        rejected={Reason.MISSING: missing},
        texts_rejected={Reason.TEXT_URL: texts},
    )
    assert whole.conserved
    assert whole.left == missing + texts


def test_three_captions_a_image() -> None:
    assert record(units_in=2, fan_out=3, kept=5, rejected={Reason.EMPTY_CAPTION: 1}).conserved
    assert not record(units_in=2, fan_out=3, kept=2).conserved


def test_it_survives_the_footer() -> None:
    whole = record(
        rejected={Reason.POISON: 2},
        inputs=(InputPart(stage="ingest", name="part-0000000.parquet", sha256="s"),),
        facts={"model": "d"},
        notes=("n",),
    )
    assert ShardRecord.model_validate_json(whole.model_dump_json()) == whole


def test_an_unknown_reason_or_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        record(rejected={"bored": 1})
    with pytest.raises(ValidationError):
        record(mood="good")
