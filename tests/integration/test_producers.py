"""What producers push mounts as they mean it, by the driver's own pull."""

from __future__ import annotations

import stat

import pytest

from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.driver import Driver
from tests.producers import PRODUCTS
from tests.product import Product


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_product_mounts_as_its_producer_means(
    driver: Driver, registry: FakeRegistry, product: Product, request: pytest.FixtureRequest
) -> None:
    """All files are at their places with their bytes, and nothing else is there; what is refused says why.

    Modes are as promised where the producer keeps them.
    """
    product.push(registry.content, "products", "v1")
    volume = PodVolume(request.node.name.replace("/", "-"), {"modelRef": f"{registry.host}/products:v1"})
    answer = driver.kubelet.publish(volume)
    if product.refusal:
        assert (False, True) == (answer.is_ok, product.refusal in answer.text), answer.text
        return
    target = driver.kubelet.target(volume)

    assert answer.is_ok, answer.text
    assert product.files == {
        str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()
    }
    assert product.modes == {path: stat.S_IMODE((target / path).stat().st_mode) for path in product.modes}
