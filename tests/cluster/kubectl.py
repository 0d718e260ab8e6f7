"""kubectl, with objects as Python dictionaries, a time limit for each call, and failures that say what it said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.integration import driver as integration

Object = Mapping[str, Any]
_SECONDS = 60.0
_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.2


class CommandFailed(AssertionError):
    """A program of the cluster ended with an error; the text has its arguments and all it wrote."""


def run(*command: str, text: str = "", seconds: float = _SECONDS) -> str:
    """Standard output of a program; CommandFailed if it fails or takes longer."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(command)}: not within {seconds} s") from error
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def eventually(is_so: Callable[[], object], what: str, seconds: float = _SECONDS) -> None:
    """Poll what no `kubectl wait` can wait for; a program is run each time, so not too often."""
    integration.eventually(is_so, what, seconds, poll_seconds=_POLL_SECONDS)


@dataclass(frozen=True)
class Event:
    """What somebody said about an object."""

    reason: str
    type: str
    message: str
    component: str
    at: datetime
    """When it was said first; a server keeps whole seconds."""
    count: int = 1


@dataclass(frozen=True)
class Kubectl:
    """All that happens in one namespace; `KUBECONFIG` names the cluster."""

    namespace: str = "default"

    def __call__(self, *arguments: str, text: str = "", seconds: float = _SECONDS) -> str:
        """Any command of kubectl."""
        return run("kubectl", f"--namespace={self.namespace}", *arguments, text=text, seconds=seconds)

    def apply(self, *objects: Object) -> None:
        """Make these objects, or make them so."""
        self("apply", "--filename=-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object; CommandFailed if it is not there."""
        found = json.loads(self("get", kind, name, "--output=json"))
        assert isinstance(found, dict)
        return found

    def listed(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind that have these labels."""
        found: list[dict[str, Any]] = json.loads(self("get", kind, f"--selector={selector}", "--output=json"))["items"]
        return found

    def wait(self, what: str, condition: str, seconds: float = _SECONDS) -> None:
        """`kubectl wait`: `wait("pod/reader", "condition=Ready")`, `wait("pod/reader", "delete")`."""
        self("wait", what, f"--for={condition}", f"--timeout={seconds:.0f}s", seconds=seconds + _GRACE_SECONDS)

    def wait_until_ready(self, *pods: str, seconds: float = _SECONDS) -> None:
        """Until all these pods run, and their probes say so."""
        names = [f"pod/{pod}" for pod in pods]
        limit = f"--timeout={seconds:.0f}s"
        self("wait", *names, "--for=condition=Ready", limit, seconds=seconds + _GRACE_SECONDS)

    def delete(self, kind: str, *names: str, seconds: float = _SECONDS) -> None:
        """Delete, and wait until they are gone; without names, all of the kind. What is gone already is no error."""
        which = names or ("--all",)
        limit = f"--timeout={seconds:.0f}s"
        self("delete", kind, *which, "--ignore-not-found", limit, seconds=seconds + _GRACE_SECONDS)

    def logs(self, pod: str, container: str = "", *, lines: int = -1, previous: bool = False) -> str:
        """What a container wrote; the last `lines` of it."""
        options = [f"--container={container}"] if container else []
        return self("logs", pod, *options, f"--tail={lines}", f"--previous={str(previous).lower()}")

    def exec(self, pod: str, *command: str, container: str = "", seconds: float = _SECONDS) -> str:
        """What a command in a container writes; CommandFailed if it fails."""
        options = [f"--container={container}"] if container else []
        return self("exec", pod, *options, "--", *command, seconds=seconds)

    def events(self, pod: str) -> list[Event]:
        """What was said about a pod of this name, oldest first."""
        found = json.loads(
            self(
                "get",
                "events",
                f"--field-selector=involvedObject.name={pod}",
                "--output=json",
                "--sort-by=.metadata.creationTimestamp",
            )
        )
        return [
            Event(
                item["reason"],
                item["type"],
                item["message"],
                item.get("reportingComponent") or item.get("source", {}).get("component", ""),
                datetime.fromisoformat(item["firstTimestamp"] or item["eventTime"]).astimezone(UTC),
                item.get("count") or item.get("series", {}).get("count", 1),
            )
            for item in found["items"]
        ]

    def describe(self, kind: str, name: str) -> str:
        """What a person sees of an object."""
        return self("describe", kind, name)

    def eventually_event(self, pod: str, reason: str, seconds: float = _SECONDS) -> Event:
        """The last event with this reason, once there is one."""
        found: list[Event] = []

        def has_come() -> bool:
            found[:] = [event for event in self.events(pod) if event.reason == reason]
            return bool(found)

        eventually(has_come, f"an event {reason} of pod {pod}", seconds)
        return found[-1]
