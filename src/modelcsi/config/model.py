"""Every key of the configuration file: its type, default, unit, and why it is so.

docs/configuration.md is written from this file (`hack/gen-docs`). Keys of the upstream driver that mean nothing here are accepted,
so that its configuration keeps working, and marked `ignored`; setting one is warned about. `restart` marks what is
read once, at start. `minimum`, `maximum`, `words` and `pattern` say what may be written; the chart's schema of values says the same.
Values are checked when they are made and never change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NewType

from modelcsi.config.address import TcpAddress, parse_socket_path
from modelcsi.config.environment import Environment, docker_config_dir
from modelcsi.errors import InvalidRequest

Address = NewType("Address", str)
"""Text in which `$NAME` and `${NAME}` stand for environment variables."""
SizeBytes = NewType("SizeBytes", int)
"""Written as a number of bytes or as `10TiB` (powers of 1024), `500GB` (powers of 1000)."""
Seconds = NewType("Seconds", float)
"""Written as a number of seconds or as `90s`, `5m`, `1h`."""
Namespaces = Mapping[str, tuple[str, ...]]
"""Prefixes of references, each with a list of namespaces."""

_RESTART = {"restart": True}
_IGNORED = {"ignored": True}
# CSI, GetPluginInfoResponse.name.
_SERVICE_NAME = r"[A-Za-z0-9]([-.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_PROXY_URL = r"(https?://.*)?"
_LOG_LEVELS = ("debug", "info", "warning", "error")
_MIN_MEMORY_BYTES = 8 << 20
_ADAPTERS = ("auto", "passthrough", "pyfuse3", "none")
_VERIFIED = ("range", "complete")
_HOLDERS = ("managed", "external")
_MAX_READ_AHEAD_KB = 64 << 10
_MAX_NODE_LABELS = 64
"""A guess at what a node object should carry; each label is about 60 bytes, sent to every watcher of nodes."""


@dataclass(frozen=True, slots=True)
class PullConfig:
    """How artifacts are fetched."""

    docker_config_dir: Path | None = None
    """The directory of a docker `config.json` with the node's own credentials and plain registries (`auths[host].serverscheme:
    http`). Default: `$DOCKER_CONFIG`, else `~/.docker`. The file is read at each attempt, so a rotated secret needs no restart."""

    proxy_url: str = field(default="", repr=False, metadata={"pattern": _PROXY_URL})
    """`http://` or `https://` URL of the proxy for all registries but those of NO_PROXY and loopback. Default: none, then
    HTTPS_PROXY and HTTP_PROXY count. `$` is not expanded, since passwords contain it."""

    concurrency: int = field(default=0, metadata={"minimum": 0})
    """Layers of one artifact that are pulled at the same time. Default: 0, which means 4: measured, four layers saturate two cores,
    and more only take memory from each other. (Upstream's 0 means 5.)"""

    parallel_pulls: int = field(default=4, metadata=_RESTART | {"minimum": 1})
    """Artifacts that are pulled at the same time; of those that wait, the one with the fewest bytes left starts next, so that a huge
    model does not starve small ones. Default: 4, a guess."""

    memory_budget: SizeBytes = field(default=SizeBytes(64 << 20), metadata=_RESTART | {"minimum": _MIN_MEMORY_BYTES})
    """Bytes that all pulls together may hold between network and disk. Default: 64MiB, which keeps the process under 150 MiB; at
    least 8MiB."""

    dragonfly_endpoint: str = field(default="", metadata=_IGNORED)
    """Upstream's socket of Dragonfly's dfdaemon. Ignored: configure Dragonfly's proxy as a mirror in `registry.config_path`."""

    pull_layer_timeout_in_seconds: int = field(default=0, metadata=_IGNORED)
    """Ignored, as upstream ignores it: a pull has no total time limit, only limits for connecting and for silence."""

    node_layer_concurrency: int = field(default=0, metadata=_IGNORED)
    """Of an unreleased upstream change. Ignored: `parallel_pulls` and `memory_budget` limit what a node does at once."""

    def __post_init__(self) -> None:
        _check_bounds(self, "pull_config.")
        # The URL may hold a password, so the message does not show it.
        _require(re.fullmatch(_PROXY_URL, self.proxy_url), "pull_config.proxy_url is no http:// or https:// URL")

    @property
    def layers_at_once(self) -> int:
        """`concurrency`, with its 0 resolved."""
        return self.concurrency or 4


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """Switches, under upstream's name for them."""

    check_disk_quota: bool = False
    """Upstream: look for free space before a pull. Here space is always checked, and reserved, before the first byte; both values
    mean the same. Default: false."""

    disk_usage_limit: SizeBytes = field(default=SizeBytes(0), metadata={"minimum": 0})
    """Bytes that all content on the node may take; what nobody uses is evicted to stay below, and a pull that cannot is refused with
    RESOURCE_EXHAUSTED. Default: 0, which means the file system's free space. Counts whenever it is set, whatever
    `check_disk_quota` says."""

    dynamic_mounts: bool = False
    """Whether a volume without `modelRef` is a dynamic volume: an empty directory with a socket, by which its pod mounts and unmounts
    models while it runs. Default: false, since a misspelt attribute should be an error, and a socket in a pod is a power
    that an admin gives on purpose."""

    def __post_init__(self) -> None:
        _check_bounds(self, "features.")


@dataclass(frozen=True, slots=True)
class ServiceAccountToken:
    """A kind of token that kubelet hands over (the CSIDriver's `tokenRequests`), and the registries that take it."""

    registries: tuple[str, ...] = ()
    """Registry or repository prefixes: `registry.example.com`, `registry.example.com/team`."""

    audience: str = ""
    """The audience that `tokenRequests` of the CSIDriver object names. Default: the empty one, the API server's own."""

    username: str = ""
    """The name under which the registry wants the token as a password. Default: none, the token is sent as it is (Bearer)."""


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """How registries are reached."""

    config_path: Path | None = None
    """A directory in containerd's form (`HOST/hosts.toml`, `HOST/ca.crt`) that names mirrors, certificates and plain registries;
    `/etc/containerd/certs.d` shares the runtime's. Default: none: every registry is its own host, over verified TLS. The files are
    read at each pull."""

    node_credentials: Namespaces | None = None
    """Who may use the node's own credentials (docker config, credential helpers, provider plugins without a service account's
    token, what hosts.toml shows the registry itself): registry or repository prefixes (`registry.example.com/team`), each with
    the namespaces whose pods may; `"*"` stands for all. The longest prefix decides; for what no prefix covers they are not
    used. Needs `kubernetes` access and a CSIDriver object with `podInfoOnMount`, since otherwise a pod could name any
    namespace. Default: none, every pod may, as with kubelet's."""

    credential_provider_config: Path | None = None
    """A CredentialProviderConfig file (kubelet's `--image-credential-provider-config`), whose plugins are asked as kubelet asks
    them. Default: none."""

    credential_provider_bin_dir: Path | None = None
    """The directory of the plugins' programs (kubelet's `--image-credential-provider-bin-dir`). Default: none; needed with
    `credential_provider_config`."""

    service_account_tokens: tuple[ServiceAccountToken, ...] = ()
    """Registries that take the tokens of Kubernetes service accounts. Default: none."""

    def __post_init__(self) -> None:
        _require(
            bool(self.credential_provider_config) == bool(self.credential_provider_bin_dir),
            "registry.credential_provider_config and registry.credential_provider_bin_dir need each other",
        )


@dataclass(frozen=True, slots=True)
class FuseConfig:
    """How volumes with `mountMode: lazy` are served while their bytes arrive."""

    adapter: str = field(default="auto", metadata=_RESTART | {"words": _ADAPTERS})
    """What speaks to the kernel: `passthrough` (kernel 6.9 and newer: files that are complete are read without any process of the
    driver's, and the server may be replaced while pods read), or `pyfuse3` (older kernels: a server's death ends its mounts).
    Default: `auto`, the first that this node can; where it can neither, lazy volumes are mounted as `bind` ones are, when
    they are complete, and their pods are told; so they are with `none`."""

    verify: str = field(default="range", metadata={"words": _VERIFIED})
    """When a file may be read: `range`, as soon as the bytes asked for are there, though its digest is not known to match until all
    of it is; or `complete`: opening it waits until it is verified. Default: `range`."""

    read_timeout: Seconds = field(default=Seconds(300), metadata={"minimum": 1})
    """How long a read waits for bytes that do not come, before it fails with EIO. Who waits for all of a file (`verify: complete`, a
    compressed tar) waits as long as more of it comes. Default: 300s: a registry that is restarted is not noticed by those who read."""

    read_ahead_kb: int = field(default=4096, metadata={"minimum": 0, "maximum": _MAX_READ_AHEAD_KB})
    """`read_ahead_kb` of lazy mounts, in KiB. Default: 4096; the kernel's 128 halves what a sequential reader gets."""

    holder: str = field(default="managed", metadata=_RESTART | {"words": _HOLDERS})
    """Who runs the process that keeps lazy mounts alive (`modelcsi fuse`): `managed`, the driver starts it when the first lazy volume
    comes; `external`, it runs by itself, as the chart's second DaemonSet. Default: `managed`."""

    def __post_init__(self) -> None:
        _check_bounds(self, "fuse.")


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """What the driver asks of the API server. All of it is optional: without it volumes are published all the same."""

    kubeconfig: Path | None = field(default=None, metadata=_RESTART)
    """A kubeconfig file. Default: the service account of the driver's pod, without a proxy: HTTPS_PROXY counts for the server of a
    kubeconfig only."""

    events: bool = field(default=False, metadata=_RESTART)
    """Events on pods: what is pulled, how far it is, what failed. Needs the right to create events. Default: false; the chart says
    true."""

    pull_secrets: bool = field(default=False, metadata=_RESTART)
    """Use the `imagePullSecrets` of the pod and of its service account. Needs the right to get pods, service accounts and secrets
    of all namespaces, which makes the driver a place worth attacking. Default: false."""

    watch_pods: bool = field(default=False, metadata=_RESTART)
    """Ask whether a pod whose publish waits is being deleted, so that it can go at once. Needs the right to get pods. Default: false,
    then such a pod waits until the call ends, up to two minutes; the chart says true."""

    node_labels: int = field(default=0, metadata=_RESTART | {"minimum": 0, "maximum": _MAX_NODE_LABELS})
    """So many of the last used artifacts are labels of the node (`<service_name>/<first 32 digits of the digest>`), for
    scheduling. Needs the right to patch nodes. Default: 0, none."""

    def __post_init__(self) -> None:
        _check_bounds(self, "kubernetes.")

    @property
    def is_used(self) -> bool:
        """Whether anything is asked of the API server."""
        return self.events or self.pull_secrets or self.watch_pods or self.node_labels > 0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file, and the environment it was read in."""

    service_name: str = field(default="model.csi.modelpack.org", metadata=_RESTART | {"pattern": _SERVICE_NAME})
    """The driver's name in the CSIDriver object and in pod specs, and the prefix of its attributes (`<service_name>/reference`).
    Default: `model.csi.modelpack.org`, the upstream driver's, so that its volumes keep working."""

    csi_endpoint: Address = field(default=Address("unix:///csi/csi.sock"), metadata=_RESTART)
    """The unix socket of the CSI services; CSI_ENDPOINT wins. A path has at most 107 bytes. Default: `unix:///csi/csi.sock`, where
    the chart mounts kubelet's plugin directory."""

    root_dir: Path = field(default=Path("/var/lib/model-csi"), metadata=_RESTART)
    """The directory of everything the driver keeps: content, views, state, control socket. One file system, local, with hard
    links; one driver at a time. Default: `/var/lib/model-csi`, the chart's host path."""

    metrics_addr: Address = field(default=Address(""), metadata=_RESTART)
    """`tcp://HOST:PORT` of `/metrics`, `/metrics/detail`, `/healthz` and `/readyz`; `tcp://$POD_IP:5244` also serves
    127.0.0.1:5244. Model names are on `/metrics/detail` only. Default: none, nothing is served."""

    metrics_detail: bool = False
    """Whether `/metrics/detail`, with the names of the models of all pods, is told to others than the node itself (loopback).
    Whoever reaches `metrics_addr` reads it then. Default: false; the chart says true where a monitor scrapes it."""

    log_level: str = field(default="info", metadata={"words": _LOG_LEVELS})
    """`debug`, `info`, `warning` or `error`; `--log-level` wins. Default: `info`, what an operator counts or acts on."""

    publish_slots: int = field(default=128, metadata=_RESTART | {"minimum": 1})
    """Publish calls that may wait for pulls at the same time; 16 more threads answer everything else, so that probes never queue
    behind pulls. When all are taken, the one that has waited longest is told to come back, which kubelet does ever more slowly.
    Default: 128, more than the 110 pods that kubelet allows a node; a call that waits costs a thread."""

    pull_config: PullConfig = field(default_factory=PullConfig)
    """Fetching artifacts."""

    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """Switches."""

    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """Reaching registries."""

    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    """Asking the API server."""

    fuse: FuseConfig = field(default_factory=FuseConfig)
    """Lazy mounts."""

    kubelet_registration_path: Address = field(default=Address(""), metadata=_RESTART)
    """Where kubelet finds the CSI socket, on the host: `/var/lib/kubelet/plugins/<service_name>/csi.sock`. When it is set, the
    driver registers itself with kubelet and needs no node-driver-registrar. Default: none, somebody else does that."""

    kubelet_registration_dir: Path | None = field(default=None, metadata=_RESTART)
    """kubelet's `plugins_registry` directory, as the driver sees it. Default: the one beside `plugins` in
    `kubelet_registration_path`."""

    external_csi_endpoint: str = field(default="", metadata=_IGNORED)
    """Upstream: where a node serves CSI over TCP for its controller. Ignored: this driver's controller is stateless, calls no node,
    and no CSI service is ever offered to the network."""

    external_csi_authorization: str = field(default="", repr=False, metadata=_IGNORED)
    """The token of `external_csi_endpoint`. Ignored."""

    dynamic_csi_endpoint: str = field(default="", metadata=_IGNORED)
    """Deprecated upstream. Ignored: remove it."""

    trace_endpoint: str = field(default="", metadata=_IGNORED)
    """Upstream: an OTLP/HTTP URL for traces. Ignored: this version sends none."""

    pprof_addr: str = field(default="", metadata=_IGNORED)
    """Upstream: where Go's profiler listens. Ignored."""

    environment: Environment = field(default_factory=Environment, metadata={"key": False})
    """Not a key: the variables of the process."""

    def __post_init__(self) -> None:
        _check_bounds(self, "")
        _require(
            re.fullmatch(_SERVICE_NAME, self.service_name), f"service_name {self.service_name!r} is no CSI driver name"
        )
        _require(self.root_dir.is_absolute(), f"root_dir {str(self.root_dir)!r} is not an absolute path")
        _require(
            not self.kubelet_registration_path or self.kubelet_registration_path.startswith("/"),
            f"kubelet_registration_path {self.kubelet_registration_path!r} is not an absolute path",
        )
        _named("csi_endpoint", lambda: self.csi_socket)
        _named("metrics_addr", lambda: self.metrics_addresses)

    @property
    def csi_socket(self) -> Path:
        """The path of `csi_endpoint`."""
        return parse_socket_path(self.csi_endpoint)

    @property
    def metrics_addresses(self) -> tuple[TcpAddress, ...]:
        """Where metrics are served: nowhere, at `metrics_addr`, or there and at the same port of 127.0.0.1 (`POD_IP`)."""
        if not self.metrics_addr:
            return ()
        address = TcpAddress.parse(self.metrics_addr)
        if address.host != self.environment.pod_ip:
            return (address,)
        return tuple(dict.fromkeys((address, TcpAddress("127.0.0.1", address.port))))

    @property
    def registration_dir(self) -> Path | None:
        """The directory of kubelet's registration sockets; None when the driver does not register itself."""
        if not self.kubelet_registration_path:
            return None
        # <kubelet root>/plugins/<driver>/csi.sock
        root = Path(self.kubelet_registration_path).parent.parent.parent
        return self.kubelet_registration_dir or root / "plugins_registry"

    @property
    def docker_config_dir(self) -> Path:
        """Where the node's docker config.json is looked for."""
        return self.pull_config.docker_config_dir or docker_config_dir(self.environment)


def _check_bounds(section: Any, prefix: str) -> None:
    """Hold each value against what the metadata of its field says."""
    for known in fields(section):
        value, marks = getattr(section, known.name), known.metadata
        if "words" in marks:
            words = ", ".join(marks["words"])
            _require(value in marks["words"], f"{prefix}{known.name} {value!r} is none of {words}")
        if "minimum" in marks:
            least = marks["minimum"]
            shown = f"{least >> 20}MiB" if least >= 1 << 20 else str(least)
            _require(value >= least, f"{prefix}{known.name} is {value}, less than {shown}")
        if "maximum" in marks:
            _require(value <= marks["maximum"], f"{prefix}{known.name} is {value}, more than {marks['maximum']}")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)


def _named(key: str, read: Callable[[], object]) -> None:
    try:
        read()
    except InvalidRequest as error:
        raise InvalidRequest(f"{key}: {error.message}", hint=error.hint) from error
