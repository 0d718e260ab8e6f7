from __future__ import annotations

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Pod
from modelcsi.registry.node_access import NodeAccess

POD = Pod("team-a", "pod", "uid", "default")
ACCESS = NodeAccess(
    {
        "registry.example.com": ("team-a", "team-b"),
        "https://registry.example.com/team-a/secret/": ("vault",),
        "Hub.example.com/v2": ("team-a",),
        "index.docker.io": ("*",),
        "[::1]:5000": ("team-a",),
    }
)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("registry.example.com/team-a/model", ""),
        ("registry.example.com/team-a/secret", "those of registry.example.com/team-a/secret to the namespace team-a"),
        ("registry.example.com/team-a/secret/deep", "to the namespace team-a"),
        ("registry.example.com/team-a/secrets", ""),
        ("registry.example.com:5000/team-a/model", "has no prefix of registry.example.com:5000/team-a/model"),
        ("registry.example.com.evil.test/team-a/model", "has no prefix of"),
        ("hub.example.com/v2/model", ""),
        ("hub.example.com/model", "has no prefix of"),
        ("docker.io/library/model", ""),
        ("[::1]:5000/model", ""),
    ],
)
def test_the_longest_prefix_decides(reference: str, reason: str) -> None:
    """At borders of path components; what no prefix covers is for nobody."""
    refusal = ACCESS.refusal(Reference.parse(reference), POD, lambda: True)

    assert (bool(reason), True) == (bool(refusal), reason in refusal)


def test_a_prefix_for_everything_is_the_shortest() -> None:
    """`*` decides where no other prefix does."""
    access = NodeAccess({"*": ("team-a",), "r.test": ("team-b",)})

    assert "" == access.refusal(Reference.parse("other.test/model"), POD, lambda: True)
    assert "of r.test to the namespace team-a" in access.refusal(Reference.parse("r.test/model"), POD, lambda: True)


@pytest.mark.parametrize(
    ("pod", "has_pod_info", "reason"),
    [(None, True, "names no pod"), (POD, None, "could name any namespace"), (POD, False, "could name any namespace")],
)
def test_a_namespace_that_nobody_vouches_for_is_none(
    pod: Pod | None, *, has_pod_info: bool | None, reason: str
) -> None:
    """Even where all namespaces are named."""
    assert reason in ACCESS.refusal(Reference.parse("docker.io/library/model"), pod, lambda: has_pod_info)


def test_without_a_map_every_pod_may() -> None:
    """As with kubelet's own credentials; nobody is asked whether the pod is who it says."""
    asked: list[None] = []
    reference = Reference.parse("registry.example.com/m")
    reasons = [NodeAccess().refusal(reference, pod, lambda: asked.append(None)) for pod in (POD, None)]

    assert (["", ""], []) == (reasons, asked)


def test_an_empty_map_is_for_nobody() -> None:
    """Written down, it means something."""
    assert "has no prefix" in NodeAccess({}).refusal(Reference.parse("registry.example.com/m"), POD, lambda: True)


def test_two_spellings_of_a_prefix_must_agree() -> None:
    """Nobody knows which one would count."""
    with pytest.raises(InvalidRequest, match=r"docker\.io twice"):
        NodeAccess({"docker.io": ("a",), "index.docker.io": ("b",)})
