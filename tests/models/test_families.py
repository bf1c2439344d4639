import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import ModelError
from capfilt.models.adapters.blip2 import Blip2Matcher
from capfilt.models.adapters.dual_encoder import DualEncoder
from capfilt.models.adapters.image_to_text import ImageToText
from capfilt.models.checkpoint import Role
from capfilt.models.open import check_model, open_captioner, open_filter
from tests.adapter_checkpoints import Made

FILTERS = {"clip": DualEncoder, "siglip": DualEncoder, "siglip2": DualEncoder, "blip2_filter": Blip2Matcher}
CAPTIONERS = ("blip2_opt", "blip2_t5", "git", "vit_gpt2", "llava")


@pytest.mark.parametrize("name", FILTERS)
def test_filters(adapter_checkpoint: Made, name: str) -> None:
    facts = check_model(str(adapter_checkpoint(name)), "filter")
    assert facts.probability is (name != "clip")
    assert isinstance(open_filter(str(adapter_checkpoint(name)), "cpu", 2), FILTERS[name])


@pytest.mark.parametrize("name", CAPTIONERS)
def test_captioners(adapter_checkpoint: Made, name: str) -> None:
    prompt = {"blip2_opt": "a photo of", "blip2_t5": "a photo of", "git": "", "vit_gpt2": ""}
    facts = check_model(str(adapter_checkpoint(name)), "captioner")
    assert facts.prompt == prompt.get(name, "Describe this image in one short sentence.")
    assert isinstance(open_captioner(str(adapter_checkpoint(name)), "cpu", 2), ImageToText)


@pytest.mark.parametrize(
    ("name", "role", "serves"),
    [
        *((name, "captioner", "filter") for name in FILTERS),
        *((name, "filter", "captioner") for name in CAPTIONERS),
    ],
)
def test_a_checkpoint_for_the_other_role(
    adapter_checkpoint: Made, name: str, role: Role, serves: str
) -> None:
    for attempt in (
        lambda where: check_model(where, role),
        {"filter": open_filter, "captioner": open_captioner}[role],
    ):
        with pytest.raises(ModelError, match=f"cannot serve as the {role}: it is a {serves}") as caught:
            attempt(str(adapter_checkpoint(name)))
        assert "such as Salesforce/" in caught.value.remedy


def test_the_table_needs_neither_torch_nor_transformers(adapter_checkpoint: Made) -> None:
    checks = "".join(f"check_model({str(adapter_checkpoint(name))!r}, 'filter'); " for name in FILTERS)
    checks += "".join(
        f"check_model({str(adapter_checkpoint(name))!r}, 'captioner'); " for name in CAPTIONERS[:-1]
    )
    code = (
        f"import sys; from capfilt.models.open import check_model; {checks}"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_half_a_checkpoint_is_refused_before_it_is_opened(adapter_checkpoint: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    half = Path(shutil.copytree(adapter_checkpoint("clip"), tmp_path / "half"))
    weights = load_file(half / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("vision_model")}
    save_file(kept, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot serve as the filter") as caught:
        check_model(str(half), "filter")
    assert "has no vision_model" in caught.value.evidence


def test_a_family_that_nobody_knows(adapter_checkpoint: Made, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(adapter_checkpoint("git"), tmp_path / "odd"))
    (odd / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    for role in ("filter", "captioner"):
        with pytest.raises(ModelError, match="a family that capfilt does not know") as caught:
            check_model(str(odd), role)
        assert "'bert' (BertModel)" in caught.value.evidence
        assert "'siglip2'" in caught.value.remedy
