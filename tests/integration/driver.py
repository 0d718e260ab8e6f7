"""`modelcsi node` as a process of its own, on directories of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelcsi.mount.table import Mount, mounts_at, read_mount_table
from tests.fakes.kubelet import Kubelet

PROGRAM = Path(sys.executable).with_name("modelcsi")
SERVICE_NAME = "model.csi.modelpack.org"
_START_SECONDS = 20.0
_END_SECONDS = 15.0
_POLL_SECONDS = 0.01
_OURS = ("X_CSI_", "CSI_", "DOCKER_CONFIG", "POD_IP", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Driver:
    """Start, stop and kill it as often as a test likes; what it keeps stays between."""

    def __init__(self, directory: Path, config: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.root_dir = directory / "root"
        self.socket = directory / "csi" / "csi.sock"
        self.log = directory / "driver.log"
        self.config_file = directory / "config.yaml"
        self.docker_config_dir = directory / "docker"
        self.kubelet = Kubelet(self.socket, directory / "kubelet")
        self.metrics_port = free_port()
        self.environment: dict[str, str] = {"CSI_NODE_ID": "test-node"}
        self.program = PROGRAM
        self.arguments: tuple[str, ...] = ("node",)
        self._process: subprocess.Popen[bytes] | None = None
        self.docker_config_dir.mkdir()
        self.write_docker_config({})
        self.write_config(config or {})

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "the driver does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def write_config(self, config: Mapping[str, Any]) -> None:
        """The configuration: the defaults of these tests, and `config` over them."""
        defaults: dict[str, Any] = {
            "service_name": SERVICE_NAME,
            "csi_endpoint": f"unix://{self.socket}",
            "root_dir": str(self.root_dir),
            "metrics_addr": f"tcp://127.0.0.1:{self.metrics_port}",
            "log_level": "debug",
            "pull_config": {"docker_config_dir": str(self.docker_config_dir)},
        }
        temporary = self.config_file.with_suffix(".new")
        temporary.write_text(json.dumps({**defaults, **config}))  # JSON is YAML
        temporary.rename(self.config_file)

    def write_docker_config(self, document: Mapping[str, Any]) -> None:
        """The node's own docker config.json."""
        (self.docker_config_dir / "config.json").write_text(json.dumps(document))

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start it without waiting."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, *self.arguments, "--config", self.config_file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.variables(),
            )

    def wait_until_ready(self) -> None:
        """Until Probe says ready; a new connection each time, as kubelet's."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.is_running:
            answer = self.kubelet.probe()
            if answer.is_ok and answer.response.ready.value:
                return
            time.sleep(_POLL_SECONDS)  # another process offers no event to wait for
        raise AssertionError(f"the driver is not ready:\n{self.log_text()[-4000:]}")

    def stop(self) -> float:
        """SIGTERM; returns the seconds until it had ended."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        self._reap()
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL, as the kernel's OOM killer does."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def wait(self, seconds: float = _END_SECONDS) -> int:
        """Wait for its end; the exit status."""
        assert self._process is not None, "the driver was not started"
        return self._process.wait(seconds)

    def run(self, *arguments: str | Path, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Another command of the same program, such as `status`."""
        return subprocess.run(
            [PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=self.variables(),
        )

    def ask(self, *arguments: str) -> Any:
        """The JSON that a command about this driver's store prints."""
        done = self.run(*arguments, "--config", self.config_file, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def variables(self) -> dict[str, str]:
        """Its environment: ours without what would mean something to it."""
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)}
        return {**inherited, **self.environment}

    def log_text(self) -> str:
        """All that it wrote since it was first started."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def bugs(self) -> list[str]:
        """The tracebacks of what it did not expect."""
        lines = [line for line in self.log_text().splitlines() if '"level": "error"' in line]
        return [record["traceback"] for record in map(json.loads, lines) if "traceback" in record]

    def mounts(self) -> list[Mount]:
        """The mounts below the directory of this driver's pods."""
        return [mount for mount in read_mount_table() if mount.mount_point.startswith(f"{self.kubelet.root}/")]

    def rss_anon_bytes(self) -> int:
        """Its anonymous memory now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel tells no RssAnon")

    def clean(self) -> None:
        """End the process, take its mounts away, remove its directory; whatever state they are in."""
        if self.is_running:
            self.kill()
        for mount in reversed(read_mount_table()):
            if mount.mount_point.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", mount.mount_point], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.directory)

    def _reap(self) -> None:
        try:
            self.wait()
        except subprocess.TimeoutExpired as error:
            assert self._process is not None, "it is there: it did not end"
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the driver did not end:\n{self.log_text()[-4000:]}") from error


@contextmanager
def running_driver(config: Mapping[str, Any] | None = None) -> Iterator[Driver]:
    """A ready driver for the block."""
    with new_driver(config) as driver:
        driver.start()
        yield driver


@contextmanager
def new_driver(config: Mapping[str, Any] | None = None) -> Iterator[Driver]:
    """A driver that was not started yet. Its directory is short: a socket's path has at most 107 bytes."""
    driver = Driver(Path(tempfile.mkdtemp(prefix="modelcsi-")), config)
    try:
        yield driver
    finally:
        driver.clean()


def eventually(
    is_so: Callable[[], object], what: str, seconds: float = 20.0, *, poll_seconds: float = _POLL_SECONDS
) -> None:
    """Poll what no event tells, because it happens in another process."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(poll_seconds)


@contextmanager
def measured_memory(driver: Driver) -> Iterator[list[int]]:
    """The greatest RssAnon seen during the block, as the list's only item, kept up to date."""
    peak, ended = [driver.rss_anon_bytes()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], driver.rss_anon_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def mount_of(target: Path) -> Mount:
    """The one mount at a target."""
    found = mounts_at(read_mount_table(), str(target))
    assert len(found) == 1, f"{len(found)} mounts at {target}"
    return found[0]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
