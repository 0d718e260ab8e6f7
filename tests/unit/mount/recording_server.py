"""A server that serves nothing: it writes down what it is told, a line each, for tests of who is told what and when."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from modelcsi.mount import wire
from modelcsi.mount.link import HolderLink


def main(root: Path, link_fd: int, adapter: str) -> None:
    """Until told to leave."""
    link = HolderLink(link_fd, root, adapter)
    with (root / "orders").open("a", buffering=1) as orders:
        link.ready()
        while True:
            select.select([link.fileno()], [], [])
            for order, _ in link.take():
                orders.write(f"{os.getpid()} {order.op} {getattr(order, 'view', '')[:2]}\n")
                if isinstance(order, wire.Serve):
                    link.served(order.view)
                if isinstance(order, wire.Leave):
                    return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
