"""The kubelet's CredentialProviderConfig file: which credential provider plugins there are, and which images they know.

The keys and the rules are kubelet's (kubelet.config.k8s.io/v1; `pkg/credentialprovider/plugin/config.go`), so that a node's own
file can be used as it is. What a plugin answers is not read here, but its durations are written alike.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcsi.config.values import as_flag, as_list, as_mapping, as_text, as_texts, read_yaml
from modelcsi.errors import InvalidRequest

_GROUP = "kubelet.config.k8s.io/"
_PROTOCOL = "credentialprovider.kubelet.k8s.io/"
_VERSIONS = ("v1", "v1beta1", "v1alpha1")
_TERM = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|ms|s|m|h)"
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# What a program needs to run and to reach its cloud; what else it needs stands in the file.
_PASSED_ON = ("PATH", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")


class TokenCache(enum.Enum):
    """Whom an answer serves that was given for a service account's token."""

    SERVICE_ACCOUNT = "ServiceAccount"
    TOKEN = "Token"  # noqa: S105 (kubelet's word for it)


@dataclass(frozen=True, slots=True)
class TokenAttributes:
    """How a plugin wants service-account tokens."""

    audience: str
    """`serviceAccountTokenAudience`; the CSIDriver object's `tokenRequests` must have it."""
    is_required: bool
    """`requireServiceAccount`: without a token the plugin is not asked."""
    cache: TokenCache
    """`cacheType`."""


@dataclass(frozen=True, slots=True)
class CredentialProvider:
    """One plugin."""

    name: str
    """Of the program in the directory of plugins."""
    match_images: tuple[str, ...]
    default_cache_seconds: float
    api_version: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    token_attributes: TokenAttributes | None = None


def load_providers(path: Path) -> tuple[CredentialProvider, ...]:
    """The plugins in the order of the file. Raises InvalidRequest, which names the file and the key."""
    try:
        return _parse_config(read_yaml(path))
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", hint=error.hint) from error


def parse_duration(value: object) -> float | None:
    """Seconds of a Go duration (`12h`, `1h30m`, `0`); None for anything else, and for less than none."""
    if value == "0":
        return 0.0
    if not isinstance(value, str) or not re.fullmatch(f"(?:{_TERM})+", value):
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(_TERM, value))


def plugin_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What plugins get of the driver's environment: how to run, and how to reach the network."""
    wanted = {*_PASSED_ON, *(name.lower() for name in _PASSED_ON if name.endswith("PROXY"))}
    return {name: value for name, value in variables.items() if name in wanted}


def _parse_config(document: Mapping[Hashable, object]) -> tuple[CredentialProvider, ...]:
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind != "CredentialProviderConfig" or version not in [f"{_GROUP}{known}" for known in _VERSIONS]:
        raise InvalidRequest(
            f"is no CredentialProviderConfig of {_GROUP}v1",
            hint="it begins with apiVersion and kind, as kubelet's does",
        )
    values = _known(document, "", {"apiVersion": as_text, "kind": as_text, "providers": as_list})
    providers = tuple(
        _parse_provider(as_mapping(item, f"providers[{index}]"), f"providers[{index}]")
        for index, item in enumerate(values.get("providers", []))
    )
    if not providers:
        raise InvalidRequest("names no providers")
    names = [provider.name for provider in providers]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"names the provider {name!r} twice")
    return providers


def _parse_provider(document: Mapping[Hashable, object], key: str) -> CredentialProvider:
    values = _known(document, f"{key}.", _PROVIDER_KEYS)
    name = values.get("name", "")
    if not name or name in {".", ".."} or any(character in name for character in "/\\\0 "):
        raise InvalidRequest(f"{key}.name {name!r} is no name of a program", hint="without a path and without spaces")
    version = values.get("apiVersion", "")
    if version not in [f"{_PROTOCOL}{known}" for known in _VERSIONS]:
        raise InvalidRequest(f"{key}.apiVersion is {version!r}", hint=f"it is {_PROTOCOL}v1 for new plugins")
    images = values.get("matchImages", ())
    if not images or not all(images):
        raise InvalidRequest(f"{key}.matchImages is empty", hint="name the registries that the plugin knows")
    seconds = parse_duration(values.get("defaultCacheDuration"))
    if seconds is None:
        raise InvalidRequest(f"{key}.defaultCacheDuration is no duration", hint="such as 12h or 0s")
    tokens = values.get("tokenAttributes")
    if tokens is not None and version != f"{_PROTOCOL}v1":
        raise InvalidRequest(f"{key}.tokenAttributes needs apiVersion {_PROTOCOL}v1")
    return CredentialProvider(name, images, seconds, version, values.get("args", ()), values.get("env", {}), tokens)


def _env(value: object, key: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    for index, item in enumerate(as_list(value, key)):
        name = f"{key}[{index}]"
        pair = _known(as_mapping(item, name), f"{name}.", {"name": as_text, "value": as_text})
        if not pair.get("name") or set("=\0") & set(pair["name"]) or "\0" in pair.get("value", ""):
            raise InvalidRequest(f"{name} is no environment variable")
        variables[pair["name"]] = pair.get("value", "")
    return variables


def _args(value: object, key: str) -> tuple[str, ...]:
    texts = as_texts(value, key)
    if any("\0" in text for text in texts):
        raise InvalidRequest(f"{key} has a NUL byte")
    return texts


def _token_attributes(value: object, key: str) -> TokenAttributes:
    values = _known(as_mapping(value, key), f"{key}.", _TOKEN_KEYS)
    if values.get("requiredServiceAccountAnnotationKeys"):
        raise InvalidRequest(
            f"{key}.requiredServiceAccountAnnotationKeys is not supported: annotations of service accounts are not sent",
            hint="use a plugin that needs none, or leave that to kubelet and name a secret for this driver",
        )
    for name in ("serviceAccountTokenAudience", "requireServiceAccount", "cacheType"):
        if values.get(name) in {None, ""}:
            raise InvalidRequest(f"{key}.{name} is missing")
    if values["cacheType"] not in {cache.value for cache in TokenCache}:
        raise InvalidRequest(f"{key}.cacheType is {values['cacheType']!r}", hint="it is ServiceAccount or Token")
    return TokenAttributes(
        values["serviceAccountTokenAudience"], values["requireServiceAccount"], TokenCache(values["cacheType"])
    )


_Reader = Callable[[object, str], object]
_PROVIDER_KEYS: dict[str, _Reader] = {
    "name": as_text,
    "matchImages": as_texts,
    "defaultCacheDuration": as_text,
    "apiVersion": as_text,
    "args": _args,
    "env": _env,
    "tokenAttributes": _token_attributes,
}
_TOKEN_KEYS: dict[str, _Reader] = {
    "serviceAccountTokenAudience": as_text,
    "requireServiceAccount": as_flag,
    "cacheType": as_text,
    "requiredServiceAccountAnnotationKeys": as_texts,
    "optionalServiceAccountAnnotationKeys": as_texts,
}


def _known(document: Mapping[Hashable, object], prefix: str, readers: Mapping[str, _Reader]) -> dict[str, Any]:
    """The values of known keys; null counts as not set."""
    unknown = [key for key in document if key not in readers]
    if unknown:
        raise InvalidRequest(f"unknown key '{prefix}{unknown[0]}'", hint=f"known keys: {', '.join(readers)}")
    return {
        str(key): readers[str(key)](value, f"{prefix}{key}") for key, value in document.items() if value is not None
    }
