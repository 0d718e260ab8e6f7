from __future__ import annotations

import pytest

from modelcsi.artifact.links import check_links
from modelcsi.errors import UnsupportedArtifact


def check(**targets: str) -> None:
    """Check links; `__` in a name stands for a slash."""
    paths = {path.replace("__", "/"): target for path, target in targets.items()}
    check_links(paths, dict.fromkeys(paths, "layer sha256:abc"))


def test_links_inside_are_kept() -> None:
    """To files, to directories, to nothing, to each other, to the root itself."""
    check(a="b/c", d__e="../b", f="d/e/c", g="missing/../b", h="h", i="j", j="i", k__l="..", m="k/l/b")


@pytest.mark.parametrize(
    "targets",
    [
        {"a": "../x"},
        {"p__q__up": "../..", "x": "p/q/up/../y"},
        {"p__q__up": "../..", "p__q__more": "up/../y"},
        {"p__up": "..", "x": "p/up/p/up/../.."},
        {"a__b": "..", "c": "d", "d": "a/b/.."},
        {"a__b": "..", "z": "a/b/../missing"},
    ],
)
def test_links_that_leave_through_others_are_refused(targets: dict[str, str]) -> None:
    """Each is inside as text; followed as the kernel follows, one goes above the root."""
    with pytest.raises(UnsupportedArtifact, match=r"unsafe link .* in layer sha256:abc: it leaves"):
        check(**targets)


def test_long_chains_lead_nowhere() -> None:
    """Behind 40 links the kernel answers ELOOP."""
    check(**{f"l{number}": f"l{number + 1}" for number in range(1000)})


def test_entangled_links_are_refused_in_time() -> None:
    """Work is bounded: links by the thousand, each of many steps through others."""
    targets = {f"l{number}": f"l{number + 1}/" + "a/../" * 25 for number in range(30)}
    targets |= {f"m{number}": "l0" for number in range(1000)}
    with pytest.raises(UnsupportedArtifact, match="too entangled"):
        check(**targets)
