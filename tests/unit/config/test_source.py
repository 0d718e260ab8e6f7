from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from modelcsi.config.model import Config
from modelcsi.config.source import ConfigSource
from modelcsi.errors import InvalidRequest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is good to begin with."""
    path = tmp_path / "config.yaml"
    path.write_text("log_level: info\n")
    return path


def _replace(path: Path, text: str) -> None:
    """As editors and kubelet do it: another inode under the same name, so that every change shows, however fast."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_the_first_file_must_be_good(path: Path) -> None:
    """Without an older configuration a bad one is an error."""
    path.write_text("log_level: loud\n")
    with pytest.raises(InvalidRequest, match="log_level"):
        ConfigSource(path, {})


def test_a_change_comes_into_force(path: Path) -> None:
    """A changed file is read again and every listener gets the new configuration, once."""
    source, heard = ConfigSource(path, {}), list[Config]()
    source.subscribe(heard.append)
    _replace(path, "log_level: debug\npull_config: {concurrency: 2}\n")
    source.refresh()
    source.refresh()

    assert ("debug", 2) == (source.current.log_level, source.current.pull_config.concurrency)
    assert [source.current] == heard


def test_a_config_map_swap_is_a_change(tmp_path: Path) -> None:
    """kubelet leaves the file's own symlink alone and swaps `..data`, two directories above."""
    for name, level in (("v1", "info"), ("v2", "debug")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"log_level: {level}\n")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    source = ConfigSource(tmp_path / "config.yaml", {})
    (tmp_path / "..data_tmp").symlink_to("v2")
    os.rename(tmp_path / "..data_tmp", tmp_path / "..data")
    source.refresh()

    assert "debug" == source.current.log_level


@pytest.mark.parametrize("content", ["log_level: loud\n", "log_level: [\n", None])
def test_a_bad_file_is_reported_once_and_the_old_one_kept(
    path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A typo, broken YAML and a missing file change nothing, and do not fill the log."""
    source = ConfigSource(path, {})
    if content is None:
        path.unlink()
    else:
        _replace(path, content)
    with caplog.at_level(logging.ERROR):
        source.refresh()
        source.refresh()

    assert "info" == source.current.log_level
    assert source.rejection
    (record,) = caplog.records
    assert "the old one stays in force" in record.getMessage()


def test_a_mended_file_comes_into_force(path: Path) -> None:
    """After a bad file the next good one counts."""
    source = ConfigSource(path, {})
    _replace(path, "log_level: loud\n")
    source.refresh()
    _replace(path, "log_level: error\n")
    source.refresh()

    assert "error" == source.current.log_level


def test_what_a_listener_refuses_is_not_in_force(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that the configuration names may be broken; once that is mended the change counts, without another one."""
    source, is_broken = ConfigSource(path, {}), threading.Event()
    is_broken.set()

    def listen(_: Config) -> None:
        if is_broken.is_set():
            raise InvalidRequest("providers.yaml is broken")

    source.subscribe(listen)
    _replace(path, "log_level: debug\n")
    with caplog.at_level(logging.ERROR):
        source.refresh()
        source.refresh()
    before = source.current.log_level
    is_broken.clear()
    source.refresh()

    assert ("info", "debug") == (before, source.current.log_level)
    (record,) = caplog.records
    assert "providers.yaml is broken" in record.getMessage()


def test_keys_that_need_a_restart_are_reported_and_not_applied(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is read at start stays as it was, next to what changes at once."""
    source, before = ConfigSource(path, {}), Config()
    _replace(path, "root_dir: /other\nlog_level: debug\npull_config: {memory_budget: 1GiB, concurrency: 1}\n")
    with caplog.at_level(logging.WARNING):
        source.refresh()

    current = source.current
    assert (before.root_dir, before.pull_config.memory_budget) == (current.root_dir, current.pull_config.memory_budget)
    assert ("debug", 1) == (current.log_level, current.pull_config.concurrency)
    assert "need a restart of the driver: root_dir, pull_config.memory_budget" in caplog.text


def test_the_thread_sees_a_change_and_stops_at_once(path: Path) -> None:
    """Started, the source needs nobody to look; stopped, its thread is gone."""
    source, changed = ConfigSource(path, {}), threading.Event()
    source.subscribe(lambda _: changed.set())
    source.start()
    _replace(path, "log_level: debug\n")
    seen = changed.wait(10)
    source.stop()

    assert (True, []) == (seen, [thread for thread in threading.enumerate() if thread.name == "config"])


def test_a_source_that_never_started_can_be_stopped(path: Path) -> None:
    """Undoing a start that failed half-way is no special case."""
    ConfigSource(path, {}).stop()


def test_a_mended_file_is_rejected_no_more(path: Path) -> None:
    """Also when it says again what was in force all the time."""
    source = ConfigSource(path, {})
    before = source.rejection
    _replace(path, "log_level: loud\n")
    source.refresh()
    rejected = source.rejection
    _replace(path, "log_level: info\n")
    source.refresh()

    assert (None, None) == (before, source.rejection)
    assert rejected is not None
    assert "log_level 'loud'" in rejected


def test_a_file_that_names_an_unusable_one_is_rejected(path: Path) -> None:
    """A listener that cannot work with the new configuration is told of like a mistake in the file."""
    source = ConfigSource(path, {})

    def refuse(_: Config) -> None:
        raise InvalidRequest("credentials.yaml: cannot be read")

    source.subscribe(refuse)
    _replace(path, "log_level: debug\n")
    source.refresh()

    assert "credentials.yaml: cannot be read" == source.rejection
