"""docs/volumes.md: what it shows is what the API server and the driver take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from modelcsi.volume.spec import check_parameters
from tests.cluster.chart import ROOT
from tests.cluster.kubectl import Kubectl
from tests.integration.driver import SERVICE_NAME

_BLOCKS = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "volumes.md").read_text(), re.MULTILINE | re.DOTALL)
_OBJECTS: list[dict[str, Any]] = [item for block in _BLOCKS for item in yaml.safe_load_all(block)]


def _attributes(value: object) -> Iterator[dict[str, str]]:
    """Every mapping of volume attributes, and of a class' parameters."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in {"volumeAttributes", "parameters"}:
                yield below
            else:
                yield from _attributes(below)
    elif isinstance(value, list):
        for below in value:
            yield from _attributes(below)


def test_attributes_of_the_page_are_known() -> None:
    """The controller would take each of these mappings as the parameters of a class."""
    found = list(_attributes(_OBJECTS))
    for attributes in found:
        check_parameters(attributes, SERVICE_NAME)

    assert 3 == len(found)


@pytest.mark.parametrize("index", range(len(_OBJECTS)), ids=[item["kind"] for item in _OBJECTS])
def test_api_server_takes_the_manifests_of_the_page(index: int, kubectl: Kubectl) -> None:
    """A dry run, in a namespace that there is; of a misspelt field it would be an error."""
    manifest = _OBJECTS[index]
    manifest["metadata"].pop("namespace", None)
    answer = kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", text=yaml.safe_dump(manifest))

    assert "created (server dry run)" in answer
