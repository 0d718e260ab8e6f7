from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any

import pytest

from modelcsi.kube.client import KubeClient
from modelcsi.kube.pods import PodReader
from modelcsi.registry.caller import Pod, PodSecrets
from tests.fakes.api_server import FakeApiServer, Fault
from tests.unit.kube.conftest import QUICK, TRAIN

_CONFIG = '{"auths":{"registry.example.com":{"auth":"YWxpY2U6czNjcmV0"}}}'


@pytest.fixture
def reader(client: KubeClient) -> PodReader:
    """A reader where kubelet vouches for pods."""
    return PodReader(client, lambda: True)


def _add_secret(server: FakeApiServer, name: str, text: str = _CONFIG, *, is_old: bool = False) -> None:
    kind, key = ("dockercfg", ".dockercfg") if is_old else ("dockerconfigjson", ".dockerconfigjson")
    data = {key: base64.b64encode(text.encode()).decode()}
    server.add("secrets", "team", name, type=f"kubernetes.io/{kind}", data=data)


def _names(*names: str) -> dict[str, Any]:
    return {"imagePullSecrets": [{"name": name} for name in names]}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"uid": "uid-1"}, False),
        ({"uid": "uid-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}, True),
        ({"uid": "uid-2"}, True),
        ({"uid": "uid-2", "annotations": {"kubernetes.io/config.mirror": "uid-1"}}, False),
    ],
    ids=["there", "being deleted", "another of the same name", "a static pod"],
)
def test_a_pod_that_is_deleted_or_another_is_gone(
    server: FakeApiServer, reader: PodReader, metadata: dict[str, Any], expected: bool
) -> None:
    """The uid decides whether it is the same pod; a static pod's is in an annotation."""
    server.add("pods", "team", "train", metadata=metadata)

    assert expected == reader.is_gone(TRAIN)


def test_a_pod_that_is_not_there_is_gone(reader: PodReader) -> None:
    """The API server knows no such pod."""
    assert reader.is_gone(TRAIN)


@pytest.mark.parametrize("fault", [401, 403, 500, Fault.HANG, Fault.GARBAGE])
def test_who_cannot_be_asked_is_not_gone(server: FakeApiServer, reader: PodReader, fault: int | Fault) -> None:
    """Without an answer a pod is believed to wait."""
    server.faults["GET", "pods"] = fault

    assert not reader.is_gone(TRAIN)


def test_a_name_that_is_none_is_not_gone(reader: PodReader) -> None:
    """Half of the pod's information tells nothing."""
    assert not reader.is_gone(Pod("", "train", "uid-1", "default"))


def test_a_refused_connection_is_not_gone(tmp_path: Path) -> None:
    """An API server that is away sends nobody away."""
    with FakeApiServer() as server:
        client = KubeClient(server.kubeconfig(tmp_path / "kubeconfig"), QUICK)

    assert not PodReader(client, lambda: True).is_gone(TRAIN)


def test_one_question_for_all_volumes_of_a_pod(server: FakeApiServer, reader: PodReader) -> None:
    """Within a second the same pod is asked for once."""
    server.add("pods", "team", "train", uid="uid-1")
    for _ in range(3):
        reader.is_gone(TRAIN)

    assert 1 == server.count("GET", "pods")


def test_a_pods_secrets_come_in_its_order(server: FakeApiServer, reader: PodReader) -> None:
    """Both forms, decoded; the service account is not asked, since the pod has some."""
    server.add("pods", "team", "train", uid="uid-1", spec=_names("old", "new"))
    server.add("serviceaccounts", "team", "default", **_names("unused"))
    _add_secret(server, "new")
    _add_secret(server, "old", "{}", is_old=True)

    assert PodSecrets(({".dockercfg": "{}"}, {".dockerconfigjson": _CONFIG})) == reader.secrets_of(TRAIN)
    assert 0 == server.count("GET", "serviceaccounts")


def test_without_own_secrets_its_service_accounts_count(server: FakeApiServer, reader: PodReader) -> None:
    """As the ServiceAccount admission would have copied them; the account is the one in the pod, not the one that was said."""
    server.add("pods", "team", "train", uid="uid-1", spec={"serviceAccountName": "builder"})
    server.add("serviceaccounts", "team", "builder", **_names("pull"))
    _add_secret(server, "pull")

    assert PodSecrets(({".dockerconfigjson": _CONFIG},)) == reader.secrets_of(TRAIN)


def test_another_pod_of_the_name_gives_nothing(server: FakeApiServer, reader: PodReader) -> None:
    """A pod that was replaced has lent its name to somebody else."""
    server.add("pods", "team", "train", uid="uid-2", spec=_names("pull"))
    _add_secret(server, "pull")

    assert PodSecrets() == reader.secrets_of(TRAIN)
    assert 0 == server.count("GET", "secrets")


@pytest.mark.parametrize("has_pod_info", [False, None])
def test_a_pod_that_nobody_vouches_for_gives_nothing(
    server: FakeApiServer, client: KubeClient, has_pod_info: bool | None
) -> None:
    """Without podInfoOnMount a pod's author could name another pod, and so use its secrets."""
    server.add("pods", "team", "train", uid="uid-1", spec=_names("pull"))
    _add_secret(server, "pull")

    assert PodSecrets() == PodReader(client, lambda: has_pod_info).secrets_of(TRAIN)
    assert [] == server.seen


def test_what_cannot_be_used_is_left_out_and_logged_once(
    server: FakeApiServer, reader: PodReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing secrets, other types and broken data do not hide the one that is good; no content is logged."""
    server.add("pods", "team", "train", uid="uid-1", spec=_names("missing", "opaque", "broken", "pull"))
    server.add("secrets", "team", "opaque", type="Opaque", data={".dockerconfigjson": "czNjcmV0"})
    server.add(
        "secrets", "team", "broken", type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": "s3cret!"}
    )
    _add_secret(server, "pull")
    with caplog.at_level(logging.DEBUG, logger="modelcsi"):
        found = [reader.secrets_of(TRAIN), reader.secrets_of(TRAIN)]

    no_type = "is no secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg"
    lacks = (
        "the imagePullSecret team/missing does not exist",
        f"the imagePullSecret team/opaque {no_type}",
        f"the imagePullSecret team/broken {no_type}",
    )
    assert 2 * [PodSecrets(({".dockerconfigjson": _CONFIG},), lacks)] == found
    assert 3 == len(caplog.messages)
    assert not any(text in f"{caplog.text} {lacks}" for text in ("s3cret", "czNjcmV0", "YWxpY2U6czNjcmV0"))


@pytest.mark.parametrize("resource", ["pods", "serviceaccounts", "secrets"])
def test_missing_rights_are_named_once(
    server: FakeApiServer, reader: PodReader, caplog: pytest.LogCaptureFixture, resource: str
) -> None:
    """A refusal gives no secrets, and one line with the right that is missing."""
    server.add("pods", "team", "train", uid="uid-1", spec={} if resource == "serviceaccounts" else _names("pull"))
    _add_secret(server, "pull")
    server.faults["GET", resource] = 403
    found = [reader.secrets_of(TRAIN) for _ in range(2)]

    assert 2 * [((), False)] == [(secrets.found, secrets.is_passing) for secrets in found]
    assert all(
        text.endswith("cannot be read: the driver has no right to") for secrets in found for text in secrets.lacks
    )
    assert 1 == caplog.text.count(f"needs the right to get {resource}")


@pytest.mark.parametrize("fault", [401, 429, 500, Fault.HANG, Fault.GARBAGE])
@pytest.mark.parametrize("resource", ["pods", "serviceaccounts", "secrets"])
def test_what_cannot_be_read_now_is_no_lack_for_good(
    server: FakeApiServer, reader: PodReader, resource: str, fault: int | Fault
) -> None:
    """The same question may well be answered later, and the pod's author is told so; what could be read counts."""
    server.add("pods", "team", "train", uid="uid-1", spec={} if resource == "serviceaccounts" else _names("pull"))
    server.faults["GET", resource] = fault
    secrets = reader.secrets_of(TRAIN)
    told = f"answers {fault}" if isinstance(fault, int) else "does not answer"

    assert ((), True, 1) == (secrets.found, secrets.is_passing, len(secrets.lacks))
    assert secrets.lacks[0].endswith(f"cannot be read now: the API server {told}")
