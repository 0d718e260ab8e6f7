"""Announcements become Events on pods, by one thread that nobody waits for.

Four bounds keep an outage, or 500 pods at once, from becoming a flood: of what may wait, of the pace of one pod (as client-go's
spam filter), of the pace of all, and of how long a failed request is repeated. What they cost is progress first.
The same sentence about the same pod within ten minutes counts up the Event that is there.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from modelcsi.deadline import Deadline
from modelcsi.kube.client import Answer, KubeClient
from modelcsi.kube.event import Reporter, event_name, event_object, timestamp
from modelcsi.kube.thrift import Bucket, Once
from modelcsi.registry.caller import Pod
from modelcsi.volume.announcements import PULL_PROGRESS, Announcement

logger = logging.getLogger(__name__)

_EVENTS = "/api/v1/namespaces/{}/events"
_EVENT = "/api/v1/namespaces/{}/events/{}"
_MAX_QUEUED = 512
_POD_BURST, _POD_PER_SECOND = 25, 1 / 12
"""client-go allows a burst of 25, then one in 300 s; a pull of hours says something each tenth, which is more."""
_ALL_BURST, _ALL_PER_SECOND = 100, 20
"""A guess, under the 50 per second that kubelet allows itself."""
_MAX_PODS = 1024
_REPEAT_SECONDS = 600.0
_MAX_REPEATS = 1024
_RETRY_FOR_SECONDS = 120.0
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 30.0


class _Outcome(enum.Enum):
    WRITTEN = enum.auto()
    LATER = enum.auto()
    LOST = enum.auto()


@dataclass(frozen=True, slots=True)
class _Saying:
    """An announcement that waits for its turn."""

    pod: Pod
    announcement: Announcement
    name: str
    at: datetime
    queued_at: float

    @property
    def key(self) -> tuple[str, Announcement]:
        return self.pod.uid, self.announcement


@dataclass(slots=True)
class _Written:
    """An Event that is on the server, and when it was last said."""

    name: str
    count: int
    at: float


class EventRecorder:
    """Implements `Announcer`; `start` and `stop` are called once each, by the thread that owns the process."""

    def __init__(
        self,
        client: KubeClient,
        reporter: Reporter,
        has_pod_info: Callable[[], bool | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`has_pod_info` is `DriverObject.has_pod_info`: a no means that the pod is whoever a pod's author named."""
        self._client = client
        self._reporter = reporter
        self._has_pod_info = has_pod_info
        self._clock = clock
        self._once = Once(clock=clock)
        self._changed = threading.Condition()
        # Under the condition's lock: what waits, the pace of each pod, when the end comes, how many were dropped.
        self._queue: deque[_Saying] = deque()
        self._paces: OrderedDict[str, Bucket] = OrderedDict()
        self._end: Deadline | None = None
        self._dropped = 0
        # Of the recorder's thread alone.
        self._written: OrderedDict[tuple[str, Announcement], _Written] = OrderedDict()
        self._pace = Bucket(_ALL_BURST, _ALL_PER_SECOND, clock())
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    @property
    def dropped(self) -> int:
        """How many announcements became no Event."""
        with self._changed:
            return self._dropped

    def start(self) -> None:
        """Begin to write; what was announced before is written too."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Write what waits, for at most so long and without repeating anything, then end."""
        with self._changed:
            self._end = Deadline.after(timeout_seconds)
            self._changed.notify_all()
        self._thread.join(timeout_seconds)
        with self._changed:
            if self._queue:
                logger.info("%d events were not written", len(self._queue))

    def announce(self, pod: Pod, announcement: Announcement) -> None:
        """Queue it; never blocks, never raises."""
        now = self._clock()
        with self._changed:
            if self._end is not None:
                return
            if not self._pace_of(pod, now).take(now):
                self._drop(f"the pod {pod} has too many")
                return
            if len(self._queue) >= _MAX_QUEUED:
                self._make_room()
            self._queue.append(_Saying(pod, announcement, event_name(pod), datetime.now(UTC), now))
            self._changed.notify_all()

    def _pace_of(self, pod: Pod, now: float) -> Bucket:
        pace = self._paces.pop(pod.uid, None) or Bucket(_POD_BURST, _POD_PER_SECOND, now)
        self._paces[pod.uid] = pace
        while len(self._paces) > _MAX_PODS:
            self._paces.popitem(last=False)
        return pace

    def _make_room(self) -> None:
        """The oldest progress goes: the next one tells more. Without any, the oldest of all."""
        victim = next((saying for saying in self._queue if saying.announcement.reason == PULL_PROGRESS), self._queue[0])
        self._queue.remove(victim)
        self._drop(f"over {_MAX_QUEUED} wait")

    def _drop(self, why: str) -> None:
        self._dropped += 1
        if self._once.is_due("dropped"):
            logger.warning("events are dropped, %d so far: %s", self._dropped, why)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while (saying := self._next()) is not None:
            try:
                outcome = self._write(saying)
            except Exception:  # a thread's main: a bug with one Event must not end them all
                logger.exception("an event was not written")
                outcome = _Outcome.LOST
            if outcome is not _Outcome.LATER:
                pause = _FIRST_PAUSE_SECONDS
            elif self._put_back(saying, pause):
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
            else:
                return

    def _next(self) -> _Saying | None:
        """The next one when it may be written; None at the end."""
        with self._changed:
            while True:
                now = self._clock()
                if self._end is not None and (self._end.is_over() or not self._queue):
                    return None
                if self._queue and self._pace.take(now):
                    return self._queue.popleft()
                self._changed.wait(self._pace.seconds_until_next(now) if self._queue else None)

    def _put_back(self, saying: _Saying, pause: float) -> bool:
        """Wait before anything else is tried, since they all go to the same server; False when the end has come."""
        with self._changed:
            if self._clock() - saying.queued_at < _RETRY_FOR_SECONDS and len(self._queue) < _MAX_QUEUED:
                self._queue.append(saying)
            else:
                self._drop("the API server does not take them")
            self._changed.wait_for(lambda: self._end is not None, pause)
            return self._end is None

    def _write(self, saying: _Saying) -> _Outcome:
        if self._has_pod_info() is False:
            return _Outcome.LOST
        written = self._written.get(saying.key)
        if written is not None and saying.queued_at - written.at < _REPEAT_SECONDS:
            body = {"count": written.count + 1, "lastTimestamp": timestamp(saying.at)}
            answer = self._client.patch(_EVENT, saying.pod.namespace, written.name, body=body)
            if answer.status != 404:  # else it expired, or somebody deleted it
                return self._outcome(answer, saying, _Written(written.name, written.count + 1, saying.queued_at))
        event = event_object(saying.name, saying.pod, saying.announcement, self._reporter, saying.at)
        answer = self._client.create(_EVENTS, saying.pod.namespace, body=event)
        return self._outcome(answer, saying, _Written(saying.name, 1, saying.queued_at))

    def _outcome(self, answer: Answer, saying: _Saying, written: _Written) -> _Outcome:
        # 1. Written, or it was by an earlier request whose answer was lost: the name is random. 2. Worth another try.
        # 3. The namespace is gone or going. 4. Refused.
        if answer.is_ok or answer.status == 409:
            self._written[saying.key] = written
            self._written.move_to_end(saying.key)
            while len(self._written) > _MAX_REPEATS:
                self._written.popitem(last=False)
            return _Outcome.WRITTEN
        if answer.is_passing:
            if self._once.is_due("passing"):
                logger.warning("events wait: %s", answer.trouble)
            return _Outcome.LATER
        if answer.status == 404 or _is_namespace_going(answer):
            logger.debug("no event for %s: %s", saying.pod, answer.trouble)
        else:
            self._refused(answer, saying.pod)
        return _Outcome.LOST

    def _refused(self, answer: Answer, pod: Pod) -> None:
        with self._changed:
            self._dropped += 1
        if not self._once.is_due(answer.status):
            return
        if answer.status == 403:
            hint = "the driver needs the right to create and patch events, or kubernetes.events: false"
            logger.warning("events are refused; %s: %s", hint, answer.trouble)
        else:
            logger.warning("the event for %s is refused: %s", pod, answer.trouble)


def _is_namespace_going(answer: Answer) -> bool:
    causes = (answer.document.get("details") or {}).get("causes") or ()
    return answer.status == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
