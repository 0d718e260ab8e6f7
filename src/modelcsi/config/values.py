"""YAML documents and their values, checked: what every file of a configuration has in common.

Stricter than YAML where a mistake would go unnoticed: no duplicate key, no text for a number. Every mistake is an
InvalidRequest that names the key.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from modelcsi.errors import InvalidRequest

_MERGE_TAG = "tag:yaml.org,2002:merge"


class StrictLoader(yaml.SafeLoader):
    """YAML's last duplicate silently wins; in a configuration it is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 (PyYAML's signature)
        """As in PyYAML; MarkedYAMLError for a key that is there twice."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE_TAG:
                continue
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Mapping[Hashable, object]:
    """The document in a file; an empty one is an empty mapping."""
    try:
        # bandit's S506 is about unsafe loaders; this one is a SafeLoader.
        document = yaml.load(path.read_bytes(), Loader=StrictLoader)  # noqa: S506
    except OSError as error:
        raise InvalidRequest(f"cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise InvalidRequest(f"{place}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidRequest(f"is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InvalidRequest("is nested too deeply") from error
    except (AttributeError, LookupError, TypeError) as error:  # PyYAML's, of a scalar that is not what its tag says
        raise InvalidRequest("is not YAML: a value does not fit its tag") from error
    return as_mapping(document, "the file") if document is not None else {}


def as_mapping(value: object, key: str) -> Mapping[Hashable, object]:
    """A mapping of keys to values."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{key} is {shown(value)}, not a mapping of keys to values")
    return value


def as_text(value: object, key: str) -> str:
    """Text; a number that was meant as text must be in quotes."""
    if not isinstance(value, str):
        # Without the value, which may be a token.
        raise InvalidRequest(f"{key} is a {type(value).__name__}, not text", hint="put it in quotes")
    return value


def as_flag(value: object, key: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{key} is {shown(value)}, neither true nor false")
    return value


def as_list(value: object, key: str) -> list[object]:
    """A list of anything."""
    if not isinstance(value, list):
        raise InvalidRequest(f"{key} is {shown(value)}, not a list")
    return value


def as_texts(value: object, key: str) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(as_text(item, f"{key}[{index}]") for index, item in enumerate(as_list(value, key)))


def shown(value: object) -> str:
    """A value in a message, by its kind alone where it could be long."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a very large number"  # Python refuses to write out thousands of digits
    return f"the text {value[:60]!r}" if isinstance(value, str) else repr(value)
