"""How a lazy view goes on whose job has gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.errors import FinalError, UnsupportedArtifact
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import PulledView
from modelcsi.pull.resolve import Wish
from modelcsi.registry.caller import Caller
from modelcsi.store.layout import LazyViewFiles
from modelcsi.store.records import MOUNTED, PublicationRecord
from modelcsi.view.plan import PlannedEntry, ViewPlan
from modelcsi.view.wire import Want
from modelcsi.volume.announcements import Announcements
from modelcsi.volume.lazyplan import planned
from modelcsi.volume.lazyview import LazyView
from modelcsi.volume.refill import Refill
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, wait_until
from tests.unit.volume.conftest import Driver

VIEW = "ab" * 32


class Around:
    """Whom a view and its refill tell, and ask."""

    def __init__(self) -> None:
        self.refill: Refill | None = None

    def caller_of(self, view: str, record: PublicationRecord) -> Caller:
        return Caller()

    def gone(self, view: str, record: PublicationRecord) -> None:
        pytest.fail(f"{record} is there")

    def damaged(self, view: LazyView, error: Exception) -> None:
        pytest.fail(f"no bytes were wrong: {error}")

    def failed(self, view: LazyView, error: FinalError) -> None:
        """Asked of the view itself."""

    def ended(self, view: LazyView, error: Exception | None) -> None:
        assert self.refill is not None
        self.refill.ended(view.view, is_complete=error is None)


def mounted(
    driver: Driver, fake: FakeRegistry, files: Path, change: Callable[[PlannedEntry], PlannedEntry]
) -> LazyView:
    """A view of a model that another pull has completed, as a start finds it."""
    fake.content.push("models/tiny", "v1", FILES)
    reference = Reference.parse(f"{fake.host}/models/tiny:v1")
    wish = Wish(reference, PullPolicy.IF_NOT_PRESENT, Selection())
    resolved = driver.puller.resolve(wish, Patience(Deadline.after(20)))
    found = driver.puller.pull(resolved, "other", Patience(Deadline.after(20)))
    assert isinstance(found, PulledView)
    manifest = str(resolved.artifact.digest)
    record = PublicationRecord("volume", "/target", "", str(reference), MOUNTED, manifest=manifest, view=VIEW)
    driver.store.records.put_publication(record)
    origin: Mapping[str, Any] = {"selection": Selection().key(), "manifest": manifest}
    files.mkdir()
    view = LazyView(VIEW, LazyViewFiles(files), around := Around(), lambda _: None)
    view.files.origin.write_text(json.dumps(origin))
    entries = tuple(change(item) for item in planned(driver.puller.tree_of(resolved), {}))
    view.show(ViewPlan(VIEW, str(reference), manifest, fake.host, entries))
    around.refill = Refill(driver.store, driver.puller, Announcements(None), around)
    around.refill.look([view])
    return view


@dataclass
class Unfilled:
    """As much of a view as is looked at."""

    is_waited_for: bool
    view: str = VIEW
    job: None = None
    plan: str = "known"
    is_complete: bool = False


class Looked(Refill):
    """One that only counts."""

    def __init__(self) -> None:
        super().__init__(*cast("Any", (None, None, None, None)))
        self.filled = threading.Semaphore(0)

    def _fill(self, view: LazyView) -> None:
        self.filled.release()


@pytest.mark.parametrize(("is_waited_for", "is_tried"), [(False, False), (True, True)])
def test_who_reads_waits_for_no_long_pause(
    monkeypatch: pytest.MonkeyPatch, *, is_waited_for: bool, is_tried: bool
) -> None:
    """The registry was away for long: what nobody reads is tried seldom, and what is read soon."""
    refill, now = Looked(), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for _ in range(8):
        refill.ended(VIEW, is_complete=False)
    now += 11
    refill.look([cast("LazyView", Unfilled(is_waited_for))])
    monkeypatch.undo()

    assert is_tried == refill.filled.acquire(timeout=10 if is_tried else 0.1)


def test_what_others_completed_meanwhile(
    start_driver: Callable[..., Driver], fake: FakeRegistry, tmp_path: Path
) -> None:
    """A pod that waited for all of it came first after a start: whoever reads lazily goes on, too."""
    view = mounted(start_driver(), fake, tmp_path / "view", lambda item: item)
    wait_until(lambda: view.is_complete)

    assert view.trouble is None


def test_what_others_completed_is_not_what_is_mounted(
    start_driver: Callable[..., Driver], fake: FakeRegistry, tmp_path: Path
) -> None:
    """The registry told other files to the job that showed them: they are never taken for verified."""

    def grown(item: PlannedEntry) -> PlannedEntry:
        is_changed = item.entry.path == "config.json"
        return replace(item, entry=replace(item.entry, size=item.entry.size + 1)) if is_changed else item

    view = mounted(start_driver(), fake, tmp_path / "view", grown)
    wait_until(lambda: view.trouble is not None)
    answers: list[Exception | None] = []
    assert view.plan is not None
    number = next(n for n, item in enumerate(view.plan.entries) if item.entry.path == "config.json")
    view.want(Want(1, VIEW, number, 0, 1), answers.append)

    assert [UnsupportedArtifact, UnsupportedArtifact] == [type(view.trouble), type(answers[0])]
    assert not view.is_complete
