"""The objects that several commands share, built from the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from modelcsi.config.environment import Environment, docker_config_dir, read_environment
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain, Sources
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.hosts_files import HostsFiles
from modelcsi.registry.proxies import ProxySettings
from modelcsi.registry.transport import HttpTransport, Transport


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How registries are reached, whatever says it: the driver's configuration or a command's flags."""

    docker_config_dir: Path
    hosts_dir: Path | None
    proxy_url: str
    environment: Environment
    sources: Sources | None = None
    """Where credentials come from beside requests and the docker config."""


@dataclass(frozen=True, slots=True)
class Connections:
    """What every client of registries is made of."""

    transport: Transport
    hosts: Hosts
    keychain: Keychain


def registry_of(
    settings: RegistrySettings, observe: Callable[[Transport], Transport] = lambda transport: transport
) -> tuple[Registry, Keychain]:
    """The client of all registries, and who we are there; `observe` may wrap the lowest layer."""
    connections = connections_of(settings)
    return Registry(observe(connections.transport), connections.hosts, connections.keychain), connections.keychain


def connections_of(settings: RegistrySettings) -> Connections:
    """How all registries are reached, and who we are there."""
    environment = settings.environment
    proxies = ProxySettings.parse(
        https=settings.proxy_url or environment.https_proxy,
        http=settings.proxy_url or environment.http_proxy,
        no_proxy=environment.no_proxy,
    )
    ca_file = Path(environment.ssl_cert_file) if environment.ssl_cert_file else None
    files = HostsFiles(settings.hosts_dir)
    keychain = Keychain(settings.docker_config_dir, replace(settings.sources or Sources(), hosts=files))
    transport = HttpTransport(proxies=proxies, ca_file=ca_file)
    return Connections(transport, Hosts(keychain.scheme, files), keychain)


def settings_of_flags(docker_config: Path | None, hosts_dir: Path | None) -> RegistrySettings:
    """For commands of people: flags, then the environment."""
    environment = read_environment(os.environ)
    return RegistrySettings(docker_config or docker_config_dir(environment), hosts_dir, "", environment)
