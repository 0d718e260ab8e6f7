"""The one way in which the demonstration fails."""

from __future__ import annotations


class DemonstrationFailed(Exception):
    """Something did not happen, or is not as it should be: what, and what a program said about it."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details


def require(condition: object, message: str) -> None:
    """Fail unless it holds."""
    if not condition:
        raise DemonstrationFailed(message)
