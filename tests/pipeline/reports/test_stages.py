from pathlib import Path

import pytest

from capfilt.data_contracts.errors import SourceError, StorageError
from capfilt.data_contracts.identity import row_id
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import stages
from tests.pipeline.local import HUMAN, WEB
from tests.stages.rows import png


def test_every_stage_with_its_totals(finished: Ledger) -> None:
    views = {view.name: view for view in stages.stages(finished)}
    assert list(views) == list(finished.record().fingerprints)
    assert all(view.complete and not view.parent for view in views.values())
    assert (views["list_web"].totals.kept, views["list_web"].totals.rejected) == (WEB + 1, {"missing": 1})
    assert (views["ingest"].totals.kept, views["ingest"].totals.rejected) == (WEB, {"not_image": 1})
    assert views["caption"].totals.rejected == {"empty_caption": 1}
    assert views["human"].totals.kept == HUMAN
    assert all(
        view.totals.units_in * view.totals.fan_out == view.totals.kept + sum(view.totals.rejected.values())
        for view in views.values()
    )


def test_a_sample_shows_bytes_as_their_length_and_rejects_with_reasons(finished: Ledger) -> None:
    rows = stages.sample(finished, "ingest", 2)
    assert len(rows) == 2
    assert rows[0]["image"] == f"<{len(png(1))} bytes>"
    (reject,) = stages.sample(finished, "ingest", 5, rejects=True)
    assert (reject["reason"], reject["id"]) == ("not_image", row_id("web", "broken.png"))
    assert stages.sample(finished, "select", 0) == []
    with pytest.raises(SourceError, match="no stage 'slect'"):
        stages.sample(finished, "slect", 1)


def test_a_damaged_file_is_said_plainly(copied: Ledger) -> None:
    (_, (name, _)), *_ = copied.index("score").held().items()
    part = Path(copied.url) / "score" / name
    part.write_bytes(part.read_bytes()[:-4] + b"XXXX")
    with pytest.raises(StorageError, match="cannot be read") as caught:
        stages.sample(copied, "score", 5)
    assert "capfilt verify" in caught.value.remedy
