"""YAML as a recipe has it: a key that is given twice is refused, and `1e-3` is a number."""

import re
from collections.abc import Iterator

import yaml


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A key that is given twice in one mapping: one of the two would go unheard."""

    def __init__(self, first: yaml.ScalarNode, second: yaml.ScalarNode) -> None:
        super().__init__(f"{first.value} is given", first.start_mark, "and given again", second.start_mark)
        self.key = str(first.value)
        self.lines = tuple(mark.line + 1 for mark in (first.start_mark, second.start_mark) if mark)


class _Loader(yaml.SafeLoader):
    """Values as YAML 1.1 has them, besides numbers with an exponent and no point: YAML 1.2's."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> object:
    """The value in ``text``. Raises :class:`yaml.YAMLError`; :class:`RepeatedKeyError` is one."""
    for mapping in _mappings(yaml.compose(text, _Loader), set()):
        seen: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode):
                if before := seen.get((key.tag, key.value)):
                    raise RepeatedKeyError(before, key)
                seen[key.tag, key.value] = key
    value: object = yaml.load(text, _Loader)  # a SafeLoader
    return value


def _mappings(node: object, seen: set[int]) -> Iterator[yaml.MappingNode]:
    """All mappings below a node, each once: an alias may lead back to where it is."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        for key, value in node.value:
            yield from _mappings(key, seen)
            yield from _mappings(value, seen)
    else:
        for value in node.value:
            yield from _mappings(value, seen)
