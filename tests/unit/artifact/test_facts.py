from __future__ import annotations

from typing import Any

import pytest

from modelcsi.artifact.facts import model_facts, producer_of
from tests.unit.artifact.builders import RAW, layer, manifest

UNTESTED = "org.cncf.model.file.mediatype.untested"
EMPTY = "application/vnd.oci.empty.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"


@pytest.mark.parametrize(
    ("config", "annotations", "facts"),
    [
        ({}, {}, {}),
        (
            {
                "descriptor": {"name": "n", "licenses": ["MIT", "MIT", 3]},
                "config": {"precision": "bf16", "paramSize": "8b"},
            },
            {},
            {"name": "n", "precision": "bf16", "parameters": "8b", "licenses": ["MIT"]},
        ),
        ({"config": {"parameterSize": 8, "puantization": "awq"}}, {}, {"quantization": "awq", "parameters": "8"}),
        (
            {
                "package": {"name": "p", "license": "Apache-2.0"},
                "model": {"name": "m", "framework": "onnx", "license": "MIT"},
            },
            {},
            {"name": "p", "format": "onnx", "licenses": ["MIT", "Apache-2.0"]},
        ),
        (
            {"config": {"Labels": {"org.opencontainers.image.licenses": "MIT"}}, "created": "2026"},
            {},
            {"created": "2026", "licenses": ["MIT"]},
        ),
        (
            {},
            {"org.opencontainers.image.title": "t", "org.opencontainers.image.licenses": "MIT", "other": "x"},
            {"title": "t", "licenses": ["MIT"]},
        ),
        ({}, {"ml.kitops.modelkit.kitfile": '{"model": {"license": "MIT"}}'}, {"licenses": ["MIT"]}),
        ({}, {"ml.kitops.modelkit.kitfile": "[" * 100_000}, {}),
        ({"descriptor": 1, "config": [], "model": {"name": True}, "package": {"license": None}}, {}, {}),
    ],
)
def test_facts(config: dict[str, Any], annotations: dict[str, str], facts: dict[str, Any]) -> None:
    """Each producer's places; what cannot be understood says nothing."""
    assert facts == model_facts(config, annotations)


def test_facts_are_short() -> None:
    """A config may hold megabytes of anything."""
    told = model_facts({"descriptor": {"name": "n" * 10_000, "licenses": ["l" * 10_000]}}, {})

    assert (500, 500) == (len(told["name"]), len(told["licenses"][0]))


@pytest.mark.parametrize(
    ("annotations", "config_type", "config", "producer"),
    [
        ({"filepath": "a"}, CONFIG, {}, None),
        ({"title": "a"}, EMPTY, {}, "ORAS"),
        ({"filepath": "a", UNTESTED: "false"}, CONFIG, {}, "Docker Model Runner"),
        ({"filepath": "a", UNTESTED: "true"}, CONFIG, {}, "AIKit"),
        ({"title": "sha256-" + "0" * 64, "filepath": "a", "metadata": '{"typeflag":48}'}, EMPTY, {}, "RamaLama"),
        ({"title": "sha256-" + "0" * 64, "filepath": "../a", "metadata": '{"typeflag":48}'}, EMPTY, {}, "ORAS"),
        ({"title": "a", "olot.layer.content.type": "file"}, CONFIG, {}, "olot"),
        ({"title": "a"}, CONFIG, {"modelfs": {"diffIds": ["0" * 64]}}, "olot"),
        ({"title": "a"}, CONFIG, {"modelfs": {"diffIds": ["sha256:" + "0" * 64]}}, None),
        ({"title": "a"}, CONFIG, {"config": {"Labels": {"org.containers.type": "ai.image.model.car"}}}, "RamaLama"),
    ],
)
def test_producers_by_their_habits(
    annotations: dict[str, str], config_type: str, config: dict[str, Any], producer: str | None
) -> None:
    """Where nothing names the program."""
    assert producer == producer_of(manifest(layer(RAW, **annotations), config=config_type), config)
