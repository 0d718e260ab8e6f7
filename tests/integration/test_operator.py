"""What an operator does on a node: status, cache, configuration, metrics, and how the process is started."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from modelcsi.csi.pb import csi_pb2
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import PROGRAM, Driver, eventually, free_port
from tests.integration.models import MIB, Format, promised, push, random_files, shown

DONE, FAILED, WRONG_USAGE = 0, 1, 2


def page(driver: Driver, path: str) -> tuple[int, str]:
    """Status and text of what the driver serves on metrics_addr."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{driver.metrics_port}{path}", timeout=5) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("state", ["running", "stopped", "killed"])
def test_status_and_cache(make_driver: MakeDriver, registry: FakeRegistry, state: str) -> None:
    """`status`, `cache ls` and `cache du` tell the same, with the driver, without it, and after its death."""
    driver = make_driver()
    model = push(registry.content, "operator/ls", random_files("ls", MIB))
    volume = model.volume(registry.host, "ls")
    driver.kubelet.publish(volume)
    if state != "running":
        driver.stop() if state == "stopped" else driver.kill()
    status, cache = driver.ask("status"), driver.ask("cache", "ls")
    texts = {
        command: driver.run(*command.split(), "--config", driver.config_file).stdout
        for command in ("status", "cache ls", "cache du")
    }

    (publication,), (artifact,) = status["publications"], cache["artifacts"]
    assert ("MOUNTED", str(model.digest), "default/ls") == (
        publication["state"],
        publication["digest"],
        publication["pod"],
    )
    assert (str(model.digest), model.at(registry.host), model.size_bytes, 1) == (
        artifact["digest"],
        artifact["reference"],
        artifact["size_bytes"],
        artifact["in_use"],
    )
    assert str(driver.kubelet.target(volume)) in texts["status"]
    assert model.at(registry.host) in texts["cache ls"]
    assert "1.0 MiB" in texts["cache du"]
    assert str(driver.root_dir) in texts["cache du"]


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR_GZIP], ids=lambda packed: packed.value)
def test_verify_finds_damage(make_driver: MakeDriver, registry: FakeRegistry, packed: Format, is_running: bool) -> None:
    """A bit that rotted is found and named, exit status 1; unused content is removed, and the next pod pulls it anew."""
    driver = make_driver()
    model = push(registry.content, "operator/verify", random_files(("verify", packed), MIB), packed)
    volume = model.volume(registry.host, "verify")
    driver.kubelet.publish(volume)
    arguments = ("cache", "verify", "--config", str(driver.config_file))
    sound = driver.run(*arguments)
    stored = max((path for path in (driver.root_dir / "content").rglob("*") if path.is_file()), key=os.path.getsize)
    with stored.open("r+b") as file:
        file.seek(1000)
        file.write(b"rotten")
    if not is_running:
        driver.stop()
    used = driver.run(*arguments)
    if not is_running:
        driver.start()
    driver.kubelet.unpublish(volume)
    if not is_running:
        driver.stop()
    unused = driver.run(*arguments, "--json")
    if not is_running:
        driver.start()
    again = driver.kubelet.set_up(volume)[-1]

    assert (DONE, "1 artifacts verified, 0 damages") == (sound.returncode, sound.stdout.strip())
    assert FAILED == used.returncode
    assert str(model.layers[0]) in used.stdout
    assert FAILED == unused.returncode
    assert [str(model.digest)] == json.loads(unused.stdout)["removed"]
    assert again.is_ok
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert DONE == driver.run("cache", "verify", "--config", driver.config_file).returncode


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
def test_prune_keeps_what_pods_use(make_driver: MakeDriver, registry: FakeRegistry, is_running: bool) -> None:
    """Least recently used first, down to `--keep`; never what a volume shows."""
    driver = make_driver()
    models = [push(registry.content, f"operator/prune-{age}", random_files(age, MIB)) for age in ("old", "new", "used")]
    volumes = [model.volume(registry.host, model.repository[9:]) for model in models]
    for volume in volumes:
        driver.kubelet.publish(volume)
    for volume in volumes[:2]:
        driver.kubelet.unpublish(volume)
    if not is_running:
        driver.stop()
    kept = driver.ask("cache", "prune", "--keep", "1500KiB")
    rest = driver.ask("cache", "prune")

    assert [[str(models[0].digest)], [str(models[1].digest)]] == [
        [item["digest"] for item in pruned["artifacts"]] for pruned in (kept, rest)
    ]
    assert promised(models[2].files) == shown(driver.kubelet.target(volumes[2]))
    assert [str(models[2].digest)] == [item["digest"] for item in driver.ask("cache", "ls")["artifacts"]]


@pytest.mark.parametrize("action", ["prune", "verify"])
def test_chores_without_driver_and_database(make_driver: MakeDriver, registry: FakeRegistry, action: str) -> None:
    """What a pod sees stays, although nothing is recorded of it any more, and although it is damaged."""
    driver = make_driver()
    model = push(registry.content, "operator/lost", random_files("lost", MIB))
    volume = model.volume(registry.host, "lost")
    driver.kubelet.publish(volume)
    driver.stop()
    for path in driver.root_dir.glob("state.db*"):
        path.unlink()
    if action == "verify":
        stored = max((path for path in (driver.root_dir / "content").rglob("*") if path.is_file()), key=os.path.getsize)
        with stored.open("r+b") as file:
            file.write(b"rotten")
    done = driver.run("cache", action, "--config", driver.config_file, "--json")

    assert (FAILED if action == "verify" else DONE) == done.returncode, done.stderr
    assert [] == json.loads(done.stdout)["removed" if action == "verify" else "artifacts"]
    assert promised(model.files).keys() == shown(driver.kubelet.target(volume)).keys()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nonsense"], WRONG_USAGE, "nonsense"),
        (["cache"], WRONG_USAGE, "ACTION"),
        (["cache", "prune", "--keep", "much"], WRONG_USAGE, "--keep"),
        (["cache", "verify", "sha256:abc"], None, "sha256:abc"),
        (["cache", "verify", f"sha256:{'0' * 64}"], FAILED, "0000"),
        (["status", "--root-dir", "/nowhere/at/all"], FAILED, "/nowhere/at/all"),
        (["node", "--config", "/nowhere/config.yaml"], None, "/nowhere/config.yaml"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else "",
)
def test_exit_status(driver: Driver, arguments: list[str], status: int | None, says: str) -> None:
    """0 done, 1 failed, 2 wrong usage; one line says what and which, and no traceback is ever shown."""
    own = [] if {"--config", "--root-dir"} & set(arguments) or arguments[0] == "nonsense" else ["--config"]
    done = driver.run(*arguments, *(own and [*own, str(driver.config_file)]))

    assert done.returncode in ({status} if status is not None else {FAILED, WRONG_USAGE})
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_worth_reading() -> None:
    """Every command is listed with a sentence, and has a help of its own."""
    text = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout

    for command in ("node", "controller", "pack", "push", "pull", "inspect", "status", "cache"):
        assert re.search(rf"^ +{command} +\w+ \w+", text, re.MULTILINE), command


def test_metrics_and_health(driver: Driver, registry: FakeRegistry) -> None:
    """Upstream's series and ours count what happened; references are on /metrics/detail only."""
    model = push(registry.content, "operator/metrics", random_files("metrics", MIB))
    driver.kubelet.publish(model.volume(registry.host, "metrics"))
    status, text = page(driver, "/metrics")
    detail = page(driver, "/metrics/detail")[1]

    assert [(200, "ok\n")] * 2 == [page(driver, "/healthz"), page(driver, "/readyz")]
    assert 200 == status
    assert re.search(r'^model_csi_node_op_succeed\{op="publish_dynamic_volume"\} [1-9]', text, re.MULTILINE)
    assert re.search(r"^model_csi_downloaded_bytes_total 1\.0\d+e\+06", text, re.MULTILINE)
    assert "model_csi_node_not_ready 0.0" in text
    assert model.repository not in text
    assert model.at(registry.host) in detail
    assert 404 == page(driver, "/other")[0]


def test_nothing_answers_after_the_end(make_driver: MakeDriver) -> None:
    """A probe of a driver that has ended fails, rather than telling of a process that is gone."""
    driver = make_driver()
    driver.stop()

    with pytest.raises(urllib.error.URLError):
        page(driver, "/readyz")


def test_configuration_is_read_again(make_driver: MakeDriver) -> None:
    """log_level counts at once; a bad file is reported with the nearest key and the old one stays in force."""
    driver = make_driver({"log_level": "info"})
    driver.kubelet.probe()
    assert '"level": "debug"' not in driver.log_text()
    driver.write_config({"log_level": "debug"})
    eventually(lambda: "is in force" in driver.log_text(), "the change is seen", seconds=10)
    driver.kubelet.probe()
    eventually(lambda: '"level": "debug"' in driver.log_text(), "it counts", seconds=5)
    driver.write_config({"log_levle": "info"})
    eventually(lambda: "log_levle" in driver.log_text(), "the bad file is reported", seconds=10)
    before = len(driver.log_text())
    driver.kubelet.probe()

    eventually(lambda: '"level": "debug"' in driver.log_text()[before:], "the old one counts still", seconds=5)
    assert "log_level" in driver.log_text()
    assert driver.kubelet.probe().is_ok


def test_rejected_configuration_is_told(driver: Driver) -> None:
    """As long as the file cannot be used a metric says so, and `modelcsi status`, which finds the driver all the same, says why."""
    before = driver.run("status", "--config", driver.config_file).stdout
    driver.write_config({"log_levle": "info"})
    eventually(lambda: "model_csi_config_rejected 1.0" in page(driver, "/metrics")[1], "it is counted", seconds=10)
    told = driver.run("status", "--config", driver.config_file).stdout
    driver.write_config({})
    eventually(lambda: "model_csi_config_rejected 0.0" in page(driver, "/metrics")[1], "it is over", seconds=10)
    after = driver.run("status", "--config", driver.config_file).stdout

    assert "unknown key 'log_levle'" in told
    assert "did you mean 'log_level'?" in told
    assert "configuration" not in before + after


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"root_dirr": "/x"}, "root_dir"),
        ({"pull_config": {"concurency": 3}}, "concurrency"),
        ({"log_level": "loud"}, "loud"),
        ({"csi_endpoint": "tcp://127.0.0.1:1"}, "csi_endpoint"),
        ({"publish_slots": 0}, "publish_slots"),
    ],
    ids=["unknown", "nested", "value", "endpoint", "number"],
)
def test_bad_configuration_at_start(make_driver: MakeDriver, config: dict[str, object], says: str) -> None:
    """The process ends with 2 and names the key, the nearest one for a typo."""
    driver = make_driver(config, starts=False)
    driver.spawn()

    assert WRONG_USAGE == driver.wait()
    assert says in driver.log_text()
    assert "Traceback" not in driver.log_text()


def test_keys_of_the_existing_driver_are_accepted(make_driver: MakeDriver) -> None:
    """A configuration of the upstream driver starts this one."""
    driver = make_driver(
        {
            "external_csi_endpoint": "tcp://127.0.0.1:5243",
            "external_csi_authorization": "t0ken-of-the-operator",
            "trace_endpoint": "http://127.0.0.1:4318",
            "pprof_addr": "tcp://127.0.0.1:6060",
            "features": {"check_disk_quota": True, "disk_usage_limit": "10TiB"},
        }
    )

    assert driver.kubelet.probe().is_ok
    assert "trace_endpoint" in driver.log_text()
    assert "t0ken-of-the-operator" not in driver.log_text()


def test_started_as_deployments_of_the_existing_driver_do(make_driver: MakeDriver, tmp_path: Path) -> None:
    """`model-csi-driver --config FILE` with X_CSI_MODE=node; CSI_ENDPOINT wins over the file."""
    driver = make_driver(starts=False)
    driver.arguments = ()
    driver.program = PROGRAM.with_name("model-csi-driver")
    driver.write_config({"csi_endpoint": f"unix://{tmp_path}/other.sock"})
    driver.environment |= {"X_CSI_MODE": "node", "CSI_ENDPOINT": f"unix://{driver.socket}"}
    driver.start()

    assert driver.kubelet.probe().is_ok
    assert not (tmp_path / "other.sock").exists()
    assert 0o600 == driver.socket.stat().st_mode & 0o777


def test_controller_process(make_driver: MakeDriver) -> None:
    """`modelcsi controller` serves Identity and Controller, needs no store, and ends on SIGTERM."""
    driver = make_driver(starts=False)
    driver.arguments = ("controller",)
    driver.metrics_port = free_port()
    driver.start()
    node = driver.kubelet.call("Node", "NodeGetInfo", csi_pb2.NodeGetInfoRequest())

    assert "UNIMPLEMENTED" == node.code.name
    assert driver.stop() < 5
    assert 0 == driver.wait()
    assert not driver.root_dir.exists()


def test_controller_reads_its_configuration_again(make_driver: MakeDriver) -> None:
    """As the node does: a new log level counts at once, and a file that cannot be used is reported and counted."""
    driver = make_driver({"log_level": "info"}, starts=False)
    driver.arguments = ("controller",)
    driver.metrics_port = free_port()
    driver.write_config({"log_level": "info"})
    driver.start()
    driver.write_config({"log_level": "debug"})
    eventually(lambda: "is in force" in driver.log_text(), "the change is seen", seconds=10)
    driver.kubelet.probe()
    eventually(lambda: '"level": "debug"' in driver.log_text(), "it counts", seconds=5)
    driver.write_config({"log_levle": "info"})
    eventually(lambda: "model_csi_config_rejected 1.0" in page(driver, "/metrics")[1], "it is counted", seconds=10)

    assert "log_levle" in driver.log_text()
    assert driver.stop() < 5
