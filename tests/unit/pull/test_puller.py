"""One download for everybody: joining, leaving, ending."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Callable

import pytest

from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    NotFound,
    PullPending,
    RegistryUnavailable,
    Unauthenticated,
)
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.job import PullJob
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import PulledView, Puller, PullLimits
from modelcsi.pull.queue import JobQueue
from modelcsi.pull.resolve import Wish
from modelcsi.store.store import Store
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.pull.conftest import FILES, Pod, secret, tree_of, wait_until

WEIGHTS = str(Digest.of(FILES["model.safetensors"]))


class Call:
    """A pull in a thread of its own."""

    def __init__(self, pod: Pod, deadline: Deadline | None = None) -> None:
        self.patience = Patience(deadline or Deadline.after(20))
        self.view: PulledView | None = None
        self.error: Exception | None = None
        self._pod = pod
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.view = self._pod.pull(self.patience)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def result(self) -> PulledView:
        self.thread.join(20)
        assert self.error is None
        assert self.view is not None
        return self.view


@pytest.fixture
def reference(fake: FakeRegistry) -> str:
    """A model of three files."""
    fake.content.push("models/tiny", "v1", FILES)
    return f"{fake.host}/models/tiny:v1"


@pytest.fixture
def stalled(fake: FakeRegistry, reference: str) -> FakeRegistry:
    """Its registry goes silent after a MiB of a blob, until `resume` is set."""
    fake.faults.stall_after_bytes = 1 << 20
    return fake


def resume(registry: FakeRegistry) -> None:
    """Let it go on."""
    registry.faults.stall_after_bytes = None
    registry.faults.resume.set()


def owners(puller: Puller) -> list[str]:
    """Who waits for the one job."""
    return [owner for status in puller.running() for owner in status.owners]


def test_a_pulled_tree(puller: Puller, fake: FakeRegistry, reference: str, store: Store) -> None:
    """All files, a lease, no job left, nothing half-written."""
    view = Pod(puller, reference).pull()
    wait_until(lambda: not puller.running())

    assert FILES == tree_of(view.path)
    assert frozenset({"pod"}) == store.records.owners(store.records.artifacts()[0].manifest)
    assert ([], [1, 1, 1]) == (list(store.layout.ingests.iterdir()), sorted(fake.blob_gets.values()))


def test_three_callers_one_download(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """They wait for the same job and get the same tree."""
    calls = [Call(Pod(puller, reference, f"pod {number}")) for number in range(3)]
    wait_until(lambda: len(owners(puller)) == 3)
    jobs = len(puller.running())
    resume(stalled)
    views = {call.result() for call in calls}

    assert (1, 1) == (jobs, len(views))
    assert [1, 1, 1] == sorted(stalled.blob_gets.values())


def test_a_caller_that_cannot_wait(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """It is told how far the pull is; the pull goes on, and the next call finds it finished."""
    pod = Pod(puller, reference)
    resolved = pod.resolve()
    with pytest.raises(PullPending) as caught:
        puller.pull(resolved, "pod", Patience(Deadline.after(0.2)))
    resume(stalled)
    wait_until(lambda: not puller.running())
    view = pod.pull()

    pattern = rf"pulling {re.escape(reference)}: \d+% \(\d\.\d/3\.0 MiB, .*/s, ETA .*\)"
    assert re.fullmatch(pattern, str(caught.value))
    assert (FILES, [1, 1, 1]) == (tree_of(view.path), sorted(stalled.blob_gets.values()))


def test_a_caller_that_is_sent_away(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """At once; the others wait on."""
    calls = [Call(Pod(puller, reference, f"pod {number}")) for number in range(2)]
    wait_until(lambda: len(owners(puller)) == 2)
    calls[0].patience.interrupt()
    calls[0].thread.join(5)
    left = type(calls[0].error)
    resume(stalled)

    assert (PullPending, FILES) == (left, tree_of(calls[1].result().path))


def test_one_of_two_owners_leaves(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """The job goes on for the other."""
    calls = [Call(Pod(puller, reference, f"pod {number}")) for number in range(2)]
    wait_until(lambda: len(owners(puller)) == 2)
    puller.leave("pod 0")
    still = owners(puller)
    resume(stalled)

    assert (["pod 1"], FILES) == (still, tree_of(calls[1].result().path))
    calls[0].thread.join(10)


def test_the_last_owner_leaves(puller: Puller, stalled: FakeRegistry, reference: str, store: Store) -> None:
    """The job stops; what was verified stays, what was half received is resumed."""
    call = Call(Pod(puller, reference))
    wait_until(
        lambda: store.content.has_blob(Digest.of(FILES["config.json"])) and stalled.bytes_served[WEIGHTS] >= 1 << 20
    )
    wait_until(lambda: any(path.read_bytes()[24:].count(1) for path in store.layout.ingests.glob("*/*/chunks")))
    puller.leave("pod")
    call.thread.join(5)
    wait_until(lambda: not puller.running())
    resume(stalled)
    view = Pod(puller, reference, "another pod").pull()

    assert (PullPending, FILES) == (type(call.error), tree_of(view.path))
    assert 1 == stalled.blob_gets[str(Digest.of(FILES["config.json"]))]
    assert stalled.bytes_served[WEIGHTS] <= len(FILES["model.safetensors"]) + (1 << 19)


def test_joining_a_job_that_ends(puller: Puller, reference: str) -> None:
    """Too late is no error: another job finds everything there."""
    resolved = Pod(puller, reference).resolve()
    job = puller._join(resolved, "first")
    job.wait(lambda: False, lambda: 20, resolved.repository)
    view = Pod(puller, reference, "second").pull()

    assert (False, FILES) == (job.join("third", resolved.repository), tree_of(view.path))


def test_waiting_without_a_deadline(puller: Puller, reference: str) -> None:
    """Somebody with all the time of the world."""
    assert FILES == tree_of(Pod(puller, reference).pull(Patience(Deadline.never())).path)


def test_the_trouble_is_told_while_nothing_arrives(puller: Puller, reference: str, fake: FakeRegistry) -> None:
    """The last error of the registry, as far as it may pass, with the progress."""
    fake.faults.fail_next(503, times=1000, path="blobs")
    call = Call(Pod(puller, reference))
    wait_until(lambda: any(status.progress.trouble for status in puller.running()))
    call.patience.interrupt()
    call.thread.join(5)

    assert RegistryUnavailable is type(call.error)
    assert re.match(rf"pulling {re.escape(reference)}: 0% \(.*\): .*503", str(call.error))


def test_a_final_error_ends_the_job(puller: Puller, reference: str, fake: FakeRegistry, store: Store) -> None:
    """Everybody who waits gets it, nothing is visible, and the next call begins anew."""
    fake.faults.flip_bit_of.add(WEIGHTS)
    with pytest.raises(CorruptContent, match=WEIGHTS):
        Pod(puller, reference).pull()
    views = list(store.layout.views.iterdir())
    fake.faults.flip_bit_of.clear()

    assert ([], FILES) == (views, tree_of(Pod(puller, reference).pull().path))


def test_a_missing_blob_is_not_found(puller: Puller, reference: str, fake: FakeRegistry) -> None:
    """A final answer of the registry ends the job, also for layers that are under way."""
    del fake.content.blobs["models/tiny"][WEIGHTS]
    with pytest.raises(NotFound, match=WEIGHTS):
        Pod(puller, reference).pull()


def test_a_refused_credential_answers_only_its_owner(puller: Puller, store: Store) -> None:
    """Carol's rights end while she waits with alice: she is told at once, alice gets the model."""
    users = {"alice": User("s3cret"), "carol": User("c4rol")}
    with FakeRegistry(auth=Auth.BASIC, users=users) as registry:
        registry.content.push("models/tiny", "v1", FILES)
        registry.faults.fail_next(503, times=1000, path="blobs")
        reference = f"{registry.host}/models/tiny:v1"
        alice = Call(Pod(puller, reference, "alice", secrets=secret(registry, "alice", "s3cret")))
        wait_until(lambda: owners(puller) == ["alice"])
        carol = Call(Pod(puller, reference, "carol", secrets=secret(registry, "carol", "c4rol")))
        hers = f"Basic {base64.b64encode(b'carol:c4rol').decode()}"
        wait_until(
            lambda: any("/blobs/" in seen.path and hers == seen.headers.get("authorization") for seen in registry.seen)
        )
        registry.users["carol"] = User("c4rol", frozenset())
        registry.faults._statuses.clear()
        carol.thread.join(10)
        refused = (type(carol.error), carol.thread.is_alive())
        view = alice.result()

    assert ((Forbidden, False), FILES) == (refused, tree_of(view.path))


def test_a_proof_that_is_out_of_date_gives_way_to_the_callers_own(puller: Puller, store: Store) -> None:
    """Credentials that a registry refuses a missing layer to are no longer accepted for what is here; the pod's other ones are asked.

    The repository was public when the first part was pulled, and is not any more: alice's secret gets the rest.
    """
    with FakeRegistry(auth=Auth.BASIC, users={"alice": User("s3cret")}) as registry:
        registry.content.push("models/tiny", "v1", FILES)
        registry.public.add("models/tiny")
        reference = f"{registry.host}/models/tiny:v1"
        part = Selection(exclude_patterns=("*.safetensors",))
        Pod(puller, reference, "everybody", selection=part).pull()
        registry.public.clear()
        view = Pod(puller, reference, "alice", secrets=secret(registry, "alice", "s3cret")).pull()

    assert FILES == tree_of(view.path)
    assert registry.blob_gets[str(Digest.of(FILES["config.json"]))] == 1


def test_a_proof_that_is_out_of_date_is_forgotten(puller: Puller, store: Store) -> None:
    """Who has nothing else is refused, and from now on for what is here as well."""
    with FakeRegistry(auth=Auth.BASIC, users={"alice": User("s3cret")}) as registry:
        registry.content.push("models/tiny", "v1", FILES)
        registry.public.add("models/tiny")
        reference = f"{registry.host}/models/tiny:v1"
        part = Selection(exclude_patterns=("*.safetensors",))
        Pod(puller, reference, "everybody", selection=part).pull()
        registry.public.clear()
        for pod in (Pod(puller, reference, "nobody"), Pod(puller, reference, "late", selection=part)):
            with pytest.raises(Unauthenticated):
                pod.pull()

    assert [] == puller.running()


def test_another_selection_is_another_job(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """They share what they both need."""
    calls = [
        Call(Pod(puller, reference, "all")),
        Call(Pod(puller, reference, "some", selection=Selection(exclude_patterns=("*.safetensors",)))),
    ]
    small = calls[1].result()
    resume(stalled)
    whole = calls[0].result()

    assert (set(FILES) - {"model.safetensors"}, FILES) == (set(tree_of(small.path)), tree_of(whole.path))
    assert [1, 1, 1] == sorted(stalled.blob_gets.values())


def test_stopping(puller: Puller, stalled: FakeRegistry, reference: str, make_puller: Callable[..., Puller]) -> None:
    """All jobs end soon, whoever waits; the next process goes on."""
    call = Call(Pod(puller, reference))
    wait_until(lambda: stalled.bytes_served[WEIGHTS] >= 1 << 20)
    puller.stop(Deadline.after(5))
    call.thread.join(5)
    running = puller.running()
    resume(stalled)

    assert (PullPending, []) == (type(call.error), running)
    assert FILES == tree_of(Pod(make_puller(), reference).pull().path)


def test_running_jobs_are_shown(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """With progress and who waits."""
    call = Call(Pod(puller, reference))
    wait_until(lambda: bool(puller.running()) and puller.running()[0].progress.done_bytes >= 1 << 20)
    (status,) = puller.running()
    resume(stalled)
    call.result()

    assert (reference, ("pod",), sum(map(len, FILES.values()))) == (
        status.reference,
        status.owners,
        status.progress.total_bytes,
    )


class Observer:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finished: list[Exception | None] = []
        self.layers: list[int] = []

    def pull_started(self, job: PullJob) -> None:
        self.started.append(str(job.reference))

    def pull_finished(self, job: PullJob, error: Exception | None) -> None:
        self.finished.append(error)

    def layer_finished(self, size_bytes: int, seconds: float, error: Exception | None) -> None:
        self.layers.append(size_bytes)


def test_observers(puller: Puller, reference: str) -> None:
    """Each job and each layer is told once."""
    observer = Observer()
    puller.observer = observer
    Pod(puller, reference).pull()
    wait_until(lambda: bool(observer.finished))

    assert ([reference], [None]) == (observer.started, observer.finished)
    assert sorted(map(len, FILES.values())) == sorted(observer.layers)


def test_a_cached_model_costs_no_job(puller: Puller, reference: str, fake: FakeRegistry) -> None:
    """The second pod's view is there."""
    first = Pod(puller, reference).pull()
    wait_until(lambda: not puller.running())
    observer = Observer()
    puller.observer = observer
    second = Pod(puller, reference, "second").pull()

    assert (first, []) == (second, observer.started)


def test_a_small_change_moves_only_that(puller: Puller, reference: str, fake: FakeRegistry) -> None:
    """A second model that differs in one file shares the others, on the disk too."""
    first = Pod(puller, reference).pull()
    fake.content.push("models/tiny", "v2", FILES | {"config.json": b"{ }"})
    before = fake.bytes_served.total()
    second = Pod(puller, reference.replace("v1", "v2"), "second").pull()

    assert 3 == fake.bytes_served.total() - before
    assert (first.path / "model.safetensors").samefile(second.path / "model.safetensors")


def test_a_lease_is_taken_before_the_pull(puller: Puller, stalled: FakeRegistry, reference: str, store: Store) -> None:
    """A collector that runs meanwhile touches nothing of it."""
    call = Call(Pod(puller, reference))
    wait_until(lambda: store.content.has_blob(Digest.of(FILES["config.json"])))
    store.collector.prune()
    resume(stalled)

    assert FILES == tree_of(call.result().path)


def test_repositories_are_proven_one_by_one(puller: Puller, reference: str, fake: FakeRegistry, store: Store) -> None:
    """The job's key has the repository, so nobody draws on another one's rights by joining."""
    fake.content.push("models/copy", "v1", FILES)
    pods = [Pod(puller, reference).resolve(), Pod(puller, reference.replace("tiny", "copy")).resolve()]

    assert 2 == len({PullJob.key(resolved) for resolved in pods})
    assert PullJob.key(pods[0]) == PullJob.key(Pod(puller, reference, "another").resolve())


def test_patience_before_the_wait() -> None:
    """Whoever is sent away before it waits does not begin to."""
    patience = Patience(Deadline.never())
    before = patience.is_over()
    patience.interrupt()
    nudges: list[int] = []
    patience.attach(lambda: nudges.append(1))
    patience.interrupt()

    assert (False, True, [1]) == (before, patience.is_over(), nudges)


def test_a_final_error_waits_for_those_who_were_away(puller: Puller, reference: str, fake: FakeRegistry) -> None:
    """kubelet's next attempt may come long after the job has ended: it is told why, and no byte is moved for that."""
    fake.faults.flip_bit_of.add(WEIGHTS)
    resolved = Pod(puller, reference).resolve()
    puller._join(resolved, "pod")
    wait_until(lambda: not puller.running())
    before = fake.blob_gets[WEIGHTS]
    with pytest.raises(CorruptContent, match=WEIGHTS):
        Pod(puller, reference).pull()

    assert before == fake.blob_gets[WEIGHTS]


def test_a_silent_registry_is_in_nobody_elses_way(puller: Puller, stalled: FakeRegistry, reference: str) -> None:
    """Another host brings the same layer at once, and begins at its first byte."""
    call = Call(Pod(puller, reference, "first"))
    wait_until(lambda: stalled.bytes_served[WEIGHTS] >= 1 << 20)
    with FakeRegistry() as other:
        other.content.push("models/tiny", "v1", FILES)
        view = Pod(puller, f"{other.host}/models/tiny:v1", "second").pull()
        served = other.bytes_served[WEIGHTS]
    call.patience.interrupt()
    resume(stalled)
    call.thread.join(10)

    assert (FILES, len(FILES["model.safetensors"])) == (tree_of(view.path), served)


def test_a_dead_registry_keeps_nobody_waiting(
    make_puller: Callable[..., Puller], fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that serves nothing, or a byte now and then, keeps no model of another registry from being pulled.

    Its own models wait for turns in turn, and go on with what they had.
    """
    monkeypatch.setattr(JobQueue, "idle_after_seconds", 0.2)
    puller = make_puller(PullLimits(jobs=1))
    with FakeRegistry() as dead:
        models = [f"dead/m{number}" for number in range(7)]
        for model in models:
            dead.content.push(model, "v1", {"model.bin": model.encode() * (1 << 18)})
        dead.faults.stall_after_bytes = 1 << 20
        calls = [Call(Pod(puller, f"{dead.host}/{model}:v1", model)) for model in models]
        wait_until(lambda: sum(status.progress.done_bytes > 0 for status in puller.running()) >= 6)
        fake.content.push("models/tiny", "v1", FILES)
        view = Pod(puller, f"{fake.host}/models/tiny:v1").pull()
        resume(dead)
        shown = [tree_of(call.result().path) for call in calls]

    assert FILES == tree_of(view.path)
    assert [{"model.bin": model.encode() * (1 << 18)} for model in models] == shown


def test_never_is_never(puller: Puller, fake: FakeRegistry, reference: str) -> None:
    """With `Never`, nothing is downloaded, and a model that is not on the node, or in part only, is NOT_FOUND.

    A pull that ended in the middle left what proves the right to it; the rest is not fetched, and what is whole is shown.
    """
    fake.faults.stall_after_bytes = 1 << 20
    with pytest.raises(PullPending):
        Pod(puller, reference, "first").pull(Patience(Deadline.after(0.3)))
    puller.leave("first")
    wait_until(lambda: not puller.running())
    served = fake.blob_gets.total()
    with pytest.raises(NotFound, match="in part only"):
        Pod(puller, reference, policy=PullPolicy.NEVER).pull()
    asked = fake.blob_gets.total() - served
    resume(fake)
    Pod(puller, reference, "second").pull()
    view = Pod(puller, reference, "third", PullPolicy.NEVER).pull()

    assert (0, FILES) == (asked, tree_of(view.path))
    part = Pod(
        puller, reference, "fourth", PullPolicy.NEVER, selection=Selection(exclude_patterns=("*.safetensors",))
    ).pull()
    assert {"config.json", "tokenizer/vocab.txt"} == set(tree_of(part.path))


def test_asking_ends_although_the_caller_would_not(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's own API waits without end, and its caller may be gone: what asks the registry for it does not stay."""
    monkeypatch.setattr("modelcsi.pull.puller._RESOLVE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reference = Reference.parse(f"127.0.0.1:{silent.getsockname()[1]}/models/tiny:v1")
        with pytest.raises(RegistryUnavailable):
            puller.resolve(Wish(reference, PullPolicy.IF_NOT_PRESENT), Patience(Deadline.never()))
