"""docs/recipe.md and docs/recipe.schema.json, made from the recipe's classes (`make docs`).

The schema is for editors, which complete and check a recipe that names it in its first line.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from capfilt.data_contracts.units import size
from capfilt.pipeline.planning.schema import Recipe

DOCS = Path("docs")
HEAD = """# The recipe: all keys

Made from the classes in `pipeline/planning/` by `make docs`; [examples/](../examples) has whole recipes. A recipe is
YAML. An unknown key, a key that is given twice and a value of another kind are refused; paths are relative to the
recipe's folder. Name [recipe.schema.json](recipe.schema.json) in a recipe's first line, as the examples do, and an
editor with a YAML language server completes and checks it.
"""
Schema = Mapping[str, object]


def schema() -> dict[str, object]:
    """The JSON schema of a recipe, as it may be written."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def schema_text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """The keys of each section as a table, in Markdown."""
    return HEAD + "".join(_Page(schema()).sections())


class _Page:
    """The tables of a schema. A section is called by the keys under which it stands in a recipe."""

    def __init__(self, whole: Schema) -> None:
        self._classes = {"Recipe": whole, **_mapping(whole["$defs"])}
        self._places: dict[str, list[str]] = {}
        self._find("Recipe", "")

    def _find(self, name: str, place: str) -> None:
        """Enter the places of this class and of those below it, in the order in which their keys stand."""
        self._places.setdefault(name, []).append(place)
        for key, value in _mapping(self._class(name).get("properties", {})).items():
            below = f"{place}.{key}".lstrip(".") + (".STAGE" if key == "placement" else "")
            for one in dict.fromkeys(_references(value)):
                if "properties" in self._class(one):
                    self._find(one, below)

    def _class(self, name: str) -> Schema:
        return _mapping(self._classes[name])

    def _title(self, name: str) -> str:
        return ", ".join(self._places[name]) or "At the top"

    def sections(self) -> Iterator[str]:
        title = ""
        for name in self._places:
            if self._title(name) != title:
                title = self._title(name)
                yield f"\n## {title}\n"
            section = self._class(name)
            needed = section.get("required", [])
            assert isinstance(needed, list)
            yield f"\n{_words(section['description'])}\n\n| key | value | default | what it is |\n|---|---|---|---|\n"
            for key, value in _mapping(section["properties"]).items():
                default = "**needed**" if key in needed else _default(_mapping(value))
                yield f"| `{key}` | {self._kind(_mapping(value))} | {default} | {self._meaning(_mapping(value))} |\n"

    def _meaning(self, value: Schema) -> str:
        """The key's own description, or that of its section."""
        described = [value, *(self._class(name) for name in _references(value))]
        return _words(next((one["description"] for one in described if "description" in one), ""))

    def _kind(self, value: Schema) -> str:
        """What may be written: a type with its bounds, words, a section."""
        if "$ref" in value:
            name = str(value["$ref"]).rpartition("/")[2]
            if name not in self._places:  # an enumeration
                return self._kind(self._class(name))
            title = self._title(name)
            anchor = "".join(sign for sign in title.lower() if sign.isalnum() or sign in " _-").replace(
                " ", "-"
            )
            return f"[{title}](#{anchor})"
        if "const" in value:
            return f"`{json.dumps(value['const']).strip(chr(34))}`"
        if isinstance(words := value.get("enum"), list):
            return ", ".join(f"`{word}`" for word in words)
        if isinstance(several := value.get("anyOf"), list):
            kinds = [self._kind(one) for one in map(_mapping, several) if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
        if value.get("type") == "array":
            return f"list of {self._kind(_mapping(value.get('items', {})))}"
        if value.get("type") == "object":
            return f"by name: {self._kind(_mapping(value.get('additionalProperties', {})))}"
        kind = str(value.get("format") or {"boolean": "true, false"}.get(str(value["type"]), value["type"]))
        return " ".join([kind, *_bounds(value)])


def _references(value: object) -> list[str]:
    """The classes that a key may hold, as named in the schema."""
    if isinstance(value, Mapping):
        own = [str(value["$ref"]).rpartition("/")[2]] if "$ref" in value else []
        return own + [name for part in value.values() for name in _references(part)]
    return [name for part in value for name in _references(part)] if isinstance(value, list) else []


def _bounds(value: Schema) -> Iterator[str]:
    words = {
        "exclusiveMinimum": "above",
        "minimum": "from",
        "exclusiveMaximum": "below",
        "maximum": "to",
    }
    for bound, word in words.items():
        if bound in value:
            yield f"{word} {value[bound]:,}".removesuffix(".0")


def _default(value: Schema) -> str:
    default = value.get("default")
    if default is None or default == "" or isinstance(default, Mapping):  # a section's table has its defaults
        return ""
    if value.get("format") == "size" and isinstance(default, int):
        return f"`{size(default).replace(' ', '')}`"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`".replace('"', "")


def _words(text: object) -> str:
    """A description for a cell of a table; pages of the documentation become links."""
    line = " ".join(str(text).replace("``", "`").replace("|", "\\|").split())
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", line)


def _mapping(value: object) -> Schema:
    assert isinstance(value, Mapping)
    return value


def write(docs: Path = DOCS) -> None:
    """Both files."""
    (docs / "recipe.schema.json").write_text(schema_text(), "utf-8")
    (docs / "recipe.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    write()
