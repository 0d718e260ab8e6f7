"""Mounting lazy views and ending them: the mounts themselves (`fusemount`), and that somebody serves them (`daemons`).

Stateless but for what the daemons remember; the caller keeps two calls on one view, and on one target, apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from modelcsi.errors import MountFailed
from modelcsi.mount import fusemount
from modelcsi.mount.adapters import choose_adapter
from modelcsi.mount.daemons import Daemons
from modelcsi.mount.mounter import Mounter
from modelcsi.mount.table import mounts_at

_PATH_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LazyMounter:
    """The lazy mounts of this node."""

    def __init__(self, mounter: Mounter, daemons: Daemons, adapter: str, read_ahead_kb: Callable[[], int]) -> None:
        """`adapter` is the configuration's word: `auto`, or one of them."""
        self._mounter = mounter
        self._daemons = daemons
        self._read_ahead_kb = read_ahead_kb
        self._choice = choose_adapter(adapter)

    def why_not(self) -> str:
        """Why this node has no lazy mounts; empty if it has."""
        return self._choice.reason

    def attach(self, view: str, target: str, secret: bytes) -> None:
        """Returning normally means that the view is mounted at the target, and that the holder sees to its being served.

        Raises what `fusemount.attach` and `Daemons.hold` raise; nothing is mounted then, or RollbackFailed.
        """
        adapter = self._choice.adapter
        if adapter is None:
            raise MountFailed(f"this node has no lazy mounts: {self._choice.reason}")
        connection_fd = fusemount.open_connection()
        try:
            device = fusemount.attach(connection_fd, target, view=view, read_ahead_kb=self._read_ahead_kb())
            try:
                self._daemons.hold(view, connection_fd, adapter, device, secret)
            except BaseException:
                self.unmount(target)
                raise
        finally:
            os.close(connection_fd)

    def clone(self, view: str, target: str) -> None:
        """Show at another target what is mounted already. Raises as `Mounter.bind_read_only`; MountFailed if it is gone."""
        for source in self.targets():
            if source != target and self.shows(source, view):
                source_fd = os.open(source, _PATH_ONLY)
                try:
                    self._mounter.bind_read_only(source_fd, target)
                finally:
                    os.close(source_fd)
                return
        raise MountFailed(f"what {target} should show too is not mounted any more")

    def entrust(self, view: str, secret: bytes) -> None:
        """Have a view's credentials remembered in place of those before."""
        self._daemons.renew(view, secret)

    def is_alive(self, view: str) -> bool:
        """Whether the view's mounts are served, or will be as soon as a server is back."""
        return self._daemons.is_alive(view)

    def shows(self, target: str, view: str) -> bool:
        """Whether the target shows the view, and is served: not by a connection that has ended, while others show a new one."""
        topmost = next(reversed(mounts_at(self._mounter.table(), target)), None)
        if topmost is None or fusemount.lazy_mounts([topmost]).get(target) != view:
            return False
        return topmost.device == self._daemons.device_of(view)

    def make_way(self, target: str) -> None:
        """Take away a lazy mount that nobody serves, and nobody will."""
        view = self.targets().get(target)
        if view is not None and not self.shows(target, view):
            self.unmount(target)

    def unmount(self, target: str) -> None:
        """As `Mounter.unmount`, also where the server is stuck: whoever waits for it gets an error with the last mount."""
        fusemount.unmount(self._mounter, target)

    def targets(self) -> Mapping[str, str]:
        """The view at each target."""
        return fusemount.lazy_mounts(self._mounter.table())

    def release(self, view: str) -> None:
        """The view's last mount has gone; repeatable."""
        self._daemons.release(view)

    def secrets(self) -> Mapping[str, bytes]:
        """What was entrusted of the views that are alive; empty where nobody knows it any more."""
        return {held.view: held.secret or b"" for held in self._daemons.held()}
