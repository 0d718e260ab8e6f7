"""Requests as text for the log, without what the specification marks as secret.

`str(request)` must never be logged: CVE-2023-2878, CVE-2024-3744 and CVE-2025-7445 were drivers that did.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from modelcsi.csi.pb import csi_pb2

_MASK = "***"
_SECRET_OPTION: Any = csi_pb2.csi_secret  # the generated stub types it too generally to be used as a key
# Kubelets before 1.36 put service account tokens into volume_context, which CSI does not call secret.
_SECRET_KEYS = frozenset({"csi.storage.k8s.io/serviceAccount.tokens"})


def redacted(message: Message) -> str:
    """The fields that are set, as one line of JSON; fields with the option `csi_secret`, and tokens in maps, masked."""
    return json.dumps(_shown_message(message), default=str)


def _shown_message(message: Message) -> dict[str, Any]:
    return {field.name: _shown_field(field, value) for field, value in message.ListFields()}


def _shown_field(field: FieldDescriptor, value: Any) -> Any:
    if field.GetOptions().Extensions[_SECRET_OPTION]:
        return _MASK
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {str(key): _MASK if key in _SECRET_KEYS else _shown_value(item) for key, item in value.items()}
    if field.is_repeated:
        return [_shown_value(item) for item in value]
    return _shown_value(value)


def _shown_value(value: Any) -> Any:
    return _shown_message(value) if isinstance(value, Message) else value
