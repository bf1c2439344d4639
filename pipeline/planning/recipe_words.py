"""Errors of models and stages in the words of a recipe.

Models and stages know neither recipes nor commands: their errors name a setting by its class
(``Decoding.max_tokens``), and the output of a stage by its name (the rows of `human`). Where the recipe is known, the
first becomes the recipe's key, and the second gets the command that shows it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from capfilt.data_contracts.errors import CapfiltError

# The section of the recipe that has the fields of a class as its keys.
SECTIONS = {
    "CaptionGuard": "caption.guard",
    "CaptionerSettings": "models.captioner",
    "Decoding": "caption",
    "DedupSettings": "dedup",
    "FetchPolicy": "fetch",
    "FilterSettings": "models.filter",
    "Inference": "models",
    "PretrainSettings": "models.pretrain",
    "SelectPairs": "select",
    "TextRules": "texts",
    "WarmupSettings": "models.warmup",
}
# Keys that are not called as the field is.
KEYS = {"Preflight.sample": "fetch.preflight", "WordList.path": "select.balance.words"}
SETTING = re.compile(rf"\b({'|'.join([*SECTIONS, 'Preflight', 'WordList'])})\.([a-z_]+)\b")
_OUTPUT = re.compile(r"the (rows|rejects) of `([a-z_]+)`")


def in_recipe_words(text: str) -> str:
    """The same text with recipe keys for settings, and commands behind outputs of stages."""
    keyed = SETTING.sub(lambda found: KEYS.get(found[0]) or f"{SECTIONS[found[1]]}.{found[2]}", text)
    return _OUTPUT.sub(_with_command, keyed)


def _with_command(found: re.Match[str]) -> str:
    option = " --rejects" if found[1] == "rejects" else ""
    return f"{found[0]} (`capfilt inspect RUN {found[2]}{option}`)"


@contextmanager
def errors_in_recipe_words() -> Iterator[None]:
    """Whatever error of capfilt leaves the block, leaves it in the words of a recipe."""
    try:
        yield
    except CapfiltError as error:
        error.what, error.evidence, error.remedy = map(
            in_recipe_words, (error.what, error.evidence, error.remedy)
        )
        raise
