"""Following redirects within the rules of design decision D16.

Registries send blobs by a redirect to an object store, whose signed URL is a credential: it is used at once, never kept and
never shown. Authorization, and what hosts.toml adds, go only to the origin that they were made for: S3 refuses a request
that has both, and another host must not have them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urljoin, urlsplit

from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError, PolicyDenied, RegistryUnavailable
from modelcsi.registry.answers import MAX_ERROR_BYTES, read_bounded
from modelcsi.registry.hosts import Endpoint, Hosts
from modelcsi.registry.transport import Request, Response, Transport

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer at the end of the redirects."""

    response: Response
    host: str
    """Who gave it."""
    is_foreign: bool
    """It comes from another origin than the one asked: its 401 is not about our credentials."""


def follow(transport: Transport, hosts: Hosts, origin: Endpoint, request: Request, deadline: Deadline) -> Answer:
    """Send `request` (GET or HEAD) and follow where it leads; the head of the last answer is there by the deadline.

    Raises PolicyDenied for a step from https to http, RegistryUnavailable for a loop and when no time is left, and whatever the
    transport raises.
    """
    start = urlsplit(request.url)
    here = start
    private = {"authorization", *(name.lower() for name, _ in origin.headers)}
    for _ in range(_MAX_REDIRECTS + 1):
        if deadline.is_over():
            raise RegistryUnavailable(f"no time was left to ask {here.netloc}")
        response = transport.request(replace(request, timeouts=request.timeouts.within(deadline)))
        if response.status not in _REDIRECTS or not response.header("Location"):
            return Answer(response, here.netloc, _origin(here) != _origin(start))
        target = _target(request, here, response, deadline)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in private or _origin(target) == _origin(start)
        }
        request = replace(request, url=target.geturl(), headers=headers, tls=hosts.tls_of(target.netloc, origin))
        here = target
    raise RegistryUnavailable(f"{start.netloc} redirects more than {_MAX_REDIRECTS} times")


def _target(request: Request, here: SplitResult, response: Response, deadline: Deadline) -> SplitResult:
    location = response.header("Location")
    _finish(response, Deadline.after(deadline.within(request.timeouts.stall_seconds)))
    try:
        target = urlsplit(urljoin(request.url, location))._replace(fragment="")
        usable = target.scheme in {"http", "https"} and bool(target.hostname) and target.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in target.netloc:  # the location is not shown: it may be signed
        raise RegistryUnavailable(f"{here.netloc} redirects to something that is no URL of a server")
    if here.scheme == "https" and target.scheme == "http":
        raise PolicyDenied(f"{here.netloc} redirects from https to http (to {target.netloc}), which is refused")
    return target


def _finish(response: Response, deadline: Deadline) -> None:
    """Read the small body that a redirect has, so that the connection can be used again."""
    try:
        read_bounded(response, MAX_ERROR_BYTES, deadline)
    except ModelCsiError:
        pass  # the Location is there; only this connection is lost
    finally:
        response.close()


def _origin(url: SplitResult) -> tuple[str, str, int]:
    return url.scheme, (url.hostname or "").lower(), url.port or _DEFAULT_PORTS.get(url.scheme, 0)
