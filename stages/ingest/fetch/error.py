"""Why a row was not fetched, in a form that survives img2dataset, which keeps nothing of an error but its text."""

from capfilt.data_contracts.rejects import Reason

_MARK = "\x1f"
_LATER = "later"
_OPT_OUT = "Use of image disallowed by X-Robots-Tag directive"


class FetchError(Exception):
    """A row's end without bytes. ``again`` says that another try may cure it, ``wait`` after how many seconds.

    ``detail`` is short and names no more of a url than its host: what a redirect adds may be a secret.
    """

    def __init__(self, reason: Reason, detail: str = "", *, again: bool = False, wait: float = 0.0) -> None:
        self.reason, self.detail, self.again, self.wait = reason, detail[:200], again, wait
        super().__init__(reason, detail)

    def __str__(self) -> str:
        return f"{self.reason}{_MARK}{self.detail}"


class Later(Exception):  # noqa: N818
    """A row whose turn has not come: its host is busy or wants rest until ``ready`` (monotonic seconds)."""

    def __init__(self, ready: float) -> None:
        self.ready = ready
        super().__init__(ready)

    def __str__(self) -> str:
        return f"{_LATER}{_MARK}{self.ready!r}"


def read(message: str) -> FetchError | Later:
    """What an error's text stands for."""
    if message == _OPT_OUT:
        return FetchError(Reason.OPT_OUT, "X-Robots-Tag")
    kind, mark, rest = message.partition(_MARK)
    if mark and kind == _LATER:
        return Later(float(rest))
    if mark:
        return FetchError(Reason(kind), rest)
    return FetchError(
        Reason.POISON, "not by the opener"
    )  # the text could repeat the url, and what is secret in it
