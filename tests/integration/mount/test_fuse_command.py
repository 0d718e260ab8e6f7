"""`modelcsi fuse` and its servers as they are started on a node, with a view of real files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from modelcsi.mount.adapters import choose_adapter
from modelcsi.mount.daemons import Daemons
from modelcsi.mount.servers import program
from tests.fakes.lazy import VIEW, LazyDriver, LazyFile, LazyStore, content_of
from tests.fakes.processes import is_gone, kill_all_of
from tests.integration.driver import eventually
from tests.integration.fuse.readers import assert_nothing_noticed, readers
from tests.integration.mount.conftest import LazyNode, wait_for_end

pytestmark = pytest.mark.timeout(180)

_MIB = 1 << 20
_MAX_HOLDER_KIB = 20 << 10
_FILES = tuple(
    LazyFile(name, content_of(name, size * _MIB)) for name, size in {"here": 8, "done": 8, "coming": 16}.items()
)


class RealNode(LazyNode):
    """With the programs of the package."""

    def _new_daemons(self) -> Daemons:
        config = self.root.parent / "config.yaml"
        if not config.exists():
            self.write_config()
        command = [*program(), "fuse", "--config", str(config), "--until-idle"]
        daemons = Daemons(self.root, lambda view, why: self.lost.append((view, why)), command)
        daemons.start()
        return daemons

    def write_config(self, **fuse: Any) -> None:
        """The smallest that there can be."""
        endpoint = f"unix://{self.root.parent}/csi.sock"
        values = {"service_name": "x", "csi_endpoint": endpoint, "root_dir": str(self.root), "fuse": fuse}
        (self.root.parent / "config.yaml").write_text(json.dumps(values))

    def command_line(self, pid: int) -> str:
        """As `ps` shows it."""
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.fixture
def node() -> Iterator[RealNode]:
    """A store on a real disk, whose files arrive when they are wanted."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and FUSE")
    area = Path(tempfile.mkdtemp(prefix="modelcsi-fuse-", dir="/var/tmp"))
    (area / "root" / "pods").mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, area)
        store = LazyStore(area / "root", _FILES)
        store.complete("done")
        for chunk in store.chunks("here"):
            store.arrive("here", chunk)
        stack.enter_context(LazyDriver(store))
        made = RealNode(area / "root")
        stack.callback(kill_all_of, area)
        stack.callback(made.end)
        yield made


def test_all_is_killed_and_updated_under_load(node: RealNode) -> None:
    """Active, both servers, holder, holder and servers, driver, update: no error and no wrong byte."""
    target = node.mount(view=VIEW)
    with readers(target, _FILES, node.root.parent / "originals", count=4) as stop:
        for _ in range(3):
            active, standby, holder = node.server(), node.server("standby"), node.holder()
            for victims in ((active,), (active, standby), (holder,), (holder, active, standby)):
                for pid in victims:
                    if not is_gone(pid):
                        os.kill(pid, signal.SIGKILL)
                holder = node.other_holder(holder) if holder in victims else node.holder()
                active = node.server(but=victims)
                standby = node.server("standby", but=victims)
            node.restart()
            os.kill(node.holder(), signal.SIGHUP)
            wait_for_end(active, standby)
            node.server("standby")
        reports = stop()

    assert_nothing_noticed(reports)
    assert [] == node.lost


def test_the_processes_can_be_told_and_are_small(node: RealNode) -> None:
    """By their command lines; the holder takes 20 MiB at most, as it was started and after an update."""
    node.mount(view=VIEW)
    server, holder = node.server(), node.holder()
    sizes = [_resident_kib(holder)]
    os.kill(holder, signal.SIGHUP)
    wait_for_end(server)
    node.server("standby")
    sizes.append(_resident_kib(holder))
    sys.stdout.write(f"holder: {sizes} KiB, server: {_resident_kib(node.server())} KiB\n")

    assert "modelcsi fuse --config" in node.command_line(holder)
    assert "modelcsi fuse-server --adapter passthrough" in node.command_line(node.server())
    assert max(sizes) < _MAX_HOLDER_KIB


def test_an_update_reads_the_configuration_again(node: RealNode) -> None:
    """What is wrong in it by then changes nothing, and ends nothing."""
    target = node.mount(view=VIEW)
    server, holder = node.server(), node.holder()
    node.write_config(verify="complete")
    os.kill(holder, signal.SIGHUP)
    wait_for_end(server)
    second = node.server()
    found = node.command_line(second)
    (node.root.parent / "config.yaml").write_text("fuse: [")
    os.kill(holder, signal.SIGHUP)
    wait_for_end(second)
    third = node.command_line(node.server())

    assert "--verify complete" in found
    assert "--verify complete" in third
    assert _FILES[1].content == (target / "done").read_bytes()


def test_a_wrong_configuration_is_told(tmp_path: Path) -> None:
    """On standard error, as of every command."""
    (tmp_path / "config.yaml").write_text("fuse: {adapter: punchcards}")
    command = [*program(), "fuse", "--config", str(tmp_path / "config.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert 2 == ended.returncode
    assert "adapter" in ended.stderr


def test_sigterm_ends_the_holder_and_not_the_servers(node: RealNode) -> None:
    """Readers notice nothing, and the driver starts the next one."""
    target = node.mount(view=VIEW)
    server, holder = node.server(), node.holder()
    os.kill(holder, signal.SIGTERM)
    wait_for_end(holder)
    content = (target / "here").read_bytes()
    node.other_holder(holder)
    eventually(lambda: is_gone(server), "the orphan's end")
    node.server()

    assert _FILES[0].content == content
    assert [VIEW] == [held.view for held in node.daemons.held()]


def test_a_signal_that_comes_too_early_waits(node: RealNode) -> None:
    """A holder that is told to update while it begins does so when it has begun."""
    node.write_config()
    config = node.root.parent / "config.yaml"
    with subprocess.Popen([*program(), "fuse", "--config", str(config)]) as process:
        eventually(lambda: "--settled" in node.command_line(process.pid), "the second program")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "--resume" in node.command_line(process.pid), "the update")
        process.terminate()

    assert 0 == process.returncode


def test_a_holder_may_be_first(tmp_path: Path) -> None:
    """On a new node its pod may begin before the driver's."""
    root = tmp_path / "new" / "root"
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"service_name": "x", "csi_endpoint": f"unix://{tmp_path}/s", "root_dir": str(root)}))
    with subprocess.Popen([*program(), "fuse", "--config", str(config)]) as process:
        eventually(lambda: (root / "fuse.sock").exists() or process.poll() is not None, "the holder")
        process.terminate()

    assert 0 == process.returncode
    assert 0o711 == stat.S_IMODE(root.stat().st_mode)


def test_a_holder_keeps_nothing_of_who_started_it(node: RealNode) -> None:
    """A driver's files that are not closed by exec, as OpenSSL opens certificates, would stay open for months."""
    node.write_config()
    config = node.root.parent / "config.yaml"
    with (
        config.open("rb") as file,
        subprocess.Popen([*program(), "fuse", "--config", str(config)], pass_fds=(file.fileno(),)) as process,
    ):
        eventually((node.root / "fuse.sock").exists, "the holder")
        kept = [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
        process.terminate()

    assert str(config) not in kept


def _resident_kib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.skipif(choose_adapter("pyfuse3").adapter is None, reason="pyfuse3 is not installed")
def test_a_server_of_pyfuse3(node: RealNode) -> None:
    """It outlives its holder and the next one's update; killed, it takes its mounts with it, and nobody hangs."""
    target = node.mount(view=VIEW, adapter="pyfuse3")
    before = (target / "coming").read_bytes()
    (server,) = node.servers("active")
    holder = node.holder()
    os.kill(holder, signal.SIGKILL)
    during = (target / "here").read_bytes()
    os.kill(node.other_holder(holder), signal.SIGHUP)
    eventually(lambda: node.servers("active") == [server], "the server with its new holder")
    after = (target / "done").read_bytes()
    os.kill(server, signal.SIGKILL)
    with pytest.raises(OSError, match=r"not connected|abort"):
        (target / "here").read_bytes()
    eventually(lambda: node.lost, "the loss")

    assert [file.content for file in _FILES] == [during, after, before]
    assert [VIEW] == [view for view, _ in node.lost]
