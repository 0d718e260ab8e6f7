"""What makes a process the holder of a root_dir, and how it becomes another program without ceasing to be.

Used by `holder`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from modelcsi.errors import InvalidRequest

logger = logging.getLogger(__name__)

LOCK_NAME = "fuse.lock"
"""Under `root_dir`: locked by the holder."""
SERVING_NAME = "fuse.serving"
"""Under `root_dir`: a lock that the holder and all its servers share."""
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""That a holder handles."""
_BACKLOG = 64
_FIRST_FREE_FD = 10
_PR_SET_DUMPABLE = 4


def replace_program(command: Sequence[str], state: dict[str, Any], kept: Iterable[int]) -> None:
    """Become `command`, which finds the state by its last argument and has the descriptors `kept`; returns if that fails."""
    state_fd = os.memfd_create("state", 0)
    os.write(state_fd, json.dumps(state).encode())
    arguments = [*command, "--resume", str(state_fd)]
    logger.info("the FUSE holder replaces its program: %s", " ".join(arguments))
    # Until the new program has its handlers, a second SIGHUP would kill it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    descriptors = list(kept)
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        os.execv(arguments[0], arguments)  # noqa: S606 - our own command line
    except OSError as error:
        logger.error("the FUSE holder goes on with the old program: %s", error)  # noqa: TRY400 - expected
    keep_from_children(descriptors)
    os.close(state_fd)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def keep_from_children(descriptors: Iterable[int]) -> None:
    """Close-on-exec again."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)


def read_state(state_fd: int) -> dict[str, Any]:
    """What `replace_program` wrote."""
    try:
        state: dict[str, Any] = json.loads(os.pread(state_fd, os.fstat(state_fd).st_size, 0))
    finally:
        os.close(state_fd)
    return state


def lock_holder(path: Path) -> int:
    """Held while a holder lives."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)  # as a driver makes it, which may begin later
    lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_fd)
        raise InvalidRequest(f"another FUSE holder has {path}", hint="there is one for each root_dir") from None
    return lock_fd


def lock_serving(path: Path) -> tuple[int, bool]:
    """A lock that all servers of this holder share with it, and whether servers of another one live."""
    serving_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(serving_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        has_orphans = True
    else:
        has_orphans = False
    fcntl.flock(serving_fd, fcntl.LOCK_SH)
    source = fcntl.fcntl(serving_fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)  # as `Servers` wants it
    os.close(serving_fd)
    return source, has_orphans


def listen_at(path: Path) -> socket.socket:
    """A listener that appears at the path when it listens, readable by us alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        listener.bind(str(temporary))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    temporary.rename(path)
    return listener


def hide_memory() -> None:
    """No core dump: what passes through here is none of anybody's business."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_limit_of_descriptors() -> None:
    """As many as may be: two for each view here, more in the servers, which inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
