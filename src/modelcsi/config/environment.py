"""The environment variables that mean something to the driver; no other module reads any.

The fields stand in docs/configuration.md (`hack/gen-docs`), each under the variable's own name.
"""

from __future__ import annotations

import enum
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.errors import InvalidRequest

logger = logging.getLogger(__name__)

_MAX_NODE_ID_BYTES = 256  # CSI, NodeGetInfoResponse.node_id


class Mode(enum.Enum):
    """Which services a process offers."""

    NODE = "node"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class Environment:
    """What was set when the process started; a variable that is set to nothing counts as not set."""

    mode: Mode | None = field(default=None, metadata={"variable": "X_CSI_MODE"})
    """`node` or `controller`: the command when the command line names none (`modelcsi --config FILE`). Default: none."""

    node_id: str = field(default="", metadata={"variable": "CSI_NODE_ID"})
    """The node's name in the cluster, from `spec.nodeName`. Default: the host name, with a warning, so that a machine without a
    cluster needs no setting; in a pod without `hostNetwork` that would be the pod's name, which helps nobody."""

    csi_endpoint: str = field(default="", metadata={"variable": "CSI_ENDPOINT"})
    """Wins over `csi_endpoint` of the file, as the CSI specification wants. Default: the file's."""

    pod_ip: str = field(default="", metadata={"variable": "POD_IP"})
    """The pod's address, from `status.podIP`. When `metrics_addr` is on it, 127.0.0.1 is served too, at the same port, as the
    upstream driver does. Default: none."""

    docker_config: str = field(default="", metadata={"variable": "DOCKER_CONFIG"})
    """The directory of the docker config.json, when `pull_config.docker_config_dir` names none. Default: `~/.docker`."""

    home: str = field(default="/root", metadata={"variable": "HOME"})
    """Only where `~/.docker` and `~/.cache` are. Default: `/root`."""

    cache_home: str = field(default="", metadata={"variable": "XDG_CACHE_HOME"})
    """Only where `modelcsi push` notes how far an interrupted upload is, in `modelcsi/uploads`. Default: `~/.cache`."""

    https_proxy: str = field(default="", repr=False, metadata={"variable": "HTTPS_PROXY"})
    """The proxy for https registries, never for loopback; `pull_config.proxy_url` wins. Also in lower case; upper case wins, as
    in Go programs. Default: none."""

    http_proxy: str = field(default="", repr=False, metadata={"variable": "HTTP_PROXY"})
    """The same for plain http registries."""

    no_proxy: str = field(default="", metadata={"variable": "NO_PROXY"})
    """Hosts, domains (`.example.com`), addresses and networks that no proxy is used for, with commas between; `*` is all. Also in
    lower case. Default: none."""

    ssl_cert_file: str = field(default="", metadata={"variable": "SSL_CERT_FILE"})
    """A PEM file of the certificate authorities to trust instead of the system's. Default: the system's."""

    source_date_epoch: str = field(default="", metadata={"variable": "SOURCE_DATE_EPOCH"})
    """Seconds since 1970 (reproducible-builds.org), for `modelcsi pack` only: when the model is said to be made, and the time of
    its files; with `--keep-times` their latest. Default: the artifact does not say when it was made, its files are of 1970."""


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """The values of the process' environment, or of any mapping.

    Raises InvalidRequest for an unknown X_CSI_MODE and for a node id that the CSI specification does not allow.
    """
    return Environment(
        mode=_mode(variables.get("X_CSI_MODE", "")),
        node_id=_node_id(variables.get("CSI_NODE_ID", "")),
        csi_endpoint=variables.get("CSI_ENDPOINT", ""),
        pod_ip=variables.get("POD_IP", ""),
        docker_config=variables.get("DOCKER_CONFIG", ""),
        home=variables.get("HOME") or "/root",
        cache_home=variables.get("XDG_CACHE_HOME", ""),
        https_proxy=_either_case(variables, "HTTPS_PROXY"),
        http_proxy=_either_case(variables, "HTTP_PROXY"),
        no_proxy=_either_case(variables, "NO_PROXY"),
        ssl_cert_file=variables.get("SSL_CERT_FILE", ""),
        source_date_epoch=variables.get("SOURCE_DATE_EPOCH", ""),
    )


def docker_config_dir(environment: Environment) -> Path:
    """Where docker keeps its config.json when no configuration says otherwise."""
    return Path(environment.docker_config or f"{environment.home}/.docker")


def uploads_dir(environment: Environment) -> Path:
    """Where interrupted pushes are noted."""
    return Path(environment.cache_home or f"{environment.home}/.cache") / "modelcsi" / "uploads"


def node_name(environment: Environment) -> str:
    """CSI_NODE_ID, or with a warning the host name.

    Raises InvalidRequest where there is neither.
    """
    if environment.node_id:
        return environment.node_id
    name = socket.gethostname()
    if not name:
        raise InvalidRequest(
            "CSI_NODE_ID is not set, and this machine has no host name", hint="set it to the node's name"
        )
    logger.warning("CSI_NODE_ID is not set; the node is called by its host name, %s", name)
    return name


def _mode(text: str) -> Mode | None:
    if not text:
        return None
    try:
        return Mode(text)
    except ValueError as error:
        raise InvalidRequest(f"X_CSI_MODE is {text!r}", hint="it is node or controller") from error


def _node_id(text: str) -> str:
    if len(text.encode()) > _MAX_NODE_ID_BYTES:
        raise InvalidRequest(f"CSI_NODE_ID has over {_MAX_NODE_ID_BYTES} bytes")
    return text


def _either_case(variables: Mapping[str, str], name: str) -> str:
    return variables.get(name) or variables.get(name.lower(), "")
