"""Errors of models and stages get the words of a recipe, and only there."""

import re
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import UsageError
from capfilt.models.protocols import Decoding, Inference
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)
from capfilt.pipeline.planning.recipe_words import SECTIONS, SETTING, errors_in_recipe_words, in_recipe_words
from capfilt.stages.clean.balance import WordList
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.clean.select import SelectPairs
from capfilt.stages.dedup.find_duplicates import DedupSettings
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.preflight import Preflight
from capfilt.stages.ingest.texts import TextRules

ROOT = Path(__file__).parents[3]
CLASSES = (
    *(CaptionGuard, CaptionerSettings, Decoding, DedupSettings, FetchPolicy, FilterSettings, Inference),
    *(Preflight, PretrainSettings, SelectPairs, TextRules, WarmupSettings, WordList),
)
FIELDS = {kind.__name__: set(kind.__dataclass_fields__) for kind in CLASSES}


def test_a_setting_becomes_its_key_and_an_output_gets_its_command() -> None:
    assert in_recipe_words("lower Decoding.max_tokens or raise DedupSettings.memory") == (
        "lower caption.max_tokens or raise dedup.memory"
    )
    assert in_recipe_words("Preflight.sample 0 goes on") == "fetch.preflight 0 goes on"
    assert in_recipe_words("see the rejects of `ingest`") == (
        "see the rejects of `ingest` (`capfilt inspect RUN ingest --rejects`)"
    )
    assert in_recipe_words("it is 0.5; a.max_tokens") == "it is 0.5; a.max_tokens"


def test_an_error_that_leaves_the_block_has_them() -> None:
    with pytest.raises(UsageError) as caught, errors_in_recipe_words():
        raise UsageError(what="WordList.path is empty", remedy="set SelectPairs.threshold")
    assert caught.value.what == "select.balance.words is empty"
    assert caught.value.remedy == "set select.threshold"


@pytest.mark.parametrize("package", ["models", "stages"])
def test_models_and_stages_name_settings_that_are_there_and_no_key_or_command(package: str) -> None:
    keys = "|".join(
        sorted({re.escape(section) for section in SECTIONS.values()} | {"fetch", "images", "texts"})
    )
    named = 0
    for path in sorted((ROOT / package).rglob("*.py")):
        for text in re.findall(r"(?:what|evidence|remedy)=((?:\s*f?\"[^\"\n]*\")+)", path.read_text()):
            for kind, field in SETTING.findall(text):
                named += 1
                assert field in FIELDS[kind], f"{path}: {kind} has no {field}"
            assert not re.search(
                rf"(?<![\w.])({keys})\.[a-z_]+\b|capfilt [a-z]+ (RUN|RECIPE)|--[a-z]", text
            ), f"{path}: {text}"
    assert named > 3
