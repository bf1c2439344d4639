import inspect
import pickle
import re

import pytest

from capfilt.data_contracts import errors
from capfilt.data_contracts.errors import CapfiltError, DamageError, StageError

CLASSES = [
    found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, CapfiltError)
]


def documented() -> list[tuple[str, str, int]]:
    """(class, base, exit code) as the tree in the module's docstring draws it."""
    assert errors.__doc__ is not None
    found, codes, above = [], {"CapfiltError": 1}, {0: "CapfiltError"}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^ {4}(?P<bars>[│ ├└─]+)(?P<name>\w+Error)(?: +(?P<code>\d))?", line):
            depth = len(match["bars"]) // 4
            above[depth] = match["name"]
            codes[match["name"]] = int(match["code"] or codes[above[depth - 1]])
            found.append((match["name"], above[depth - 1], codes[match["name"]]))
    return found


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    real = [
        (kind.__name__, kind.__base__.__name__, kind.exit_code)
        for kind in CLASSES
        if kind is not CapfiltError
    ]
    assert sorted(documented()) == sorted(real)
    assert len(real) == 15


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_cross_processes(kind: type[CapfiltError]) -> None:
    error = kind(what="what", evidence="seen", remedy="do")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error) == "what\nevidence: seen\nremedy: do"


def test_damage_keeps_its_stage_and_part() -> None:
    copy = pickle.loads(pickle.dumps(DamageError(what="w", stage="score", part="part-0.parquet")))
    assert (copy.stage, copy.part) == ("score", "part-0.parquet")


def test_parts_that_are_empty_take_no_line() -> None:
    assert str(StageError(what="it failed")) == "it failed"
    assert str(StageError(what="it failed", remedy="mend it")) == "it failed\nremedy: mend it"
