"""Run by `hack/demo`."""

from __future__ import annotations

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported there is nothing to clean up: just end
from hack.demonstration.story import main  # noqa: E402  (see above)

if __name__ == "__main__":
    sys.exit(main())
