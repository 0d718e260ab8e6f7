"""`WWW-Authenticate` (RFC 9110, 11.6.1), and which token service a registry may name in it.

Pure. The header comes from whoever answers: what cannot be understood is skipped, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit

from modelcsi.registry.proxies import as_address

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a name
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}(?:[^\s,"]*)))')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")

# Names under which strangers register their own: sharing one of them says nothing. The public suffix list has 9,000 more;
# these are the clouds' and clusters' that a registry or token service is met under. Second-level labels of countries
# (co.uk, com.cn) are told by their form.
_SHARED_SUFFIXES = frozenset(
    {
        "amazonaws.com", "azurecr.io", "azurewebsites.net", "appspot.com", "blob.core.windows.net", "cloudapp.azure.com",
        "cloudfront.net", "cluster.local", "core.windows.net", "github.io", "gitlab.io", "herokuapp.com", "jfrog.io",
        "ngrok-free.app", "ngrok.io", "nip.io", "ondigitalocean.app", "pages.dev", "run.app", "sslip.io", "svc.cluster.local",
        "vercel.app", "workers.dev", "xip.io",
    }
)  # fmt: skip
_COUNTRY_SECOND_LEVELS = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "gv", "mil", "ne", "net", "nom", "or", "org"}
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers; scheme and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(lines: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in the header's lines, in order; each line may carry several."""
    return tuple(challenge for line in lines for challenge in _parse_line(line))


def _parse_line(line: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(line):
        if line[position] in " \t,":
            position += 1
            continue
        # 1. a parameter of the current challenge; 2. a new scheme, with the token68 of some; 3. garbage up to the next comma.
        if (match := _PARAMETER.match(line, position)) and found:
            name, quoted, token = match.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
            found[-1][1].setdefault(name.lower(), value)
            position = match.end()
        elif match := _SCHEME.match(line, position):
            found.append((match[1].lower(), {}))
            position = match.end()
            if not _PARAMETER.match(line, position) and (match := _TOKEN68.match(line, position)):
                position = match.end()
        else:
            comma = line.find(",", position)
            position = len(line) if comma < 0 else comma
    return [Challenge(scheme, MappingProxyType(parameters)) for scheme, parameters in found]


def parse_realm(realm: str) -> SplitResult | None:
    """The URL of a token service, or None when it is none."""
    try:
        parts = urlsplit(realm)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable and "@" not in parts.netloc else None


def may_hold_credentials(registry_host: str, realm_host: str) -> bool:
    """Whether the token service at `realm_host` may be sent the credentials for `registry_host` (both without port).

    The same host, or one under a common domain (registry.gitlab.com and gitlab.com, registry-1.docker.io and
    auth.docker.io). An address has no domain: it must be the same.
    """
    ours, theirs = (host.lower().strip("[]").rstrip(".") for host in (registry_host, realm_host))
    if as_address(ours) or as_address(theirs):
        return as_address(ours) == as_address(theirs)
    if ours == theirs:
        return True
    common: list[str] = []
    for left, right in zip(reversed(ours.split(".")), reversed(theirs.split(".")), strict=False):
        if left != right:
            break
        common.insert(0, left)
    return len(common) >= 2 and not _is_shared_suffix(common)


def _is_shared_suffix(labels: list[str]) -> bool:
    is_country = len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _COUNTRY_SECOND_LEVELS
    # AWS puts its regions in between (eu-west-1.amazonaws.com): strangers share those too.
    is_region = len(labels) == 3 and labels[1:] == ["amazonaws", "com"]
    return is_country or is_region or ".".join(labels) in _SHARED_SUFFIXES
