"""What pods are told while they wait: Events, where an Announcer makes some of what is said here.

One thread looks at the running pulls each second, while anybody waits. It speaks when a pull begins, after ten seconds, then
at each further tenth of the bytes but not more often than every 30 s: kubelet's own events come once per attempt, and too many
events of one pod are thrown away by the API server's clients.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from modelcsi.errors import ModelCsiError
from modelcsi.oci.digest import Digest
from modelcsi.pull.progress import Progress, ProgressReport
from modelcsi.quantities import format_seconds, format_size
from modelcsi.registry.caller import Pod

_LOOK_SECONDS = 1.0
_FIRST_SECONDS = 10.0
_GAP_SECONDS = 30.0
_STEP_PERCENT = 10
_REMEMBERED_FAILURES = 256
_SAME_FAILURE_SECONDS = 600.0
"""kubelet tries a final error again about every two minutes; the same sentence is not said each time."""
PULL_PROGRESS = "PullProgress"
"""The reason of what may be left out where there is too much to say."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One sentence for the pod's author; docs/operations.md lists the reasons."""

    reason: str
    message: str
    is_warning: bool = False


class Announcer(Protocol):
    """Who carries announcements to people: the recorder of Kubernetes Events."""

    def announce(self, pod: Pod, announcement: Announcement) -> None:
        """Never blocks, never raises."""


class Pull(Protocol):
    """What is said of a pull; `pull.job.PullJob` has it."""

    @property
    def progress(self) -> Progress:
        """Its counters."""

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""


@dataclass(slots=True)
class _Waiting:
    """A publication that is not mounted yet, or not complete."""

    pod: Pod
    reference: str
    pull: Pull | None = None
    spoke_at: float | None = None
    percent: int = 0


class Announcements:
    """Says what happens to publications; calls come from any thread and return at once."""

    def __init__(self, announcer: Announcer | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._announcer = announcer
        self._clock = clock
        self._changed = threading.Condition()
        # Under the condition's lock: owners that wait; what was last said of a failure, and when.
        self._waiting: dict[str, _Waiting] = {}
        self._failures: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._is_running = False

    def begins(self, owner: str, pod: Pod | None, reference: str) -> None:
        """The pod waits for a publication; said again by each call of the same one."""
        if self._announcer is not None and pod is not None:
            with self._changed:
                self._waiting.setdefault(owner, _Waiting(pod, reference))

    def pulls(self, owner: str, pull: Pull, source: str) -> None:
        """The publication waits for this pull from the host `source`; the pod is told the first time."""
        with self._changed:
            waiting = self._waiting.get(owner)
            if waiting is None or waiting.pull is pull:
                return
            is_first = waiting.pull is None
            waiting.pull = pull
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._watch, name="announcements", daemon=True).start()
        if is_first:
            size = format_size(pull.progress.report().total_bytes)
            self._say(waiting.pod, "Pulling", f"Pulling {waiting.reference} ({size}) from {source}")

    def mounted(self, owner: str, digest: Digest) -> None:
        """The publication is mounted."""
        waiting = self._forget(owner)
        if waiting is None:
            return
        model = f"{waiting.reference} ({digest})"
        if waiting.pull is None:
            self._say(waiting.pod, "Pulled", f"{model} is already on this node: nothing was downloaded")
            return
        seconds, downloaded = max(waiting.pull.seconds, 0.001), waiting.pull.progress.downloaded_bytes
        total = waiting.pull.progress.report().total_bytes
        self._say(
            waiting.pod,
            "Pulled",
            f"Pulled {model}: {format_size(total)}, of which {format_size(downloaded)} were downloaded, in "
            f"{format_seconds(seconds)} ({format_size(downloaded / seconds)}/s)",
        )

    def failed(self, owner: str, pod: Pod | None, reference: str, error: ModelCsiError) -> None:
        """The publication ended by a final error."""
        self._forget(owner)
        self._fail(owner, pod, reference, error)

    def tell_failure(self, owner: str, error: ModelCsiError) -> None:
        """What the publication waits for ended by an error, and will be tried again."""
        with self._changed:
            waiting = self._waiting.get(owner)
        if waiting is not None:
            self._fail(owner, waiting.pod, waiting.reference, error)

    def tell(self, owner: str, reason: str, text: str, *, is_warning: bool = False) -> None:
        """Something else that the pod of a publication which is not complete should know."""
        with self._changed:
            waiting = self._waiting.get(owner)
        if waiting is not None:
            self._say(waiting.pod, reason, text, is_warning=is_warning)

    def warn(self, pod: Pod, reason: str, text: str) -> None:
        """Something that a pod should know whose publication may be complete."""
        self._say(pod, reason, text, is_warning=True)

    def _fail(self, owner: str, pod: Pod | None, reference: str, error: ModelCsiError) -> None:
        if self._announcer is None or pod is None:
            return
        text = str(error) if reference in error.message else f"{reference}: {error}"
        now = self._clock()
        with self._changed:
            said, when = self._failures.pop(owner, ("", now))
            is_news = said != text or now - when >= _SAME_FAILURE_SECONDS
            self._failures[owner] = (text, now if is_news else when)
            while len(self._failures) > _REMEMBERED_FAILURES:
                self._failures.popitem(last=False)
        if is_news:
            self._say(pod, "Failed", text, is_warning=True)

    def left(self, owner: str) -> None:
        """Nobody waits for the publication any more."""
        self._forget(owner)

    def look(self) -> None:
        """Say how far the pulls are, where it is time to."""
        with self._changed:
            due = [(waiting, waiting.pull.progress.report()) for waiting in self._waiting.values() if waiting.pull]
            due = [(waiting, report) for waiting, report in due if self._is_due(waiting, report)]
            for waiting, report in due:
                waiting.spoke_at, waiting.percent = self._clock(), report.percent
        for waiting, report in due:
            trouble = f"; {report.trouble}" if report.trouble is not None else ""
            self._say(waiting.pod, PULL_PROGRESS, f"Pulling {waiting.reference}: {report}{trouble}")

    def _is_due(self, waiting: _Waiting, report: ProgressReport) -> bool:
        if waiting.spoke_at is None:
            return waiting.pull is not None and waiting.pull.seconds >= _FIRST_SECONDS
        is_further = report.percent // _STEP_PERCENT > waiting.percent // _STEP_PERCENT
        return is_further and self._clock() - waiting.spoke_at >= _GAP_SECONDS

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting, _LOOK_SECONDS)
                if not self._waiting:
                    self._is_running = False
                    return
            self.look()

    def _forget(self, owner: str) -> _Waiting | None:
        with self._changed:
            waiting = self._waiting.pop(owner, None)
            self._changed.notify_all()
        return waiting

    def _say(self, pod: Pod, reason: str, text: str, *, is_warning: bool = False) -> None:
        if self._announcer is not None:
            self._announcer.announce(pod, Announcement(reason, text, is_warning))
