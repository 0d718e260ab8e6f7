from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcsi.api.client import call_control
from modelcsi.api.control import ControlServer
from modelcsi.deadline import Deadline
from modelcsi.errors import Busy, CorruptContent, InvalidRequest, ModelCsiError, NotFound, ShuttingDown, StoreFull


class _Control:
    """Answers what it was asked; `error` is raised instead if set, and `verify` waits for `gate`."""

    error: Exception | None = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.verifying = threading.Event()

    def status(self) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"publications": []}

    def cache(self) -> dict[str, Any]:
        return {"artifacts": [{"digest": "sha256:ab", "bytes": 1}]}

    def prune(self, max_bytes: int | None) -> dict[str, Any]:
        return {"max_bytes": max_bytes}

    def verify(self, digest: str | None) -> dict[str, Any]:
        self.verifying.set()
        self.gate.wait(10)
        return {"digest": digest}


@pytest.fixture
def root_dir(tmp_path: Path) -> Path:
    """A root directory whose path is longer than a socket's may be."""
    root_dir = tmp_path / ("deep" * 30)
    root_dir.mkdir()
    return root_dir


@pytest.fixture
def control() -> _Control:
    """What the server asks."""
    return _Control()


@pytest.fixture
def server(root_dir: Path, control: _Control) -> Iterator[ControlServer]:
    """Serving."""
    server = ControlServer(root_dir, control)
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("GET", "/v1/status", None, {"publications": []}),
        ("GET", "/v1/cache", None, {"artifacts": [{"digest": "sha256:ab", "bytes": 1}]}),
        ("POST", "/v1/cache/prune", None, {"max_bytes": None}),
        ("POST", "/v1/cache/prune", {"max_bytes": 5}, {"max_bytes": 5}),
        ("POST", "/v1/cache/verify", {}, {"digest": None}),
        ("POST", "/v1/cache/verify", {"digest": "sha256:ab"}, {"digest": "sha256:ab"}),
    ],
)
def test_questions_and_answers(
    server: ControlServer, root_dir: Path, method: str, path: str, body: dict[str, Any] | None, answer: dict[str, Any]
) -> None:
    """Every call reaches its method with its argument, and the answer comes back as it was."""
    assert answer == call_control(root_dir, method, path, body)


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("POST", "/v1/status", None, "/v1/status is asked with GET, not POST"),
        ("POST", "/v1/cache/prune", {"max_byte": 5}, "is an object with 'max_bytes' or nothing in it"),
        ("POST", "/v1/cache/prune", {"max_bytes": "5"}, "max_bytes is not a number"),
        ("POST", "/v1/cache/prune", {"max_bytes": True}, "max_bytes is not a number"),
        ("POST", "/v1/cache/verify", {"digest": 5}, "digest is not text"),
    ],
)
def test_wrong_questions(
    server: ControlServer, root_dir: Path, method: str, path: str, body: dict[str, Any] | None, message: str
) -> None:
    """A wrong method or argument is the caller's mistake, and named."""
    with pytest.raises(InvalidRequest, match=message):
        call_control(root_dir, method, path, body)


def test_an_unknown_path(server: ControlServer, root_dir: Path) -> None:
    """An older driver that lacks a call says so."""
    with pytest.raises(NotFound, match="/v1/nothing does not exist"):
        call_control(root_dir, "GET", "/v1/nothing")


@pytest.mark.parametrize("error", [StoreFull("no room", hint="prune"), CorruptContent("sha256:ab"), NotFound("x")])
def test_the_client_raises_what_the_driver_raised(
    server: ControlServer, control: _Control, root_dir: Path, error: ModelCsiError
) -> None:
    """Class, message and hint cross the socket."""
    control.error = error
    with pytest.raises(type(error)) as caught:
        call_control(root_dir, "GET", "/v1/status")

    assert (error.message, error.hint) == (caught.value.message, caught.value.hint)


def test_a_bug_of_the_driver(server: ControlServer, control: _Control, root_dir: Path) -> None:
    """An unexpected error keeps its text to the log."""
    control.error = KeyError("secret")
    with pytest.raises(ModelCsiError) as caught:
        call_control(root_dir, "GET", "/v1/status")

    assert "an unexpected error (the driver's log says more)" == str(caught.value)


def test_a_long_answer_blocks_nobody(server: ControlServer, control: _Control, root_dir: Path) -> None:
    """While one client verifies for minutes, another sees the status; its own deadline ends its wait."""
    control.gate.clear()
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(call_control(root_dir, "POST", "/v1/cache/verify")))
    client.start()
    assert control.verifying.wait(10)
    status = call_control(root_dir, "GET", "/v1/status")
    with pytest.raises(Busy, match="does not answer"):
        call_control(root_dir, "POST", "/v1/cache/verify", deadline=Deadline.after(0.05))
    control.gate.set()
    client.join()

    assert ({"publications": []}, [{"digest": None}]) == (status, answers)


def test_the_socket_is_for_root_alone(server: ControlServer, root_dir: Path) -> None:
    """Whoever may connect may empty the cache: mode 0600."""
    mode = (root_dir / "control.sock").stat().st_mode

    assert (True, 0o600) == (stat.S_ISSOCK(mode), stat.S_IMODE(mode))


def test_no_driver(root_dir: Path, tmp_path: Path) -> None:
    """No socket, no directory, or the socket of a dead driver: no driver runs, and that is what it says."""
    for directory in (root_dir, tmp_path / "missing"):
        with pytest.raises(NotFound, match="no driver runs on this node"):
            call_control(directory, "GET", "/v1/status")
    _leave_socket(root_dir)
    with pytest.raises(NotFound, match="no driver runs on this node"):
        call_control(root_dir, "GET", "/v1/status")


def _leave_socket(root_dir: Path) -> None:
    """What a killed driver leaves: a socket that nobody listens on."""
    directory = os.open(root_dir, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"/proc/self/fd/{directory}/control.sock")
    os.close(directory)


def test_the_socket_of_a_dead_driver_is_replaced(root_dir: Path, control: _Control) -> None:
    """A driver that was killed does not keep its successor out; a stop leaves no socket."""
    _leave_socket(root_dir)
    server = ControlServer(root_dir, control)
    server.start()
    answer = call_control(root_dir, "GET", "/v1/status")
    server.stop()

    assert ({"publications": []}, []) == (answer, os.listdir(root_dir))


def test_a_living_driver_keeps_its_socket(server: ControlServer, root_dir: Path, control: _Control) -> None:
    """A second driver on the same directory is refused, and the first goes on."""
    with pytest.raises(InvalidRequest, match="another driver serves"):
        ControlServer(root_dir, control).start()

    assert {"publications": []} == call_control(root_dir, "GET", "/v1/status")


def test_what_is_no_socket_stays(root_dir: Path, control: _Control) -> None:
    """A file of that name is somebody's."""
    (root_dir / "control.sock").write_text("mine")
    with pytest.raises(InvalidRequest, match=r"control\.sock is no socket"):
        ControlServer(root_dir, control).start()

    assert "mine" == (root_dir / "control.sock").read_text()


def test_a_stop_leaves_the_socket_of_a_successor(root_dir: Path, control: _Control) -> None:
    """Only the own inode is removed: the next driver may have started already."""
    server = ControlServer(root_dir, control)
    server.start()
    (root_dir / "control.sock").unlink()
    successor = ControlServer(root_dir, control)
    successor.start()
    server.stop()
    answer = call_control(root_dir, "GET", "/v1/status")
    successor.stop()

    assert {"publications": []} == answer


def test_a_driver_that_ends_while_it_is_asked(root_dir: Path, control: _Control) -> None:
    """The client of a call that was cut says so, and that it may be asked again."""
    server = ControlServer(root_dir, control)
    server.start()
    control.gate.clear()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            call_control(root_dir, "POST", "/v1/cache/verify")
        except ShuttingDown as error:
            errors.append(error)

    client = threading.Thread(target=ask)
    client.start()
    assert control.verifying.wait(10)
    server.stop()
    client.join()
    control.gate.set()

    assert 1 == len(errors)
