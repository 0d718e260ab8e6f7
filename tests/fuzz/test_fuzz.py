"""A short form of hack/fuzz: what was found once stays mended, and a few seconds of looking for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import seeds
from tests.fuzz.run import IS_GUIDED, UNGUIDED, fuzz, unpack_in_a_process
from tests.fuzz.targets import TARGETS
from tests.fuzz.unpacking import MAX_MEMORY_BYTES, Sandbox

_SECONDS = 5
_SEED = 1
_AT_A_TIME = 2
_ARCHIVES = 300


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_is_read_or_refused(name: str) -> None:
    """Seeds, and every input that once found something: a target raises nothing for any of them."""
    for data in [*TARGETS[name].seeds(), *seeds.kept(name)]:
        TARGETS[name].run(data)


@pytest.mark.timeout(180)
def test_a_few_seconds_find_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Five seconds of each target. What this finds is kept in tests/fuzz/corpus, and found again by every later run."""
    findings = fuzz(list(TARGETS), _SECONDS, _AT_A_TIME, _SEED)

    assert [] == findings, "\n".join(findings)
    assert len(TARGETS) == capsys.readouterr().out.count("ok ")
    if not IS_GUIDED:
        pytest.skip(UNGUIDED)


def test_every_target_runs_without_guidance(tmp_path: Path) -> None:
    """Where atheris does not exist the corpus is mutated blindly."""
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz.blind", name, "--seconds", "0.1", "--findings", str(tmp_path)]
        assert (
            b"Done " in subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2]).stdout
        )


def test_mutated_archives_stay_inside() -> None:
    """No escape, no link to outside, no set-id bit, no error but the promised kinds, and not over 64 MiB of memory."""
    outcome = unpack_in_a_process(0, _ARCHIVES)

    assert [] == outcome.findings
    assert _ARCHIVES == outcome.shown + outcome.refused.total()
    assert outcome.shown > _ARCHIVES // 10, "archives that are all refused at once test little"
    assert MAX_MEMORY_BYTES > outcome.memory_bytes > 0


def test_what_no_archive_may_do_is_seen(tmp_path: Path) -> None:
    """The sandbox is no judge that approves of everything."""
    sandbox = Sandbox(tmp_path)
    view = sandbox.store.layout.view("v")
    view.mkdir()
    (view / "good").symlink_to("dir/../good")
    view.chmod(0o555)
    assert [] == sandbox.objections(view)
    view.chmod(0o700)
    (view / "set-id").write_bytes(b"")
    (view / "set-id").chmod(0o4555)
    (view / "out").symlink_to("../../../outside")
    (view / "writable").write_bytes(b"")
    (tmp_path / "new").write_bytes(b"")
    (tmp_path / "outside").write_bytes(b"changed")
    found = "\n".join(sandbox.objections(view))
    sandbox.store.close()

    assert all(
        text in found
        for text in (
            "set-id has the mode",
            "out leads to",
            "writable has the mode",
            "new is new",
            "outside was changed",
        )
    )
