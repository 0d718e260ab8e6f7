"""The configuration file: YAML in, a Config out, and for each mistake a sentence that names the file and the key.

Stricter than YAML where a mistake would go unnoticed: no unknown key, no duplicate key, no text for a number. Reads the file and
nothing else; no state, any thread.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import logging
import os
import re
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from modelcsi.config.environment import read_environment
from modelcsi.config.model import Address, Config, Namespaces, Seconds, ServiceAccountToken, SizeBytes
from modelcsi.config.values import as_flag, as_list, as_mapping, as_text, as_texts, read_yaml, shown
from modelcsi.errors import InvalidRequest

logger = logging.getLogger(__name__)

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>\w+))")
_SIZE = re.compile(
    r"\s*(?P<number>[0-9][0-9,]*(?:\.[0-9]+)?)\s*(?P<prefix>[kmgtpe]?)(?P<binary>i?)b?\s*", re.IGNORECASE
)
_PREFIXES = "kmgtpe"
_TIME = re.compile(r"\s*(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(?P<unit>[smh]?)\s*")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_MAX_NUMBER = 1 << 63


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The checked content of the file, with defaults for what it leaves out and CSI_ENDPOINT in its place.

    Logs a warning that names the keys which are set and ignored. Raises InvalidRequest, which names the file.
    """
    try:
        document = read_yaml(path)
        values = dict(_values(Config, document, "", environment))
        known = read_environment(environment)
        if known.csi_endpoint:
            values["csi_endpoint"] = Address(known.csi_endpoint)
        config = Config(environment=known, **values)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", hint=error.hint) from error
    ignored = [key for key, known_field, value in _keys(config) if known_field.metadata.get("ignored") and value]
    if ignored:
        logger.warning("%s: these keys have no effect, docs/configuration.md says why: %s", path, ", ".join(ignored))
    return config


def load_root_dir(path: Path) -> Path:
    """`root_dir` of the file, whatever is wrong with the rest of it: a driver may run that rejects it, and shall be asked.

    Raises InvalidRequest, which names the file.
    """
    try:
        value = read_yaml(path).get("root_dir")
        return Config().root_dir if value is None else _directory(value, "root_dir")
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", hint=error.hint) from error


def _values(
    section: type, document: Mapping[Hashable, object], prefix: str, variables: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """The constructor's arguments for what the document sets; null counts as not set, as templates write it."""
    fields = {known.name: known for known in dataclasses.fields(section) if known.metadata.get("key", True)}
    types = typing.get_type_hints(section)
    for name, value in document.items():
        key = f"{prefix}{name}"
        if name not in fields:
            raise InvalidRequest(f"unknown key {key!r}", hint=_nearest(key))
        if value is not None:
            yield str(name), _convert(types[str(name)], value, key, variables)


def _convert(wanted: Any, value: object, key: str, variables: Mapping[str, str]) -> object:
    if dataclasses.is_dataclass(wanted):
        section = typing.cast("type", wanted)
        return section(**dict(_values(section, as_mapping(value, key), f"{key}.", variables)))
    if wanted is Address:
        return Address(_expand(as_text(value, key), key, variables))
    if wanted == tuple[ServiceAccountToken, ...]:
        return tuple(
            _convert(ServiceAccountToken, item, f"{key}[{index}]", variables)
            for index, item in enumerate(as_list(value, key))
        )
    return _CONVERTERS[wanted](value, key)


def _number(value: object, key: str) -> int:
    # A bool is an int in Python.
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{key} is {shown(value)}, not a whole number")
    return _possible(value, key)


def _possible(number: int, key: str) -> int:
    if abs(number) >= _MAX_NUMBER:  # not shown: Python refuses to write out thousands of digits
        raise InvalidRequest(f"{key} is an impossibly large number")
    return number


def _path(value: object, key: str) -> Path | None:
    text = as_text(value, key)
    return Path(text) if text else None


def _directory(value: object, key: str) -> Path:
    return Path(as_text(value, key))


def _namespaces(value: object, key: str) -> Namespaces:
    return {as_text(name, key): as_texts(items, f"{key}.{name}") for name, items in as_mapping(value, key).items()}


def parse_size(value: object, key: str) -> SizeBytes:
    """Sizes as Go's humanize reads them, which upstream uses: `10TiB`, `10 Ti`, `500GB`, `1,000 kB`, a plain number."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)) and (match["prefix"] or not match["binary"]):
        exponent = _PREFIXES.index(match["prefix"].lower()) + 1 if match["prefix"] else 0
        unit = 1024 if match["binary"] else 1000
        return SizeBytes(_possible(int(Decimal(match["number"].replace(",", "")) * unit**exponent), key))
    if isinstance(value, int) and not isinstance(value, bool):
        return SizeBytes(_possible(value, key))
    raise InvalidRequest(f"{key} is {shown(value)}, not a size", hint="write 10TiB, 500GB or a number of bytes")


def _seconds(value: object, key: str) -> Seconds:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER:
        return Seconds(float(value))
    if isinstance(value, str) and (match := _TIME.fullmatch(value)):
        return Seconds(float(match["number"]) * _UNITS[match["unit"]])
    raise InvalidRequest(f"{key} is {shown(value)}, not a time", hint="write 90s, 5m or a number of seconds")


_CONVERTERS: dict[object, Callable[[object, str], object]] = {
    str: as_text,
    bool: as_flag,
    int: _number,
    SizeBytes: parse_size,
    Seconds: _seconds,
    Path: _directory,
    Path | None: _path,
    tuple[str, ...]: as_texts,
    Namespaces | None: _namespaces,
}


def _expand(text: str, key: str, variables: Mapping[str, str]) -> str:
    """Put in the values of `$NAME` and `${NAME}`, an IPv6 address in brackets."""

    def value_of(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        value = variables.get(name, "")
        if not value:
            raise InvalidRequest(
                f"{key} is {text!r}, and the environment has no {name}", hint=f"set {name}, or write the address"
            )
        is_bracketed = text[: match.start()].endswith("[")
        return f"[{value}]" if _is_ipv6(value) and not is_bracketed else value

    return _VARIABLE.sub(value_of, text)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _nearest(key: str) -> str:
    """What the writer of an unknown key may have meant: the same name elsewhere, else the most alike."""
    known = [name for name, _, _ in _keys(Config())]
    leaf = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    alike = same or difflib.get_close_matches(key, known, n=1)
    return f"did you mean {alike[0]!r}?" if alike else f"known keys: {', '.join(known)}"


def _keys(section: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], object]]:
    """Every key below a section, sections included: its dotted name, its field and its value."""
    for known in dataclasses.fields(section):
        if known.metadata.get("key", True):
            value = getattr(section, known.name)
            yield f"{prefix}{known.name}", known, value
            if dataclasses.is_dataclass(value):
                yield from _keys(value, f"{prefix}{known.name}.")
