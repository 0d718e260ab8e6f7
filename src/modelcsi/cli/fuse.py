"""`modelcsi fuse`: the holder in the foreground, as a container runs it; `modelcsi fuse-server`: what the holder starts.

Each is imported alone: the holder must stay small, and a server begin fast.
"""

from __future__ import annotations

import argparse
import sys

from modelcsi.cli.main import DEFAULT_CONFIG, FUSE_SERVER
from modelcsi.logs import setup_logging

_VERIFY = "range"
_READ_TIMEOUT_SECONDS = 300.0
_LOG_LEVEL = "info"


def run_fuse(options: argparse.Namespace) -> int:
    """Until SIGTERM, or until it is idle."""
    from modelcsi.mount.holder import Holder, HolderSettings
    from modelcsi.mount.servers import LINK_FD, program

    if options.root_dir is None:
        from modelcsi.config.file import load_root_dir

        options.root_dir = load_root_dir(options.config)
    setup_logging(options.log_level or _LOG_LEVEL, json=not sys.stderr.isatty())
    common = ["--root-dir", str(options.root_dir)]
    for flag, value in (("--verify", options.verify), ("--read-timeout", options.read_timeout)):
        common += [flag, str(value)] if value is not None else []
    common += ["--log-level", options.log_level] if options.log_level else []
    own = [*program(), "fuse", *common, *(["--until-idle"] if options.until_idle else [])]
    if options.config != DEFAULT_CONFIG:
        own += ["--config", str(options.config)]

    def server_command(adapter: str) -> list[str]:
        return [*program(), FUSE_SERVER, "--adapter", adapter, "--link-fd", str(LINK_FD), *common]

    settings = HolderSettings(options.root_dir, server_command, own, ends_when_idle=options.until_idle)
    return Holder(settings, options.resume).run()


def run_fuse_server(options: argparse.Namespace) -> int:
    """Until the holder says so."""
    from modelcsi.fuse.server import Settings, serve

    setup_logging(options.log_level or _LOG_LEVEL, json=not sys.stderr.isatty())
    settings = Settings(options.verify or _VERIFY, options.read_timeout or _READ_TIMEOUT_SECONDS)
    return serve(options.link_fd, options.root_dir, settings)
