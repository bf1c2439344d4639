import math
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.fingerprint import fingerprint, first_difference, identity_of


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    digest: str
    where: str = field(default="", metadata={"identity": False})


@dataclass(frozen=True)
class Outer:
    inner: Inner
    colour: Colour = Colour.RED
    rate: float = 0.5


@dataclass(frozen=True)
class Other:
    digest: str


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_pinned_fingerprint() -> None:
    """It is in run.json of every run: another value makes them all refuse to resume."""
    identity = identity_of(Outer(Inner("d", "/home")))
    assert identity == {"is": "Outer", "inner": {"is": "Inner", "digest": "d"}, "colour": "red", "rate": 0.5}
    assert fingerprint(identity) == "94d163f1d334e73926d240cab67a6cb22f6641108a6635ecabddcbdc45566f7b"


def test_where_something_lies_is_not_identity() -> None:
    assert identity_of(Inner("d", "/here")) == identity_of(Inner("d", "/there"))
    assert identity_of(Inner("d")) != identity_of(Inner("e"))


def test_two_classes_with_the_same_fields_differ() -> None:
    assert identity_of(Inner("d")) != identity_of(Other("d"))


@given(st.dictionaries(st.text(), JSON, min_size=2))
def test_the_order_of_keys_does_not_matter(values: dict[str, Any]) -> None:
    turned = dict(reversed(values.items()))
    assert fingerprint(identity_of(values)) == fingerprint(identity_of(turned))


@given(JSON)
def test_plain_values_are_their_own_identity(value: Any) -> None:
    assert identity_of(value) == value
    assert first_difference(value, identity_of(value)) is None


def test_the_order_of_a_list_does() -> None:
    assert fingerprint(identity_of([1, 2])) != fingerprint(identity_of([2, 1]))


def test_a_tuple_is_a_list() -> None:
    assert identity_of((1, (2,))) == [1, [2]]


@pytest.mark.parametrize(
    "value",
    [print, lambda: 0, {1, 2}, object(), math.nan, math.inf, -math.inf, b"bytes", Inner],
    ids=["function", "lambda", "set", "object", "nan", "inf", "-inf", "bytes", "class"],
)
def test_what_has_no_stable_identity_is_refused_by_its_path(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"cannot fingerprint score\.models\[1\]\.deep"):
        identity_of({"models": [0, {"deep": value}]}, "score")


def test_another_process_gives_the_same_digest() -> None:
    code = "from capfilt.data_contracts.fingerprint import *; "
    code += "print(fingerprint(identity_of({'b': [1, 0.1], 'a': 'é'})))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == fingerprint(identity_of({"a": "é", "b": (1, 0.1)}))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ("a.b", 1, 2)),
        ({"a": 1}, {"a": 1, "b": 2}, ("b", None, 2)),
        ({"a": 1, "b": 2}, {"a": 1}, ("b", 2, None)),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ("a", 1, 2)),
        ({"a": {"b": 1}}, {"a": 7}, ("a", {"b": 1}, 7)),
        ([1, 2], [1, 3], ("[1]", 2, 3)),
        ({"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2])),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, ("a[1].b", 2, 3)),
        ({"a": [1]}, {"a": [1]}, None),
    ],
)
def test_the_first_difference(old: Any, new: Any, expected: Any) -> None:
    assert first_difference(old, new) == expected
