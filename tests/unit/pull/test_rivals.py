"""Two registries name one layer: neither may keep the other's callers waiting."""

from __future__ import annotations

import contextlib
import threading

from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError
from modelcsi.pull.claims import Claims
from modelcsi.pull.patience import Patience
from modelcsi.pull.puller import Puller
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, Pod, tree_of, wait_until


def test_a_registry_that_fails_blocks_nobody_elses_pull(puller: Puller, fake: FakeRegistry) -> None:
    """Who holds a layer and gets nothing lets those go first who bring it from another host."""
    fake.content.push("models/tiny", "v1", FILES)
    fake.faults.fail_next(503, times=10_000, path="/blobs/")
    hopeless = Patience(Deadline.after(30))
    thread = threading.Thread(target=_pull, args=(Pod(puller, f"{fake.host}/models/tiny:v1", owner="first"), hopeless))
    thread.start()
    wait_until(lambda: any(status.progress.trouble for status in puller.running()))
    with FakeRegistry() as other:
        other.content.push("models/tiny", "v1", FILES)
        view = Pod(puller, f"{other.host}/models/tiny:v1", owner="second").pull()
    hopeless.interrupt()
    thread.join(10)

    assert FILES == tree_of(view.path)


def test_first_come_first_served() -> None:
    """Who gives a key back and wants it again stands at the end of the line."""
    claims, never = Claims(), threading.Event()
    order: list[str] = []

    def rival() -> None:
        with claims.hold("a", never, "other"):
            order.append("rival")

    thread = threading.Thread(target=rival)
    with claims.hold("a", never, "mine"):
        thread.start()
        wait_until(lambda: claims.has_rivals("a", "mine"))
    with claims.hold("a", never, "mine"):
        order.append("again")
    thread.join(10)

    assert ["rival", "again"] == order


def test_parties_of_one_side_are_no_rivals() -> None:
    """They would ask the same registry."""
    claims, never = Claims(), threading.Event()
    with claims.hold("a", never, "mine"):
        assert not claims.has_rivals("a", "mine")
        assert claims.has_rivals("a", "other")
    assert not claims.has_rivals("a", "other")


def _pull(pod: Pod, patience: Patience) -> None:
    with contextlib.suppress(ModelCsiError):  # its outcome is nobody's concern here
        pod.pull(patience)
