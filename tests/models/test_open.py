import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import Role
from capfilt.models.engine.captioner import EngineCaptioner
from capfilt.models.engine.matcher import EngineMatcher
from capfilt.models.open import check_model, open_captioner, open_filter
from tests.blip_checkpoint import VOCABULARY, make_tokenizer


@pytest.fixture
def copy(blip_filter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(blip_filter, tmp_path / "model"))


def test_facts(blip_filter: Path, blip_captioner: Path) -> None:
    facts = check_model(str(blip_filter), "filter")
    assert (facts.model_type, facts.architecture) == ("blip", "BlipForImageTextRetrieval")
    assert (facts.where, facts.commit) == (str(blip_filter), None)
    assert 30_000 < facts.parameters < 200_000
    assert check_model(str(blip_captioner), "captioner").architecture == "BlipForConditionalGeneration"


def test_checking_needs_neither_torch_nor_transformers(blip_filter: Path) -> None:
    code = (
        "import sys; from capfilt.models.open import check_model, digest_of; "
        f"check_model({str(blip_filter)!r}, 'filter'); digest_of({str(blip_filter)!r}); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_opens_by_family(blip_filter: Path, blip_captioner: Path) -> None:
    assert isinstance(open_captioner(str(blip_captioner), "cpu", 2), EngineCaptioner)
    assert isinstance(open_filter(str(blip_filter), "cpu", 2), EngineMatcher)


@pytest.mark.parametrize(
    ("role", "other", "architecture"),
    [
        ("filter", "captioner", "BlipForConditionalGeneration"),
        ("captioner", "filter", "BlipForImageTextRetrieval"),
    ],
)
def test_a_checkpoint_for_the_other_role(
    request: pytest.FixtureRequest, role: Role, other: Role, architecture: str
) -> None:
    where = str(request.getfixturevalue(f"blip_{other}"))
    for attempt in (
        check_model,
        lambda where, role: {"filter": open_filter}.get(role, open_captioner)(where),
    ):
        with pytest.raises(ModelError, match=f"cannot serve as the {role}: it is a {other}") as caught:
            attempt(where, role)
        assert architecture in caught.value.evidence
        assert "Salesforce/blip-" in caught.value.remedy


def test_weights_missing_one_by_one_are_not_made_up(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["text_encoder.encoder.layer.1.output.dense.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="would be random") as caught:
        open_filter(str(copy))
    assert "layer.1.output.dense.weight" in caught.value.evidence


def test_weights_of_another_size(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 128
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="other sizes") as caught:
        open_filter(str(copy))
    assert re.search(r"intermediate.dense.\w+: \(64.*, not \(128", caught.value.evidence)


def test_a_config_that_says_nonsense(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load") as caught:
        open_filter(str(copy))
    assert "hidden_size" in caught.value.evidence


def test_weights_decide_the_role(blip_filter: Path, blip_captioner: Path, tmp_path: Path) -> None:
    """A checkpoint of all three objectives serves both roles, whatever class wrote its config."""
    from safetensors.torch import load_file, save_file

    both = Path(shutil.copytree(blip_filter, tmp_path / "both"))
    weights = {**load_file(blip_captioner / "model.safetensors"), **load_file(both / "model.safetensors")}
    save_file(weights, both / "model.safetensors", metadata={"format": "pt"})
    for role in ("filter", "captioner"):
        assert check_model(str(both), role).architecture == "BlipForImageTextRetrieval"
    assert isinstance(open_captioner(str(both)), EngineCaptioner)
    assert isinstance(open_filter(str(both)), EngineMatcher)


def test_a_model_of_our_own(tmp_path: Path) -> None:
    from capfilt.models.med.checkpoint import create, save
    from capfilt.models.med.tokenizer import CaptionTokenizer

    tokenizer = CaptionTokenizer.train(["a red dog", "two cats"], 100)
    save(tmp_path / "med", create("tiny", tokenizer, seed=0), tokenizer, what="A test.")
    for role in ("filter", "captioner"):
        assert check_model(str(tmp_path / "med"), role).model_type == "capfilt-med"
    assert isinstance(open_captioner(str(tmp_path / "med")), EngineCaptioner)
    assert isinstance(open_filter(str(tmp_path / "med")), EngineMatcher)


def test_unknown_family(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    for attempt in (open_filter, open_captioner, lambda where: check_model(where, "filter")):
        with pytest.raises(ModelError, match="family") as caught:
            attempt(str(copy))
        assert "'bert' (BertModel)" in caught.value.evidence
        assert "'blip'" in caught.value.remedy
        assert "'capfilt-med'" in caught.value.remedy


@pytest.mark.parametrize(
    ("vocabulary", "evidence"),
    [
        ([*VOCABULARY, "extra"], "44 tokens, the model 43 embeddings"),
        ([VOCABULARY[0], *reversed(VOCABULARY[1:])], "sep is 40 there and 3 in"),
    ],
)
def test_tokenizer_of_another_model(copy: Path, vocabulary: list[str], evidence: str) -> None:
    make_tokenizer(copy, vocabulary)
    with pytest.raises(ModelError, match="does not fit") as caught:
        open_filter(str(copy))
    assert evidence in caught.value.evidence


def test_no_tokenizer(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    for attempt in (open_filter, lambda where: check_model(where, "filter")):
        with pytest.raises(ModelError, match="has no tokenizer"):
            attempt(str(copy))
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="missing or unreadable"):
        open_filter(str(copy))


def test_a_plain_vocabulary_file_is_enough(copy: Path, blip_filter: Path) -> None:
    """Older checkpoints have vocab.txt and no tokenizer.json."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    (copy / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    image, texts = Image.new("RGB", (9, 9)), [["a red dog near two cats"]]
    old, new = (open_filter(str(where)).match([image], texts)[0][0] for where in (copy, blip_filter))
    assert old == pytest.approx(new, abs=1e-6)


def test_loading_is_quiet_and_leaves_transformers_as_it_was(
    blip_filter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    open_filter(str(blip_filter))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
