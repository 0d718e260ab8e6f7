"""Fixtures and rules for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_INTEGRATION = Path(__file__).parent / "integration"

# How long an example takes, or Hypothesis to think of one (it reads its tables of Unicode while it is timed), says how busy the
# machine is: its own profile for CI does not look at it either.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by place, so that no file can forget it; what needs a cluster comes last, in the layers' order."""
    for item in items:
        if item.path.is_relative_to(_INTEGRATION):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))
