from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from modelcsi.errors import NotFound, PullPending
from modelcsi.oci.digest import Digest
from modelcsi.store.records import MOUNTED, PENDING
from modelcsi.volume.inventory import Inventory
from modelcsi.volume.spec import VolumeSpec
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES
from tests.unit.volume.conftest import Driver, publish, unpublish

Make = Callable[..., VolumeSpec]
SIZE = sum(map(len, FILES.values()))
WEIGHTS = Digest.of(FILES["model.safetensors"])


@pytest.fixture
def inventory(driver: Driver) -> Inventory:
    """Of the driver."""
    return Inventory(driver.store, driver.puller)


def damage(driver: Driver) -> None:
    """Flip a bit of the weights."""
    path = driver.store.layout.blob(WEIGHTS)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\xff")


def test_status(inventory: Inventory, driver: Driver, fake: FakeRegistry, spec: Make, reference: str) -> None:
    """Publications with their state, and pulls with their progress."""
    publish(driver, spec("done", "done"))
    fake.content.push("models/big", "v1", {"model": bytes(3 << 20)})
    fake.faults.stall_after_bytes = 1 << 20
    with pytest.raises(PullPending):
        publish(driver, spec("waits", "waits", modelRef=reference.replace("tiny", "big")), seconds=0.4)
    status = json.loads(json.dumps(inventory.status()))

    assert {("done", MOUNTED), ("waits", PENDING)} == {
        (item["volume_id"], item["state"]) for item in status["publications"]
    }
    assert [(3 << 20, 1)] == [(pull["total_bytes"], pull["waiting"]) for pull in status["pulls"]]


def test_cache(inventory: Inventory, driver: Driver, spec: Make, reference: str) -> None:
    """What is here, how large it is, and by how many volumes it is used."""
    publish(driver, spec())
    cache = json.loads(json.dumps(inventory.cache()))

    assert [(reference, SIZE, 1)] == [
        (item["reference"], item["size_bytes"], item["in_use"]) for item in cache["artifacts"]
    ]
    assert SIZE <= cache["stored_bytes"] < SIZE + 65536
    assert cache["free_bytes"] >= cache["available_bytes"] > 0


def test_prune(inventory: Inventory, driver: Driver, spec: Make) -> None:
    """Only what no volume uses, and only beyond the size that may stay."""
    publish(driver, spec())
    used = inventory.prune(None)
    unpublish(driver, spec())
    small_enough, all_of_it = inventory.prune(SIZE), inventory.prune(None)

    assert ([], [], 1) == (used["artifacts"], small_enough["artifacts"], len(all_of_it["artifacts"]))
    assert (SIZE <= all_of_it["freed_bytes"], 0) == (True, inventory.cache()["stored_bytes"])


def test_verify_sound_content(inventory: Inventory, driver: Driver, spec: Make) -> None:
    """Nothing is said and nothing removed."""
    publish(driver, spec())

    assert {"verified": 1, "damages": [], "removed": []} == inventory.verify(None)


def test_verify_reports_what_a_volume_uses(inventory: Inventory, driver: Driver, spec: Make) -> None:
    """Damaged, and in use: it stays."""
    publish(driver, spec())
    damage(driver)
    (artifact,) = driver.store.records.artifacts()
    report = inventory.verify(str(artifact.manifest))

    assert ([f"blob {WEIGHTS} does not match its digest"], []) == (report["damages"], report["removed"])


def test_verify_removes_damage(inventory: Inventory, driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """The next pull brings it anew, and only it."""
    publish(driver, spec())
    unpublish(driver, spec())
    damage(driver)
    removed = inventory.verify(None)["removed"]
    before = fake.blob_gets[str(WEIGHTS)]
    publish(driver, spec())

    assert (1, 1, []) == (len(removed), fake.blob_gets[str(WEIGHTS)] - before, inventory.verify(None)["damages"])


def test_damage_that_two_artifacts_share(
    inventory: Inventory, driver: Driver, fake: FakeRegistry, spec: Make, reference: str
) -> None:
    """Asked for one of them: the other one's view shows the same bytes, and goes too."""
    other = fake.content.push("models/tiny", "v2", FILES | {"config.json": b"{ }"})
    for name, model in (("one", reference), ("two", reference.replace("v1", "v2"))):
        publish(driver, spec(name, name, modelRef=model))
        unpublish(driver, spec(name, name, modelRef=model))
    damage(driver)
    report = inventory.verify(str(other))

    assert (1, 2, []) == (report["verified"], len(report["removed"]), driver.store.records.artifacts())


def test_verify_what_is_not_here(inventory: Inventory) -> None:
    """Is not found."""
    with pytest.raises(NotFound, match="no artifact sha256:"):
        inventory.verify(f"sha256:{'0' * 64}")
