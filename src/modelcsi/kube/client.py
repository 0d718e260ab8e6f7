"""The one way to the API server: few requests, each bounded in time, and what comes of them is a value, never an exception.

Of the `kubernetes` library only the configuration (kubeconfig, service account, rotated tokens, TLS) and the lowest layer are
used. Its `CoreV1Api` costs 36 MiB and 0.37 s to import, this 14.5 MiB and 0.09 s, and would refuse a whole pod for one field
that a newer server spells differently. Nothing is imported before a client is made.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcsi.config.model import KubernetesConfig
from modelcsi.deadline import Deadline
from modelcsi.errors import InvalidRequest
from modelcsi.registry.tls import TlsContexts, TlsSettings

if TYPE_CHECKING:
    import urllib3
    from kubernetes.client import ApiClient, Configuration

logger = logging.getLogger(__name__)

_MAX_ANSWER_BYTES = 8 << 20
"""etcd takes objects of 1.5 MiB."""
_PIECE_BYTES = 64 << 10
_CONNECTIONS = 4
_RELOAD_SECONDS = 30.0
_USER_AGENT = "model-csi-driver"
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
# A DNS subdomain, in either case as CSI driver names are: neither a slash nor a segment of dots can be in one.
_NAME = re.compile(r"[A-Za-z0-9](?:[-.A-Za-z0-9]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one request may take. Guesses: an API server that is well answers in milliseconds."""

    connect_seconds: float = 3.0
    silence_seconds: float = 5.0
    total_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said. Status 0: nothing usable, `trouble` tells why."""

    status: int
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The object, or with an error the server's Status; not in the repr, it may be a secret."""
    trouble: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether `document` is what was asked for."""
        return 200 <= self.status < 300

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well succeed later: no answer, a stale token, a server that is busy or starting."""
        return self.status in {0, 401, 408, 429} or self.status >= 500


def connect(config: KubernetesConfig) -> KubeClient | None:
    """The client of the configured cluster; None, with one warning that says what is lacking, where there is none."""
    try:
        return KubeClient(config.kubeconfig)
    except InvalidRequest as error:
        logger.warning("there is no Kubernetes API, and so %s: %s", ", ".join(_lacks(config)), error)
        return None


def _lacks(config: KubernetesConfig) -> list[str]:
    wanted = {
        "no events on pods": config.events,
        "no imagePullSecrets": config.pull_secrets,
        "no early end for deleted pods": config.watch_pods,
        "no node labels": config.node_labels > 0,
    }
    return [text for text, is_wanted in wanted.items() if is_wanted] or ["no check of the CSIDriver object"]


class KubeClient:
    """Requests to one API server; `server` is its URL."""

    def __init__(self, kubeconfig: Path | None = None, timeouts: Timeouts = Timeouts()) -> None:
        """Without a file: the service account of the pod. Raises InvalidRequest where neither can be used; asks nothing yet."""
        self._kubeconfig = kubeconfig
        self._timeouts = timeouts
        self._api = _load(kubeconfig)
        self._lock = threading.Lock()  # guards _reloaded_at; _api is only ever replaced as a whole
        self._reloaded_at = -_RELOAD_SECONDS

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return str(self._api.configuration.host)

    def read(self, template: str, *names: str, accept: str = _JSON) -> Answer:
        """GET the object at `template`, a path whose `{}` are the names."""
        return self._request("GET", template, names, {"Accept": accept})

    def create(self, template: str, *names: str, body: Mapping[str, Any]) -> Answer:
        """POST an object to the collection at `template`."""
        return self._request("POST", template, names, {"Content-Type": _JSON}, body)

    def patch(self, template: str, *names: str, body: Mapping[str, Any]) -> Answer:
        """Change fields of the object at `template`; None removes one (JSON merge patch)."""
        return self._request("PATCH", template, names, {"Content-Type": _MERGE_PATCH}, body)

    def _request(
        self,
        method: str,
        template: str,
        names: tuple[str, ...],
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        # Names come from requests: without pod information a pod's author wrote them.
        for name in names:
            if not _NAME.fullmatch(name):
                return Answer(400, trouble=f"{name[:80]!r} is no name of an object")
        path = template.format(*names)
        headers = {"Accept": _JSON, **headers}
        answer = self._send(method, path, headers, body)
        if answer.status == 401 and self._reload():
            answer = self._send(method, path, headers, body)
        return answer

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any] | None) -> Answer:
        import urllib3  # noqa: PLC0415 - the library lets its exceptions through
        from kubernetes.client import ApiException  # noqa: PLC0415
        from kubernetes.config import ConfigException  # noqa: PLC0415

        api, limits = self._api, self._timeouts
        deadline = Deadline.after(limits.total_seconds)
        try:
            request = api.param_serialize(
                method, path, header_params=dict(headers), body=body, auth_settings=["BearerToken"]
            )
            response = api.call_api(*request, _request_timeout=(limits.connect_seconds, limits.silence_seconds))
            content = _read(response.response, deadline)
        except (urllib3.exceptions.HTTPError, ApiException, ConfigException, OSError, ValueError) as error:
            return Answer(0, trouble=f"{api.configuration.host} gives no answer: {' '.join(str(error).split())[:300]}")
        return _parse(response.status, content)

    def _reload(self) -> bool:
        """Read the configuration again: the library re-reads a pod's token each minute, but a kubeconfig's `tokenFile` never."""
        with self._lock:
            now = time.monotonic()
            if now - self._reloaded_at < _RELOAD_SECONDS:
                return False
            self._reloaded_at = now
        try:
            self._api = _load(self._kubeconfig)
        except InvalidRequest as error:
            logger.warning("the API server refuses the driver's token, and there is no newer one: %s", error)
            return False
        return True


def _load(kubeconfig: Path | None) -> ApiClient:
    import yaml  # noqa: PLC0415 - the library lets its exceptions through
    from kubernetes import client, config  # noqa: PLC0415 - slow, and not needed by every driver

    configuration = client.Configuration(retries=False)
    configuration.connection_pool_maxsize = _CONNECTIONS
    try:
        if kubeconfig is None:
            config.load_incluster_config(configuration)
            # HTTPS_PROXY is for registries, and is no way to the cluster's own service address; NO_PROXY often lacks that one.
            configuration.proxy = None
        else:
            # persist_config would write refreshed tokens into the administrator's file.
            config.load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        place = (
            "this is no pod with a service account" if kubeconfig is None else f"{kubeconfig} is no usable kubeconfig"
        )
        raise InvalidRequest(
            f"{place} ({' '.join(str(error).split())[:200]})", hint="see kubernetes.kubeconfig in docs/configuration.md"
        ) from error
    api = client.ApiClient(configuration)
    api.user_agent = _USER_AGENT
    _relax_tls(api, configuration)
    return api


def _relax_tls(api: ApiClient, configuration: Configuration) -> None:
    """The same rules as for registries: Python 3.13 would refuse the CAs of some clusters (kubernetes-client/python#2394)."""
    if not configuration.host.startswith("https") or not configuration.verify_ssl:
        return
    ca_file = Path(configuration.ssl_ca_cert) if configuration.ssl_ca_cert else None
    # urllib3 loads the CA and the client certificate into it again for each connection, so that renewed files count.
    context = TlsContexts(ca_file).context(TlsSettings())
    api.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context


def _read(response: urllib3.BaseHTTPResponse, deadline: Deadline) -> bytes:
    """The whole body. The library's own read would wait as long as a byte comes every few seconds."""
    content = bytearray()
    while piece := response.read1(_PIECE_BYTES):
        content += piece
        if deadline.is_over() or len(content) > _MAX_ANSWER_BYTES:
            response.close()
            raise OSError("the answer is too slow" if deadline.is_over() else "the answer is too long")
    return bytes(content)


def _parse(status: int, content: bytes) -> Answer:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if 200 <= status < 300:
        is_object = isinstance(document, dict)
        return Answer(status, document) if is_object else Answer(0, trouble="the answer is no JSON object")
    document = document if isinstance(document, dict) else {}
    return Answer(status, document, f"{status} {str(document.get('message', ''))[:300]}".strip())
