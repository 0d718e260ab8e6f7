from __future__ import annotations

import pytest

from modelcsi.oci.reference import Reference
from modelcsi.pull.policy import PullPolicy


@pytest.mark.parametrize(
    ("reference", "policy"),
    [
        ("registry.test/model", PullPolicy.ALWAYS),
        ("registry.test/model:latest", PullPolicy.ALWAYS),
        ("registry.test/model:v1", PullPolicy.IF_NOT_PRESENT),
        (f"registry.test/model@sha256:{'0' * 64}", PullPolicy.IF_NOT_PRESENT),
        (f"registry.test/model:latest@sha256:{'0' * 64}", PullPolicy.IF_NOT_PRESENT),
    ],
)
def test_the_default_is_that_of_kubernetes(reference: str, policy: PullPolicy) -> None:
    """A tag that moves is asked for each time, anything else once."""
    assert policy == PullPolicy.default(Reference.parse(reference))
