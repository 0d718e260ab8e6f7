"""The driver's side of the FUSE servers: the holder is told what to keep, and copies are kept here in case it dies.

Any of the three may die: the driver finds its views with the holder again; the holder, or the one after it, gets them back
from here; servers are the holder's own business. A driver that ends waits for a holder that is away, since its own copies may be
the last. Of a view of pyfuse3 nobody but its server has a descriptor, since without RESEND a copy would make readers hang where
the server's death should end the connection.

One thread talks to the holder, connects again when it has gone, and starts a new one where that is this driver's to do; calls
from other threads leave it work, and only `hold` waits for it.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from modelcsi.errors import MountFailed
from modelcsi.mount import wire
from modelcsi.mount.adapters import PASSTHROUGH
from modelcsi.mount.conversation import Answer, Conversation, HolderGone, HolderStuck, read_secret, secret_file
from modelcsi.mount.fusemount import abort, devices_of, has_ended
from modelcsi.mount.lifetime import SERVING_NAME
from modelcsi.mount.link import SOCKET_NAME
from modelcsi.mount.parked import Held, OwnHolder, Parked, ServerStatus, Task, are_served
from modelcsi.mount.table import read_mount_table

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""A holder answers within milliseconds; one that does not in this time is stuck."""
_HOLD_SECONDS = 10.0
"""For a publish, with the start of a holder."""
_STATUS_SECONDS = 1.0
_LOOK_SECONDS = 5.0
"""How often the holder is asked whether it still answers."""
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.1
_LEAVE_SECONDS = 15.0
"""For a holder to come that takes what only an ending driver has: less than a container is given to end."""
_MANAGED_PATIENCE_SECONDS = 30.0
_EXTERNAL_PATIENCE_SECONDS = 300.0
"""Without a holder and any server, until readers get errors: somebody else starts it, maybe after fetching its image."""


class Daemons:
    """Thread-safe, once started."""

    def __init__(
        self, root_dir: Path, on_lost: Callable[[str, str], None], command: Sequence[str] | None = None
    ) -> None:
        """`command` starts a holder; without it somebody else does.

        `on_lost(view, why)` is called on a thread of its own when a view answers with errors from now on; it is not held then.
        """
        self._root = root_dir
        self._on_lost = on_lost
        self._own = OwnHolder(command)
        self._patience_seconds = _EXTERNAL_PATIENCE_SECONDS if command is None else _MANAGED_PATIENCE_SECONDS
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._ended = threading.Event()
        self._is_synced = threading.Event()  # it is known what is served
        self._losses: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._threads = (
            threading.Thread(target=self._run, name="fuse holder", daemon=True),
            threading.Thread(target=self._tell_losses, name="fuse losses", daemon=True),
        )
        self._lock = threading.Lock()  # guards what follows; never held while anybody is waited for
        self._parked: dict[str, Parked] = {}
        self._released: set[str] = set()
        self._tasks: list[Task] = []
        self._servers: tuple[ServerStatus, ...] = ()
        self._holder_pid: int | None = None
        # Of the thread alone.
        self._conversation: Conversation | None = None
        self._pause = self._next_look = 0.0
        self._alone_since: float | None = None
        self._has_parted = False
        self._leave_by = 0.0

    def start(self) -> None:
        """Take over what a running holder has, if there is one; from now on it is watched."""
        for thread in self._threads:
            thread.start()
        self._is_synced.wait(_HOLD_SECONDS)

    def stop(self) -> None:
        """Let go of the holder, which goes on; one that is away is waited for, since readers would get errors without the copies."""
        self._leave_by = time.monotonic() + _LEAVE_SECONDS
        self._ended.set()
        self._wake()
        self._losses.put(None)
        for thread in self._threads:
            thread.join(_LEAVE_SECONDS + _HOLD_SECONDS)
        self._reader.close()
        self._writer.close()
        with self._lock:
            for parked in self._parked.values():
                parked.close()
            self._parked.clear()
            for task in self._tasks:
                task.close()

    def hold(self, view: str, fuse_fd: int, adapter: str, device: str, secret: bytes) -> None:
        """Have an attached view served; returning normally means that the holder has it. Raises MountFailed.

        `fuse_fd` stays the caller's, who closes it at once: with pyfuse3 a copy that is left makes readers hang.
        """
        if has_ended(fuse_fd):
            raise MountFailed(f"the connection of view {view} has ended before it was served")
        descriptors = [secret_file(secret), os.dup(fuse_fd)]
        held = Held(view, adapter, device, secret, secrets.token_hex(8))
        task = Task(held.to_hold(), descriptors, queue.SimpleQueue())
        with self._lock:  # both at once: a view without descriptor and task is one that a holder has lost
            self._released.discard(view)
            old = self._parked.pop(view, None)
            self._parked[view] = Parked(held, os.dup(fuse_fd) if adapter == PASSTHROUGH else None)
            self._tasks.append(task)
        if old is not None:
            old.close()
        try:
            self._wait_for(task)
        except MountFailed:
            self.release(view)
            raise

    def renew(self, view: str, secret: bytes) -> None:
        """Other credentials for a view that is held; the holder has them soon. Of another view nothing is done."""
        with self._lock:
            parked = self._parked.get(view)
            if parked is None:
                return
            parked.held = replace(parked.held, secret=secret)
            self._tasks.append(Task(parked.held.to_hold(), [secret_file(secret)], queue.SimpleQueue()))
        self._wake()

    def release(self, view: str) -> None:
        """After a view's last unmount; repeatable. It waits for nobody: a holder that is away is told later."""
        with self._lock:
            parked = self._parked.pop(view, None)
            self._released.add(view)
            message = wire.Release(view)
            if all(task.message != message for task in self._tasks):
                self._tasks.append(Task(message, [], queue.SimpleQueue()))
        if parked is not None:
            parked.close()
        self._wake()

    def held(self) -> tuple[Held, ...]:
        """All views that are served, or will be once the holder is back."""
        with self._lock:
            return tuple(parked.held for parked in self._parked.values())

    def is_alive(self, view: str) -> bool:
        """Whether a view is held and its connection has not ended; asks the kernel only."""
        return self.device_of(view) is not None

    def device_of(self, view: str) -> str | None:
        """The file system, `major:minor`, of a view that is alive: mounts of another one are of a connection before it."""
        with self._lock:
            parked = self._parked.get(view)
            return parked.held.device if parked is not None and parked.is_alive() else None

    def servers(self) -> tuple[ServerStatus, ...]:
        """The processes; none while the holder is away, and those of some seconds ago if it hangs."""
        task = Task(wire.ListHeld(descriptors=False), [], queue.SimpleQueue())
        if self._holder_pid is not None:
            with self._lock:
                self._tasks.append(task)
            self._wake()
            with suppress(queue.Empty):
                task.done.get(timeout=_STATUS_SECONDS)
        task.is_cancelled = True
        with self._lock:
            return self._servers

    @property
    def holder_pid(self) -> int | None:
        """None while there is none."""
        return self._holder_pid

    def _wait_for(self, task: Task) -> None:
        self._wake()
        try:
            error = task.done.get(timeout=_HOLD_SECONDS)
        except queue.Empty:
            task.is_cancelled = True
            what = f"the FUSE holder of {self._root} does not answer"
            raise MountFailed(what, hint="see the log of `modelcsi fuse`") from None
        if error:
            raise MountFailed(f"the FUSE holder refuses: {error}")

    # The thread.

    def _wake(self) -> None:
        with suppress(OSError):  # awake already, or at its end
            self._writer.send(b"\0")

    def _run(self) -> None:
        while not self._may_end():
            try:
                self._turn()
            except HolderStuck:
                self._part("it does not answer", must_kill=True)
            except HolderGone as error:
                self._part(str(error))
            except Exception:  # a thread's main: what is a bug today must not cost the node its lazy volumes tomorrow
                logger.exception("looking after the FUSE holder failed")
                self._part("an error of the driver")
        self._part("")

    def _turn(self) -> None:
        if self._conversation is None:
            self._connect()
        else:
            self._work(self._conversation)
        conversation = self._conversation
        if conversation is not None or not self._is_wanted():
            self._is_synced.set()
        if self._ended.is_set() and conversation is not None:
            conversation.ask(wire.Part())
            self._has_parted = True
            return
        timeout = self._pause if conversation is None else max(0.0, self._next_look - time.monotonic())
        if conversation is None and not self._is_wanted():
            timeout = _LOOK_SECONDS  # a holder may come by itself
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if conversation is not None:
            poll.register(conversation, select.POLLIN)
        for descriptor, _events in poll.poll(1000 * timeout):
            if descriptor == self._reader.fileno():
                self._reader.recv(4096)
            elif conversation is not None:
                conversation.hear()

    def _may_end(self) -> bool:
        if not self._ended.is_set():
            return False
        with self._lock:
            has_copies = any(parked.fuse_fd is not None for parked in self._parked.values())
        if self._has_parted or not has_copies:
            return True
        is_late = time.monotonic() >= self._leave_by
        if is_late:
            logger.error("no FUSE holder came in %.0f s: the lazy views end with this driver", _LEAVE_SECONDS)
        return is_late

    def _is_wanted(self) -> bool:
        with self._lock:
            has_views = bool(self._parked) or any(isinstance(task.message, wire.Hold) for task in self._tasks)
        # Servers whose holder died together with the last driver: nobody else knows what they have.
        return has_views or (not self._is_synced.is_set() and are_served(self._root / SERVING_NAME))

    def _connect(self) -> None:
        try:
            conversation = Conversation(self._root / SOCKET_NAME, _ANSWER_SECONDS)
        except OSError:
            self._pause = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _LONGEST_PAUSE_SECONDS)
            if self._is_wanted():
                if self._own.ensure():  # a publish waits for one that begins
                    self._pause = _FIRST_PAUSE_SECONDS
                self._mind_the_time()
            return
        self._conversation, self._pause = conversation, 0.0
        self._settle(conversation)
        self._own.note_listening()
        self._alone_since = None
        with self._lock:
            self._holder_pid = conversation.pid
        self._work(conversation)

    def _settle(self, conversation: Conversation) -> None:
        """Compare what the holder has with what we have."""
        answer = conversation.ask(wire.ListHeld())
        theirs = {held.view: (held, descriptors) for held, descriptors in answer.held}
        for held, descriptors in theirs.values():
            self._compare(conversation, held, descriptors)
        with self._lock:
            ours = list(self._parked.values())
        for parked in ours:
            if parked.held.view not in theirs:
                self._hand_over(conversation, parked)
        self._note_servers(answer)

    def _compare(self, conversation: Conversation, held: wire.Held, descriptors: list[int]) -> None:
        secret_fd = descriptors.pop(0) if held.has_secret and descriptors else None
        fuse_fd = descriptors.pop(0) if held.has_descriptor and descriptors else None
        with self._lock:
            is_released = held.view in self._released
            parked = self._parked.get(held.view)
            if parked is None and not is_released:
                secret = None if secret_fd is None else read_secret(secret_fd)
                known = Held(held.view, held.adapter, held.device, secret, held.serial)
                self._parked[held.view] = Parked(known, fuse_fd)
                fuse_fd = None
        for descriptor in (secret_fd, fuse_fd):
            if descriptor is not None:
                os.close(descriptor)
        if is_released or (parked is not None and parked.held.serial != held.serial):
            conversation.ask(wire.Release(held.view))
        if parked is not None and not is_released:
            if parked.held.serial != held.serial:
                self._hand_over(conversation, parked)
            elif not held.has_secret and parked.held.secret is not None:
                self._send_hold(conversation, parked.held, [])

    def _hand_over(self, conversation: Conversation, parked: Parked) -> None:
        """A view that the holder should have and has not."""
        if parked.fuse_fd is None:
            with self._lock:
                has_task = any(parked.held.to_hold() == task.message for task in self._tasks)
            if not has_task:
                self._lose(parked.held.view, "its server ended together with the FUSE holder", parked.held.serial)
            return
        with self._lock:
            if self._parked.get(parked.held.view) is not parked:
                return
            copy = os.dup(parked.fuse_fd)
        try:
            self._send_hold(conversation, parked.held, [copy])
        finally:
            os.close(copy)

    def _send_hold(self, conversation: Conversation, held: Held, fuse_fds: list[int]) -> None:
        secret_fd = secret_file(held.secret or b"")
        try:
            conversation.ask(held.to_hold(), [secret_fd, *fuse_fds])
        finally:
            os.close(secret_fd)

    def _work(self, conversation: Conversation) -> None:
        while (task := self._next_task()) is not None:
            if not task.is_cancelled:
                try:
                    answer = conversation.ask(task.message, task.descriptors)
                except HolderGone:
                    with self._lock:
                        self._tasks.insert(0, task)
                    raise
                if isinstance(task.message, wire.ListHeld):
                    self._note_servers(answer)
                elif isinstance(task.message, wire.Release):
                    with self._lock:
                        self._released.discard(task.message.view)
                task.done.put(answer.error)
            task.close()
        self._note_losses(conversation)
        if time.monotonic() >= self._next_look:  # always, or an idle driver would look without a pause
            self._note_servers(conversation.ask(wire.ListHeld(descriptors=False)))

    def _next_task(self) -> Task | None:
        with self._lock:
            return self._tasks.pop(0) if self._tasks else None

    def _note_servers(self, answer: Answer) -> None:
        self._next_look = time.monotonic() + _LOOK_SECONDS
        with self._lock:
            self._servers = tuple(ServerStatus(s.pid, s.adapter, s.role, s.views) for s in answer.servers)

    def _note_losses(self, conversation: Conversation) -> None:
        losses, conversation.lost = conversation.lost, []
        for loss in losses:
            if loss.why:
                self._lose(loss.view, loss.why, loss.serial)
            # Not by the view alone: of a connection before it, or of another driver, mounts may be there as well.
            elif devices_of(read_mount_table(), loss.view) & self._devices(loss.serial):
                self._lose(loss.view, "its FUSE connection was ended", loss.serial)
            else:  # unmounted
                self._unpark(loss.view, loss.serial)

    def _devices(self, serial: str) -> frozenset[str]:
        return frozenset(held.device for held in self.held() if held.serial == serial)

    def _lose(self, view: str, why: str, serial: str) -> None:
        if self._unpark(view, serial):
            self._losses.put((view, why))

    def _unpark(self, view: str, serial: str) -> bool:
        with self._lock:
            parked = self._parked.get(view)
            if parked is None or parked.held.serial != serial:
                return False  # mounted anew meanwhile
            del self._parked[view]
        parked.close()
        return True

    def _part(self, why: str, *, must_kill: bool = False) -> None:
        """Forget a holder that has gone; one that only hangs is killed if another can be started."""
        conversation, self._conversation = self._conversation, None
        if conversation is None:
            return
        if why:
            logger.warning("the FUSE holder %d is not there any more: %s", conversation.pid, why)
        if must_kill and self._own.is_ours_to_start and conversation.pid > 0:  # 0: of another pid namespace
            with suppress(ProcessLookupError):
                os.kill(conversation.pid, signal.SIGKILL)
        conversation.close()
        with self._lock:
            self._holder_pid, self._servers = None, ()

    def _mind_the_time(self) -> None:
        """Readers wait for ever if no server comes: that is ended, unless servers of a holder that died still serve."""
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since < self._patience_seconds or are_served(self._root / SERVING_NAME):
            return
        self._alone_since = None
        for held in self.held():
            try:
                if held.device in devices_of(read_mount_table(), held.view):
                    abort(held.device)
            except OSError as error:
                logger.error("the connection of view %s cannot be ended: %s", held.view, error)  # noqa: TRY400 - expected
            self._lose(held.view, f"there was no FUSE holder for {self._patience_seconds:.0f} s", held.serial)

    def _tell_losses(self) -> None:
        while (loss := self._losses.get()) is not None:
            try:
                self._on_lost(*loss)
            except Exception:  # a thread's main
                logger.exception("telling that view %s is lost failed", loss[0])
