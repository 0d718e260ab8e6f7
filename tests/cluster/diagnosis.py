"""What a person would ask the cluster after a failure."""

from __future__ import annotations

from collections.abc import Iterator

from tests.cluster import release
from tests.cluster.kubectl import CommandFailed, Kubectl

TEST_NAMESPACES = "test-"
"""How the names of the tests' namespaces begin."""
_LOG_LINES = "--tail=300"
_SECONDS = 20.0


def diagnosis() -> Iterator[tuple[str, str]]:
    """Titles and texts: pods and events of the tests, the driver's pods and logs."""
    for namespace in (*_test_namespaces(), release.NAMESPACE):
        yield f"pods of {namespace}", _answer(namespace, "describe", "pods")
        yield f"events of {namespace}", _answer(namespace, "get", "events", "--sort-by=.metadata.creationTimestamp")
    of_driver = (f"--selector=app.kubernetes.io/name={release.NAME}", "--all-containers", "--prefix", _LOG_LINES)
    yield "driver log", _answer(release.NAMESPACE, "logs", *of_driver)
    yield "driver log before its last restart", _answer(release.NAMESPACE, "logs", *of_driver, "--previous")


def _test_namespaces() -> list[str]:
    names = _answer("default", "get", "namespaces", "--output=name").split()
    return [name.removeprefix("namespace/") for name in names if name.startswith(f"namespace/{TEST_NAMESPACES}")]


def _answer(namespace: str, *arguments: str) -> str:
    """What kubectl says, also when that is an error: a diagnosis never hides the failure it is about."""
    try:
        return Kubectl(namespace)(*arguments, seconds=_SECONDS)
    except CommandFailed as error:
        return str(error)
