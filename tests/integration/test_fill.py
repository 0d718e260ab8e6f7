"""A model that is read while it arrives: the process dies, the registry dies, the registry is a real one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcsi.deadline import Deadline
from modelcsi.pull.puller import Filling, Puller, PullLimits
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from modelcsi.store.store import Store
from tests.fakes.content import Content
from tests.fakes.registry import FakeRegistry
from tests.integration.driver import eventually
from tests.integration.models import MIB, Format, Model, promised, push, random_files, shown, upload
from tests.integration.registry import DockerRegistry
from tests.unit.pull.conftest import Pod
from tests.unit.pull.test_begin import Answer, Log, begin

_PROGRAM = Path(__file__).with_name("filling.py")
_ROOT = Path(__file__).parents[2]


@contextmanager
def filling(root: Path, reference: str, seed: int) -> Iterator[subprocess.Popen[str]]:
    """The program, once it has begun."""
    command = [sys.executable, str(_PROGRAM), str(root), reference, str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env={"PYTHONPATH": "src:."}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def view_of(root: Path) -> Path:
    """The only one there is."""
    (view,) = [path for path in (root / "views").iterdir() if path.is_dir()]
    return view


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_killed_fill_goes_on(tmp_path: Path, registry: FakeRegistry, packed: Format) -> None:
    """kill -9 three times while it is read all over: the bytes are right, and little came twice."""
    model = push(registry.content, "fill/kill", random_files(("kill", packed), 40 * MIB, 24 * MIB), packed)
    registry.faults.bytes_per_second_in_all = 32_000_000
    root = tmp_path / "root"
    for number in range(1, 4):
        with filling(root, model.at(registry.host), number):
            part = model.size_bytes * number // 4
            eventually(lambda part=part: registry.bytes_served.total() >= part, "a part of it came")  # type: ignore[misc]
    registry.faults.bytes_per_second_in_all = 0
    with filling(root, model.at(registry.host), 4) as process:
        output, _ = process.communicate(timeout=60)

    assert 0 == process.returncode, output
    assert "restarted" not in output
    assert promised(model.files) == shown(view_of(root))
    assert registry.bytes_served.total() <= 1.6 * model.size_bytes
    assert [] == list((root / "ingest").iterdir())


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """Wants what a test names, into a store of its own."""
    store = Store(tmp_path / "root")
    puller = Puller(store, Registry(HttpTransport(), Hosts()), Keychain(None), PullLimits())
    yield Pod(puller, "")
    puller.stop(Deadline.after(10))
    store.close()


def wanting(pod: Pod, reference: str) -> Pod:
    """The same of another reference."""
    return Pod(pod.puller, reference)


@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR], ids=lambda packed: packed.value)
def test_registry_dies_and_comes_back(pod: Pod, packed: Format) -> None:
    """Wants wait; they are answered soon after it is back, and nothing that was here comes again."""
    content = Content()
    with FakeRegistry(content=content) as first:
        model = push(content, "fill/dies", random_files(("dies", packed), 24 * MIB), packed)
        first.faults.bytes_per_second_in_all = 16_000_000
        log, answers = Log(), [Answer() for _ in range(6)]
        found = begin(wanting(pod, model.at(first.host)), log)
        assert isinstance(found, Filling)
        eventually(lambda: first.bytes_served.total() > 4 * MIB, "some of it came")
        port = int(first.host.rpartition(":")[2])
    layer = max(model.layers, key=lambda digest: len(content.blobs["fill/dies"][str(digest)]))
    for number, answer in enumerate(answers):
        found.job.want(layer, (12 + number) * MIB, (13 + number) * MIB, answer)
    silent = not all(answer.come.wait(0.5) for answer in answers)
    with FakeRegistry(content=content, port=port) as second:
        in_time = all(answer.come.wait(10) for answer in answers)
        eventually(lambda: not pod.puller.running(), "the fill ends")
        served = first.bytes_served.total() + second.bytes_served.total()

    assert (True, True, ("filled", None)) == (silent, in_time, log.events[-1])
    assert [[None]] * 6 == [answer.errors for answer in answers]
    assert served <= 1.5 * model.size_bytes


@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR], ids=lambda packed: packed.value)
def test_real_registry(pod: Pod, docker_registry: DockerRegistry, packed: Format) -> None:
    """distribution serves ranges: readers all over the model get right bytes, and each byte comes once."""
    content = Content()
    model = push(content, f"fill/real-{packed.value}", random_files(("real", packed), 48 * MIB, 16 * MIB), packed)
    upload(content, docker_registry.host)
    log = Log()
    found = begin(wanting(pod, model.at(docker_registry.host)), log)
    assert isinstance(found, Filling)
    readers = [threading.Thread(target=read_backwards, args=(found, model)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    eventually(lambda: not pod.puller.running(), "the fill ends")
    view = begin(wanting(pod, model.at(docker_registry.host)), Log())

    assert not isinstance(view, Filling)
    assert promised(model.files) == shown(view.path)
    assert ("filled", None) == log.events[-1]
    assert found.job.progress.downloaded_bytes <= model.size_bytes + 200_000


def read_backwards(found: Filling, model: Model) -> None:
    """Every second MiB of each file, from the end: against the fill."""
    for entry in found.tree.entries:
        if entry.layer is None:
            continue
        start = found.offsets[entry.layer, entry.member]
        for at in reversed(range(0, max(0, entry.size - MIB), 2 * MIB)):
            answer = Answer()
            found.job.want(entry.layer, start + at, start + at + MIB, answer)
            assert answer.come.wait(30)
