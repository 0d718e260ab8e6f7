"""containerd's hosts.toml (docs/hosts.md there): which servers it names for a registry, and with what settings.

A mirror serves content by its digest. Ours is one key, which containerd ignores: `x-modelcsi-checks-rights = true` says of a
mirror that it checks the rights of whoever asks, as the registry would. What a mirror is asked for is decided elsewhere.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelcsi.errors import InvalidRequest
from modelcsi.registry.tls import TlsSettings

CHECKS_RIGHTS = "x-modelcsi-checks-rights"
_CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
# Ours to say: another value would change what is asked for, or where a request ends.
_RESERVED_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "host", "range", "te", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the file describes it."""

    url: str
    """Scheme, host and path up to and including `/v2`; empty where the file names none."""
    tls: TlsSettings
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent to this server only; they may be secret."""
    authorization: str = field(default="", repr=False)
    """Its Authorization header, which is not among `headers`."""


@dataclass(frozen=True, slots=True)
class NamedHost:
    """One `[host."URL"]`."""

    server: Server
    can_pull: bool
    """It serves content by digest."""
    can_resolve: bool
    """It tells what a tag means."""
    checks_rights: bool
    """It gives a caller what the registry would give to that caller, and nothing else: the admin says so."""


@dataclass(frozen=True, slots=True)
class HostsFile:
    """What one directory says; `unused` tells an admin what of it does not count."""

    server: Server
    hosts: tuple[NamedHost, ...] = ()
    unused: tuple[str, ...] = ()


def read_hosts(directory: Path | None) -> HostsFile:
    """The hosts.toml of a directory, or the certificates that lie in it; nothing of either is fine.

    Raises InvalidRequest for a file that cannot be understood: a setting that silently does not count is worse.
    """
    document = {} if directory is None else _read(directory)
    if directory is None:
        return HostsFile(Server("", TlsSettings()))
    if not document:  # containerd: without a hosts.toml the certificates lie in the directory itself
        return HostsFile(Server("", _lying_certificates(directory)))
    tables = document.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise _unusable(directory, 'host is not a table: write [host."https://mirror.example.com"]')
    unused = list(_unused("", document))
    for name, table in tables.items():
        unused.extend(_unused(f"{_shown(name)}: ", table))
    server = document.get("server")
    named = server if isinstance(server, str) else ""
    hosts = tuple(_named_host(name, table, directory) for name, table in tables.items())
    return HostsFile(_server(named, document, directory, "server"), hosts, tuple(unused))


def _read(directory: Path) -> Mapping[str, Any]:
    path = directory / "hosts.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError; arrays in arrays in …
        raise InvalidRequest(f"{path} is not TOML: {error}") from error


def _lying_certificates(directory: Path) -> TlsSettings:
    authorities = tuple(sorted(directory.glob("*.crt")))
    pairs = tuple((path, path.with_suffix(".key")) for path in sorted(directory.glob("*.cert")))
    return TlsSettings(authorities, pairs)


def _named_host(name: str, table: Mapping[str, Any], directory: Path) -> NamedHost:
    capabilities = table.get("capabilities", list(_CAPABILITIES))
    if not isinstance(capabilities, list) or not all(
        isinstance(item, str) and item in _CAPABILITIES for item in capabilities
    ):
        raise _unusable(directory, f"capabilities of {_shown(name)} are not among pull, resolve, push")
    checks_rights = table.get(CHECKS_RIGHTS, False)
    if not isinstance(checks_rights, bool):
        raise _unusable(directory, f"{CHECKS_RIGHTS} of {_shown(name)} is neither true nor false")
    misspelt = [key for key in table if key.startswith("x-modelcsi-") and key != CHECKS_RIGHTS]
    if misspelt:
        raise _unusable(directory, f"{misspelt[0]} of {_shown(name)} is no key; did you mean {CHECKS_RIGHTS}?")
    server = _server(name, table, directory, "host")
    if checks_rights and server.authorization:
        # Every pod would have the rights of that header.
        raise _unusable(directory, f"{_shown(name)} cannot check rights with an Authorization header that is all pods'")
    return NamedHost(server, "pull" in capabilities, "resolve" in capabilities, checks_rights)


def _server(url: str, table: Mapping[str, Any], directory: Path, what: str) -> Server:
    keeps_path = table.get("override_path") is True
    tls = TlsSettings(
        tuple(directory / name for name in _strings(table.get("ca"), directory, "ca")),
        tuple(_client_pairs(table.get("client"), directory)),
    )
    checked = _server_url(url, directory, what, keeps_path=keeps_path) if url or what == "host" else ""
    headers = _headers(table.get("header"), directory)
    others = tuple((key, value) for key, value in headers if key != "Authorization")
    return Server(checked, tls, others, dict(headers).get("Authorization", ""))


def _server_url(server: str, directory: Path, what: str, *, keeps_path: bool) -> str:
    try:
        parts = urlsplit(server if "://" in server else f"https://{server}")
        usable = (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise _unusable(directory, f"{what} is not the URL of a registry")
    path = parts.path.rstrip("/")
    if not keeps_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _headers(value: object, directory: Path) -> tuple[tuple[str, str], ...]:
    """A table of names, each with a value or a list of them; no value appears in an error."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise _unusable(directory, "header is not a table of names and values")
    found: list[tuple[str, str]] = []
    for name, given in value.items():
        values = [given] if isinstance(given, str) else given
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED_HEADERS:
            raise _unusable(directory, f"the header {name[:60]!r} cannot be set")
        if not isinstance(values, list) or not all(isinstance(text, str) and _is_printable(text) for text in values):
            raise _unusable(directory, f"the header {name[:60]!r} has a value that is no printable text")
        # As Go writes names, so that one that we send as well is met; RFC 9110, 5.3: several lines mean one with commas.
        found.append(("-".join(part.capitalize() for part in name.split("-")), ", ".join(values)))
    return tuple(found)


def _is_printable(text: str) -> bool:
    return all(" " <= character <= "~" for character in text)


def _strings(value: object, directory: Path, key: str) -> tuple[str, ...]:
    """A key that is a string or a list of them."""
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise _unusable(directory, f"{key} is neither a file name nor a list of them")
    return tuple(values)


def _client_pairs(value: object, directory: Path) -> Iterable[tuple[Path, Path | None]]:
    """`client` is a file with certificate and key, a list of such files, or a list of [certificate, key]."""
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        names = _strings(item, directory, "client")
        if len(names) not in {1, 2}:
            raise _unusable(directory, "client needs a certificate and its key")
        yield directory / names[0], directory / names[1] if len(names) == 2 and names[1] else None


def _unused(where: str, table: Mapping[str, Any]) -> Iterable[str]:
    if table.get("skip_verify"):
        yield f"{where}skip_verify is refused: certificates are always verified; name the CA with `ca`"
    if table.get("dial_timeout"):
        yield f"{where}dial_timeout is not used"


def _shown(url: str) -> str:
    """A host's URL for messages, without what may be a password before its @."""
    return url.rpartition("@")[2][:120]


def _unusable(directory: Path, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{directory}/hosts.toml: {problem}")
