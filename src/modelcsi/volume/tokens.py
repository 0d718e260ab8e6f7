"""The service-account tokens that kubelet sends with a publish (`tokenRequests` of the CSIDriver object). Nothing of them is logged.

They come as a secret, under a key with a slash that no Secret of the API can have, so that only kubelet can have put it there;
or, without `serviceAccountTokenInSecrets`, as an attribute, which the author of an inline volume can write as well. kubelet
overwrites that one where it sends tokens itself, and only there it counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger(__name__)

_KEY = "csi.storage.k8s.io/serviceAccount.tokens"


def with_vouched_tokens(
    secrets: Mapping[str, str], attributes: Mapping[str, str], has_context_tokens: Callable[[], bool | None]
) -> dict[str, str]:
    """`secrets` with the tokens among the attributes, if kubelet wrote them.

    `has_context_tokens` tells whether it does (None: not known); it is asked only when there are some.
    """
    if _KEY in secrets or _KEY not in attributes:
        return dict(secrets)
    if has_context_tokens() is not True:
        logger.warning(
            "ignoring the service-account tokens among the volume's attributes: the CSIDriver object is not known to have "
            "tokenRequests without serviceAccountTokenInSecrets, so the pod's author may have written them"
        )
        return dict(secrets)
    return {**secrets, _KEY: attributes[_KEY]}


def split_tokens(secrets: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The secrets without the tokens, and the tokens by their audience, but for those that are expired.

    Tokens that cannot be understood are warned about and left out: they are kubelet's, so the request is not at fault.
    """
    others = {key: value for key, value in secrets.items() if key != _KEY}
    return others, _parse(secrets[_KEY]) if _KEY in secrets else {}


def _parse(text: str) -> dict[str, str]:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        logger.warning("kubelet's service-account tokens are not a JSON object: ignored")
        return {}
    tokens = {}
    for audience, entry in document.items():
        token = entry.get("token") if isinstance(entry, dict) else None
        if not isinstance(token, str) or not token or not all("!" <= character <= "~" for character in token):
            logger.warning("kubelet's service-account token for the audience %.200r is none: ignored", audience)
        elif _is_expired(entry.get("expirationTimestamp")):
            logger.warning(
                "kubelet's service-account token for the audience %.200r is expired: ignored; is the node's clock right?",
                audience,
            )
        else:
            tokens[audience] = token
    return tokens


def _is_expired(timestamp: object) -> bool:
    """A time that cannot be read says nothing: the registry will."""
    try:
        expires = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return False
    return expires.replace(tzinfo=expires.tzinfo or UTC) <= datetime.now(UTC)
