"""Identity comes from content: never from a position, a mount point or a worker count."""

import hashlib

from capfilt.data_contracts.records import Split

_SEPARATOR = b"\x1f"


def _digest(*parts: str, bits: int) -> str:
    joined = _SEPARATOR.join(part.encode("utf-8", "surrogatepass") for part in parts)
    return hashlib.sha256(joined).hexdigest()[: bits // 4]


def row_id(source_name: str, url: str) -> str:
    """128 bits of sha256 over the source's name and the url (or the path relative to the source), hex."""
    return _digest(source_name, url, bits=128)


def image_id(data: bytes) -> str:
    """sha256 of the original, undecoded bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def pair_id(image: str, text: str) -> str:
    """128 bits of sha256 over the image_id and the text, hex."""
    return _digest(image, text, bits=128)


def split_of(image: str) -> Split:
    """80/10/10 by a hash of the image_id, so every caption of an image falls into the same split."""
    tenth = int(_digest("split", image, bits=64), 16) % 10
    return Split.CALIBRATE if tenth == 8 else Split.TEST if tenth == 9 else Split.TRAIN
