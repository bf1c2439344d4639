"""YAML as a recipe has it: a key that is given twice is refused, and `1e-3` is a number."""

import re
from collections.abc import Hashable

import yaml


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A key that is given twice in one mapping: one of the two would go unheard."""

    def __init__(self, first: yaml.ScalarNode, second: yaml.ScalarNode) -> None:
        super().__init__(f"{first.value} is given", first.start_mark, "and given again", second.start_mark)
        self.key = str(first.value)
        self.lines = (first.start_mark.line + 1, second.start_mark.line + 1)


class _Loader(yaml.SafeLoader):
    """Values as YAML 1.1 has them, besides numbers with an exponent and no point: YAML 1.2's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if before := seen.get((key.tag, key.value)):
                raise RepeatedKeyError(before, key)
            seen[key.tag, key.value] = key
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> object:
    """The value in ``text``. Raises :class:`yaml.YAMLError`; :class:`RepeatedKeyError` is one."""
    value: object = yaml.load(text, _Loader)  # a SafeLoader
    return value
