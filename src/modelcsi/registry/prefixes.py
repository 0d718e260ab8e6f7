"""Prefixes of references in the configuration: a registry, or a repository and everything below it. Pure."""

from __future__ import annotations

from modelcsi.oci.reference import DOCKER_HUB, Reference
from modelcsi.registry.docker_config import HUB_NAMES

EVERYTHING = "*"


def canonical_prefix(text: str) -> str:
    """The one spelling of a prefix: the host in lower case, Docker's hub by its name in references.

    Not `docker_config.normalise`, which drops a path of `v1` or `v2`: here that would widen what an admin wrote.
    """
    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    host, _, path = text.strip().strip("/").partition("/")
    host = DOCKER_HUB if host.lower() in HUB_NAMES else host.lower()
    return f"{host}/{path}" if path else host


def covers(prefix: str, reference: Reference) -> bool:
    """Whether a canonical prefix is of this repository, at the border of a path component: `r/team` is not of `r/team-b`."""
    name = f"{reference.host.lower()}/{reference.repository}"
    return prefix in {EVERYTHING, name} or name.startswith(f"{prefix}/")
