"""Credential provider plugins, asked as kubelet asks them (credentialprovider.kubelet.k8s.io, KEP-2133 and KEP-4412).

A plugin reads a CredentialProviderRequest from its standard input and prints a CredentialProviderResponse. Answers are kept as
long as they say, in memory only, and one that was given for a service account's token serves that account, or that token,
alone. What a plugin prints as errors is dropped, since it may be a secret.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelcsi.config.providers import CredentialProvider, TokenCache, parse_duration
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.docker_config import Credentials, fits, matching, parse_json
from modelcsi.registry.programs import run
from modelcsi.registry.service_accounts import account_of, identity_of

_SECONDS = 20.0
"""As long as a credential helper gets. kubelet's minute would be half of what a publish has."""
_MAX_KEPT = 1000


@dataclass(frozen=True, slots=True)
class _Answer:
    auths: Mapping[str, Mapping[str, str]] = field(repr=False)
    key_type: str
    life_seconds: float


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: _Answer
    expires_at: float


class Providers:
    """The plugins of one configuration; any thread."""

    def __init__(
        self,
        providers: Sequence[CredentialProvider],
        bin_dir: Path,
        environment: Mapping[str, str],
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`bin_dir` holds the programs; `environment` is what each gets beside its own variables; `clock` tells when answers
        expire.
        """
        self._lock = threading.Lock()  # guards _kept and _asked; never held while a program runs
        self._kept: dict[Hashable, _Kept] = {}
        self._asked: dict[Hashable, Future[_Answer]] = {}
        self._providers = tuple(providers)
        self._bin_dir = bin_dir.absolute()
        self._environment = dict(environment)
        self._seconds = seconds
        self._clock = clock

    def is_made_of(self, providers: Sequence[CredentialProvider], bin_dir: Path) -> bool:
        """Whether it is of this configuration, so that its answers still count."""
        return self._providers == tuple(providers) and self._bin_dir == bin_dir.absolute()

    def for_reference(self, reference: Reference) -> tuple[CredentialProvider, ...]:
        """Those whose `matchImages` match the repository, in the order of the file."""
        return tuple(known for known in self._providers if any(fits(glob, reference) for glob in known.match_images))

    def ask(self, provider: CredentialProvider, reference: Reference, token: str) -> tuple[Credentials, ...]:
        """What a provider has for the repository, and for the service account of `token` if there is one.

        Of many that ask the same at once, one runs the program. Raises InvalidRequest when the program cannot be used.
        """
        account = _account_key(provider, token)
        kept = self._known(provider, reference, account)
        answer = kept or self._ask_once(provider, reference, token, account)
        source = f"the credential provider {provider.name}"
        found = matching(answer.auths, reference, source)
        attributes = provider.token_attributes
        if not token or attributes is None or attributes.cache is TokenCache.TOKEN:
            return found
        identity = identity_of(token, "provider", provider.name, attributes.audience)
        return tuple(replace(credentials, identity=identity) for credentials in found)

    def _ask_once(self, provider: CredentialProvider, reference: Reference, token: str, account: str) -> _Answer:
        flight = (provider.name, _image(reference), account)
        with self._lock:
            running = self._asked.get(flight)
            mine: Future[_Answer] = Future()
            if running is None:
                self._asked[flight] = mine
        if running is not None:
            return _result_of(running, provider, self._seconds)
        try:
            # Since the look into the cache the one before us may have come and gone.
            answer = self._known(provider, reference, account) or self._run(provider, reference, token)
            self._keep(provider, reference, account, answer)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._asked[flight]
        mine.set_result(answer)
        return answer

    def _known(self, provider: CredentialProvider, reference: Reference, account: str) -> _Answer | None:
        now = self._clock()
        with self._lock:
            for key_type, scope in _scopes(reference).items():
                kept = self._kept.get((provider.name, account, key_type, scope))
                if kept is not None and kept.expires_at > now:
                    return kept.answer
        return None

    def _keep(self, provider: CredentialProvider, reference: Reference, account: str, answer: _Answer) -> None:
        if answer.life_seconds <= 0:
            return
        now = self._clock()
        key = (provider.name, account, answer.key_type, _scopes(reference)[answer.key_type])
        with self._lock:
            # Answers are passwords: not longer than they are of use.
            self._kept = {known: kept for known, kept in self._kept.items() if kept.expires_at > now}
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[key] = _Kept(answer, now + answer.life_seconds)

    def _run(self, provider: CredentialProvider, reference: Reference, token: str) -> _Answer:
        request = {
            "kind": "CredentialProviderRequest",
            "apiVersion": provider.api_version,
            "image": _image(reference),
            **({"serviceAccountToken": token} if token else {}),
        }
        program = self._bin_dir / provider.name
        what = f"the credential provider {provider.name}"
        try:
            output = run(
                [str(program), *provider.args],
                json.dumps(request).encode(),
                seconds=self._seconds,
                environment=self._environment | dict(provider.env),
            )
        except subprocess.TimeoutExpired:
            problem = f"{what} did not answer within {self._seconds:g} s"
        except subprocess.CalledProcessError as error:
            problem = f"{what} failed (exit status {error.returncode})"
        except OSError as error:
            problem = f"{what} cannot be started: {program}: {error.strerror}"
        else:
            return _parse_answer(output, provider, what)
        # Outside the except clauses: a chain of exceptions would carry the command and its arguments.
        raise InvalidRequest(problem)


def _parse_answer(output: bytes, provider: CredentialProvider, what: str) -> _Answer:
    document = parse_json(output, f"the answer of {what}")
    kind, version = document.get("kind"), document.get("apiVersion")
    if (kind, version) != ("CredentialProviderResponse", provider.api_version):
        raise InvalidRequest(f"the answer of {what} is no CredentialProviderResponse of {provider.api_version}")
    key_type = document.get("cacheKeyType")
    if key_type not in _KEY_TYPES:
        raise InvalidRequest(f"the answer of {what} has no cacheKeyType of {', '.join(_KEY_TYPES)}")
    told = document.get("cacheDuration")
    life = provider.default_cache_seconds if told is None else parse_duration(told)
    if life is None:
        raise InvalidRequest(f"the answer of {what} has a cacheDuration that is no duration")
    return _Answer(_parse_auths(document.get("auth"), what), key_type, life)


def _parse_auths(auths: Any, what: str) -> dict[str, dict[str, str]]:
    """Host globs with a user and password each; nothing else of a docker config is a plugin's to say."""
    if auths is None:
        return {}
    values = list(auths.values()) if isinstance(auths, dict) else [None]
    if not all(
        isinstance(entry, dict) and all(isinstance(entry.get(name, ""), str) for name in ("username", "password"))
        for entry in values
    ):
        raise InvalidRequest(f"the answer of {what} has an auth that is no map of a username and password each")
    return {
        key: {"username": entry.get("username", ""), "password": entry.get("password", "")}
        for key, entry in auths.items()
    }


_KEY_TYPES = ("Image", "Registry", "Global")


def _scopes(reference: Reference) -> dict[str, str]:
    """For each cacheKeyType what must be equal, in kubelet's order of looking."""
    return dict(zip(_KEY_TYPES, (_image(reference), reference.host, ""), strict=True))


def _image(reference: Reference) -> str:
    # kubelet's keyring looks up the name without tag and digest.
    return f"{reference.host}/{reference.repository}"


def _account_key(provider: CredentialProvider, token: str) -> str:
    """Whose answers these are: the node's, a service account's, or one token's alone."""
    attributes = provider.token_attributes
    if not token or attributes is None:
        return ""
    account = account_of(token) if attributes.cache is TokenCache.SERVICE_ACCOUNT else ""
    return account or hashlib.sha256(token.encode()).hexdigest()


def _result_of(running: Future[_Answer], provider: CredentialProvider, seconds: float) -> _Answer:
    try:
        # The program is killed after as long; a little more is for reading its answer.
        return running.result(2 * seconds)
    except FutureTimeoutError as error:
        raise InvalidRequest(f"the credential provider {provider.name} did not answer in time") from error
