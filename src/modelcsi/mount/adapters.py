"""Which of the two FUSE servers this node can run. Only looks; stateless, any thread."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

from modelcsi.mount import syscalls

PASSTHROUGH = "passthrough"
PYFUSE3 = "pyfuse3"
NONE = "none"
_DEVICE = "/dev/fuse"
_NEEDED = (6, 9)
"""Kernel: FUSE_PASSTHROUGH, and NOTIFY_RESEND, without which a server cannot be replaced."""


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """The adapter that serves lazy views, or why there is none."""

    adapter: str | None
    reason: str = ""
    """Of None: what is missing, a sentence for people without its full stop."""


@dataclass(frozen=True, slots=True)
class Node:
    """What decides."""

    missing: str
    """Without which no FUSE server can work; empty where nothing is."""
    kernel: str
    has_pyfuse3: bool


def choose_adapter(wanted: str, node: Node | None = None) -> AdapterChoice:
    """The one that is `wanted`, if it can run here; of `auto` passthrough, else pyfuse3."""
    if wanted == NONE:
        return AdapterChoice(None, "lazy mounts are switched off here (`fuse.adapter: none`)")
    node = node or look_at_node()
    if node.missing:
        return AdapterChoice(None, node.missing)
    reasons = []
    for adapter, missing_for in ((PASSTHROUGH, _missing_for_passthrough), (PYFUSE3, _missing_for_pyfuse3)):
        if wanted in ("auto", adapter):
            missing = missing_for(node)
            if not missing:
                return AdapterChoice(adapter)
            reasons.append(f"{adapter}: {missing}")
    return AdapterChoice(None, "; ".join(reasons))


def look_at_node() -> Node:
    """This one; nothing is imported, mounted or left open."""
    return Node(_missing_for_any(), os.uname().release, importlib.util.find_spec("pyfuse3") is not None)


def _missing_for_any() -> str:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_DEVICE} cannot be opened ({error.strerror}): load the kernel module fuse"
    if not syscalls.has_descriptor_calls():
        return "the kernel (5.12 and newer) or the right to mount (CAP_SYS_ADMIN) is missing"
    return ""


def _missing_for_passthrough(node: Node) -> str:
    numbers = re.match(r"(\d+)\.(\d+)", node.kernel)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _NEEDED:
        return f"kernel {node.kernel} is older than {_NEEDED[0]}.{_NEEDED[1]}"
    return ""


def _missing_for_pyfuse3(node: Node) -> str:
    return "" if node.has_pyfuse3 else "the Python package pyfuse3 is not installed"
