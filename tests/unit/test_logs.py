"""What a log line looks like, and what is never in one."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.logs import JsonFormatter, TextFormatter, bound, masked, setup_logging


def _record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("modelcsi.pull.job", logging.INFO, __file__, 1, message, args, None)


def test_bound_fields_are_on_each_line() -> None:
    """Inner fields add to outer ones, and end with their block."""
    formatter = JsonFormatter()
    with bound(rpc="NodePublishVolume", volume="outer"):
        with bound(volume="inner"):
            inner = json.loads(formatter.format(_record("x")))
        outer = json.loads(formatter.format(_record("x")))
    after = json.loads(formatter.format(_record("x")))

    assert (inner["rpc"], inner["volume"]) == ("NodePublishVolume", "inner")
    assert outer["volume"] == "outer"
    assert "volume" not in after


def test_another_thread_has_its_own_fields() -> None:
    """A pull job does not carry the fields of the call that started it."""
    lines: list[str] = []
    with bound(volume="v"):
        thread = threading.Thread(target=lambda: lines.append(TextFormatter().format(_record("x"))))
        thread.start()
        thread.join()

    assert "volume" not in lines[0]


def test_a_json_line_has_time_level_message_logger() -> None:
    """And the message's arguments filled in."""
    line = json.loads(JsonFormatter().format(_record("pulled %d layers", 3)))

    assert {"time", "level", "message", "logger"} == set(line)
    assert (line["level"], line["message"], line["logger"]) == ("info", "pulled 3 layers", "modelcsi.pull.job")


def test_a_field_cannot_pose_as_the_message() -> None:
    """The record's own keys win."""
    with bound(message="forged", level="error"):
        line = json.loads(JsonFormatter().format(_record("true")))

    assert (line["message"], line["level"]) == ("true", "info")


def test_a_text_record_is_one_line() -> None:
    """A name with a line break or an escape sequence cannot forge a line or paint the terminal."""
    with bound(volume="v\n00:00:00.000 ERROR forged"):
        line = TextFormatter().format(_record("model %s", "\x1b[31mred\u2028"))

    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_is_kept_and_masked(formatter: logging.Formatter) -> None:
    """What a library puts into its exceptions is masked too."""
    try:
        raise ValueError("GET https://alice:s3cret@host/v2/?X-Signature=s3cret failed")  # made to be logged
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = formatter.format(record)

    assert "ValueError" in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: ***"),
        ("{'authorization': 'Basic YWxpY2U6czNjcmV0', 'a': 'b'}", "{'authorization': '***', 'a': 'b'}"),
        ("sent Bearer eyJabcdefgh.ijk", "sent Bearer ***"),
        ("https://alice:s3cret@host/v2/", "https://***@host/v2/"),
        ("https://host/blob?sig=s3cret&x=y failed", "https://host/blob?*** failed"),
        ('"GET /blob?sig=s3cret HTTP/1.1" 200', '"GET /blob?*** HTTP/1.1" 200'),
        ("registry.example:5000/team/model:v1@sha256:00", "registry.example:5000/team/model:v1@sha256:00"),
        ("a?b/c?sig=s3cret", "a?b/c?***"),
        ("/a?b/c?sig=s3cret", "/a?***"),
        ("a?b=c", "a?b=c"),
        ("is /model there? a=b", "is /model there? a=b"),
        ("basic authorization was refused", "basic authorization was refused"),
    ],
)
def test_masking(text: str, shown: str) -> None:
    """Values go, the names around them stay; what is no credential stays as it is."""
    assert masked(text) == shown


@pytest.mark.parametrize("level", ["debug", "INFO", "warn", "error"])
def test_known_levels(level: str) -> None:
    """In any case; `warn` is what other drivers call it."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    try:
        setup_logging(level, json=True)
        effective = root.level
    finally:
        logging.basicConfig(handlers=handlers, force=True)
        root.setLevel(before)
        logging.captureWarnings(capture=False)

    assert logging.getLevelName(effective).lower().startswith(level.lower())


def test_an_unknown_level_is_an_error() -> None:
    """It names those that there are."""
    with pytest.raises(InvalidRequest, match="debug, info, warning, error"):
        setup_logging("loud", json=False)


@pytest.mark.parametrize(
    "piece", ["/", "/?", "?", "?/", "a?b/c", "=/", "://a", "authorization:", "bearer ", "basic a "]
)
def test_no_text_takes_long(piece: str) -> None:
    """Pods write their attributes, which are logged at debug: 256 KiB of slashes took minutes in which nobody else ran."""
    began = time.process_time()
    masked(piece * (256_000 // len(piece)))

    assert time.process_time() - began < 5
