from __future__ import annotations

import io
import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.registry.answers import parse_retry_after, read_detail, sanitise
from modelcsi.registry.docker_config import Credentials

ALICE = Credentials("alice", "correct  horse b\u00e4ttery", source="the volume's secret")


@pytest.mark.parametrize(
    ("text", "expected"), [("7", 7.0), (" 120 ", 120.0), ("1.5", 1.5), ("", None), ("soon", None), ("-3", None)]
)
def test_retry_after_in_seconds(text: str, expected: float | None) -> None:
    """What is neither a number nor a date does not count."""
    assert expected == parse_retry_after(text)


def test_retry_after_as_a_date() -> None:
    """An HTTP date is so many seconds away; one that has passed is now."""
    coming = parse_retry_after(formatdate(time.time() + 100, usegmt=True))

    assert coming is not None
    assert 98 < coming <= 100
    assert 0.0 == parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT")


@given(st.text(max_size=40))
def test_any_retry_after_is_read(text: str) -> None:
    """It comes from whoever answers."""
    seconds = parse_retry_after(text)

    assert seconds is None or seconds >= 0


class Said:
    """A failed answer with this message."""

    status = 401

    def __init__(self, message: str) -> None:
        self._body = io.BytesIO(json.dumps({"errors": [{"message": message}]}).encode())
        self.read = self._body.read

    def header(self, name: str) -> str:
        return ""

    def header_lines(self, name: str) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._body.close()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("x" * 180 + " correct  horse b\u00e4ttery", "x" * 180 + " ***"),
        ("no correct  horse b\u00e4ttery here", "no *** here"),
        (f"{'x ' * 90}Basic {ALICE.basic[6:]}", f"{'x ' * 90}***"),
        ("x" * 300, "x" * 200),
    ],
)
def test_no_part_of_a_password_is_repeated(message: str, expected: str) -> None:
    """Neither where the text is cut, nor in the letters that a terminal may see."""
    assert expected == read_detail(Said(message), ALICE)


def test_what_a_registry_says_is_one_line_of_ascii() -> None:
    """Escape sequences would reach a terminal, line breaks would forge log lines."""
    assert "a b ?[31mc ?" == sanitise("a\r\n b \x1b[31mc\t\u202e")
