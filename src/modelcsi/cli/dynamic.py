"""`model-csi-cli`: the pod's end of a dynamic volume, with the verbs, flags and output of upstream's program of that name.

It runs inside of users' pods. So it needs nothing but the standard library (this one file may be copied into an image), no
root, and starts at once.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DONE, FAILED = 0, 1
_INTERRUPTED = 130
_WORKDIR = Path("/home/admin/model-csi")
_TAB = 8
_LOOK_SECONDS = 0.5
_CLEAR = "\r\033[K"


class _Failed(Exception):
    """What to tell the person, in a line; and what to do, in another one."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(_Volume(options.workdir), options)
    except _Failed as error:
        print(f"model-csi-cli: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:  # the connection ends with the process, and with it the pull
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="model-csi-cli", description="Mount models in a running pod.")
    parser.add_argument(
        "--workdir",
        type=Path,
        default=_WORKDIR,
        metavar="DIR",
        help=f"where the dynamic volume is mounted (default: {_WORKDIR})",
    )
    parser.add_argument("--log-level", default="info", help=argparse.SUPPRESS)  # upstream's; there is no log
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    mount = verbs.add_parser("mount", help="mount a model, and print its mount id when it is there")
    mount.add_argument("--reference", required=True, metavar="REF", help="registry/repository:tag, or @sha256:…")
    mount.add_argument("--mount-id", required=True, metavar="ID", help="it appears in DIR/models/ID/model")
    mount.add_argument("--type", choices=("image",), default="image", help="the kind of model (default: image)")
    mount.add_argument("--check-disk-quota", action="store_true", help="of upstream; space is always checked")
    mount.set_defaults(run=_mount)
    umount = verbs.add_parser("umount", help="unmount a model")
    umount.add_argument("--mount-id", required=True, metavar="ID")
    umount.set_defaults(run=_umount)
    verbs.add_parser("list", help="show all mounts").set_defaults(run=_list)
    return parser


def _mount(volume: _Volume, options: argparse.Namespace) -> None:
    body = {
        "mount_id": options.mount_id,
        "reference": options.reference,
        "check_disk_quota": options.check_disk_quota,
    }
    if not sys.stderr.isatty():
        volume.ask("POST", "", body)
    else:
        _mount_with_progress(volume, body)
    print(options.mount_id)


def _mount_with_progress(volume: _Volume, body: dict[str, Any]) -> None:
    """The answer comes when all is there; meanwhile a second connection asks how far it is."""
    failures: list[_Failed] = []
    done = threading.Event()

    def ask() -> None:
        try:
            volume.ask("POST", "", body)
        except _Failed as error:
            failures.append(error)
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    while not done.wait(_LOOK_SECONDS):
        with contextlib.suppress(_Failed):  # not known yet, or no more; the answer is what counts
            _draw(volume.ask("GET", f"/{body['mount_id']}"))
    sys.stderr.write(_CLEAR)
    if failures:
        raise failures[0]


def _draw(status: dict[str, Any]) -> None:
    items = status["progress"]["items"] or []
    complete = [item for item in items if "finished_at" in item]
    gib = sum(item["size"] for item in complete) / (1 << 30)
    text = f"pulling {status['reference']}: {len(complete)} of {status['progress']['total']} layers, {gib:.1f} GiB"
    sys.stderr.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
    sys.stderr.flush()


def _umount(volume: _Volume, options: argparse.Namespace) -> None:
    volume.ask("DELETE", f"/{options.mount_id}")
    print(options.mount_id)


def _list(volume: _Volume, _: argparse.Namespace) -> None:
    rows = [("Mount ID", "Reference", "State")]
    rows += [(item["mount_id"], item["reference"], item["state"]) for item in volume.ask("GET", "")]
    # Columns end at tab stops, and are filled with tabs: what splits at tabs keeps working.
    stops = [max(len(row[column]) for row in rows) // _TAB + 1 for column in range(2)]
    for row in rows:
        cells = [cell + "\t" * (stop - len(cell) // _TAB) for cell, stop in zip(row, stops, strict=False)]
        print("".join(cells) + row[2])


class _Volume:
    """A dynamic volume, by its directory."""

    def __init__(self, workdir: Path) -> None:
        self._socket_directory = workdir / "csi"
        status = workdir / "status.json"
        try:
            self._name = str(json.loads(status.read_bytes())["volume_name"])
        except OSError as error:
            raise _Failed(
                f"cannot read {status}: {error.strerror}", "name the mount path of the dynamic volume by --workdir"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _Failed(f"{status} is not a dynamic volume's") from error

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of the answer; None if it has none."""
        connection = _Connection(self._socket_directory)
        try:
            text = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"}
            connection.request(method, f"/api/v1/volumes/{self._name}/mounts{path}", text, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(
                f"the driver does not answer in {self._socket_directory}: {error}",
                "it may be restarting: try again",
            ) from error
        finally:
            connection.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise _Failed(_message(content, response.status))
        return json.loads(content) if content else None


def _message(content: bytes, status: int) -> str:
    try:
        answer = json.loads(content)
        return f"{answer['message']} [{answer['code']}]"
    except (ValueError, KeyError, TypeError):
        return f"the driver answered {status}"


class _Connection(http.client.HTTPConnection):
    def __init__(self, directory: Path) -> None:
        super().__init__("localhost")
        self._directory = directory

    def connect(self) -> None:
        """By a descriptor of the directory: a socket's path has at most 107 bytes."""
        descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(f"/proc/self/fd/{descriptor}/csi.sock")
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
