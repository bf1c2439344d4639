"""The versions of what decides results: a run notes them, and its workers have to have the same."""

import importlib.metadata
import platform

LIBRARIES = ("capfilt", "numpy", "obstore", "pillow", "pyarrow", "ray", "tokenizers", "torch", "transformers")


def versions() -> dict[str, str]:
    """Those of what decides results, here; an absent library has none."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
