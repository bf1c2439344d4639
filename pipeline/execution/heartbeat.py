"""What an attempt reports before every batch: which rows it has in hand, and how far it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Heartbeat(NamedTuple):
    """The ids that an attempt has in hand, how far it is, a word and figures on how it goes."""

    ids: Sequence[str] = ()
    done: int = 0
    total: int = 0
    text: str = ""
    figures: Mapping[str, float] = {}


Beat = Callable[[Heartbeat], None]
