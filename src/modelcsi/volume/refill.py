"""Goes on filling lazy views whose job has ended: after a start, and after an error, when its time has come.

Each view is resumed in a thread of its own: a registry that does not answer must not keep the views of others waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError
from modelcsi.pull.patience import Patience
from modelcsi.pull.puller import PulledView, Puller
from modelcsi.registry.caller import Caller
from modelcsi.store.records import PublicationRecord
from modelcsi.store.store import Store
from modelcsi.volume.announcements import Announcements
from modelcsi.volume.lazyplan import check_same
from modelcsi.volume.lazyrecords import read_origin, wish_of
from modelcsi.volume.lazyview import LazyView

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 300.0
"""A blob that is gone costs a request each time; a person who mends that waits no longer than this."""
_WAITED_PAUSE_SECONDS = 10.0
_ASK_SECONDS = 60.0


class Users(Protocol):
    """Who has which view mounted."""

    def caller_of(self, view: str, record: PublicationRecord) -> Caller:
        """What the publication's pod brought, as far as it is known; from now on the publication is among the view's."""

    def gone(self, view: str, record: PublicationRecord) -> None:
        """It is not there any more."""


@dataclass(frozen=True, slots=True)
class _Pause:
    began: float
    seconds: float

    def end(self, *, is_short: bool) -> float:
        """Short while somebody waits, who would be told an error otherwise before it is tried again."""
        return self.began + (min(self.seconds, _WAITED_PAUSE_SECONDS) if is_short else self.seconds)


class Refill:
    """Of one `LazyVolumes`; any thread."""

    def __init__(self, store: Store, puller: Puller, announcements: Announcements, users: Users) -> None:
        self._store = store
        self._puller = puller
        self._announcements = announcements
        self._users = users
        self._lock = threading.Lock()
        # Under the lock: views whose last job failed; views that are being resumed.
        self._pauses: dict[str, _Pause] = {}
        self._busy: set[str] = set()

    def ended(self, view: str, *, is_complete: bool) -> None:
        """A job of the view has ended: if that was not its end, another follows after a pause, a longer one each time."""
        with self._lock:
            before = self._pauses.pop(view, None)
            if not is_complete:
                seconds = _FIRST_PAUSE_SECONDS if before is None else min(2 * before.seconds, _MAX_PAUSE_SECONDS)
                self._pauses[view] = _Pause(time.monotonic(), seconds)

    def forget(self, view: str) -> None:
        """The view has gone."""
        with self._lock:
            self._pauses.pop(view, None)

    def look(self, views: Iterable[LazyView]) -> None:
        """Resume those that have no job and are not complete, and whose time has come. Does not wait for them."""
        now = time.monotonic()
        for view in views:
            if view.job is not None or view.plan is None or view.is_complete:
                continue
            with self._lock:
                pause = self._pauses.get(view.view)
                if view.view in self._busy or (pause is not None and now < pause.end(is_short=view.is_waited_for)):
                    continue
                self._busy.add(view.view)
            threading.Thread(target=self._resume, args=(view,), name="lazy-resume", daemon=True).start()

    def _resume(self, view: LazyView) -> None:
        try:
            self._fill(view)
        except Exception:  # a thread's main
            logger.exception("the view %s could not be filled; it is tried again", view.view)
        finally:
            with self._lock:
                self._busy.discard(view.view)

    def _fill(self, view: LazyView) -> None:
        """With the credentials of each of its pods: one of them may still be good."""
        origin, error = read_origin(view.files.origin) or {}, None
        for record in self._store.records.publications():
            if record.view != view.view:
                continue
            try:
                self._fill_for(view, record, origin)
            except ModelCsiError as raised:
                error = raised
                logger.warning("cannot go on filling %s for %s: %s", record.reference, record.target, raised)
            finally:
                self._forget_if_gone(view, record)
        if error is not None and view.job is None and not view.is_complete:  # another pod may have had it filled
            view.filled(error)

    def _forget_if_gone(self, view: LazyView, record: PublicationRecord) -> None:
        """An unpublish waits for nobody here: what was begun for a pod that has gone since is given up."""
        known = self._store.records.publications(record.target)
        if all(item.owner != record.owner for item in known):
            self._puller.leave(record.owner)
            self._announcements.left(record.owner)
            self._store.records.end_lease(record.owner)
            self._users.gone(view.view, record)

    def _fill_for(self, view: LazyView, record: PublicationRecord, origin: Mapping[str, str]) -> None:
        caller = self._users.caller_of(view.view, record)
        self._announcements.begins(record.owner, caller.pod, record.reference)
        patience = Patience(Deadline.after(_ASK_SECONDS))
        resolved = self._puller.resolve(wish_of(origin, record.reference, caller), patience)
        source, plan = resolved.repository.source, view.plan
        found = self._puller.begin(
            *(resolved, record.owner, patience, None),
            lambda job: self._announcements.pulls(record.owner, job, source),
        )
        if plan is None:
            return
        # Nothing is told of this job's bytes before it is known that they are those of the files that are mounted.
        if isinstance(found, PulledView):
            check_same(plan, self._puller.tree_of(resolved), {})
            view.complete()
        else:
            check_same(plan, found.tree, found.offsets)
            found.job.observe(view.observe)
