from __future__ import annotations

import re
from pathlib import Path

import pytest

import modelcsi
from modelcsi.cli.advice import ADVICE, advice

_SOURCE = Path(modelcsi.__file__).parent


@pytest.mark.parametrize("part", ADVICE)
def test_a_hint_that_is_replaced_exists(part: str) -> None:
    """A hint that is written anew must not come through unnoticed."""
    others = [path for path in _SOURCE.rglob("*.py") if path.name != "advice.py"]

    assert any(part in path.read_text() for path in others)


@pytest.mark.parametrize("instead", ADVICE.values())
def test_advice_is_for_people_without_a_driver(instead: str) -> None:
    """Nothing of it needs a node, a pod, or a driver's configuration."""
    assert not re.search(r"\b(root_dir|node|pod|driver|secret|nodePublishSecretRef)\b", instead)
    assert advice(instead) == instead
