"""YAML as recipes are written: keys and values as YAML 1.2 reads them, and no key twice.

YAML 1.1, which PyYAML reads, takes `on` for true and `2e-5` for a string.
"""

import re
from pathlib import Path
from typing import Any

import yaml

BOOLEAN = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
NUMBER = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the booleans and numbers of YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises ConstructorError for a key that stands in it twice."""
        seen: dict[Any, yaml.Mark] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                first = f"{key!r} stands in line {seen[key].line + 1} already"
                raise yaml.constructor.ConstructorError(first, None, "a key may stand once", key_node.start_mark)
            seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", BOOLEAN, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))


def load_yaml(file: Path) -> Any:
    """What a YAML file holds. Raises OSError, UnicodeDecodeError, or YAMLError, which names the line."""
    return yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506, a SafeLoader


def with_types(value: Any) -> Any:
    """A value of Snakemake's --config, which leaves all numbers and the like inside of {...} and [...] as text."""
    if isinstance(value, dict):
        return {key: _typed(inner) for key, inner in value.items()}
    return [_typed(inner) for inner in value] if isinstance(value, list) else value


def _typed(value: Any) -> Any:
    if not isinstance(value, str):
        return with_types(value)
    try:
        found = yaml.load(value, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError:
        return value
    return value if isinstance(found, dict | list) else found
