"""Fixtures and rules for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

_INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by place, so that no file can forget it; what needs a cluster comes last, in the layers' order."""
    for item in items:
        if item.path.is_relative_to(_INTEGRATION):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))
