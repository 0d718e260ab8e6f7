"""Service-account tokens that kubelet hands over: whose they are, and the registries that take them as they are. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

from modelcsi.config.model import ServiceAccountToken
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Caller
from modelcsi.registry.docker_config import Credentials
from modelcsi.registry.prefixes import canonical_prefix, covers


def account_of(token: str) -> str:
    """The service account of a token, as `namespace/name/uid`; empty when the token does not tell.

    The signature is not checked: the token must have come from kubelet, which had it from the API server a moment ago.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        mine = claims["kubernetes.io"]
        names = (mine["namespace"], mine["serviceaccount"]["name"], mine["serviceaccount"]["uid"])
    except (binascii.Error, ValueError, RecursionError, KeyError, TypeError):
        return ""
    return "/".join(names) if all(isinstance(name, str) and name for name in names) else ""


def identity_of(token: str, *how: str) -> str:
    """What stays the same while the token is renewed every hour: the account, and how its token is used; or empty."""
    account = account_of(token)
    return json.dumps([account, *how]) if account else ""


def of_service_account(
    configured: Sequence[ServiceAccountToken], reference: Reference, caller: Caller
) -> tuple[Credentials, ...]:
    """The caller's tokens for the registries that take them."""
    found = []
    for known in configured:
        token = caller.tokens.get(known.audience)
        if token and any(covers(canonical_prefix(prefix), reference) for prefix in known.registries):
            found.append(_credentials(known, token))
    return tuple(found)


def _credentials(known: ServiceAccountToken, token: str) -> Credentials:
    audience = f"the audience {known.audience}" if known.audience else "the API server"
    account, _, _ = account_of(token).rpartition("/")
    whose = f"the token of the service account {account}" if account else "the pod's service-account token"
    source = f"{whose} for {audience}"
    identity = identity_of(token, "token", known.audience, known.username)
    if known.username:
        return Credentials(known.username, token, source=source, identity=identity)
    return Credentials(registry_token=token, source=source, identity=identity)
