"""The node's docker config: what it stores, and the credential helpers that it names; any thread.

Nothing is kept: cloud registries hand out tokens of minutes, so files are read and helpers asked at each attempt.
"""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import DOCKER_HUB, Reference
from modelcsi.registry.docker_config import HUB_SERVER, Credentials, matching, normalise, parse_json
from modelcsi.registry.notices import Notices
from modelcsi.registry.programs import run

logger = logging.getLogger(__name__)

_SOURCE = "the node's docker config"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IDENTITY_USER = "<token>"


class NodeConfig:
    """`config.json` in a directory, or none."""

    def __init__(self, directory: Path | None, helper_seconds: float) -> None:
        """`helper_seconds` is how long a credential helper may take."""
        self._path = directory / "config.json" if directory else None
        self._helper_seconds = helper_seconds
        self._notices = Notices(logger)

    def stored(self, reference: Reference) -> tuple[Credentials, ...]:
        """What the file itself holds for the repository."""
        try:
            return matching(self._read().get("auths"), reference, _SOURCE)
        except InvalidRequest as error:
            # Not the request's fault, and a public model needs none of it.
            self._notices.warn_once(error.message)
            return ()

    def helper(self, host: str) -> str:
        """The name of the helper for a registry, by docker's rule: the one of this host, else the store of all; or empty."""
        config = self._read()
        helpers = config.get("credHelpers")
        for key, name in helpers.items() if isinstance(helpers, dict) else ():
            if normalise(key) == normalise(host) and isinstance(name, str):
                return name
        store = config.get("credsStore")
        return store if isinstance(store, str) else ""

    def scheme(self, host: str) -> str | None:
        """`serverscheme` (http or https) for `host` with its port; None when the file does not say."""
        auths = self._read().get("auths")
        for key, entry in auths.items() if isinstance(auths, dict) else ():
            if normalise(key) == normalise(host) and isinstance(entry, dict):
                scheme = str(entry.get("serverscheme") or "").lower()
                if scheme in {"http", "https"}:
                    return scheme
        return None

    def ask(self, helper: str, host: str) -> tuple[Credentials, ...]:
        """What a helper has for a registry."""
        program = f"docker-credential-{helper}"
        if not _HELPER_NAME.fullmatch(helper):
            self._notices.warn_once(f"{self._path} names a credential helper that cannot exist")
            return ()
        server = HUB_SERVER if host == DOCKER_HUB else host
        try:
            output = run([program, "get"], server.encode(), seconds=self._helper_seconds)
            return (_parse_answer(output, program),)
        except FileNotFoundError:
            self._notices.warn_once(
                f"the credential helper {program} is not installed where the driver runs; going on without it"
            )
        except subprocess.TimeoutExpired:
            logger.warning(
                "the credential helper %s did not answer within %g s for %s", program, self._helper_seconds, host
            )
        except subprocess.CalledProcessError as error:  # "credentials not found" too: what it prints may be a secret
            logger.debug(
                "the credential helper %s has nothing for %s (exit status %d)", program, host, error.returncode
            )
        except (OSError, InvalidRequest) as error:
            self._notices.warn_once(f"the credential helper {program} cannot be used: {error}")
        return ()

    def _read(self) -> Mapping[str, Any]:
        if self._path is None:
            return {}
        try:
            return parse_json(self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._notices.warn_once(f"{self._path} cannot be read: {error.strerror}")
        except InvalidRequest as error:
            self._notices.warn_once(error.message)
        return {}


def _parse_answer(output: bytes, program: str) -> Credentials:
    answer = parse_json(output, f"the answer of {program}")
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise InvalidRequest(f"the answer of {program} has no Username and Secret")
    source = f"the credential helper {program}"
    if username == _IDENTITY_USER:
        return Credentials(identity_token=secret.strip(), source=source)
    return Credentials(username, secret, source=source)
