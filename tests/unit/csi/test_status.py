"""Which code an error becomes, and what its text looks like."""

from __future__ import annotations

import grpc
import pytest

from modelcsi import errors
from modelcsi.csi.status import CODES, code_of, text_of

# kubelet, isFinalError: after these the volume may still be under way.
NON_FINAL = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}


def _subclasses(kind: type[errors.ModelCsiError]) -> list[type[errors.ModelCsiError]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]


KINDS = [
    kind
    for kind in _subclasses(errors.ModelCsiError)
    if kind.__module__ == errors.__name__ and kind not in (errors.FinalError, errors.TransientError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_row(kind: type[errors.ModelCsiError]) -> None:
    """A class of errors.py without a row would answer as something else than was meant."""
    assert kind in CODES


@pytest.mark.parametrize("kind", KINDS)
def test_finality_is_kubelets(kind: type[errors.ModelCsiError]) -> None:
    """Transient kinds have a code after which kubelet still unpublishes, final kinds one after which it forgets."""
    is_transient = issubclass(kind, errors.TransientError)

    assert is_transient == (CODES[kind] in NON_FINAL)


def test_the_nearest_ancestor_decides() -> None:
    """A kind made more special elsewhere keeps the code of what it is."""

    class NoSuchTag(errors.NotFound):
        """More special."""

    assert code_of(NoSuchTag("gone")) == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("error", [ValueError("x"), errors.ModelCsiError("x"), KeyError("x")])
def test_the_unexpected_is_internal(error: Exception) -> None:
    """What has no row, up to the root, is a bug."""
    assert code_of(error) == grpc.StatusCode.INTERNAL


def test_text_is_message_then_hint() -> None:
    """The hint follows the message in parentheses."""
    assert (
        text_of(errors.NotFound("m:v1 does not exist", hint="check the tag")) == "m:v1 does not exist (check the tag)"
    )


def test_text_is_printable_ascii() -> None:
    """Other characters, also line breaks, arrive as escapes."""
    assert text_of(errors.NotFound("modèle\n:v1")) == r"mod\xe8le\n:v1"


@pytest.mark.parametrize("char", ["x", "ä", "\U0001f600"])
def test_text_is_under_a_kibibyte(char: str) -> None:
    """However long message and hint are; the hint is still there."""
    text = text_of(errors.NotFound(char * 5000, hint=f"ask the admin{char * 5000}"))

    assert len(text) < 1024
    assert "(ask the admin" in text
    assert "..." in text
