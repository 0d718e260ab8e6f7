"""hack/fuzz: every target for so many seconds, then mutated archives; findings become inputs that all later runs begin with.

Guided by coverage where atheris is installed; else the same targets get mutations of the corpus. Each target runs in a process
of its own, on as many cores as --jobs says.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.unpacking import MAX_MEMORY_BYTES, Outcome

IS_GUIDED = importlib.util.find_spec("atheris") is not None
UNGUIDED = (
    "atheris is not installed here (it has wheels for Linux on x86_64, Python 3.11 to 3.14): the targets get mutations of "
    "their corpus, which no coverage guides"
)
ARCHIVES = "archives"
_ARCHIVES = 10_000
_ARCHIVES_IN_A_PROCESS = 2_500
_ROOT = Path(__file__).parent.parent.parent
_GROWN = _ROOT / ".cache" / "fuzz"
"""What guided runs found to reach new code stays for the next run here; it is large, and no part of the repository."""
_MAX_BYTES = 8192
_UNIT_SECONDS = 10
_MEMORY_MIB = 1024
_OUTPUT_LINES = 40


def main() -> None:
    """Exit with 1 when something was found."""
    parser = argparse.ArgumentParser(
        prog="hack/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}, {ARCHIVES} (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (default: 60)")
    parser.add_argument("--archives", type=int, default=_ARCHIVES, metavar="N", help=f"how many (default: {_ARCHIVES})")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: one a core)"
    )
    options = parser.parse_args()
    unknown = set(options.targets) - {*TARGETS, ARCHIVES}
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)} and {ARCHIVES}")
    if not IS_GUIDED:
        print(UNGUIDED, file=sys.stderr)
    names = options.targets or [*TARGETS, ARCHIVES]
    findings = fuzz([name for name in names if name != ARCHIVES], options.seconds, options.jobs)
    if ARCHIVES in names:
        findings += unpack(options.archives, options.jobs)
    for finding in findings:
        print(finding, file=sys.stderr)
    sys.exit(1 if findings else 0)


def fuzz(names: Sequence[str], seconds: float, jobs: int, seed: int | None = None) -> list[str]:
    """Run the targets; a text for each finding.

    With a `seed` the inputs are the same each time, as far as the seconds go: what `hack/test` finds today it must not
    have missed yesterday by chance. Without one each run goes on with what earlier ones learned.
    """

    def run(name: str) -> str | None:
        began = time.monotonic()
        result, finding = _fuzz_one(name, TARGETS[name], seconds, seed)
        print(
            f"{name:15}{'FOUND' if finding else 'ok':7}{time.monotonic() - began:4.0f} s  {_summary(result)}",
            flush=True,
        )
        return finding

    with ThreadPoolExecutor(jobs) as pool:
        return [finding for finding in pool.map(run, names) if finding]


def _fuzz_one(name: str, target: Target, seconds: float, seed: int | None) -> tuple[str, str | None]:
    """The program's output, and what it found."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as scratch:
        findings = Path(scratch) / "findings"
        findings.mkdir()
        command = _guided(name, target, seconds, findings) if IS_GUIDED else _blind(name, seconds, findings)
        if IS_GUIDED:
            grown = Path(scratch) / "grown" if seed is not None else _GROWN / name
            grown.mkdir(parents=True, exist_ok=True)
            command += [f"-seed={seed or 0}", str(grown), str(findings.parent / "seeds")]
        environment = {**os.environ, "TMPDIR": scratch, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"}
        process = subprocess.run(
            command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        output = process.stdout.decode("utf-8", "replace")
        if process.returncode == 0:
            return output, None
        kept = [str(_keep(name, path)) for path in findings.iterdir()]
    text = "\n".join(output.splitlines()[-_OUTPUT_LINES:])
    return output, f"== {name}: its input is kept in {', '.join(kept) or 'no file'}; mend what it shows\n{text}"


def _guided(name: str, target: Target, seconds: float, findings: Path) -> list[str]:
    seeds.write(findings.parent / "seeds", [*target.seeds(), *seeds.kept(name)])
    dictionary = findings.parent / "words"
    dictionary.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    return [
        *(sys.executable, "-m", "tests.fuzz.guided", name),
        *(f"-max_total_time={max(1, round(seconds))}", f"-max_len={_MAX_BYTES}", f"-timeout={_UNIT_SECONDS}"),
        *(
            f"-rss_limit_mb={_MEMORY_MIB}",
            f"-dict={dictionary}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
        ),
    ]


def _quoted(word: str) -> str:
    r"""As libFuzzer reads it: `\x00` stays a byte, other backslashes are themselves."""
    return word.replace("\\", "\\\\").replace("\\\\x", "\\x").replace('"', '\\"')


def _blind(name: str, seconds: float, findings: Path) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.blind", name, "--seconds", str(seconds), "--findings", str(findings)]


def _keep(name: str, found: Path) -> Path:
    """An input that found something becomes one of the corpus."""
    data = found.read_bytes()
    kept = seeds.CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, kept)
    return kept.relative_to(_ROOT)


def _summary(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.startswith("Done ")), "")


def unpack(count: int, jobs: int) -> list[str]:
    """Send mutated archives through the unpacking; a text for each finding."""
    began = time.monotonic()
    parts = [(first, min(_ARCHIVES_IN_A_PROCESS, count - first)) for first in range(0, count, _ARCHIVES_IN_A_PROCESS)]
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(lambda part: unpack_in_a_process(*part), parts))
    findings = [text for outcome in outcomes for text in outcome.findings]
    memory = max(outcome.memory_bytes for outcome in outcomes)
    if memory > MAX_MEMORY_BYTES:
        findings.append(f"== {ARCHIVES}: a process took {memory >> 20} MiB; {MAX_MEMORY_BYTES >> 20} are the limit")
    shown, refused = sum(outcome.shown for outcome in outcomes), _sum(outcome.refused for outcome in outcomes)
    print(
        f"{ARCHIVES:15}{'FOUND' if findings else 'ok':7}{time.monotonic() - began:4.0f} s  Done {count} archives: {shown} shown, "
        f"refused {dict(refused)}, {memory >> 20} MiB"
    )
    return findings


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def unpack_in_a_process(first: int, count: int) -> Outcome:
    """The outcome of these archives; its memory is that of the whole process."""
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"}
    command = [sys.executable, "-m", "tests.fuzz.unpacking", str(first), str(count)]
    process = subprocess.run(command, env=environment, capture_output=True, check=False)
    if process.returncode != 0:
        error = process.stderr.decode("utf-8", "replace")[-2000:]
        return Outcome(findings=[f"== {ARCHIVES}: the process of {first} to {first + count} ended: {error}"])
    return Outcome.from_json(process.stdout.decode())


if __name__ == "__main__":
    main()
