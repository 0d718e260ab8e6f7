"""The credentials to try for a reference, found source by source as somebody wants the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from modelcsi.errors import ClusterUnavailable, FinalError, ModelCsiError
from modelcsi.registry.docker_config import ANONYMOUS, Credentials


@dataclass(frozen=True, slots=True)
class Source:
    """One place where credentials come from."""

    ask: Callable[[], tuple[Credentials, ...]]
    is_at_hand: bool = False
    """Whether asking takes no network and no program."""


@dataclass(slots=True)
class Remarks:
    """What sources say while they are asked."""

    texts: list[str] = field(default_factory=list)
    """Why they gave nothing, as far as a person should know."""
    is_passing: bool = False
    """Whether one of them may well give something later: the Kubernetes API does not answer."""


class Candidates:
    """What to try, in this order. For one thread.

    A source is asked when an iteration comes to it, and once: whoever stops early, since a proof was found, has started no
    program and asked no API server.
    """

    def __init__(self, sources: Sequence[Source], remarks: Remarks, *, certificate: str = "") -> None:
        """`remarks` is what sources add to while they are asked; `certificate` is what the node shows with each of them."""
        self.anonymous = replace(ANONYMOUS, certificate=certificate)
        """Nobody's credentials, with that certificate."""
        self._sources = tuple(sources)
        self._remarks = remarks
        self._found: dict[int, tuple[Credentials, ...]] = {}

    def __iter__(self) -> Iterator[Credentials]:
        return self._of(range(len(self._sources)))

    def at_hand(self) -> Iterator[Credentials]:
        """Those of the sources that take no network and no program."""
        return self._of(number for number, source in enumerate(self._sources) if source.is_at_hand)

    def explain(self, hint: str) -> str:
        """The reasons why sources that were asked so far gave nothing, as far as a person should know them, then `hint`.

        What is known comes first: kubelet shows so many letters.
        """
        return "; ".join(dict.fromkeys(text for text in (*self._remarks.texts, hint) if text))

    def refusal(self, error: FinalError) -> ModelCsiError:
        """The answer when none of them will do, where `error` is the registry's: it is not final while one could not be read."""
        if self._remarks.is_passing:
            return ClusterUnavailable(
                f"the pod's imagePullSecrets cannot be read now, and {error.message}", hint=self.explain("")
            )
        return type(error)(error.message, hint=self.explain(error.hint))

    def _of(self, numbers: Iterator[int] | range) -> Iterator[Credentials]:
        seen: set[Credentials] = set()
        for number in numbers:
            if number not in self._found:
                found = self._sources[number].ask()
                certificate = self.anonymous.certificate
                self._found[number] = tuple(replace(credentials, certificate=certificate) for credentials in found)
            new = [credentials for credentials in self._found[number] if credentials not in seen]
            seen.update(new)
            yield from new
