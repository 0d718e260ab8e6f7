"""A moment after which an answer is worth nothing; made at the border of the process and handed down.

Monotonic: a clock that an administrator or NTP sets does not move a deadline.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, in seconds; `Deadline.never()` is infinitely far."""

    at_seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment `seconds` from now; infinity is allowed."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def never(cls) -> Deadline:
        """A deadline that does not come."""
        return cls(math.inf)

    def remaining_seconds(self) -> float:
        """Seconds left, never negative; infinity for `never()`."""
        return max(0.0, self.at_seconds - time.monotonic())

    def is_over(self) -> bool:
        """Whether the moment has passed."""
        return self.at_seconds <= time.monotonic()

    def within(self, seconds: float) -> float:
        """The remaining seconds, at most `seconds`: a timeout for one step."""
        return min(self.remaining_seconds(), seconds)
