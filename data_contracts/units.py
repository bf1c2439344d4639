"""Sizes and times as people write and read them."""

import re

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(value: object) -> object:
    """`256MB` to 256000000; what is no size stays, for a validator to refuse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)?", str(value).strip(), re.IGNORECASE)
    return int(float(match[1]) * _SIZES[(match[2] or "").upper()]) if match else value


def size(count: float) -> str:
    """Bytes to three digits, such as `1.23 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.3g} {unit}"
    return f"{count:,.0f} B"


def duration(seconds: float) -> str:
    """Seconds to three digits, such as `12.3 min`."""
    for unit, factor in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor * (2 if unit in ("h", "min") else 1):
            return f"{seconds / factor:,.3g} {unit}"
    return f"{seconds * 1e6:,.3g} us" if seconds else "0 s"
