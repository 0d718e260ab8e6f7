"""The real holder, with `tiny_server` for servers. `python tiny_holder.py ROOT_DIR [--until-idle] [--resume N]`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from modelcsi.mount.holder import Holder, HolderSettings
from modelcsi.mount.servers import LINK_FD


def main() -> int:
    """Until it is told to end."""
    logging.basicConfig(
        level="DEBUG", stream=sys.stderr, format=f"%(relativeCreated)6d {sys.argv[0][-14:]} %(message)s"
    )
    root, *flags = sys.argv[1:]
    server = [sys.executable, str(Path(__file__).with_name("tiny_server.py")), root, str(LINK_FD)]
    ends = "--until-idle" in flags
    own = [sys.executable, __file__, root, *(["--until-idle"] if ends else [])]
    resume = int(flags[flags.index("--resume") + 1]) if "--resume" in flags else None
    return Holder(
        HolderSettings(Path(root), lambda adapter: [*server, adapter], own, ends_when_idle=ends), resume
    ).run()


if __name__ == "__main__":
    sys.exit(main())
