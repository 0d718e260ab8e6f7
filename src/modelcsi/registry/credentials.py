"""Where credentials come from, in the order of design decision D10, as far as they need no Kubernetes API.

Nothing is kept: cloud registries hand out tokens of minutes, so files are read and helpers asked at each attempt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import DOCKER_HUB, Reference
from modelcsi.registry.caller import Caller
from modelcsi.registry.docker_config import ANONYMOUS, HUB_SERVER, Credentials, matching, normalise, parse_json

__all__ = ["ANONYMOUS", "Credentials", "Keychain"]

logger = logging.getLogger(__name__)

_REQUEST_SOURCE = "the request's secret"
_NODE_SOURCE = "the node's docker config"
_HELPER_SECONDS = 20.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IDENTITY_USER = "<token>"
_HOW_TO_CREATE = "create it with `kubectl create secret docker-registry`"


class Keychain:
    """The credentials for a reference: of the request, else of the node."""

    def __init__(self, docker_config_dir: Path | None, *, helper_seconds: float = _HELPER_SECONDS) -> None:
        """`docker_config_dir` holds the node's config.json; `helper_seconds` is how long a credential helper may take."""
        self._lock = threading.Lock()  # guards _reported
        self._reported: set[str] = set()
        self._path = docker_config_dir / "config.json" if docker_config_dir else None
        self._helper_seconds = helper_seconds

    def candidates(self, reference: Reference, caller: Caller) -> tuple[Credentials, ...]:
        """What to try, in this order; never empty. A secret that names the registry excludes everything behind it.

        Runs a credential helper where the node's docker config names one. Raises InvalidRequest for an unusable secret.
        """
        return _of_request(reference, caller.secrets) or self._of_node(reference) or (ANONYMOUS,)

    def scheme(self, host: str) -> str | None:
        """`serverscheme` (http or https) of the node's docker config for `host` with its port; None when it does not say."""
        auths = self._read().get("auths")
        for key, entry in auths.items() if isinstance(auths, dict) else ():
            if normalise(key) == normalise(host) and isinstance(entry, dict):
                scheme = str(entry.get("serverscheme") or "").lower()
                if scheme in {"http", "https"}:
                    return scheme
        return None

    def _of_node(self, reference: Reference) -> tuple[Credentials, ...]:
        config = self._read()
        try:
            stored = matching(config.get("auths"), reference, _NODE_SOURCE)
        except InvalidRequest as error:
            # Not the request's fault, and a public model needs none of it.
            self._warn_once(error.message)
            stored = ()
        helper = _helper_for(config, reference.host)
        helped = self._ask_helper(helper, reference.host) if helper else None
        return stored if helped is None else (helped, *stored)

    def _read(self) -> Mapping[str, Any]:
        if self._path is None:
            return {}
        try:
            return parse_json(self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._warn_once(f"{self._path} cannot be read: {error.strerror}")
        except InvalidRequest as error:
            self._warn_once(error.message)
        return {}

    def _ask_helper(self, name: str, host: str) -> Credentials | None:
        program = f"docker-credential-{name}"
        if not _HELPER_NAME.fullmatch(name):
            self._warn_once(f"{self._path} names a credential helper that cannot exist")
            return None
        server = HUB_SERVER if host == DOCKER_HUB else host
        try:
            output = _run(program, server, self._helper_seconds)
            return _parse_helper_output(output, program)
        except FileNotFoundError:
            self._warn_once(
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
            self._warn_once(f"the credential helper {program} cannot be used: {error}")
        return None

    def _warn_once(self, text: str) -> None:
        with self._lock:
            if text in self._reported:
                return
            self._reported.add(text)
        logger.warning("%s", text)


def _of_request(reference: Reference, secrets: Mapping[str, str]) -> tuple[Credentials, ...]:
    if not secrets:
        return ()
    modern, old = secrets.get(".dockerconfigjson"), secrets.get(".dockercfg")
    if modern is None and old is None:
        raise InvalidRequest(
            f"the secret has the keys {', '.join(sorted(secrets))[:200]} and neither .dockerconfigjson nor .dockercfg",
            hint=_HOW_TO_CREATE,
        )
    found: tuple[Credentials, ...] = ()
    if modern is not None:
        document = parse_json(modern, ".dockerconfigjson of the secret", hint=_HOW_TO_CREATE)
        found += matching(document.get("auths"), reference, _REQUEST_SOURCE)
    if old is not None:
        found += matching(parse_json(old, ".dockercfg of the secret", hint=_HOW_TO_CREATE), reference, _REQUEST_SOURCE)
    return found


def _helper_for(config: Mapping[str, Any], host: str) -> str | None:
    """Docker's rule: the helper of this host, else the store of all."""
    helpers = config.get("credHelpers")
    for key, name in helpers.items() if isinstance(helpers, dict) else ():
        if normalise(key) == normalise(host) and isinstance(name, str):
            return name or None
    store = config.get("credsStore")
    return store if isinstance(store, str) and store else None


def _run(program: str, server: str, seconds: float) -> bytes:
    """The output of `docker-credential-x get`; a helper that takes too long is killed with all its children."""
    with subprocess.Popen(  # the program's name was checked and there is no shell
        [program, "get"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(server.encode(), timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, program)
    return output


def _parse_helper_output(output: bytes, program: str) -> Credentials:
    answer = parse_json(output, f"the answer of {program}")
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise InvalidRequest(f"the answer of {program} has no Username and Secret")
    source = f"the credential helper {program}"
    if username == _IDENTITY_USER:
        return Credentials(identity_token=secret.strip(), source=source)
    return Credentials(username, secret, source=source)
