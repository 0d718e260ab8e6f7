"""A job whose files are read while they arrive: the tree, the wants, and who is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent
from modelcsi.oci.digest import Digest
from modelcsi.pull.job import PullJob
from modelcsi.pull.patience import Patience
from modelcsi.pull.puller import Filling, PulledView, Puller
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, Pod, tree_of, wait_until

WEIGHTS = Digest.of(FILES["model.safetensors"])
CONFIG = Digest.of(FILES["config.json"])


@dataclass
class Log:
    """An observer that writes down what it is told."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    at_restart: Callable[[Digest], object] = lambda _: None

    def layer_opened(self, layer: Digest) -> None:
        self.events.append(("opened", layer))

    def layer_complete(self, layer: Digest) -> None:
        self.events.append(("complete", layer))

    def layer_restarted(self, layer: Digest, error: Exception) -> None:
        self.events.append(("restarted", layer, type(error), self.at_restart(layer)))

    def filled(self, error: Exception | None) -> None:
        self.events.append(("filled", error if error is None else type(error)))

    def of(self, layer: Digest) -> list[object]:
        """What was told of one layer."""
        return [event[0] for event in self.events if layer in event]


@dataclass
class Answer:
    """Of a want."""

    come: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception | None] = field(default_factory=list)

    def __call__(self, error: Exception | None) -> None:
        self.errors.append(error)
        self.come.set()


def begin(pod: Pod, log: Log, patience: Patience | None = None) -> PulledView | Filling:
    """Resolve, and begin to fill."""
    observer_of: Callable[[PullJob], Log] = lambda _: log  # noqa: E731 - typed
    return pod.puller.begin(pod.resolve(), pod.owner, patience or Patience(Deadline.after(20)), observer_of)


def filling(pod: Pod, log: Log) -> Filling:
    """The same, of what is not here yet."""
    found = begin(pod, log)
    assert isinstance(found, Filling)
    return found


@pytest.fixture
def pod(puller: Puller, fake: FakeRegistry) -> Pod:
    """Wants a model of three raw files."""
    fake.content.push("models/tiny", "v1", FILES)
    return Pod(puller, f"{fake.host}/models/tiny:v1")


def test_the_tree_of_raw_layers_is_known_at_once(pod: Pod, fake: FakeRegistry) -> None:
    """Before a byte of them is here; each file begins where its blob does."""
    fake.faults.stall_after_bytes = 0
    found = filling(pod, Log())

    assert sorted([*FILES, "tokenizer"]) == sorted(entry.path for entry in found.tree.entries)
    assert {(Digest.of(content), None): 0 for content in FILES.values()} == found.offsets
    assert ((), 0) == (found.waited_for, fake.bytes_served.total())


def test_wants_are_answered_and_the_end_is_told(pod: Pod, fake: FakeRegistry) -> None:
    """Each once; afterwards the artifact is a complete view."""
    fake.faults.stall_after_bytes = 0
    log, answers = Log(), [Answer() for _ in range(3)]
    found = filling(pod, log)
    for answer, layer in zip(answers, (WEIGHTS, CONFIG), strict=False):
        found.job.want(layer, 0, 2, answer)
    found.job.want_complete(WEIGHTS, answers[2])
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    assert all(answer.come.wait(20) for answer in answers)
    wait_until(lambda: not pod.puller.running())
    again = begin(pod, Log())

    assert [[None]] * 3 == [answer.errors for answer in answers]
    assert ("filled", None) == log.events[-1]
    assert isinstance(again, PulledView)
    assert FILES == tree_of(again.path)


def test_wants_of_a_job_that_has_ended(pod: Pod, fake: FakeRegistry) -> None:
    """They are answered at once."""
    found = filling(pod, Log())
    wait_until(lambda: not pod.puller.running())
    answer = Answer()
    found.job.want(WEIGHTS, 0, 1, answer)

    assert [None] == answer.errors


def test_wants_fail_with_the_job(pod: Pod, fake: FakeRegistry) -> None:
    """Damaged content: whoever waits is told, and the observer first of each new beginning, then of the end."""
    fake.faults.flip_bit_of.add(str(WEIGHTS))
    fake.faults.stall_after_bytes = 0
    log, answer = Log(), Answer()
    found = filling(pod, log)
    found.job.want_complete(WEIGHTS, answer)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    assert answer.come.wait(20)
    wait_until(lambda: not pod.puller.running())

    assert [CorruptContent] == [type(error) for error in answer.errors]
    assert ("filled", CorruptContent) == log.events[-1]


def test_a_cancelled_want_is_not_answered(pod: Pod, fake: FakeRegistry) -> None:
    """Whoever cancelled does not listen any more."""
    fake.faults.stall_after_bytes = 0
    answer, other = Answer(), Answer()
    found = filling(pod, Log())
    found.job.want(WEIGHTS, 0, 1, answer).cancel()
    found.job.want(WEIGHTS, 0, 1, other)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    assert other.come.wait(20)
    wait_until(lambda: not pod.puller.running())

    assert [] == answer.errors
