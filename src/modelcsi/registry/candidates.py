"""The credentials to try for a reference, found source by source as somebody wants the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from modelcsi.registry.docker_config import Credentials


@dataclass(frozen=True, slots=True)
class Source:
    """One place where credentials come from."""

    ask: Callable[[], tuple[Credentials, ...]]
    is_at_hand: bool = False
    """Whether asking takes no network and no program."""


class Candidates:
    """What to try, in this order; never empty. For one thread.

    A source is asked when an iteration comes to it, and once: whoever stops early, since a proof was found, has started no
    program and asked no API server.
    """

    def __init__(self, sources: Sequence[Source], remarks: list[str]) -> None:
        """`remarks` is what sources append to while they are asked."""
        self._sources = tuple(sources)
        self._remarks = remarks
        self._found: dict[int, tuple[Credentials, ...]] = {}

    def __iter__(self) -> Iterator[Credentials]:
        return self._of(range(len(self._sources)))

    def at_hand(self) -> Iterator[Credentials]:
        """Those of the sources that take no network and no program."""
        return self._of(number for number, source in enumerate(self._sources) if source.is_at_hand)

    def explain(self, hint: str) -> str:
        """`hint` with the reasons why sources that were asked so far gave nothing, as far as a person should know them."""
        return "; ".join(dict.fromkeys(text for text in (hint, *self._remarks) if text))

    def _of(self, numbers: Iterator[int] | range) -> Iterator[Credentials]:
        seen: set[Credentials] = set()
        for number in numbers:
            if number not in self._found:
                self._found[number] = self._sources[number].ask()
            new = [credentials for credentials in self._found[number] if credentials not in seen]
            seen.update(new)
            yield from new
