import json
from pathlib import Path

from capfilt.data_contracts.records import HumanImage
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import Model
from capfilt.stages.training.tokenizer import TrainTokenizer
from tests.stages.rows import human, picture, run_global, site


def test_the_tokenizer_learns_from_human_and_web_texts(tmp_path: Path) -> None:
    inputs = MemoryInput.of(human(1, "zebra"), picture(2, "yak", "zebra"), empty=[HumanImage])
    ((figure,), (model, _)) = run_global(TrainTokenizer(200), site(tmp_path), inputs)
    assert isinstance(model, Model)
    pieces = json.loads((model.directory / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"zebra", "yak"} <= pieces.keys()
    assert (figure["name"], figure["value"], figure["count"]) == ("vocabulary", len(pieces), 3)
