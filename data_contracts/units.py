"""Sizes as people write them."""

import re

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(value: object) -> object:
    """`256MB` to 256000000; what is no size stays, for a validator to refuse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)?", str(value).strip(), re.IGNORECASE)
    return int(float(match[1]) * _SIZES[(match[2] or "").upper()]) if match else value
