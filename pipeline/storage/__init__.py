"""Where a run lies: a local folder, or a prefix in an object store, behind the same few verbs.

What the ledger rests on is :meth:`Storage.create`, put-if-absent: a file appears whole under its name, or the
name was taken. Object stores have it as one conditional PUT (S3 and compatibles, GCS, Azure, by obstore). A
local folder has hard links: the file is written to ``_tmp`` in the run and synced, then linked to its name,
because a temporary beside the name (as obstore's own local store has it) would be seen by whoever globs the
folder after a kill.

Credentials come from the environment, as every tool of the store reads them (``AWS_ACCESS_KEY_ID`` ...).
"""

from pathlib import Path

from capfilt.data_contracts.errors import RecipeError
from capfilt.pipeline.storage.bucket import Bucket
from capfilt.pipeline.storage.folder import Folder
from capfilt.pipeline.storage.storage import Entry, Storage

__all__ = ["Bucket", "Entry", "Folder", "Storage", "is_url", "storage_at"]
_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")


def storage_at(where: str | Path, seen_from: Storage | None = None) -> Storage:
    """The storage of a path or a url (``s3://``, ``gs://``, ``az://``); of what :meth:`Storage.relative` said.

    Raises:
        RecipeError: a url of a kind that is not known.
    """
    text = str(where)
    scheme, url, _ = text.partition("://")
    if seen_from and not url and not text.startswith("/"):
        return seen_from.at(text)
    if not url or scheme == "file":
        return Folder(Path(text.removeprefix("file://")))
    if scheme not in _SCHEMES:
        raise RecipeError(
            what=f"runs cannot be stored at {text}",
            evidence=f"scheme {scheme!r}",
            remedy=f"give a folder, or a url with one of {', '.join(_SCHEMES)}",
        )
    return Bucket(text.rstrip("/"))


def is_url(where: str) -> bool:
    """Whether an output is in an object store."""
    return "://" in where and not where.startswith("file://")
