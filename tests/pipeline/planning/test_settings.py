"""Recipe keys and the settings that they become are told in two places: these tests keep them one."""

from dataclasses import fields
from typing import TYPE_CHECKING, get_type_hints

import pytest

from capfilt.models.images.decode import Limits
from capfilt.models.protocols import Decoding
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.planning.model_keys import CaptionerKeys, FilterKeys, PretrainKeys, WarmupKeys
from capfilt.pipeline.planning.schema import (
    CaptionKeys,
    DedupKeys,
    FetchKeys,
    GuardKeys,
    ImagesKeys,
    SourceKeys,
    TextsKeys,
)
from capfilt.pipeline.planning.section import Section
from capfilt.pipeline.planning.settings import settings_of
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.dedup.find_duplicates import DedupSettings
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.sources.source import SourceSpec
from capfilt.stages.ingest.texts import TextRules
from tests.pipeline.planning.recipes import minimal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Keys that no settings have: what the planner itself looks at.
PAIRS: list[tuple[type[Section], "DataclassInstance", set[str]]] = [
    (WarmupKeys, WarmupSettings(), {"images", "labels"}),
    (PretrainKeys, PretrainSettings(), {"from_run"}),
    (FilterKeys, FilterSettings(), {"checkpoint"}),
    (CaptionerKeys, CaptionerSettings(), {"checkpoint"}),
    (CaptionKeys, Decoding(), {"guard", "keep"}),
    (GuardKeys, CaptionGuard(), set()),
    (FetchKeys, FetchPolicy(), {"preflight"}),
    (ImagesKeys, Limits(), {"placeholder"}),
    (TextsKeys, TextRules(), set()),
    (DedupKeys, DedupSettings(), {"model", "merge_texts"}),
]
# None is "left out": what then holds depends on more than the settings. A take-down file is a path in a recipe.
OWN_TYPES = {
    *(("FilterKeys", "steps"), ("CaptionerKeys", "steps"), ("CaptionKeys", "prompt")),
    *(("FetchKeys", "user_agent"), ("FetchKeys", "takedown"), ("TextsKeys", "rules")),
    *((keys, "precision") for keys in ("WarmupKeys", "PretrainKeys", "FilterKeys", "CaptionerKeys")),
}


@pytest.mark.parametrize(
    ("keys", "settings", "more"), PAIRS, ids=lambda value: getattr(value, "__name__", "")
)
def test_keys_are_the_fields_of_the_settings_with_their_types(
    keys: type[Section], settings: "DataclassInstance", more: set[str]
) -> None:
    names = {field.name for field in fields(settings)} - {"seed"}
    assert keys.model_fields.keys() == names | more
    hints = get_type_hints(type(settings))
    differing = {
        name
        for name in names
        if keys.model_fields[name].annotation != hints[name] and (keys.__name__, name) not in OWN_TYPES
    }
    assert differing == set()


@pytest.mark.parametrize(
    ("keys", "settings", "more"), PAIRS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_section_without_keys_is_the_settings_defaults(
    keys: type[Section], settings: "DataclassInstance", more: set[str]
) -> None:
    assert settings_of(settings, keys(), 0) == settings
    wrong = {
        name
        for name, field in keys.model_fields.items()
        if name not in more and field.default is not None and field.default != getattr(settings, name)
    }
    assert wrong == set()


def test_a_source_is_what_its_keys_say() -> None:
    assert SourceKeys.model_fields.keys() == {field.name for field in fields(SourceSpec)} - {"digest"}


def test_settings_take_what_is_given_the_recipes_seed_and_their_own_defaults() -> None:
    keys = parse(minimal(caption={"top_p": 0.5})).caption
    assert settings_of(Decoding(), keys, 7) == Decoding(top_p=0.5, seed=7)
    assert settings_of(FilterSettings(), None, 7) == FilterSettings(seed=7)


def test_a_zero_and_a_false_are_given_values() -> None:
    models = parse(minimal(models={"filter": {"steps": 0, "flip": False}, "captioner": {}})).models
    made = settings_of(FilterSettings(), models.filter, 0)
    assert (made.steps, made.flip) == (0, False)
