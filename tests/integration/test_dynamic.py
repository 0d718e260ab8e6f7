"""Dynamic volumes by the real driver: a pod mounts models while it runs (docs/dynamic-mounts.md)."""

from __future__ import annotations

import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import grpc
import pytest

from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.integration.conftest import MakeDriver
from tests.integration.credentials import docker_secret
from tests.integration.driver import PROGRAM, Driver, eventually, mount_of
from tests.integration.dynamic import CONFIG, DynamicPod, Said
from tests.integration.models import MIB, promised, push, random_files, shown

_NOBODY = 65534


@pytest.fixture
def driver(make_driver: MakeDriver) -> Iterator[Driver]:
    """A driver whose administrator allows dynamic mounts; it fails no call by a bug."""
    running = make_driver(CONFIG)
    yield running
    assert [] == running.bugs()


def leases(driver: Driver) -> int:
    """How often artifacts are in use."""
    return sum(item["in_use"] for item in driver.ask("cache", "ls")["artifacts"])


def directories(driver: Driver) -> list[str]:
    """What is left of dynamic volumes in the store."""
    return sorted(path.name for path in (driver.root_dir / "dynamic").iterdir())


def test_two_models_in_a_running_pod(driver: Driver, registry: FakeRegistry) -> None:
    """They appear below the mount that the pod has, are listed, share their bytes with the store, and go one by one."""
    first = push(registry.content, "team/first", random_files("first", MIB))
    second = push(registry.content, "team/second", random_files("second", MIB))
    pod = DynamicPod(driver, "pod-two")
    said = [pod.mount("one", first.at(registry.host)), pod.mount("two", second.at(registry.host))]
    seen = [shown(pod.model("one")), shown(pod.model("two"))]
    weights = pod.model("one") / "model-00000.safetensors"
    links = weights.stat().st_nlink
    listed = pod.ids()
    gone = pod.unmount("one")

    assert [HTTPStatus.CREATED, HTTPStatus.CREATED] == [answer.status for answer in said]
    assert [promised(first.files), promised(second.files)] == seen
    assert (["one", "two"], 3) == (listed, links)
    assert (Said(HTTPStatus.NO_CONTENT), ["two"]) == (gone, pod.ids())
    assert ["two"] == [path.name for path in (pod.path / "models").iterdir()]
    assert 1 == leases(driver)


def test_statuses(driver: Driver, registry: FakeRegistry) -> None:
    """The answers are upstream's, field by field; what a pod reads in the files is the same."""
    model = push(registry.content, "team/status", random_files("status", MIB))
    pod = DynamicPod(driver, "pod-status")
    common = {
        "volume_name": pod.volume.volume_id,
        "mount_id": "m",
        "reference": model.at(registry.host),
        "state": "PULL_SUCCEEDED",
    }
    posted = pod.mount("m", model.at(registry.host))
    got = pod.ask("GET", f"{pod.mounts}/m")
    items = got.body["progress"]["items"]

    assert Said(HTTPStatus.CREATED, {**common, "progress": {"total": 0, "items": None}}) == posted
    assert (HTTPStatus.OK, common) == (got.status, {key: got.body[key] for key in common})
    assert (2, {"/model-00000.safetensors", "/tokenizer/vocab.txt"}) == (
        got.body["progress"]["total"],
        {item["path"] for item in items},
    )
    assert {"digest", "path", "size", "started_at", "finished_at"} == set(items[0])
    assert [got.body] == pod.ask("GET", pod.mounts).body
    assert f'"volume_name": "{pod.volume.volume_id}"' in (pod.path / "status.json").read_text()
    assert '"state": "PULL_SUCCEEDED"' in (pod.path / "models" / "m" / "status.json").read_text()


def test_the_pod_can_change_nothing(driver: Driver, registry: FakeRegistry) -> None:
    """Not even root in it: no write, no symlink in place of `models`, no other socket; the mount is ro, nosuid, nodev."""
    model = push(registry.content, "team/fixed", random_files("fixed", MIB))
    pod = DynamicPod(driver, "pod-fixed")
    pod.mount("m", model.at(registry.host))
    attempts: list[Callable[[], object]] = [
        lambda: (pod.path / "new").write_text(""),
        lambda: (pod.path / "models").rename(pod.path / "moved"),
        lambda: (pod.path / "models" / "link").symlink_to("/etc"),
        (pod.path / "csi" / "csi.sock").unlink,
        lambda: (pod.path / "status.json").write_text("{}"),
        lambda: (pod.model("m") / "model-00000.safetensors").open("r+b"),
        lambda: (pod.model("m") / "tokenizer").chmod(0o777),
    ]
    refusals = []
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        refusals.append(os.strerror(caught.value.errno or 0))

    assert ["Read-only file system"] * len(attempts) == refusals
    assert {"ro", "nosuid", "nodev"} <= mount_of(pod.path).options


def test_any_user_of_the_pod_may_ask(driver: Driver) -> None:
    """The socket lets every user connect: containers seldom run as root."""
    pod = DynamicPod(driver, "pod-user")
    # Root starts it: the interpreter may lie where nobody else may go.
    code = (
        f"import os, socket; os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY}); "
        f"socket.socket(socket.AF_UNIX).connect({str(pod.path / 'csi' / 'csi.sock')!r})"
    )
    ways = [parent for parent in pod.path.parents if parent.stat().st_mode & stat.S_IXOTH == 0]
    for parent in ways:  # kubelet's directories, which a container does not pass
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True)

    assert (0, b"") == (done.returncode, done.stderr)


def test_other_volumes_are_out_of_reach(driver: Driver, registry: FakeRegistry) -> None:
    """The socket of one pod shows, makes and removes nothing in the volume of another (peers T11)."""
    model = push(registry.content, "team/other", random_files("other", MIB))
    victim, attacker = DynamicPod(driver, "pod-victim"), DynamicPod(driver, "pod-attacker")
    victim.mount("m", model.at(registry.host))
    body = {"mount_id": "x", "reference": model.at(registry.host)}
    asked = [("GET", "", None), ("GET", "/m", None), ("DELETE", "/m", None), ("POST", "", body)]
    said = [attacker.ask(method, f"{victim.mounts}{path}", sent) for method, path, sent in asked]

    assert [(HTTPStatus.NOT_FOUND, "NOT_FOUND")] * 4 == [(answer.status, answer.body["code"]) for answer in said]
    assert (["m"], []) == (victim.ids(), attacker.ids())


def test_same_id(driver: Driver, registry: FakeRegistry) -> None:
    """The same model again is fine and downloads nothing; another one under the same id is upstream's conflict."""
    model = push(registry.content, "team/same", random_files("same", MIB))
    other = push(registry.content, "team/same", random_files("same-other", MIB), tag="v2")
    pod = DynamicPod(driver, "pod-same")
    statuses = [pod.mount("m", model.at(registry.host)).status for _ in range(2)]
    conflict = pod.mount("m", other.at(registry.host))
    filtered = pod.mount("m", model.at(registry.host), exclude_model_weights=True)

    assert [HTTPStatus.CREATED, HTTPStatus.CREATED] == statuses
    assert (HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL") == (conflict.status, conflict.body["code"])
    assert "re-used for different reference" in conflict.body["message"]
    assert HTTPStatus.INTERNAL_SERVER_ERROR == filtered.status
    assert 2 == sum(registry.blob_gets.values())


def test_a_part_of_a_model(driver: Driver, registry: FakeRegistry) -> None:
    """The filters are those of volumes."""
    model = push(registry.content, "team/part", random_files("part", MIB))
    pod = DynamicPod(driver, "pod-part")
    pod.mount("light", model.at(registry.host), exclude_model_weights=True)
    pod.mount("heavy", model.at(registry.host), exclude_file_patterns=["*.txt"])

    assert {"tokenizer/vocab.txt"} == set(shown(pod.model("light")))
    assert {"model-00000.safetensors"} == set(shown(pod.model("heavy")))


def test_failed_mounts_leave_nothing(driver: Driver, registry: FakeRegistry) -> None:
    """A model that does not exist is INTERNAL, as upstream has it; the id stays free, and nothing holds content."""
    model = push(registry.content, "team/failed", random_files("failed", MIB))
    pod = DynamicPod(driver, "pod-failed")
    failed = pod.mount("m", f"{registry.host}/team/failed:nothing")

    assert (HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL") == (failed.status, failed.body["code"])
    assert ("", 0) == (pod.state("m"), leases(driver))
    assert HTTPStatus.CREATED == pod.mount("m", model.at(registry.host)).status


def test_credentials_are_the_pods(make_driver: MakeDriver) -> None:
    """With its secret a pod mounts a private model; one without is refused, although the bytes are here."""
    with FakeRegistry(auth=Auth.BASIC, users={"alice": User("alices-password")}) as registry:
        driver = make_driver(CONFIG)
        model = push(registry.content, "team/private", random_files("private", MIB))
        secret = docker_secret(registry.host, "alices-password", "alice")
        friend, stranger = DynamicPod(driver, "pod-friend", secret), DynamicPod(driver, "pod-stranger")
        statuses = [pod.mount("m", model.at(registry.host)).status for pod in (friend, stranger)]

        assert [HTTPStatus.CREATED, HTTPStatus.INTERNAL_SERVER_ERROR] == statuses
        assert (["m"], []) == (friend.ids(), stranger.ids())

        driver.stop()
        driver.start()
        forgotten = friend.mount("again", model.at(registry.host))
        driver.kubelet.publish(friend.volume)
        known = friend.mount("again", model.at(registry.host)).status

        assert (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.CREATED) == (forgotten.status, known)
        assert "requiresRepublish" in forgotten.body["message"]
        assert "alices-password" not in driver.log_text()
        stored = b"".join(path.read_bytes() for path in driver.root_dir.rglob("*") if path.is_file())
        assert b"alices-password" not in stored


def test_a_client_that_leaves_cancels(driver: Driver, registry: FakeRegistry) -> None:
    """Its pull stops, nothing holds the content; what arrived is not fetched again."""
    model = push(registry.content, "team/leaves", random_files("leaves", 8 * MIB))
    registry.faults.stall_after_bytes = 4 * MIB
    pod = DynamicPod(driver, "pod-leaves")
    connection = pod.open("POST", pod.mounts, {"mount_id": "m", "reference": model.at(registry.host)})
    eventually(lambda: driver.ask("status")["pulls"], "the pull begins")
    pulling = pod.state("m")
    connection.close()
    eventually(lambda: not driver.ask("status")["pulls"], "the pull stops")
    eventually(lambda: not pod.ids(), "the mount goes")

    assert ("PULLING", 0) == (pulling, leases(driver))


def test_an_unmount_cancels(driver: Driver, registry: FakeRegistry) -> None:
    """DELETE of what is being pulled answers both: 204 here, an error there."""
    model = push(registry.content, "team/cancel", random_files("cancel", 8 * MIB))
    registry.faults.stall_after_bytes = MIB
    pod = DynamicPod(driver, "pod-cancel")
    connection = pod.open("POST", pod.mounts, {"mount_id": "m", "reference": model.at(registry.host)})
    eventually(lambda: driver.ask("status")["pulls"], "the pull begins")
    deleted = pod.unmount("m").status
    response = connection.getresponse()
    message = response.read()
    connection.close()

    assert (HTTPStatus.NO_CONTENT, HTTPStatus.INTERNAL_SERVER_ERROR) == (deleted, response.status)
    assert b"was cancelled" in message
    assert ([], 0) == (pod.ids(), leases(driver))


@pytest.mark.parametrize("end", ["stop", "kill", "kill without the database"])
def test_restart(driver: Driver, registry: FakeRegistry, end: str) -> None:
    """The next process serves the same volume: a new socket in its place, the mounts known, their content kept."""
    model = push(registry.content, "team/restart", random_files("restart", MIB))
    pod = DynamicPod(driver, "pod-restart")
    pod.mount("old", model.at(registry.host))
    before = pod.ask("GET", f"{pod.mounts}/old")
    if end == "stop":
        driver.stop()
    else:
        driver.kill()
    if end == "kill without the database":
        for path in driver.root_dir.glob("state.db*"):
            path.unlink()
    driver.start()
    after = pod.ask("GET", f"{pod.mounts}/old")
    driver.ask("cache", "prune")
    statuses = [pod.mount("new", model.at(registry.host)).status, pod.mount("old", model.at(registry.host)).status]

    assert before == after
    assert [HTTPStatus.CREATED, HTTPStatus.CREATED] == statuses
    assert (promised(model.files), 2) == (shown(pod.model("old")), leases(driver))
    assert (HTTPStatus.NO_CONTENT, ["new"]) == (pod.unmount("old").status, pod.ids())


def test_kill_in_the_middle_of_a_mount(driver: Driver, registry: FakeRegistry) -> None:
    """Nothing of the mount is there afterwards; asked again, it downloads only what was missing."""
    model = push(registry.content, "team/middle", random_files("middle", 8 * MIB))
    registry.faults.stall_after_bytes = 4 * MIB
    pod = DynamicPod(driver, "pod-middle")
    connection = pod.open("POST", pod.mounts, {"mount_id": "m", "reference": model.at(registry.host)})
    eventually(lambda: sum(registry.bytes_served.values()) >= 4 * MIB, "half of it arrives")
    driver.kill()
    connection.close()
    registry.faults.stall_after_bytes = None
    registry.faults.resume.set()
    driver.start()
    left = (pod.ids(), leases(driver), [path.name for path in (pod.path / "models").iterdir()])

    assert ([], 0, []) == left
    assert HTTPStatus.CREATED == pod.mount("m", model.at(registry.host)).status
    assert promised(model.files) == shown(pod.model("m"))


def test_unpublish_leaves_nothing(driver: Driver, registry: FakeRegistry) -> None:
    """Mount, directory, record, leases and a pull that waits are gone; files that a process has open stay readable."""
    model = push(registry.content, "team/gone", random_files("gone", MIB))
    slow = push(registry.content, "team/slow", random_files("slow", 8 * MIB))
    pod = DynamicPod(driver, "pod-gone")
    pod.mount("m", model.at(registry.host))
    registry.faults.stall_after_bytes = MIB
    waiting = pod.open("POST", pod.mounts, {"mount_id": "s", "reference": slow.at(registry.host)})
    eventually(lambda: driver.ask("status")["pulls"], "the pull begins")
    with (pod.model("m") / "model-00000.safetensors").open("rb") as file:
        answers = driver.kubelet.tear_down(pod.volume)
        content = file.read()
    waiting.close()

    assert [True] == [answer.is_ok for answer in answers]
    assert (False, [], 0) == (pod.path.exists(), directories(driver), leases(driver))
    assert model.files["model-00000.safetensors"] == content
    assert [] == driver.mounts()
    eventually(lambda: not driver.ask("status")["pulls"], "the pull stops")


def test_lost_mount_is_cleared_at_start(driver: Driver, registry: FakeRegistry) -> None:
    """After a reboot no volume is mounted: its directory goes, and kubelet's next publish makes a new one."""
    model = push(registry.content, "team/reboot", random_files("reboot", MIB))
    pod = DynamicPod(driver, "pod-reboot")
    pod.mount("m", model.at(registry.host))
    driver.kill()
    subprocess.run(["umount", pod.path], check=True)
    driver.start()
    left = (directories(driver), leases(driver))
    answer = driver.kubelet.publish(pod.volume)

    assert ([], 0) == left
    assert (True, []) == (answer.is_ok, pod.ids())


def test_only_where_it_is_allowed(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Off by default; switched off later, what is there stays, may be unmounted, and nothing is added."""
    model = push(registry.content, "team/allowed", random_files("allowed", MIB))
    driver = make_driver()
    refused = driver.kubelet.publish(PodVolume("pod-refused", {}))
    driver.write_config(CONFIG)
    driver.stop()
    driver.start()
    pod = DynamicPod(driver, "pod-allowed")
    mounted = pod.mount("m", model.at(registry.host)).status
    driver.stop()
    driver.write_config({})
    driver.start()
    more = pod.mount("n", model.at(registry.host))

    assert (grpc.StatusCode.INVALID_ARGUMENT, True) == (refused.code, "modelRef" in refused.text)
    assert (HTTPStatus.CREATED, ["m"]) == (mounted, pod.ids())
    assert "features.dynamic_mounts" in more.body["message"]
    assert (HTTPStatus.NO_CONTENT, True) == (pod.unmount("m").status, driver.kubelet.unpublish(pod.volume).is_ok)


def test_what_operators_see(driver: Driver, registry: FakeRegistry) -> None:
    """`modelcsi status`, NodeGetVolumeStats and the metrics know the mounts of pods."""
    model = push(registry.content, "team/seen", random_files("seen", MIB))
    pod = DynamicPod(driver, "pod-seen")
    pod.mount("m", model.at(registry.host))
    text = driver.run("status", "--config", driver.config_file).stdout
    stats = driver.kubelet.stats(pod.volume).response
    metrics = subprocess.run(
        ["curl", "--silent", *(f"http://127.0.0.1:{driver.metrics_port}/metrics{page}" for page in ("", "/detail"))],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert f"{pod.path}/models/m" in text
    assert (model.size_bytes, False) == (stats.usage[0].used, stats.volume_condition.abnormal)
    assert "model_csi_node_mounted_dynamic_models 1.0" in metrics
    assert 'model_csi_node_op_succeed{op="create_dynamic_volume"} 1.0' in metrics
    assert 'mount_id="m"' in metrics


def test_command_line(driver: Driver, registry: FakeRegistry) -> None:
    """`model-csi-cli` mounts, lists and unmounts as upstream's program does; errors name what the driver said."""
    model = push(registry.content, "team/cli", random_files("cli", MIB))
    pod = DynamicPod(driver, "pod-cli")

    def cli(*arguments: str | Path) -> tuple[int, str, str]:
        command = [PROGRAM.with_name("model-csi-cli"), "--workdir", pod.path, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    reference = model.at(registry.host)
    mounted = cli("mount", "--reference", reference, "--mount-id", "m")
    listed = cli("list")
    failed = cli("mount", "--reference", f"{reference}-no", "--mount-id", "n")
    unmounted = cli("umount", "--mount-id", "m")

    assert (0, "m\n", "") == mounted
    assert (0, ["m", reference, "PULL_SUCCEEDED"]) == (listed[0], listed[1].splitlines()[1].split())
    assert (1, "", True) == (*failed[:2], failed[2].startswith("model-csi-cli: ") and "[INTERNAL]" in failed[2])
    assert ((0, "m\n", ""), []) == (unmounted, pod.ids())


def test_command_line_on_a_terminal(driver: Driver, registry: FakeRegistry) -> None:
    """A person sees how far it is; Ctrl-C cancels the pull."""
    model = push(registry.content, "team/terminal", random_files("terminal", 8 * MIB))
    registry.faults.stall_after_bytes = MIB
    pod = DynamicPod(driver, "pod-terminal")
    ours, theirs = pty.openpty()
    command = [str(PROGRAM.with_name("model-csi-cli")), "--workdir", str(pod.path), "mount", "--mount-id", "m"]
    with subprocess.Popen([*command, "--reference", model.at(registry.host)], stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while b"of 2 layers" not in seen:
            seen += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        status = process.wait(20)
    os.close(ours)
    eventually(lambda: not pod.ids(), "the mount goes")

    assert 130 == status
    assert f"pulling {model.at(registry.host)}: ".encode() in seen
