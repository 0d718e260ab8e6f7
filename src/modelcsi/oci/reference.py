"""References as people write them, with the normalisation of Docker and containerd.

The grammar and the defaults are those of distribution/reference (`regexp.go`, `normalize.go`, `ParseDockerRef`): a first
part with a dot, a colon or an upper-case letter, or `localhost`, is the registry; else the registry is docker.io, and a
single name there lives under `library/`. The tag defaults to `latest` only where there is no digest either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.oci.digest import Digest

DOCKER_HUB = "docker.io"
_DEFAULT_TAG = "latest"
_MAX_REPOSITORY_LENGTH = 255
_HINT = "write it as registry/repository:tag or registry/repository@sha256:…"

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BARE_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Which artifact: registry host (with port), repository, and a tag or a digest or both; at least one of them is set.

    With both, the digest decides and the tag is a label (containerd, `ParseDockerRef`).
    """

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference a person wrote.

        Raises InvalidRequest.
        """
        name, at, digest_text = text.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise InvalidRequest(f"invalid tag {tag[:140]!r} in reference {_shown(text)}", hint=_HINT)
        host, repository = _split_host(head + slash + last)
        if _BARE_DIGEST.fullmatch(name):
            raise InvalidRequest(f"reference {_shown(text)} is a bare digest", hint=_HINT)
        if not _HOST.fullmatch(host):
            raise InvalidRequest(f"invalid registry {host[:140]!r} in reference {_shown(text)}", hint=_HINT)
        if not _REPOSITORY.fullmatch(repository):
            hint = "a repository is lower case" if repository != repository.lower() else _HINT
            raise InvalidRequest(f"invalid repository {repository[:140]!r} in reference {_shown(text)}", hint=hint)
        if len(repository) > _MAX_REPOSITORY_LENGTH:
            raise InvalidRequest(
                f"the repository in reference {_shown(text)} has over {_MAX_REPOSITORY_LENGTH} characters"
            )
        if not colon:
            return cls(host, repository, None if digest else _DEFAULT_TAG, digest)
        return cls(host, repository, tag, digest)

    def with_digest(self, digest: Digest) -> Reference:
        """The same artifact, pinned."""
        return replace(self, digest=digest)

    @property
    def target(self) -> str:
        """What a manifest request names: the digest where there is one, else the tag."""
        return str(self.digest) if self.digest else str(self.tag)

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or any(c in ".:[" for c in first) or first != first.lower()):
        host, repository = ("docker.io" if first == "index.docker.io" else first), rest
    else:
        host, repository = DOCKER_HUB, name
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository


def _parse_digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest.parse(digest_text)
    except UnsupportedArtifact as error:
        raise InvalidRequest(f"reference {_shown(text)}: {error.message}", hint=error.hint or _HINT) from error


def _shown(text: str) -> str:
    return repr(text if len(text) <= 300 else text[:300] + "…")
