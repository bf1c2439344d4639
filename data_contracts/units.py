"""Sizes and times as people write and read them."""

import re

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bytes_of(value: object) -> int:
    """`256MB` to 256000000. Raises ValueError for what is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", str(value).strip(), re.IGNORECASE)
    if match is None:
        raise ValueError("not a size, such as 256MB")
    return int(float(match[1]) * _SIZES[(match[2] or "").upper()])


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
