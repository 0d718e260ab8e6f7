"""A volume request, parsed and checked: from here on everything trusts the type.

Attributes are camelCase, or `<service_name>/<kebab-case>` (upstream's spelling); two spellings that disagree are an error,
and so is an unknown one, since a typo that is ignored becomes a volume that nobody wanted. An empty value is none, but for
modelRef: templates write such for what nobody set. Keys of other domains (`csi.storage.k8s.io/`, `storage.kubernetes.io/`)
are somebody else's.
"""

from __future__ import annotations

import difflib
import enum
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from modelcsi.artifact.layouts import FILES, Layout
from modelcsi.artifact.selection import Selection
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.pull.policy import PullPolicy
from modelcsi.registry.caller import Caller, Pod
from modelcsi.volume.tokens import split_tokens
from modelcsi.volume.values import (
    layout_of,
    parse_bool,
    parse_choice,
    parse_layout,
    parse_model_name,
    parse_pattern_list,
    parse_patterns,
    parse_sub_path,
    parse_text,
)

VolumeId = NewType("VolumeId", str)

_POD_PREFIX = "csi.storage.k8s.io/"
_MODEL_REF = "modelRef"


class MountMode(enum.Enum):
    """When a volume is mounted; the value is the attribute's."""

    BIND = "bind"
    """When all of it is here and verified."""
    LAZY = "lazy"
    """As soon as its files are known: reads wait for the bytes they need."""


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """Which artifact a pod wants to see where, and how."""

    volume_id: VolumeId
    target: str
    reference: Reference
    pull_policy: PullPolicy
    selection: Selection
    layout: Layout = Layout()
    mount_mode: MountMode = MountMode.BIND
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    pod: Pod | None = field(default=None, compare=False)
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def arguments(self) -> str:
        """Canonical text of what must not differ when the same volume is published at the same target again."""
        # What is as it was before there was a choice stays out, so that records of older releases stay equal.
        arranged = [self.layout.key] if self.layout != Layout() else []
        mode = [{"mountMode": self.mount_mode.value}] if self.mount_mode is not MountMode.BIND else []
        selection = json.loads(self.selection.key())
        return json.dumps([str(self.reference), self.pull_policy.value, selection, *arranged, *mode])


@dataclass(frozen=True, slots=True)
class DynamicSpec:
    """A directory in which the pod mounts models itself, and with whose credentials."""

    volume_id: VolumeId
    target: str
    caller: Caller = field(compare=False)


def parse_spec(
    volume_id: str,
    target: str,
    attributes: Mapping[str, str],
    secrets: Mapping[str, str],
    service_name: str,
) -> VolumeSpec | DynamicSpec:
    """The request of NodePublishVolume; one without modelRef is a dynamic volume, if the node has such.

    Raises InvalidRequest, naming the attribute, and the nearest known one for an unknown.
    """
    values = _known_values(attributes, service_name)
    secrets, tokens = split_tokens(secrets)
    if _MODEL_REF not in values:
        _check_dynamic(values)
        return DynamicSpec(VolumeId(volume_id), target, Caller(secrets, _pod(attributes), tokens))
    reference = Reference.parse(values[_MODEL_REF])
    policy = values.get("pullPolicy")
    return VolumeSpec(
        volume_id=VolumeId(volume_id),
        target=target,
        reference=reference,
        pull_policy=PullPolicy(policy) if policy else PullPolicy.default(reference),
        selection=Selection(
            exclude_weights=values.get("excludeModelWeights", False),
            exclude_patterns=values.get("excludeFilePatterns", ()),
            include=values.get("include", ()),
            exclude=values.get("exclude", ()),
            sub_path=values.get("subPath", ""),
        ),
        layout=layout_of(values.get("layout", FILES), values.get("modelName", ""), reference),
        mount_mode=MountMode(values.get("mountMode") or MountMode.BIND.value),
        secrets=secrets,
        pod=_pod(attributes),
        tokens=tokens,
    )


def missing_model() -> InvalidRequest:
    """What is wrong with a request without a model where there are no dynamic volumes."""
    return InvalidRequest("the volume has no modelRef", hint='set volumeAttributes.modelRef: "registry/repository:tag"')


def _check_dynamic(values: Mapping[str, Any]) -> None:
    """What says how a model is shown needs a model; the API of the volume asks it for each."""
    if names := sorted(set(values) - _ANY_VOLUME):
        raise InvalidRequest(
            f"the volume has {', '.join(names)} and no modelRef",
            hint="set modelRef; a dynamic volume takes no attributes, its pod chooses for each model",
        )


def check_parameters(parameters: Mapping[str, str], service_name: str) -> None:
    """Check the parameters of CreateVolume (a StorageClass): upstream's and the volume attributes.

    Raises InvalidRequest.
    """
    if f"{service_name}/mount-id" in parameters:
        raise InvalidRequest(
            f"{service_name}/mount-id is not supported: no controller mounts into a running pod",
            hint="the pod itself does, by the socket in its dynamic volume (docs/dynamic-mounts.md)",
        )
    values = _known_values(parameters, service_name)
    if _MODEL_REF not in values:
        raise InvalidRequest(
            "the StorageClass has no modelRef",
            hint=f"set parameters.modelRef, or {service_name}/reference, to the model",
        )
    layout_of(values.get("layout", FILES), values.get("modelName", ""), Reference.parse(values[_MODEL_REF]))


_ATTRIBUTES: dict[str, Callable[[str], Any]] = {
    _MODEL_REF: parse_text,
    "pullPolicy": parse_choice(*(policy.value for policy in PullPolicy)),
    "mountMode": parse_choice(*(mode.value for mode in MountMode)),
    "include": parse_pattern_list,
    "exclude": parse_pattern_list,
    "excludeModelWeights": parse_bool,
    "excludeFilePatterns": parse_patterns,
    "subPath": parse_sub_path,
    "layout": parse_layout,
    "modelName": parse_model_name,
    # Upstream's StorageClass parameters, which its controller and ours hand on as a volume's attributes. They change
    # nothing: there is one type, space is always checked, and any node can pull.
    "type": parse_choice("image"),
    "checkDiskQuota": parse_bool,
    "nodeIp": parse_text,
}
"""Each attribute and its parser: the one place where an attribute is added."""

_ANY_VOLUME = frozenset({"type", "checkDiskQuota", "nodeIp"})

_ALIASES = {"reference": _MODEL_REF}
"""Upstream's names (kebab-case under the service name) that differ from ours."""


def _known_values(attributes: Mapping[str, str], service_name: str) -> dict[str, Any]:
    spellings: dict[str, str] = {}
    values: dict[str, Any] = {}
    for key, text in attributes.items():
        name = _attribute_name(key, service_name)
        if name is None or (not text and name != _MODEL_REF):
            continue
        if name in spellings and attributes[spellings[name]] != text:
            raise InvalidRequest(
                f"the attributes {spellings[name]} and {key} mean the same and disagree", hint="leave one of them out"
            )
        spellings[name] = key
        try:
            values[name] = _ATTRIBUTES[name](text)
        except ValueError as error:
            raise InvalidRequest(f"attribute {key}: {text[:200]!r} {error}") from error
    return values


def _attribute_name(key: str, service_name: str) -> str | None:
    """The attribute that a key means; None for a key of another domain."""
    domain, slash, name = key.rpartition("/")
    if slash and domain != service_name:
        return None
    spellings = (
        {_kebab(known): known for known in _ATTRIBUTES} | _ALIASES if slash else {known: known for known in _ATTRIBUTES}
    )
    if name in spellings:
        return spellings[name]
    nearest = difflib.get_close_matches(name, list(spellings), 1, 0.4)
    hint = f"did you mean {domain}{slash}{nearest[0]}?" if nearest else f"known are {', '.join(sorted(spellings))}"
    raise InvalidRequest(f"unknown attribute {key[:200]!r}", hint=hint)


def _kebab(name: str) -> str:
    return re.sub(r"[A-Z]", lambda match: "-" + match[0].lower(), name)


def _pod(attributes: Mapping[str, str]) -> Pod | None:
    name = attributes.get(f"{_POD_PREFIX}pod.name")
    if not name:
        return None
    return Pod(
        namespace=attributes.get(f"{_POD_PREFIX}pod.namespace", ""),
        name=name,
        uid=attributes.get(f"{_POD_PREFIX}pod.uid", ""),
        service_account=attributes.get(f"{_POD_PREFIX}serviceAccount.name", ""),
    )
