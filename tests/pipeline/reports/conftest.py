from pathlib import Path

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.pipeline.reports.judged import judged_run


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory, blip_filter: Path, blip_captioner: Path) -> Ledger:
    """A run whose filter errs now and then; read only."""
    return judged_run(tmp_path_factory.mktemp("judged"), {"filter": blip_filter, "captioner": blip_captioner})
