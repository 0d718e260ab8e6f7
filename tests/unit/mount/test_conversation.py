"""The driver's questions to a holder, and what becomes of them when it goes or hangs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from modelcsi.mount import wire
from modelcsi.mount.conversation import Conversation, HolderGone, HolderStuck, read_secret, secret_file
from modelcsi.mount.lines import receive, send

VIEW = "ab" * 32

Script = Callable[[socket.socket], None]


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Conversation]]:
    """A conversation with a holder that follows a script, then hangs up."""
    monkeypatch.chdir(tmp_path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("s")
    listener.listen()
    listener.settimeout(10)
    made: list[Conversation] = []
    threads: list[threading.Thread] = []

    def begin(script: Script, timeout_seconds: float = 30) -> Conversation:
        def run() -> None:
            line, _ = listener.accept()
            with line:
                script(line)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        made.append(Conversation(Path("s"), timeout_seconds))
        return made[-1]

    yield begin
    for conversation in made:
        conversation.close()
    for thread in threads:
        thread.join(10)
    listener.close()


def test_an_answer_is_all_up_to_its_end(talk: Callable[..., Conversation]) -> None:
    """Views with their descriptors, servers; a loss in between is kept for later, a newer release's words are passed over."""

    def script(line: socket.socket) -> None:
        receive(line)
        descriptor = secret_file(b"secret")
        send(line, wire.Held(VIEW, "passthrough", "0:5", "first"), [descriptor])
        os.close(descriptor)
        send(line, wire.Lost(VIEW, "why"))
        line.send(b'{"op":"weather"}')
        send(line, wire.Server(7, "passthrough", "active", 1))
        send(line, wire.Done())

    conversation = talk(script)
    answer = conversation.ask(wire.ListHeld())
    ((held, descriptors),) = answer.held
    secret = read_secret(descriptors[0])
    os.close(descriptors[0])

    assert (wire.Held(VIEW, "passthrough", "0:5", "first"), b"secret") == (held, secret)
    assert ([wire.Server(7, "passthrough", "active", 1)], "") == (answer.servers, answer.error)
    assert [wire.Lost(VIEW, "why")] == conversation.lost
    assert os.getpid() == conversation.pid


def test_a_refusal_says_why(talk: Callable[..., Conversation]) -> None:
    """It is an answer."""

    def script(line: socket.socket) -> None:
        receive(line)
        send(line, wire.Done(ok=False, error="no room"))

    conversation = talk(script)

    assert "no room" == conversation.ask(wire.Release(VIEW)).error


def _secret_files() -> int:
    """How many are open. Of the script's thread other descriptors may be, which it closes when it pleases."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(link.startswith("/memfd:secret") for link in links)


@pytest.mark.parametrize("words", [b"", b"nonsense", b'{"op":"held"}'])
def test_who_hangs_up_or_talks_nonsense_is_gone(talk: Callable[..., Conversation], words: bytes) -> None:
    """There is nothing to be had from it, and no descriptor is left of what it began to say."""
    before = _secret_files()

    def script(line: socket.socket) -> None:
        receive(line)
        descriptor = secret_file(b"x")
        send(line, wire.Held(VIEW, "passthrough"), [descriptor])
        os.close(descriptor)
        if words:
            line.send(words)

    conversation = talk(script)
    with pytest.raises(HolderGone) as error:
        conversation.ask(wire.ListHeld())

    assert not isinstance(error.value, HolderStuck)
    assert before == _secret_files()


def test_who_does_not_answer_is_stuck(talk: Callable[..., Conversation]) -> None:
    """However much it says in between: the answer has a time."""
    asked = threading.Event()

    def script(line: socket.socket) -> None:
        while not asked.wait(0.05):
            send(line, wire.Lost(VIEW, "again"))

    conversation = talk(script, 0.5)
    with pytest.raises(HolderStuck):
        conversation.ask(wire.ListHeld())
    asked.set()


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where there is no socket, nor at one that a killed holder left."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind("left")
    for name in ("absent", "left"):
        with pytest.raises(OSError, match=r"No such file|refused"):
            Conversation(Path(name), 1)


def test_a_secret_cannot_be_changed() -> None:
    """Who has the descriptor reads it, at any time and from its beginning."""
    secret = b"s" * 100_000
    descriptor = secret_file(secret)
    with pytest.raises(PermissionError):
        os.write(descriptor, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    found = read_secret(descriptor), read_secret(descriptor)
    os.close(descriptor)

    assert (secret, secret) == found
