"""What an Event of core/v1 looks like. Pure."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelcsi.logs import masked
from modelcsi.registry.caller import Pod
from modelcsi.volume.announcements import Announcement

_MAX_MESSAGE_BYTES = 1024
_MAX_INSTANCE_BYTES = 128
"""Both: kubernetes, pkg/apis/core/validation/events.go."""
_MAX_NAME = 253
_CUT = "…"


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who speaks: the driver's name, and the node it is on."""

    component: str
    node: str


def event_name(pod: Pod) -> str:
    """A new name: `<pod>.<16 random hex digits>`, as client-go's but not of the clock. It makes a repeated request harmless."""
    suffix = f".{secrets.token_hex(8)}"
    return pod.name[: _MAX_NAME - len(suffix)].rstrip("-.") + suffix


def event_object(name: str, pod: Pod, said: Announcement, reporter: Reporter, at: datetime) -> dict[str, Any]:
    """The Event that says it of the pod."""
    moment = timestamp(at)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
        "reason": said.reason,
        "message": message_text(said.message),
        "type": "Warning" if said.is_warning else "Normal",
        "source": {"component": reporter.component, "host": reporter.node},
        "reportingComponent": reporter.component,
        "reportingInstance": reporter.node[:_MAX_INSTANCE_BYTES],
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }


def timestamp(at: datetime) -> str:
    """metav1.Time: whole seconds of UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def message_text(text: str) -> str:
    """One line of at most 1024 bytes, without what looks like a credential.

    Control characters of a registry's text would reach somebody's terminal; half a surrogate pair is no UTF-8.
    """
    line = "".join(character if character.isprintable() else " " for character in masked(text))
    encoded = line.encode()
    if len(encoded) <= _MAX_MESSAGE_BYTES:
        return line
    return encoded[: _MAX_MESSAGE_BYTES - len(_CUT.encode())].decode(errors="ignore") + _CUT
