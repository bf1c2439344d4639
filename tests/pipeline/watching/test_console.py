import io

from rich.console import Console

from capfilt.pipeline.execution.events import (
    Committed,
    Listeners,
    Message,
    ProgressSeen,
    StageBegun,
    StageEnded,
)
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.watching.console import Progress
from capfilt.stages.clean.export import ExportPairs


def test_a_stage_ends_with_one_line_that_says_what_became_of_its_rows(finished: Ledger) -> None:
    out = io.StringIO()
    progress = Listeners(Progress(Console(file=out, width=200)))
    task = Task("nowhere", "ingest", ExportPairs(embed=True), "f", "0000000", (), {}, {})
    totals = finished.totals("ingest")
    assert totals is not None
    with progress:
        progress.hear(StageBegun("ingest", 4))
        progress.hear(ProgressSeen({}, {}, {}))
        for part in finished.index("ingest").parts().values():
            progress.hear(Committed(task, [(part, True)]))
        progress.hear(StageEnded("ingest", totals))
        progress.hear(Message("and [this] is no markup"))
    lines = out.getvalue().splitlines()
    assert lines[1] == "and [this] is no markup"
    assert [word in lines[0] for word in ("ingest", "10 images", "9 kept", "left: 1 not_image")] == [True] * 4
