"""Whether who waits for an answer is being killed.

The kernel sends INTERRUPT at the first signal of any kind and nothing at a second (fs/fuse/dev.c, request_wait_answer). EINTR
at a SIGCHLD or SIGURG would be an error that no disk gives: read(2) fails where a program does not expect it, and a page fault
becomes SIGBUS. So a reader goes on waiting, as for a disk, unless it is being killed; then it must not be kept from dying.
"""

from __future__ import annotations

import os
import signal

_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO
_KILL = 1 << (signal.SIGKILL - 1)


def can_tell() -> bool:
    """Whether pids of requests mean the same in /proc here: certain only where both are the machine's own."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def is_killed(thread: int) -> bool:
    """Whether a thread is being killed, or gone. A fatal signal of any kind is pending as SIGKILL in each thread of its process
    (kernel/signal.c, complete_signal).
    """
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            for line in file:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line[7:], 16) & _KILL:
                    return True
    except OSError:
        return True
    return False
