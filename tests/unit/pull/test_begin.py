"""A job whose files are read while they arrive: the tree, the wants, and who is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, FinalError, NotFound
from modelcsi.oci.digest import Digest
from modelcsi.pull.job import PullJob
from modelcsi.pull.patience import Patience
from modelcsi.pull.puller import Filling, PulledView, Puller, PullLimits
from modelcsi.store.ingest import BlobIngest
from modelcsi.store.store import Store
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, Pod, tree_of, wait_until

MIB = 1 << 20
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

    def layer_failed(self, layer: Digest, error: FinalError) -> None:
        self.events.append(("failed", layer, type(error)))

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


def test_one_layer_that_is_gone_ends_alone(pod: Pod, fake: FakeRegistry) -> None:
    """The others come, since they may be read; the job fails when they are here."""
    blob = fake.content.blobs["models/tiny"].pop(str(WEIGHTS))
    log, weights, others = Log(), Answer(), Answer()
    found = filling(pod, log)
    found.job.want(WEIGHTS, 0, 1, weights)
    rest = [layer.digest for layer in found.job.layers if layer.digest != WEIGHTS]
    for layer in rest:
        found.job.want_complete(layer, others)
    assert weights.come.wait(20)
    wait_until(lambda: not pod.puller.running())

    assert blob
    assert [NotFound] == [type(error) for error in weights.errors]
    assert [None] * len(rest) == others.errors
    assert "failed" == log.of(WEIGHTS)[-1]
    assert ("filled", NotFound) == log.events[-1]


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


def test_bytes_can_be_read_while_they_arrive(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """The ingest is opened, what is wanted is in its place before the rest is there, and the end is told after all layers."""
    fake.faults.bytes_per_second_in_all = 1_000_000
    log, answer = Log(), Answer()
    found = filling(pod, log)
    found.job.want(WEIGHTS, 2 * MIB + 100, 2 * MIB + 200, answer)
    assert answer.come.wait(20)
    early = ingest_of(store, WEIGHTS, fake.host).joinpath("data").read_bytes()
    told = log.of(WEIGHTS)
    fake.faults.bytes_per_second_in_all = 0
    wait_until(lambda: not pod.puller.running())

    assert FILES["model.safetensors"][2 * MIB :] == early[2 * MIB : 3 * MIB]
    assert (["opened"], ["opened", "complete"]) == (told, log.of(WEIGHTS))
    assert ("filled", None) == log.events[-1]
    assert len(FILES["model.safetensors"]) == fake.bytes_served[str(WEIGHTS)]


def test_nothing_may_be_read_before_a_byte_has_come(pod: Pod, fake: FakeRegistry) -> None:
    """What is written there until then may be another repository's of the same host, whose turn comes when this attempt ends."""
    fake.faults.stall_after_bytes = 0
    log = Log()
    filling(pod, log)
    wait_until(lambda: fake.blob_gets[str(WEIGHTS)] > 0)
    before = list(log.events)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    wait_until(lambda: not pod.puller.running())

    assert ([], ["opened", "complete"]) == (before, log.of(WEIGHTS))


def test_wrong_bytes_are_told_before_they_go(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """Each attempt is opened anew; the want of all bytes is answered by the last one."""
    fake.faults.flip_bit_of.add(str(WEIGHTS))
    directory = ingest_of(store, WEIGHTS, fake.host)
    log = Log(at_restart=lambda layer: layer != WEIGHTS or directory.joinpath("data").exists())
    answer = Answer()
    fake.faults.stall_after_bytes = 0
    found = filling(pod, log)
    found.job.want_complete(WEIGHTS, answer)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    assert answer.come.wait(20)
    wait_until(lambda: not pod.puller.running())
    restarted = ("restarted", WEIGHTS, CorruptContent, True)

    assert [CorruptContent] == [type(error) for error in answer.errors]
    failed = ("failed", WEIGHTS, CorruptContent)
    assert [*[("opened", WEIGHTS), restarted] * 3, failed] == [event for event in log.events if WEIGHTS in event]
    assert ("filled", CorruptContent) == log.events[-1]


@pytest.mark.parametrize("knows", [True, False])
def test_what_is_there_from_before_must_be_shown(
    puller: Puller, private: FakeRegistry, store: Store, knows: bool
) -> None:
    """Bytes that another repository of the host delivered are read only once this one has shown that it has the blob."""
    weights = FILES["model.safetensors"]
    with closing(BlobIngest(store.layout, WEIGHTS, len(weights), private.host)) as ingest:
        ingest.write(0, weights[:MIB])
        ingest.flush()
    private.public.add("models/public")
    private.content.push("models/public", "v1", FILES)
    if not knows:
        del private.content.blobs["models/public"][str(WEIGHTS)]
    log, answer = Log(), Answer()
    found = filling(Pod(puller, f"{private.host}/models/public:v1"), log)
    found.job.want(WEIGHTS, 0, 10, answer)
    assert answer.come.wait(20)
    wait_until(lambda: not puller.running())

    assert (["opened", "complete"] if knows else ["failed"]) == log.of(WEIGHTS)
    assert [type(None) if knows else NotFound] == [type(error) for error in answer.errors]


def test_who_reads_does_not_wait_for_a_turn(make_puller: Any, fake: FakeRegistry, store: Store) -> None:
    """All turns are taken by others: nothing is fetched until somebody wants bytes."""
    puller = make_puller(PullLimits(jobs=0))
    fake.content.push("models/tiny", "v1", FILES)
    found = filling(Pod(puller, f"{fake.host}/models/tiny:v1"), Log())
    answer = Answer()
    served = fake.bytes_served.total()
    found.job.want(CONFIG, 0, 2, answer)
    assert answer.come.wait(20)

    assert (0, [None]) == (served, answer.errors)


def test_a_wanted_layer_begins_at_once(make_puller: Any, fake: FakeRegistry) -> None:
    """Although one layer at a time is fetched, and others come before it."""
    puller = make_puller(PullLimits(layers_at_once=lambda: 1))
    files = {f"part-{number}": bytes([number]) * (MIB + number) for number in range(5)}
    fake.content.push("models/parts", "v1", files)
    fake.faults.bytes_per_second = 200_000
    found = filling(Pod(puller, f"{fake.host}/models/parts:v1"), Log())
    wait_until(lambda: fake.blob_gets[str(Digest.of(files["part-0"]))] > 0)
    answer = Answer()
    found.job.want(Digest.of(files["part-4"]), 0, 10, answer)
    wait_until(lambda: fake.blob_gets[str(Digest.of(files["part-4"]))] > 0)
    begun = {layer.path for layer in found.job.layer_log.moments()}
    fake.faults.bytes_per_second = 0
    wait_until(lambda: not puller.running())

    assert ({"part-0", "part-4"}, [None]) == (begun, answer.errors)


def test_a_publish_that_needs_the_whole_joins(pod: Pod, fake: FakeRegistry) -> None:
    """It waits for the complete view of the same job; no byte comes twice."""
    fake.faults.stall_after_bytes = 0
    log = Log()
    filling(pod, log)
    views: list[PulledView] = []
    whole = Pod(pod.puller, pod.reference, "whole")
    thread = threading.Thread(target=lambda: views.append(whole.pull()))
    thread.start()
    wait_until(lambda: any("whole" in status.owners for status in pod.puller.running()))
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    thread.join(20)

    assert FILES == tree_of(views[0].path)
    assert sum(map(len, FILES.values())) == fake.bytes_served.total()


def test_a_reader_joins_a_pull_that_runs(pod: Pod, fake: FakeRegistry) -> None:
    """The tree is known at once; a layer that was under way is told of when it is complete."""
    fake.faults.stall_after_bytes = 0
    thread = threading.Thread(target=lambda: Pod(pod.puller, pod.reference, "whole").pull())
    thread.start()
    wait_until(lambda: fake.blob_gets.total() == len(FILES))
    log, answer = Log(), Answer()
    found = filling(pod, log)
    found.job.want(WEIGHTS, 0, 1, answer)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    thread.join(20)
    wait_until(lambda: not pod.puller.running())

    assert ([None], ["complete"]) == (answer.errors, log.of(WEIGHTS))
    assert ("filled", None) == log.events[-1]


def ingest_of(store: Store, layer: Digest, host: str) -> Path:
    """Where its bytes arrive."""
    return store.layout.ingest(layer, host)
