"""The lazy views of this node: mounted as soon as their files are known, filled behind, known again after a start.

A lazy view is of one (view, registry host, repository): another repository must show itself that it holds the bytes, so its
pods get a mount of their own. The first pod's target gets the mount, the targets of others clones of it; its files in the
store (`StoreLayout.lazy_view`) live as long as the last of them. What is done before what, and what a kill in between leaves:

    plan, fill map    a directory without a mount: removed at the next start
    mount             a mount that nobody serves: taken away at the next start, published again by kubelet
    descriptor held   served; `Volumes` records it as MOUNTED at the next start
    record MOUNTED    complete

Everything that needs no driver to go on is with others: the kernel's mounts, the holder with the descriptors and the
credentials (`mount/daemons.py`), the servers. So a start finds all of it again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelcsi.errors import FinalError, NotFound, StoreFull
from modelcsi.oci.digest import Digest
from modelcsi.pull.job import PullJob
from modelcsi.pull.patience import Patience
from modelcsi.pull.puller import Filling, PulledView, Puller
from modelcsi.pull.resolve import Resolved
from modelcsi.quantities import format_size
from modelcsi.registry.caller import Caller
from modelcsi.store.content import empty_trash
from modelcsi.store.durable import remove_tree, replace_file, space_errors
from modelcsi.store.records import PublicationRecord
from modelcsi.store.store import Store
from modelcsi.view.plan import plan_of, write_plan
from modelcsi.view.wire import Ahead, ToServer, Want
from modelcsi.volume.announcements import Announcements
from modelcsi.volume.lazyplan import check_same, planned, stored_plan
from modelcsi.volume.lazyrecords import lazy_id as lazy_id_of
from modelcsi.volume.lazyrecords import read_callers, read_origin, write_callers
from modelcsi.volume.lazyview import Done, LazyView, row_of
from modelcsi.volume.mounts import LazyMounts
from modelcsi.volume.refill import Refill

logger = logging.getLogger(__name__)

_MAX_ENTRIES = 500_000
"""Of all views together: five of the largest. Each is half a KiB in the one server of all pods, and as much in the driver; a pod may
have many volumes, each with another selection."""


class LazyObserver(Protocol):
    """Who counts: `metrics.Metrics`."""

    def lazy_waited(self, seconds: float, error: BaseException | None = None) -> None:
        """Bytes that a server waited for are here, or cannot be had."""

    def lazy_damaged(self) -> None:
        """Bytes that could be read were wrong."""


@dataclass(frozen=True, slots=True)
class _User:
    """A publication of a view, with what its pod brought."""

    owner: str
    caller: Caller


class LazyVolumes:
    """All lazy views of one store; calls come from any thread."""

    def __init__(self, store: Store, puller: Puller, mounts: LazyMounts, announcements: Announcements) -> None:
        self.tell: Callable[[ToServer], None] = lambda _: None
        """Reaches the servers; set after construction."""
        self.observer: LazyObserver | None = None
        """Set after construction."""
        self._store = store
        self._puller = puller
        self._mounts = mounts
        self._announcements = announcements
        self._refill = Refill(store, puller, announcements, self)
        self._lock = threading.Lock()
        # Under the lock: the views that are mounted, or about to be; who has them mounted, by target.
        self._views: dict[str, LazyView] = {}
        self._users: dict[str, dict[str, _User]] = {}
        # Also under the lock: of views that are being given up, what who mounts them again has to wait for.
        self._leaving: dict[str, threading.Lock] = {}
        store.layout.before_drop.append(self._dropping)

    def publish(
        self, resolved: Resolved, record: PublicationRecord, patience: Patience, joined: Callable[[PullJob], None]
    ) -> str | None:
        """Mount what was resolved, as soon as its files are known; returns the id of the lazy view.

        None: all of it is here, or this node has no lazy mounts, and the pod is told: bind it. Raises as `Puller.pull` and
        the mounts do.
        """
        reason = self._mounts.why_not()
        if reason:
            self._refuse(record, reason)
            return None
        lazy_id = lazy_id_of(resolved)
        view = self._join(lazy_id, record, resolved.wish.caller)
        found = self._puller.begin(resolved, record.owner, patience, None, joined)
        if isinstance(found, PulledView):
            if self._mounts.shows(record.target, lazy_id):
                return lazy_id  # mounted before its record could be written, and complete since
            self.left(record.target)
            return None
        if view.plan is None and self._entries() + len(found.tree.entries) > _MAX_ENTRIES:
            self.left(record.target)
            text = f"the lazy volumes of this node have {_MAX_ENTRIES:,} files together, or would with these"
            self._refuse(record, text)
            return None
        with view.mounting:
            self._mount(view, resolved, record, found)
        for sentence in found.waited_for:
            self._announcements.tell(record.owner, "LazyWaited", f"{record.reference}: {sentence}")
        size = format_size(found.tree.size_bytes)
        text = f"{record.reference} ({size}) is mounted while it is downloaded: reads wait for the bytes they need"
        self._announcements.tell(record.owner, "Mounted", text)
        return lazy_id

    def is_lazy(self, view: str) -> bool:
        """Whether this is the id of a lazy view that is mounted."""
        return view in self._views

    def shows(self, target: str, view: str) -> bool:
        """Whether the target shows the view, and it is served. No process is asked that may be stuck."""
        return self._mounts.shows(target, view)

    def targets(self) -> Mapping[str, str]:
        """The lazy view that is mounted at each target."""
        return {target: view for target, view in self._mounts.targets().items() if view in self._views}

    def unmount(self, target: str) -> bool:
        """Take away what is mounted there, if it may be lazy: then its server may be stuck."""
        if not self._views and target not in self._mounts.targets():
            return False
        self._mounts.unmount(target)
        return True

    def lost(self, view: str, why: str) -> None:
        """The mounts of a view answer with errors from now on."""
        known = self._views.get(view)
        if known is None or known.plan is None:
            return
        text = f"{known.plan.reference}: the FUSE server of this volume has ended for good ({why}): delete the pod"
        logger.warning("%s", text)
        with self._lock:
            users = tuple(self._users.get(view, {}).values())
        for user in users:
            if user.caller.pod is not None:
                self._announcements.warn(user.caller.pod, "Failed", text)

    def make_way(self, target: str) -> None:
        """Take away a lazy mount that has lost its server: kubelet publishes again, and a new one may come."""
        self._mounts.make_way(target)

    def origin(self, view: str) -> Mapping[str, str] | None:
        """What the view shows, as `Views.record` has it."""
        return read_origin(self._store.layout.lazy_view(view).origin)

    def trouble(self, view: str) -> Exception | None:
        """Why some of the view cannot be read."""
        known = self._views.get(view)
        return None if known is None else known.trouble

    def left(self, target: str) -> None:
        """The publication there has gone, or shows something else; what is mounted nowhere any more is given up."""
        with self._lock:
            rest = [view for view, users in self._users.items() if users.pop(target, None) is not None and users]
        for view in rest:
            self._entrust(view)
        self.sweep()

    def sweep(self) -> None:
        """Give up the views that are mounted nowhere."""
        with self._lock:
            candidates = [view for name, view in self._views.items() if not self._users.get(name)]
        shown = set(self._mounts.targets().values()) if candidates else set()
        for view in candidates:
            if view.view not in shown:
                with view.mounting:
                    self._drop(view)

    def restore(self) -> None:
        """Know again what is mounted, before the first publish; its filling goes on with `resume`."""
        alive = self._mounts.secrets()
        targets = self._mounts.targets()
        shown = set(targets.values())
        for path in sorted(self._store.layout.mounts.iterdir()):
            lazy_id = path.name
            plan = stored_plan(self._store.layout.lazy_view(lazy_id).plan)
            if lazy_id not in shown or plan is None:
                self._mounts.release(lazy_id)
                empty_trash(path)
                continue
            view = self._open(lazy_id)
            try:
                view.show(plan)
            except (OSError, ValueError, StoreFull):  # the driver must start, or nobody could unpublish
                logger.exception("the lazy view %s cannot be filled: its pods must be deleted", lazy_id)
            brought = read_callers(alive.get(lazy_id, b""))
            self._users[lazy_id] = {
                target: _User("", caller) for target, caller in brought.items() if target in targets
            }
            if lazy_id not in alive:
                logger.warning("the lazy mounts of %s have lost their server", plan.reference)

    def resume(self) -> None:
        """Go on filling what is mounted and not complete, where it is time to; called now and then."""
        self._refill.look(self.views())

    def caller_of(self, view: str, record: PublicationRecord) -> Caller:
        """See `refill.Users`."""
        with self._lock:
            users = self._users.setdefault(view, {})
            known = users.get(record.target)
            caller = Caller() if known is None else known.caller
            users[record.target] = _User(record.owner, caller)
            return caller

    def renew(self, record: PublicationRecord, caller: Caller) -> None:
        """kubelet publishes what is mounted again, maybe with fresh tokens: whoever goes on filling uses those."""
        user = _User(record.owner, caller)
        with self._lock:
            if record.view not in self._views:
                return
            users = self._users.setdefault(record.view, {})
            if users.get(record.target) == user:
                return
            users[record.target] = user
        self._entrust(record.view)

    def gone(self, view: str, record: PublicationRecord) -> None:
        """See `refill.Users`."""
        with self._lock:
            users = self._users.get(view, {})
            known = users.get(record.target)
            if known is not None and known.owner == record.owner:
                del users[record.target]
        self.sweep()

    def views(self) -> tuple[LazyView, ...]:
        """All of them; asks nobody, so that metrics may look often."""
        return tuple(self._views.values())

    def rows(self) -> list[dict[str, Any]]:
        """Each view, for `modelcsi status`."""
        targets, views = self._mounts.targets(), self.views()
        return [row_of(view, self.origin(view.view), targets, self._mounts.is_alive(view.view)) for view in views]

    # Demands

    def want(self, want: Want, done: Done) -> Callable[[], None]:
        """See `view.exchange.Demands`."""
        view = self._views.get(want.view)
        if view is None or view.plan is None:
            done(NotFound("no such view is mounted"))
            return lambda: None
        began = time.monotonic()

        def counted(error: Exception | None) -> None:
            if self.observer is not None:
                self.observer.lazy_waited(time.monotonic() - began, error)
            done(error)

        return view.want(want, counted)

    def ahead(self, ahead: Ahead) -> None:
        """See `view.exchange.Demands`."""
        view = self._views.get(ahead.view)
        if view is not None:
            view.ahead(ahead)

    # What views tell

    def damaged(self, view: LazyView, error: Exception) -> None:
        """See `FillNews`."""
        if self.observer is not None:
            self.observer.lazy_damaged()
        reference = "" if view.plan is None else view.plan.reference
        text = f"{reference}: bytes that could be read already were wrong, and are fetched again: {error}"
        logger.warning("%s", text)
        for owner in self._owners(view):
            self._announcements.tell(owner, "Damaged", text, is_warning=True)

    def failed(self, view: LazyView, error: FinalError) -> None:
        """See `FillNews`."""
        for owner in self._owners(view):
            self._announcements.tell_failure(owner, error)

    def ended(self, view: LazyView, error: Exception | None) -> None:
        """See `FillNews`."""
        plan = view.plan
        if plan is None:
            return
        self._refill.ended(view.view, is_complete=error is None)
        if error is None:
            for owner in self._owners(view):
                self._announcements.mounted(owner, Digest.parse(plan.manifest))
        elif isinstance(error, FinalError):
            self.failed(view, error)

    # Within

    def _join(self, lazy_id: str, record: PublicationRecord, caller: Caller) -> LazyView:
        with self._lock:
            self._users.setdefault(lazy_id, {})[record.target] = _User(record.owner, caller)
        return self._open(lazy_id)

    def _open(self, lazy_id: str) -> LazyView:
        with self._lock:
            view = self._views.get(lazy_id)
            if view is None:
                files = self._store.layout.lazy_view(lazy_id)
                view = self._views[lazy_id] = LazyView(lazy_id, files, self, self._say)
                view.mounting = self._leaving.get(lazy_id, view.mounting)
            return view

    def _entries(self) -> int:
        plans = [view.plan for view in tuple(self._views.values())]
        return sum(len(plan.entries) for plan in plans if plan is not None)

    def _refuse(self, record: PublicationRecord, reason: str) -> None:
        text = f"{record.reference} is mounted once it is complete, not lazily: {reason}"
        self._announcements.tell(record.owner, "LazyUnavailable", text, is_warning=True)

    def _say(self, message: ToServer) -> None:
        self.tell(message)

    def _owners(self, view: LazyView) -> list[str]:
        with self._lock:
            return [user.owner for user in self._users.get(view.view, {}).values()]

    def _mount(self, view: LazyView, resolved: Resolved, record: PublicationRecord, found: Filling) -> None:
        if view.plan is None:
            self._write(view, resolved, found)
        else:
            check_same(view.plan, found.tree, found.offsets)
        found.job.observe(view.observe)
        if self._mounts.shows(record.target, view.view):
            self._entrust(view.view)  # mounted before its record could be written
        elif self._mounts.is_alive(view.view):
            self._mounts.clone(view.view, record.target)
            self._entrust(view.view)
        else:
            self._mounts.attach(view.view, record.target, self._secret(view.view))

    def _write(self, view: LazyView, resolved: Resolved, found: Filling) -> None:
        """The view's files; durable is nothing of them, since a power cut takes the mount away."""
        files, wish, digest = view.files, resolved.wish, resolved.artifact.digest
        origin = {
            "manifest": str(digest),
            "reference": str(wish.reference),
            "selection": wish.selection.key(),
            "layout": wish.layout.key,
            "size_bytes": str(found.tree.size_bytes),
            "files": str(len(found.tree.entries)),
        }
        head = {"view": view.view, "reference": str(wish.reference), "manifest": str(digest)}
        plan = plan_of(head | {"host": resolved.repository.host}, planned(found.tree, found.offsets))
        with space_errors(f"the files of the lazy view of {wish.reference}"):
            if files.directory.exists():
                remove_tree(files.directory)
            files.directory.mkdir(mode=0o700)
            write_plan(plan, files.plan)
            replace_file(files.origin, json.dumps(origin).encode())
            view.show(plan)

    def _secret(self, lazy_id: str) -> bytes:
        with self._lock:
            users = dict(self._users.get(lazy_id, {}))
        return write_callers({target: user.caller for target, user in users.items()})

    def _entrust(self, lazy_id: str) -> None:
        self._mounts.entrust(lazy_id, self._secret(lazy_id))

    def _drop(self, view: LazyView) -> None:
        """The caller holds `mounting`."""
        with self._lock:
            if self._users.get(view.view) or self._views.get(view.view) is not view:
                return  # somebody has come meanwhile
            del self._views[view.view]
            self._users.pop(view.view, None)
            self._leaving[view.view] = view.mounting
        try:
            self._refill.forget(view.view)
            self._mounts.release(view.view)
            view.close()
            if view.files.directory.exists():
                remove_tree(view.files.directory)
        finally:
            with self._lock:
                del self._leaving[view.view]

    def _dropping(self, ingest: Path) -> None:
        for view in tuple(self._views.values()):
            view.dropping(ingest, self._store.layout.ingest)
