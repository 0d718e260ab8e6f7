"""The real holder, with `tiny_server` for servers. `python tiny_holder.py ROOT_DIR [--until-idle] [--give-up SECONDS] [--resume N]`."""

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
    resume = int(flags[flags.index("--resume") + 1]) if "--resume" in flags else None
    flags = flags[: flags.index("--resume")] if "--resume" in flags else flags
    give_up = float(flags[flags.index("--give-up") + 1]) if "--give-up" in flags else 30.0
    own = [sys.executable, __file__, root, *flags]
    settings = HolderSettings(
        *(Path(root), lambda adapter: [*server, adapter], own),
        ends_when_idle="--until-idle" in flags,
        give_up_seconds=give_up,
    )
    return Holder(settings, resume).run()


if __name__ == "__main__":
    sys.exit(main())
