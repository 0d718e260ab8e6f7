"""`modelcsi inspect`: what it tells is what a pull with the same flags gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.examples import EXPECTED, INDEXES, MOUNTABLE, serve
from tests.fakes.content import MODEL_ARTIFACT
from tests.fakes.registry import FakeRegistry
from tests.images import file, hardlink, tar
from tests.integration.driver import PROGRAM
from tests.integration.models import MIB, Format, push, push_layers, random_bytes, random_files, shown

_TAR_WITH_A_LINK = tar([file("a/w.safetensors", b"weights"), hardlink("b/w.safetensors", "a/w.safetensors")])

PRODUCERS = {
    "modctl-tar": "modctl",
    "modctl-raw": "modctl",
    "modctl-cnai-tar": "modctl",
    "aikit-modelpack-raw": "AIKit",
    "aikit-modelpack-tar": "AIKit",
    "kitops-modelkit-tar": "KitOps 1.15.0",
    "kitops-modelpack-tar": "KitOps 1.15.0",
    "oras-push-file-and-dir": "ORAS",
    "docker-model-runner-v0.2": "Docker Model Runner",
    "ollama": "Ollama",
    "olot-index": "olot",
    "olot-modelpack": "olot",
    "modelcar-oci-image": "RamaLama",
    "edge-duplicate-digest": None,
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it must be done."""
    done = subprocess.run(
        [PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    assert 0 == done.returncode, done.stderr
    return done


def inspected(reference: str, *flags: str) -> dict[str, Any]:
    """What `--json` tells."""
    told: dict[str, Any] = json.loads(run("inspect", reference, "--json", *flags).stdout)
    return told


@pytest.mark.parametrize("name", MOUNTABLE)
def test_files_of_an_example(registry: FakeRegistry, name: str) -> None:
    """Every file of every producer's artifact, with its size; who packed it; all of it is wanted."""
    serve(registry.content, "examples", name)
    told = inspected(f"{registry.host}/examples:{name}")

    expected = {path: entry for path, entry in EXPECTED[name]["tree"].items() if entry["type"] != "directory"}
    assert {path: entry.get("size", 0) for path, entry in expected.items()} == {
        file["path"]: file["size_bytes"] for file in told["files"]
    }
    assert (True, []) == (told["files_complete"], told["unread_layers"])
    assert {True} == {file["wanted"] for file in told["files"]}
    assert (EXPECTED[name]["kind"], PRODUCERS[name]) == (told["kind"], told["producer"])
    assert (True, None) == (told["mountable"], told["reason"])


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_is_followed(registry: FakeRegistry, name: str) -> None:
    """To the entry that is mounted; the others are listed."""
    serve(registry.content, "examples", name)
    told = inspected(f"{registry.host}/examples:{name}")
    lines = run("inspect", f"{registry.host}/examples:{name}").stdout.splitlines()

    assert (EXPECTED[name]["child"], EXPECTED[name]["manifest"]) == (told["child"], told["digest"])
    assert told["child"] in {entry["digest"] for entry in told["manifests"]}
    assert [told["child"]] == [line.split()[0] for line in lines if line.rstrip().endswith("this one")]


def test_an_index_that_leaves_the_choice(registry: FakeRegistry) -> None:
    """Its entries are listed, with the reason why none of them is mounted."""
    models = [push(registry.content, "inspect/many", {"a": bytes([n])}, tag=str(n)) for n in range(2)]
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": str(model.digest), "artifactType": MODEL_ARTIFACT}
        | {"size": len(registry.content.manifests["inspect/many"][model.tag][1])}
        for model in models
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    registry.content.add_manifest("inspect/many", index, "all", OCI_INDEX)
    told = inspected(f"{registry.host}/inspect/many:all")
    lines = run("inspect", f"{registry.host}/inspect/many:all").stdout

    assert ("index", None, []) == (told["kind"], told["child"], told["files"])
    assert [str(model.digest) for model in models] == [entry["digest"] for entry in told["manifests"]]
    assert "name one of them by its digest" in told["warnings"][0]
    assert (False, f"cannot be mounted: {told['reason']}") == (told["mountable"], told["warnings"][0])
    assert "  mountable    no\n" in lines
    assert all(str(model.digest) in lines for model in models)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "modctl-raw",
            {"name": "demo", "family": "llama3", "architecture": "transformer", "format": "safetensors"}
            | {"precision": "bfloat16", "parameters": "8b", "created": "2026-05-21T08:09:10.123456789Z"},
        ),
        (
            "kitops-modelkit-tar",
            {"name": "demo", "version": "1.0.0", "format": "safetensors", "created": "2026-07-01T00:00:00Z"},
        ),
        ("ollama", {"family": "llama", "format": "gguf", "quantization": "Q4_K_M", "parameters": "8.0B"}),
        ("docker-model-runner-v0.2", {"format": "safetensors", "created": "2026-07-01T00:00:00Z"}),
        ("aikit-modelpack-raw", {}),
    ],
)
def test_facts_of_the_model(registry: FakeRegistry, name: str, facts: dict[str, str]) -> None:
    """What the config tells, of whichever producer."""
    serve(registry.content, "examples", name)

    assert facts == inspected(f"{registry.host}/examples:{name}")["model"]


CHOICES = [
    ("--include", "*.json"),
    ("--exclude", "model-*,tokenizer/"),
    ("--sub-path", "tokenizer"),
    ("--exclude-model-weights",),
    ("--exclude-file-patterns", '["*.txt"]', "--include", "/*"),
]


@pytest.mark.parametrize("flags", CHOICES, ids=[flags[0].strip("-") for flags in CHOICES])
@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR_GZIP], ids=lambda packed: packed.value)
def test_what_is_told_is_what_is_pulled(
    registry: FakeRegistry, tmp_path: Path, packed: Format, flags: tuple[str, ...]
) -> None:
    """The files, their sizes, and the bytes that are downloaded."""
    files = {**random_files((packed, flags), 50_000, 700), "config.json": b"{}", "tokenizer/t.json": b"[]"}
    model = push(registry.content, "inspect/choice", files, packed)
    told = inspected(model.at(registry.host), *flags)
    before = registry.bytes_served.copy()
    run("pull", model.at(registry.host), tmp_path / "model", *flags)

    root = "tokenizer/" if "--sub-path" in flags else ""
    wanted = {file["path"]: file["size_bytes"] for file in told["files"] if file["wanted"]}
    pulled = shown(tmp_path / "model")
    assert {path.removeprefix(root) for path in wanted} == set(pulled)
    assert 0 < len(pulled) < len(files) == len(told["files"])
    assert (registry.bytes_served - before).total() == told["selection"]["download_bytes"]
    assert (sum(wanted.values()), len(wanted)) == (told["selection"]["size_bytes"], told["selection"]["files"])
    assert sum(len(data) for data in files.values() if packed is Format.RAW) in {0, told["size_bytes"]}


def test_patterns_that_match_nothing_are_told(registry: FakeRegistry) -> None:
    """By attribute; a selection that leaves nothing is no error here, but a warning."""
    model = push(registry.content, "inspect/idle", random_files("idle", 1000))
    some = inspected(model.at(registry.host), "--include", "*.txt,*.gguf", "--exclude", "x/")
    none = inspected(model.at(registry.host), "--include", "*.gguf")

    assert {"include": ["*.gguf"], "exclude": ["x/"]} == some["selection"]["unmatched_patterns"]
    assert ([], 0) == (some["warnings"], none["selection"]["files"])
    assert [(True, None), (False, none["warnings"][0].removeprefix("cannot be mounted so: "))] == [
        (told["mountable"], told["reason"]) for told in (some, none)
    ]
    assert ["cannot be mounted so"] == [warning.partition(":")[0] for warning in none["warnings"]]


def test_large_tars_are_read_only_if_asked(registry: FakeRegistry) -> None:
    """Their names are not worth a download that nobody asked for; small ones are read anyway."""
    small, large = {"small.txt": b"small"}, {"large.bin": random_bytes("large", 9 * MIB), "b.txt": b"b"}
    layers = [
        push(registry.content, "inspect/tars", files, Format.TAR, tag) for tag, files in (("s", small), ("l", large))
    ]
    told = [inspected(model.at(registry.host)) for model in layers]
    served = registry.bytes_served[str(layers[1].layers[0])]
    lines = run("inspect", layers[1].at(registry.host)).stdout
    full = inspected(layers[1].at(registry.host), "--files")

    assert [(True, ["small.txt"]), (False, [])] == [
        (value["files_complete"], [file["path"] for file in value["files"]]) for value in told
    ]
    assert ([str(layers[1].layers[0])], 0) == (told[1]["unread_layers"], served)
    assert "--files" in lines
    assert (True, ["b.txt", "large.bin"]) == (full["files_complete"], [file["path"] for file in full["files"]])


def test_a_hard_link_is_told_without_the_file_that_it_names(registry: FakeRegistry) -> None:
    """As the driver shows it."""
    model = push_layers(registry.content, "inspect/link", [(_TAR_WITH_A_LINK, Format.TAR.media_type, {})])
    told = inspected(model.at(registry.host), "--include", "b/w.safetensors")

    assert ([], 1) == (told["warnings"], told["selection"]["files"])


def test_people_see_what_they_would_get(registry: FakeRegistry) -> None:
    """A table with a column for the choice, and the bytes below."""
    model = push(registry.content, "inspect/people", random_files("people", MIB))
    lines = run("inspect", model.at(registry.host), "--exclude", "*.safetensors").stdout.splitlines()

    assert ["model-00000.safetensors", "no"] == [
        next(line for line in lines if "0000" in line).split()[i] for i in (0, -1)
    ]
    assert ["tokenizer/vocab.txt", "yes"] == [
        next(line for line in lines if "vocab" in line).split()[i] for i in (0, -1)
    ]
    assert "  downloads    1000 B in 1 layers" in lines


def test_what_cannot_be_mounted_is_shown(registry: FakeRegistry) -> None:
    """With the reason: that is when people look."""
    serve(registry.content, "examples", "edge-traversal")
    told = inspected(f"{registry.host}/examples:edge-traversal")

    assert (None, 4) == (told["kind"], len(told["layers"]))
    assert "cannot be mounted: unsafe path '../../etc/evil'" in told["warnings"][0]
    assert (False, True) == (told["mountable"], told["reason"].startswith("unsafe path '../../etc/evil'"))


@pytest.mark.parametrize("artifact_type", [MODEL_ARTIFACT, None])
def test_a_config_that_is_not_there(registry: FakeRegistry, artifact_type: str | None) -> None:
    """It says nothing then; a ModelKit that cannot do without cannot be mounted."""
    serve(registry.content, "inspect/config", "kitops-modelkit-tar")
    document = json.loads(registry.content.manifests["inspect/config"]["kitops-modelkit-tar"][1])
    document["artifactType"] = artifact_type
    if artifact_type is None:
        document["layers"] = [layer | {"annotations": None} for layer in document["layers"]]
    else:
        document["config"]["mediaType"] = "application/vnd.cncf.model.config.v1+json"
    registry.content.add_manifest("inspect/config", document, "v1")
    registry.content.blobs["inspect/config"].pop(document["config"]["digest"], None)
    told = inspected(f"{registry.host}/inspect/config:v1")

    assert (["created"], artifact_type is not None) == (list(told["model"]), told["mountable"])
    assert told["mountable"] or document["config"]["digest"] in told["reason"]


def test_a_list_of_referrers_cannot_be_mounted(registry: FakeRegistry) -> None:
    """Whatever is in it, as the driver says."""
    model = push(registry.content, "inspect/referrers", {"a": b"1"})
    size = len(registry.content.manifests["inspect/referrers"][model.tag][1])
    entry = {"mediaType": OCI_MANIFEST, "digest": str(model.digest), "size": size}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    registry.content.add_manifest("inspect/referrers", index, f"sha256-{'a' * 64}", OCI_INDEX)
    told = inspected(f"{registry.host}/inspect/referrers:sha256-{'a' * 64}")

    assert (False, None) == (told["mountable"], told["child"])
    assert "refers to an artifact" in told["reason"]


def test_damaged_tars_are_told(registry: FakeRegistry) -> None:
    """A tar that cannot be read is a warning, with the rest."""
    model = push(registry.content, "inspect/damaged", {"a": b"1"}, Format.TAR_GZIP)
    blobs = registry.content.blobs["inspect/damaged"]
    cut = blobs[str(model.layers[0])][:40]
    other = registry.content.add_blob("inspect/damaged", cut, Format.TAR_GZIP.media_type)
    manifest = json.loads(registry.content.manifests["inspect/damaged"]["v1"][1])
    manifest["layers"][0] |= {"digest": str(other.digest), "size": other.size}
    registry.content.add_manifest("inspect/damaged", manifest, "v2")
    told = inspected(f"{registry.host}/inspect/damaged:v2")

    assert str(Digest.of(cut)) == told["layers"][0]["digest"]
    assert str(Digest.of(cut)) in told["warnings"][0]
