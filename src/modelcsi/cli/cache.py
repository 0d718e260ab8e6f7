"""`modelcsi status` and `modelcsi cache`: asked of the running driver, or of the store itself where none runs."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from modelcsi.api.client import call_control
from modelcsi.api.control import Control
from modelcsi.cli.build import registry_of, settings_of_flags
from modelcsi.cli.main import DEFAULT_CONFIG, DONE, FAILED
from modelcsi.cli.terminal import draw_bar, draw_table
from modelcsi.config.file import load_root_dir, parse_size
from modelcsi.errors import NotFound
from modelcsi.mount.mounter import Mounter
from modelcsi.pull.puller import Puller, PullLimits
from modelcsi.quantities import format_amounts, format_seconds, format_size
from modelcsi.store.layout import StoreLayout
from modelcsi.store.store import Store
from modelcsi.volume.inventory import Inventory
from modelcsi.volume.restore import restore

_REMOVING = frozenset({"prune", "verify"})


class _Driver:
    """The driver that runs on a store, as a Control."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def is_running(self) -> bool:
        """Whether somebody answers; a socket file alone may be what a killed driver left."""
        try:
            self.status()
        except NotFound:
            return False
        return True

    def status(self) -> dict[str, Any]:
        return call_control(self._root, "GET", "/v1/status")

    def cache(self) -> dict[str, Any]:
        return call_control(self._root, "GET", "/v1/cache")

    def prune(self, max_bytes: int | None) -> dict[str, Any]:
        return call_control(self._root, "POST", "/v1/cache/prune", {"max_bytes": max_bytes})

    def verify(self, digest: str | None) -> dict[str, Any]:
        return call_control(self._root, "POST", "/v1/cache/verify", {"digest": digest})


def run_status(options: argparse.Namespace) -> int:
    """Pulls with a bar each, then publications, then what failed last."""
    with _node(options) as node:
        status = node.status()
    if options.json:
        print(json.dumps(status, indent=2))
        return DONE
    if status["registration"] is not None:
        print(f"kubelet: {status['registration']}")
    if status["configuration"] is not None:
        print(f"configuration: not in force, the driver goes on with the one before: {status['configuration']}")
    for pull in status["pulls"]:
        print(f"pulling {pull['reference']}\n  {_progress(pull)}")
    rows = [
        [item["state"], item["reference"], item["digest"][:19], item["pod"] or item["volume_id"][:20], item["target"]]
        for item in status["publications"]
    ]
    print(
        draw_table(["STATE", "MODEL", "DIGEST", "POD OR VOLUME", "TARGET"], rows)
        if rows
        else "no volumes are published"
    )
    _print_lazy(status.get("lazy") or {})
    for failure in status["failures"]:
        since = format_seconds(time.time() - failure["last_at"])
        who = failure["pod"] or failure["target"]
        print(f"failed {since} ago, {failure['attempts']} times: {who}\n  {failure['reference']}: {failure['error']}")
    return DONE


def _print_lazy(lazy: Mapping[str, Any]) -> None:
    """Views that were mounted before they were complete, while that matters."""
    for view in lazy.get("views", ()):
        if view["trouble"] or not view["is_complete"] or not view["is_served"]:
            percent = "waiting" if view["percent"] is None else f"{view['percent']}%"
            served = "" if view["is_served"] else ", its FUSE server has ended"
            print(f"lazy {view['reference']}: {percent}{served}")
            if view["trouble"]:
                print(f"  {view['trouble']}")


def run_cache(options: argparse.Namespace) -> int:
    """One of ls, du, verify, prune."""
    with _node(options) as node:
        if options.action == "verify":
            return _show_verify(node.verify(options.digest), as_json=options.json)
        if options.action == "prune":
            return _show_prune(node.prune(parse_size(options.keep, "--keep")), as_json=options.json)
        cache = node.cache()
    if options.json:
        print(json.dumps(cache, indent=2))
    elif options.action == "du":
        total = sum(item["size_bytes"] for item in cache["artifacts"])
        print(
            f"{format_size(cache['stored_bytes'])} stored in {cache['root_dir']}, {format_size(cache['free_bytes'])} free"
        )
        print(f"{len(cache['artifacts'])} artifacts of {format_size(total)} in all; what they share is stored once")
    else:
        rows = [
            [item["digest"][:19], format_size(item["size_bytes"]), str(item["in_use"]), item["kind"], item["reference"]]
            for item in cache["artifacts"]
        ]
        print(draw_table(["DIGEST", "SIZE", "VOLUMES", "KIND", "MODEL"], rows) if rows else "the store is empty")
    return DONE


def _show_verify(result: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        for damage in result["damages"]:
            print(damage)
        removed = f", {len(result['removed'])} removed" if result["damages"] else ""
        print(f"{result['verified']} artifacts verified, {len(result['damages'])} damages{removed}")
    return FAILED if result["damages"] else DONE


def _show_prune(result: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(result, indent=2))
        return DONE
    for item in result["artifacts"]:
        print(f"removed {item['reference']} ({item['digest'][:19]}, {format_size(item['size_bytes'])})")
    print(f"{format_size(result['freed_bytes'])} freed")
    return DONE


def _progress(pull: dict[str, Any]) -> str:
    done, total = pull["done_bytes"], pull["total_bytes"]
    eta = "" if pull["eta_seconds"] is None else f", {format_seconds(pull['eta_seconds'])} left"
    text = f"{draw_bar(done, total)} {format_amounts(done, total)}, {format_size(pull['bytes_per_second'])}/s{eta}"
    since = format_seconds(time.time() - pull["began_at"])
    trouble = f"\n  {pull['trouble']}" if pull["trouble"] else ""
    return f"{text}, {pull['waiting']} waiting, for {since}{trouble}"


@contextmanager
def _node(options: argparse.Namespace) -> Iterator[Control]:
    """The running driver, or where none runs the store itself: it is locked while it is asked."""
    root = options.root_dir or load_root_dir(getattr(options, "config", None) or DEFAULT_CONFIG)
    if not StoreLayout(root).format_file.exists():
        raise NotFound(f"{root} holds no store", hint="name the driver's with --root-dir or --config")
    driver = _Driver(root)
    if driver.is_running():
        yield driver
        return
    with closing(Store(Path(root))) as store:
        if getattr(options, "action", None) in _REMOVING:
            # What pods see is kept because of its record. The database may have been lost since the last driver ended.
            restore(store, Mounter())
        puller = Puller(store, *registry_of(settings_of_flags(None, None)), PullLimits())
        yield Inventory(store, puller)
