"""Making the kernel forget pages of files whose bytes turned out wrong.

In a thread, the only one of a server: the kernel locks each page of the file before it drops it, and a page that is being read
is unlocked by our answer to that read. The loop would wait for itself.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

from modelcsi.fuse import abi
from modelcsi.fuse.opens import Opens
from modelcsi.view.view import View

logger = logging.getLogger(__name__)


class Stale(NamedTuple):
    """A file of which the kernel may have pages of an older epoch."""

    file: int
    node: int
    epoch: int


def stale_files(view: View, opens: Opens) -> list[Stale]:
    """Those that have a new epoch since the kernel was last told."""
    return [
        Stale(file, view.tree.number(file), epoch) for file, epoch in view.fill.epochs() if epoch != opens.settled(file)
    ]


def forget_pages(fd: int, opens: Opens, files: Sequence[Stale]) -> None:
    """Begin to have the kernel forget them. A server that is killed meanwhile leaves the rest to the next one."""
    own = os.dup(fd)
    threading.Thread(target=_forget, args=(own, opens, files), name="forget", daemon=True).start()


def _forget(fd: int, opens: Opens, files: Sequence[Stale]) -> None:
    try:
        for file, node, epoch in files:
            body = abi.NOTIFY_INVAL_INODE.pack(node, 0, -1)  # length -1: to its end
            try:
                os.write(fd, abi.REPLY.pack(abi.REPLY.size + len(body), abi.NOTIFY_CODE_INVAL_INODE, 0) + body)
            except OSError as error:
                if error.errno != errno.ENOENT:  # nobody ever looked at it
                    raise
            opens.settle(file, epoch)
    except (OSError, ValueError) as error:  # unmounted, or dropped meanwhile
        logger.info("stale pages are left: %s", error)
    finally:
        os.close(fd)
