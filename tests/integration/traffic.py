"""What a docker-registry served, as its access log tells."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress

from tests.integration.driver import eventually
from tests.integration.registry import DockerRegistry

_LINE = re.compile(r'"GET /v2/(?P<repository>\S+)/blobs/(?P<digest>\S+) HTTP/1\.1" 20[06] (?P<size>\d+) ')


class Traffic:
    """The blobs that a registry sent since this object was made."""

    def __init__(self, registry: DockerRegistry) -> None:
        self._registry = registry
        self._marks = 0
        self._begin = len(self._settled_log())

    def served(self, repository: str) -> Counter[str]:
        """Digest -> how often it was sent from this repository."""
        lines = _LINE.finditer(self._settled_log()[self._begin :])
        return Counter(line["digest"] for line in lines if line["repository"] == repository)

    def _settled_log(self) -> str:
        """The log, once a request made now is in it: a line is written only after its answer was sent."""
        self._marks += 1
        mark = f"/v2/?mark={id(self)}-{self._marks}"
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"http://{self._registry.host}{mark}"):
            pass
        eventually(lambda: f'"GET {mark} ' in self._registry.log.read_text(), "the registry writes its log")
        return self._registry.log.read_text()
