"""Where symbolic links lead once all of a tree is known.

A link that stays inside when read as text may still leave: with `p/q/up -> ../..`, the text `p/q/up/../x` is inside, the file
system makes `../x` of it. So every link is walked the way the kernel would walk it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelcsi.artifact.paths import MAX_DEPTH, shown
from modelcsi.errors import UnsupportedArtifact

_MAX_HOPS = 40
"""The kernel's own limit (path_resolution(7)); behind it there is ELOOP, not a file."""
_MAX_STEPS = 1_000_000
"""Components walked for one tree, ten for each of a hundred thousand links. Only chains built on purpose need more."""


def check_links(
    targets: Mapping[str, str], where_of: Mapping[str, str], reason: str = "it leaves the artifact"
) -> None:
    """Refuse a tree in which a symbolic link leaves the root, for the `reason` that is told.

    `targets`: normalised path of each link -> its target; `where_of`: the layer it came by. Links that lead nowhere, or in
    circles, are harmless. Raises UnsupportedArtifact.
    """
    walker = _Walker(targets)
    for path, target in targets.items():
        if walker.leaves(path):
            raise UnsupportedArtifact(f"unsafe link {shown(path)} -> {shown(target)} in {where_of[path]}: {reason}")


class _Walker:
    def __init__(self, targets: Mapping[str, str]) -> None:
        self._targets = targets
        self._steps = 0

    def leaves(self, link: str) -> bool:
        """Whether opening `link` would go above the root. A component that is no link is taken for a directory, which
        at worst walks on where the kernel would have stopped.
        """
        here = link.split("/")[:-1]
        ahead = [self._components(link)]
        hops = 1
        while ahead:
            component = next(ahead[-1], None)
            if component is None:
                ahead.pop()
                continue
            self._step()
            if component == "..":
                if not here:
                    return True
                here.pop()
                continue
            here.append(component)
            if len(here) > MAX_DEPTH:
                return False  # no entry is so deep: ENOENT
            path = "/".join(here)
            if path in self._targets:
                hops += 1
                if hops > _MAX_HOPS:
                    return False
                here.pop()
                ahead.append(self._components(path))
        return False

    def _components(self, link: str) -> Iterator[str]:
        return iter([part for part in self._targets[link].split("/") if part not in {"", "."}])

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise UnsupportedArtifact("the artifact's symbolic links are too many, or too entangled")
