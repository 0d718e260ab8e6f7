"""`layout: huggingface-hub`, judged by the library that such volumes are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.fakes.registry import FakeRegistry
from tests.integration.driver import PROGRAM, Driver
from tests.integration.models import Format, Model, promised, push, random_bytes, shown
from tests.integration.publishing import published

HUB = {"layout": "huggingface-hub", "modelName": "Qwen/Qwen3-0.6B"}
NAME = HUB["modelName"]
FOLDER = "models--Qwen--Qwen3-0.6B"


def files(seed: object) -> dict[str, bytes]:
    """A model of several directories, with one content at two paths."""
    config = json.dumps({"model_type": "qwen3", "seed": str(seed)}).encode()
    weights = {f"{name}/model.safetensors": random_bytes((seed, name), 50_000) for name in ("unet", "vae", "a/b/c")}
    return {"config.json": config, "scheduler/config.json": config, **weights, "tokenizer.json": b"{}"}


@pytest.fixture(params=[Format.RAW, Format.TAR_ZSTD], ids=lambda packed: packed.value)
def model(request: pytest.FixtureRequest, registry: FakeRegistry) -> Model:
    """A model in either form."""
    packed: Format = request.param
    return push(registry.content, f"qwen/hub-{packed.name.lower()}", files(packed), packed)


def pod(name: str, registry: FakeRegistry, model: Model) -> str:
    """A pod of this test alone: no two tests have the same registry."""
    return f"{name}-{registry.host.rpartition(':')[2]}-{model.digest.hex[:8]}"


@pytest.fixture
def cache(driver: Driver, registry: FakeRegistry, model: Model) -> Path:
    """It, as a pod sees it."""
    return published(driver, model.volume(registry.host, pod("hub", registry, model), **HUB))


def test_cache_of_the_hub(cache: Path, model: Model) -> None:
    """With `layout: huggingface-hub` a volume is a cache of the Hugging Face Hub that holds the model under `modelName`."""
    snapshot = Path(snapshot_download(NAME, cache_dir=cache, local_files_only=True))

    assert cache / FOLDER / "snapshots" / model.digest.hex == snapshot
    assert promised(model.files) == shown(snapshot)
    assert [FOLDER] == os.listdir(cache)
    assert ["blobs", "refs", "snapshots"] == sorted(os.listdir(cache / FOLDER))


def test_every_file_is_found_by_its_name(cache: Path, model: Model) -> None:
    """As programs look for it, whatever directory it is in; what the model lacks is not there."""
    found = {path: try_to_load_from_cache(NAME, path, cache_dir=cache) for path in [*model.files, "pytorch_model.bin"]}

    snapshot = cache / FOLDER / "snapshots" / model.digest.hex
    assert {**{path: str(snapshot / path) for path in model.files}, "pytorch_model.bin": None} == found


@pytest.mark.parametrize("revision", [None, "main", "digest"])
def test_revisions(cache: Path, model: Model, revision: str | None) -> None:
    """`main` and the manifest's digest name the one revision that there is; another is not there."""
    name = model.digest.hex if revision == "digest" else revision
    snapshot = snapshot_download(NAME, revision=name, cache_dir=cache, local_files_only=True)

    assert model.digest.hex == Path(snapshot).name
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download(NAME, revision="v2", cache_dir=cache, local_files_only=True)


def test_the_hubs_own_inventory_finds_nothing_wrong(cache: Path, model: Model) -> None:
    """One model, one revision, each content once."""
    told = scan_cache_dir(cache)
    (repository,) = told.repos
    (revision,) = repository.revisions

    assert [] == told.warnings
    assert (NAME, "model", len(set(model.files.values()))) == (
        repository.repo_id,
        repository.repo_type,
        repository.nb_files,
    )
    assert sum(len(data) for data in set(model.files.values())) == repository.size_on_disk
    assert (model.digest.hex, {"main", model.digest.hex}) == (revision.commit_hash, set(revision.refs))


_PROGRAM = """
import json, sys
from huggingface_hub import hf_hub_download, snapshot_download
name, *paths = sys.argv[1:]
print(json.dumps([snapshot_download(name), *(hf_hub_download(name, path) for path in paths)]))
"""


def test_a_program_needs_the_environment_alone(cache: Path, model: Model) -> None:
    """With `HF_HUB_CACHE` at the volume and `HF_HUB_OFFLINE=1`, programs find the model by its name, and write nothing."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, NAME, *model.files],
        env={"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    snapshot, *paths = json.loads(done.stdout)

    assert [f"{snapshot}/{path}" for path in model.files] == paths
    assert promised(model.files) == shown(Path(snapshot))
    assert "" == done.stderr


def test_layouts_share_the_bytes(driver: Driver, registry: FakeRegistry, model: Model, cache: Path) -> None:
    """The same model in its own layout, and under another name, costs no bytes; equal contents are one file."""
    served = registry.bytes_served.total()
    plain = published(driver, model.volume(registry.host, pod("plain", registry, model)))
    other = published(driver, model.volume(registry.host, pod("other", registry, model), layout="huggingface-hub"))

    assert served == registry.bytes_served.total()
    weights = [
        cache / FOLDER / "snapshots" / model.digest.hex / "vae/model.safetensors",
        plain / "vae/model.safetensors",
    ]
    assert 1 == len({path.stat().st_ino for path in weights})
    assert [f"models--{model.repository.replace('/', '--')}"] == os.listdir(other)
    assert len(set(model.files.values())) == len(os.listdir(cache / FOLDER / "blobs"))


def test_part_of_a_model(driver: Driver, registry: FakeRegistry, model: Model) -> None:
    """What chooses files and the layout go together."""
    volume = model.volume(registry.host, pod("part", registry, model), subPath="a", exclude="config.json", **HUB)
    snapshot = snapshot_download(NAME, cache_dir=published(driver, volume), local_files_only=True)

    assert {"b/c/model.safetensors"} == set(shown(Path(snapshot)))


def test_without_a_name_for_it(driver: Driver, registry: FakeRegistry) -> None:
    """A reference whose path is no name of the hub needs `modelName`, and the answer says so."""
    model = push(registry.content, "team/a--b", {"config.json": b"{}"})
    answer = driver.kubelet.publish(model.volume(registry.host, "no-name", layout="huggingface-hub"))

    assert grpc.StatusCode.INVALID_ARGUMENT == answer.code
    assert "set modelName" in answer.text


def test_pull_makes_the_same_cache(registry: FakeRegistry, model: Model, tmp_path: Path) -> None:
    """`modelcsi pull --layout`, for a laptop; its owner may change what he got."""
    done = subprocess.run(
        [
            *(PROGRAM, "pull", model.at(registry.host), tmp_path / "hub", "--docker-config", tmp_path),
            *("--layout", "huggingface-hub", "--model-name", NAME, "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    snapshot = Path(snapshot_download(NAME, cache_dir=tmp_path / "hub", local_files_only=True))

    assert promised(model.files) == shown(snapshot)
    assert sum(len(data) for data in set(model.files.values())) + 128 == json.loads(done.stdout)["size_bytes"]
    (snapshot / "config.json").write_text("changed")
