"""Which FUSE server a node gets."""

from __future__ import annotations

import pytest

from modelcsi.mount.adapters import AdapterChoice, Node, choose_adapter, look_at_node


@pytest.mark.parametrize(
    ("wanted", "kernel", "has_pyfuse3", "choice"),
    [
        ("auto", "6.9.0", True, AdapterChoice("passthrough")),
        ("auto", "6.18.44-fc", False, AdapterChoice("passthrough")),
        ("auto", "10.0", False, AdapterChoice("passthrough")),
        ("auto", "6.8.12-generic", True, AdapterChoice("pyfuse3")),
        ("pyfuse3", "6.18.0", True, AdapterChoice("pyfuse3")),
        ("passthrough", "6.1.0", True, AdapterChoice(None, "passthrough: kernel 6.1.0 is older than 6.9")),
        ("pyfuse3", "6.18.0", False, AdapterChoice(None, "pyfuse3: the Python package pyfuse3 is not installed")),
    ],
)
def test_what_a_node_can_run(wanted: str, kernel: str, has_pyfuse3: bool, choice: AdapterChoice) -> None:
    """The better one where the kernel has it; what an administrator forces is not replaced by the other."""
    assert choice == choose_adapter(wanted, Node("", kernel, has_pyfuse3))


def test_every_reason_is_told() -> None:
    """With neither possible, an administrator reads what is missing for either."""
    choice = choose_adapter("auto", Node("", "5.15.0", has_pyfuse3=False))

    expected = "passthrough: kernel 5.15.0 is older than 6.9; pyfuse3: the Python package pyfuse3 is not installed"
    assert AdapterChoice(None, expected) == choice


def test_what_both_need_comes_first() -> None:
    """Without the device or the right to mount nothing else matters."""
    assert AdapterChoice(None, "no /dev/fuse") == choose_adapter(
        "auto", Node("no /dev/fuse", "6.18.0", has_pyfuse3=True)
    )


def test_this_node_is_looked_at() -> None:
    """Whatever this machine has, the answer is an adapter or a reason."""
    choice = choose_adapter("auto", look_at_node())

    assert (choice.adapter is None) == bool(choice.reason)


def test_admin_who_wants_none_gets_none() -> None:
    """Whatever the node could; and the reason, which pods are told, says whose choice it is."""
    choice = choose_adapter("none", Node("", "6.18.0", has_pyfuse3=True))

    assert (None, True) == (choice.adapter, "fuse.adapter" in choice.reason)
