"""Messages between processes that may be of different releases."""

from __future__ import annotations

import pytest

from modelcsi.mount import wire as holding
from modelcsi.packets import MAX_PACKET_BYTES, Packet, UnknownPacket, encode
from modelcsi.view import wire
from modelcsi.view.wire import MAX_CHANGED_FILES, Changed, Want

VIEW = "0123456789abcdef" * 4

TO_DRIVER = (
    wire.Hello(7, "passthrough", 1.5),
    Want(1, VIEW, 2, 0, 1 << 20),
    Want(1, VIEW, 2, 0, 0, verified=True),
    wire.Ahead(VIEW, 2, 5, 6),
    wire.Cancel(1),
)
TO_SERVER = (wire.Here(1), wire.Failed(1, 5, "gone"), Changed(VIEW, (1, 2)))
FROM_HOLDER = (holding.Serve(VIEW), holding.Drop(VIEW), holding.Ping())
FROM_SERVER = (holding.Pong(), holding.Gone(VIEW), holding.Gone(VIEW, "no plan"))


def test_what_is_said_is_what_is_heard() -> None:
    """Each message comes out as it went in."""
    heard = (
        *(wire.read_by_driver(encode(message)) for message in TO_DRIVER),
        *(wire.read_by_server(encode(message)) for message in TO_SERVER),
        *(holding.read_by_server(encode(message)) for message in FROM_HOLDER),
        *(holding.read_by_holder(encode(message)) for message in FROM_SERVER),
    )

    assert (*TO_DRIVER, *TO_SERVER, *FROM_HOLDER, *FROM_SERVER) == heard


def test_a_newer_speaker_is_understood() -> None:
    """Fields that this release does not know are ignored, and those that an older one does not send have a default."""
    packet = b'{"op":"want","id":1,"view":"%b","file":2,"start":3,"end":4,"colour":"red"}' % VIEW.encode()

    assert Want(1, VIEW, 2, 3, 4, verified=False) == wire.read_by_driver(packet)


def test_a_newer_message_can_be_skipped() -> None:
    """A message of a newer release is an error of its own, so that the rest of the conversation goes on."""
    with pytest.raises(UnknownPacket, match="unknown message 'dance'"):
        wire.read_by_driver(b'{"op":"dance"}')


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (b"", "Expecting value"),
        (b"[1]", "not a message"),
        (b'{"op":1}', "not a message"),
        (b'{"id":1}', "not a message"),
        (b'{"op":"cancel"}', "id of 'cancel' is missing"),
        (b'{"op":"cancel","id":-1}', "'-1', not int"),
        (b'{"op":"cancel","id":true}', "'True', not int"),
        (b'{"op":"cancel","id":1.5}', "'1.5', not int"),
        (b'{"op":"cancel","id":9223372036854775808}', "not int"),
        (b'{"op":"hello","pid":1,"adapter":2,"born":1}', "'2', not str"),
        (b'{"op":"hello","pid":1,"adapter":"a","born":NaN}', "'nan', not float"),
        (b'{"op":"ahead","view":"../../etc","file":0,"start":0,"end":1}', "not the id of a view"),
        (b'{"op":"ahead","view":"%b","file":0,"start":2,"end":1}' % VIEW.encode(), "ends before it begins"),
        (b"[" * 60_000, "nested"),
    ],
)
def test_anything_else_is_refused(packet: bytes, error: str) -> None:
    """What is not exactly a message is an error that says why, never another exception."""
    with pytest.raises(ValueError, match=error):
        wire.read_by_driver(packet)


def test_list_of_numbers_holds_numbers() -> None:
    """One wrong item refuses the list."""
    for files in (b'["1"]', b"[null]", b"1", b"[[1]]"):
        with pytest.raises(ValueError, match="not tuple"):
            wire.read_by_server(b'{"op":"changed","view":"%b","files":%b}' % (VIEW.encode(), files))


@pytest.mark.parametrize("message", [Changed(VIEW, tuple(range(99_999, 99_999 - MAX_CHANGED_FILES, -1)))])
def test_longest_message_fits(message: Packet) -> None:
    """The longest list of files that may be sent is one packet."""
    assert len(encode(message)) < MAX_PACKET_BYTES
