"""A model that takes longer than kubelet waits for a publish, which is 120 s; and one whose driver ends meanwhile."""

from __future__ import annotations

import itertools
import re
import uuid

import pytest

from tests.cluster.kubectl import Event, Kubectl, eventually
from tests.cluster.pods import hashing, inline, pod, seen
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import Release
from tests.integration.driver import SERVICE_NAME
from tests.integration.models import MIB, Model, promised, random_files

_LONG_SECONDS = 150
_SHORT_SECONDS = 40
_SIZE_BYTES = 45 * MIB
_WAIT_SECONDS = 120.0
_PERCENT = re.compile(r": (\d+)% \(")


@pytest.mark.timeout(480)
def test_pull_outlives_the_calls_that_wait_for_it(driver: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """kubelet asks twice while one download goes on, a second pod joins it, and people see how far it is."""
    model = _new_model(registry)
    reference = model.at(registry.host)
    registry.wire.bytes_per_second = model.size_bytes // _LONG_SECONDS
    traffic, before = registry.traffic(), registry.wire.delivered_bytes
    kubectl.apply(pod("first", inline(reference)))
    eventually(lambda: _percent(driver) >= 25, "a quarter is here", _WAIT_SECONDS)
    kubectl.apply(pod("second", inline(reference)))
    eventually(lambda: _waiting(driver) == 2, "the second pod waits for the same pull")
    shown = driver.modelcsi("status")
    kubectl.wait_until_ready("first", "second", seconds=_LONG_SECONDS + _WAIT_SECONDS)

    assert re.search(rf"pulling {re.escape(reference)}\n +█+░+ .* MiB, .*/s, .* left, 2 waiting", shown), shown
    served = traffic.served(model.repository)
    assert [1] * len(model.layers) == [served[str(layer)] for layer in model.layers]
    assert registry.wire.delivered_bytes - before < 1.02 * model.size_bytes
    for name, begins_after_seconds in (("first", 10), ("second", 0)):
        _pulled(kubectl, name)
        _assert_progress_is_told(kubectl.events(name), model, reference, begins_after_seconds)
        assert promised(model.files) == seen(kubectl.exec(name, *hashing()))
    _assert_kubelet_tells_the_same(kubectl.events("first"), reference)


def test_replaced_driver_goes_on_where_the_pull_was(
    driver: Release, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """The driver's pod is deleted in mid-pull: the next one fetches what is missing, and the pod starts."""
    model = _new_model(registry)
    registry.wire.bytes_per_second = model.size_bytes // _SHORT_SECONDS
    before = registry.wire.delivered_bytes
    kubectl.apply(pod("reader", inline(model.at(registry.host))))
    eventually(lambda: _percent(driver) >= 50, "half of it is here", _WAIT_SECONDS)
    driver.kubectl.delete("pod", driver.pod)
    half = registry.wire.delivered_bytes - before
    driver.wait_until_ready()
    kubectl.wait_until_ready("reader", seconds=_WAIT_SECONDS)
    pulled = _pulled(kubectl, "reader")

    assert half >= model.size_bytes // 2
    assert registry.wire.delivered_bytes - before <= 1.1 * model.size_bytes
    assert str(model.digest) in pulled.message
    assert promised(model.files) == seen(kubectl.exec("reader", *hashing()))


def _new_model(registry: ClusterRegistry) -> Model:
    """Bytes and a reference that no earlier run left on the node."""
    name = uuid.uuid4().hex[:8]
    return registry.push(f"demo/{name}", random_files(name, _SIZE_BYTES))


def _percent(driver: Release) -> int:
    """How far the only pull is; 0 if there is none."""
    (pull,) = driver.status()["pulls"] or [{"done_bytes": 0, "total_bytes": 1}]
    return int(100 * pull["done_bytes"] // pull["total_bytes"])


def _waiting(driver: Release) -> int:
    (pull,) = driver.status()["pulls"]
    return int(pull["waiting"])


def _pulled(kubectl: Kubectl, name: str) -> Event:
    """What the driver says of the end, once it has; kubelet calls its event about the container's image the same."""
    found: list[Event] = []

    def has_come() -> bool:
        found[:] = [item for item in kubectl.events(name) if (item.component, item.reason) == (SERVICE_NAME, "Pulled")]
        return bool(found)

    eventually(has_come, f"the driver says that {name} has its model")
    return found[-1]


def _assert_progress_is_told(events: list[Event], model: Model, reference: str, begins_after_seconds: int) -> None:
    """Pulling with size and source; progress after 10 s, then at each tenth and 30 s apart; Pulled with everything."""
    ours = [event for event in events if event.component == SERVICE_NAME]
    (pulling,) = [event for event in ours if event.reason == "Pulling"]
    (pulled,) = [event for event in ours if event.reason == "Pulled"]
    progress = sorted((event for event in ours if event.reason == "PullProgress"), key=_told_percent)
    told = [_told_percent(event) for event in progress]
    gaps = [(later.at - earlier.at).total_seconds() for earlier, later in itertools.pairwise(progress)]
    size = "45.0 MiB"

    assert f"Pulling {reference} ({size}) from {reference.partition('/')[0]}" == pulling.message
    assert len(ours) - 2 == len(progress) >= 3
    assert len(told) == len({percent // 10 for percent in told})
    assert (progress[0].at - pulling.at).total_seconds() >= begins_after_seconds - 1  # of whole seconds
    assert min(gaps) >= 29
    assert max(gaps) < 60
    assert re.fullmatch(
        rf"Pulled {re.escape(reference)} \({model.digest}\): {size}, of which {size} were downloaded, "
        r"in 2 min \d+ s \(\d+ KiB/s\)",
        pulled.message,
    )


def _told_percent(event: Event) -> int:
    found = _PERCENT.search(event.message)
    assert found is not None, event
    return int(found[1])


def _assert_kubelet_tells_the_same(events: list[Event], reference: str) -> None:
    """Each attempt of kubelet ended with an answer that says what is pulled, and how far it is, and none with its own deadline."""
    attempts = [
        event.message for event in events if event.component == "kubelet" and "MountVolume.SetUp" in event.message
    ]

    assert attempts
    assert [] == [text for text in attempts if f"code = Aborted desc = pulling {reference}: " not in text]
