"""`modelcsi fuse`: the holder in the foreground, as a container runs it; `modelcsi fuse-server`: what the holder starts.

Each is imported alone: the holder must stay small, and a server begin fast.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcsi.cli.main import FUSE_SERVER
from modelcsi.errors import InvalidRequest
from modelcsi.logs import setup_logging

if TYPE_CHECKING:
    from modelcsi.config.model import Config

logger = logging.getLogger(__name__)


def run_fuse(options: argparse.Namespace) -> int:
    """Until SIGTERM, or until it is idle.

    The configuration is read by a first program, which the holder replaces: what reading YAML takes would be a third of it.
    """
    from modelcsi.mount.lifetime import SIGNALS

    # Through the exec, until the holder handles them: a SIGHUP that comes too early would be its end.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if options.resume is None:
        _close_what_was_inherited()
    if options.settled is None or options.reads_again:
        command = _command(options, _read_settings(options))
        if options.resume is not None:
            command += ["--resume", str(options.resume)]
        os.execv(command[0], command)  # noqa: S606 - our own command line
    from modelcsi.mount.holder import Holder, HolderSettings
    from modelcsi.mount.servers import LINK_FD, program

    settled = json.loads(options.settled)
    setup_logging(settled["log_level"], json=not sys.stderr.isatty())
    root = settled["root_dir"]

    def server_command(adapter: str) -> list[str]:
        flags = ["--adapter", adapter, "--link-fd", str(LINK_FD), "--root-dir", root]
        flags += ["--verify", settled["verify"], "--read-timeout", str(settled["read_timeout"])]
        return [*program(), FUSE_SERVER, *flags, "--log-level", settled["log_level"]]

    own = [*_command(options, settled), "--reads-again"]
    settings = HolderSettings(Path(root), server_command, own, ends_when_idle=options.until_idle)
    return Holder(settings, options.resume).run()


def _close_what_was_inherited() -> None:
    """What the driver's libraries had open: not all of it is closed by exec."""
    for name in os.listdir("/proc/self/fd"):  # not up to the limit of descriptors, which may be a thousand million
        if int(name) > sys.stderr.fileno():
            with suppress(OSError):  # the listing's own
                os.close(int(name))


def _read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the configuration says; a file that is wrong by now does not end a holder that runs."""
    from modelcsi.config.file import load_config

    settled: dict[str, Any] | None = None if options.settled is None else json.loads(options.settled)
    try:
        config = load_config(options.config)
    except InvalidRequest as error:
        if settled is None:
            raise
        setup_logging(settled["log_level"], json=not sys.stderr.isatty())
        logger.warning("the FUSE holder keeps its settings: %s", error)
        return settled
    found = settled_by(config)
    found["log_level"] = options.log_level or config.log_level
    return found if settled is None else {**found, "root_dir": settled["root_dir"]}


def settled_by(config: Config) -> dict[str, Any]:
    """What `--settled` says of a configuration: a driver that has read it starts a holder that need not."""
    return {
        "root_dir": str(config.root_dir),
        "log_level": config.log_level,
        "verify": config.fuse.verify,
        "read_timeout": config.fuse.read_timeout,
    }


def _command(options: argparse.Namespace, settled: dict[str, Any]) -> list[str]:
    from modelcsi.mount.servers import program

    command = [*program(), "fuse", "--config", str(options.config), "--settled", json.dumps(settled)]
    command += ["--log-level", options.log_level] if options.log_level else []
    return [*command, *(["--until-idle"] if options.until_idle else [])]


def run_fuse_server(options: argparse.Namespace) -> int:
    """Until the holder says so."""
    from modelcsi.fuse.server import Settings, serve
    from modelcsi.mount.adapters import PYFUSE3

    setup_logging(options.log_level, json=not sys.stderr.isatty())
    settings = Settings(options.verify, options.read_timeout)
    if options.adapter == PYFUSE3:
        from modelcsi.fuse import portable

        return portable.serve(options.link_fd, options.root_dir, settings)
    return serve(options.link_fd, options.root_dir, settings)
