"""Who is being killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from modelcsi.fuse.killed import is_killed


def test_living_and_dead() -> None:
    """This thread lives; a process that is no more counts as killed."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert not is_killed(threading.get_native_id())
    assert is_killed(child.pid)


def test_pending_signals_are_told_apart() -> None:
    """A stopped process with a signal pending is not killed; that the same file says so of SIGKILL is tried with mounts."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    child.send_signal(signal.SIGSTOP)
    child.send_signal(signal.SIGUSR1)
    seen = is_killed(child.pid)
    child.kill()
    child.wait()

    assert not seen
