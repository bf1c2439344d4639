import io

from rich.console import Console

from pipeline.ledger import Ledger
from pipeline.progress import Progress


def test_a_stage_ends_with_one_line_that_says_what_became_of_its_rows(finished: Ledger) -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200))
    with progress.live():
        progress.begin("ingest", 4)
        progress.watch({}, {})
        for part in finished.index("ingest").parts().values():
            progress.commit("ingest", part)
        progress.end("ingest")
    progress.say("and [this] is no markup")
    lines = out.getvalue().splitlines()
    assert lines[1] == "and [this] is no markup"
    assert [word in lines[0] for word in ("ingest", "10 images", "9 kept", "left: 1 not_image")] == [True] * 4
