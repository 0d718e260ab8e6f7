"""The real holder, with `recording_server` for servers. `python recorded_holder.py ROOT_DIR [--resume N]`."""

from __future__ import annotations

import sys
from pathlib import Path

from modelcsi.mount.holder import Holder, HolderSettings
from modelcsi.mount.servers import LINK_FD


def main() -> int:
    """Until it is told to end."""
    root, *resume = sys.argv[1:]
    server = [sys.executable, str(Path(__file__).with_name("recording_server.py")), root, str(LINK_FD)]
    settings = HolderSettings(Path(root), lambda adapter: [*server, adapter], [sys.executable, __file__, root])
    return Holder(settings, int(resume[1]) if resume else None).run()


if __name__ == "__main__":
    sys.exit(main())
