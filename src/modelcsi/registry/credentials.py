"""Where credentials come from, in the order of design decision D10: the keychain puts the sources in a row.

Each source has its own module. What is nobody's for sure (a pod that the request could have made up) opens no source that
depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from modelcsi.config.model import ServiceAccountToken
from modelcsi.config.providers import CredentialProvider
from modelcsi.errors import Forbidden, InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Caller, PullSecrets
from modelcsi.registry.candidates import Candidates, Remarks, Source
from modelcsi.registry.docker_config import ANONYMOUS, Credentials, matching, parse_json
from modelcsi.registry.hosts_files import HostsFiles
from modelcsi.registry.hosts_toml import Server
from modelcsi.registry.node_access import FORGEABLE, NodeAccess
from modelcsi.registry.node_config import NodeConfig
from modelcsi.registry.notices import Notices
from modelcsi.registry.providers import Providers
from modelcsi.registry.service_accounts import of_service_account

__all__ = ["ANONYMOUS", "Candidates", "Credentials", "Keychain", "Sources"]

logger = logging.getLogger(__name__)

_REQUEST_SOURCE = "the volume's secret"
_PULL_SECRETS_SOURCE = "the pod's imagePullSecrets"
_HOSTS_SOURCE = "the node's hosts.toml"
_HELPER_SECONDS = 20.0
_HOW_TO_CREATE = "create it with `kubectl create secret docker-registry`"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a keychain asks beside the volume's secret and the node's docker config."""

    pull_secrets: PullSecrets | None = None
    tokens: tuple[ServiceAccountToken, ...] = ()
    """The registries that take service-account tokens."""
    providers: Providers | None = None
    hosts: HostsFiles = field(default_factory=HostsFiles)
    """The hosts.toml files: what an admin wrote there for the registry itself is a credential of the node's."""
    node_access: NodeAccess = field(default_factory=NodeAccess)
    has_pod_info: Callable[[], bool | None] = lambda: None
    """Whether kubelet vouches for the pod that a request names (podInfoOnMount); None: not known."""


class Keychain:
    """The credentials for a reference; any thread."""

    def __init__(
        self,
        docker_config_dir: Path | None,
        sources: Sources | None = None,
        *,
        helper_seconds: float = _HELPER_SECONDS,
    ) -> None:
        """`docker_config_dir` holds the node's config.json; `helper_seconds` is how long a credential helper may take."""
        self._node = NodeConfig(docker_config_dir, helper_seconds)
        self._sources = sources or Sources()
        self._notices = Notices(logger)

    def candidates(self, reference: Reference, caller: Caller) -> Candidates:
        """What to try, in this order; never empty. A secret of the request that names the registry excludes everything behind it.

        Raises InvalidRequest for an unusable secret of the request; Forbidden where every request shows the registry a client
        certificate of the node's, which the caller may not use.
        """
        own = _of_secret(caller.secrets, reference, _REQUEST_SOURCE)
        wanted = _Wanted(reference, caller, Remarks(), (reference,), self._certificate(reference.host))
        if wanted.certificate and not self._may_use_node(wanted):
            raise Forbidden(
                f"{reference.host} is shown the node's client certificate, and {wanted.remarks.texts[-1]}",
                hint="registry.node_credentials must name the namespaces that may use the registry",
            )
        return _alone(own, wanted) if own else self._of_everybody(wanted)

    def at_mirror(self, host: str, reference: Reference, caller: Caller) -> Candidates:
        """What to try at a mirror of the reference's registry that checks rights; its yes counts as the registry's.

        So nobody gets more there than at the registry: a secret of the request that names the registry excludes all but its own
        entries for the mirror, which may be none, and the node's credentials must be the caller's to use for both.
        Raises as `candidates` does.
        """
        there = replace(reference, host=host)
        own = _of_secret(caller.secrets, there, _REQUEST_SOURCE)
        wanted = _Wanted(there, caller, Remarks(), (reference, there))
        is_exclusive = own or _of_secret(caller.secrets, reference, _REQUEST_SOURCE)
        return _alone(own, wanted) if is_exclusive else self._of_everybody(wanted)

    def of_node(self, reference: Reference) -> Candidates:
        """The node's own, and none, whoever asks: for mirrors that only carry what was proved elsewhere; nobody gains by them."""
        wanted = _Wanted(reference, Caller(), Remarks(), ())
        return Candidates(self._of_node(wanted), wanted.remarks)

    def scheme(self, host: str) -> str | None:
        """`serverscheme` (http or https) of the node's docker config for `host` with its port; None when it does not say."""
        return self._node.scheme(host)

    def _of_everybody(self, wanted: _Wanted) -> Candidates:
        """Of every source but the request's secret, which names another registry or none."""
        if wanted.caller.secrets:
            wanted.remarks.texts.append(f"{_REQUEST_SOURCE} has nothing for {_name(wanted.reference)}")
        token = partial(of_service_account, self._sources.tokens, wanted.reference, wanted.caller)
        sources = (
            Source(partial(self._of_pull_secrets, wanted)),
            Source(token, is_at_hand=True),
            *self._of_node(wanted),
        )
        return Candidates(sources, wanted.remarks, certificate=wanted.certificate)

    def _of_node(self, wanted: _Wanted) -> tuple[Source, ...]:
        providers = self._sources.providers
        plugins: tuple[Source, ...] = ()
        if providers is not None:
            plugins = tuple(
                Source(partial(self._of_provider, providers, provider, wanted))
                for provider in providers.for_reference(wanted.reference)
            )
        return (
            *plugins,
            Source(partial(self._of_helper, wanted)),
            Source(partial(self._of_config, wanted), is_at_hand=True),
            Source(partial(self._of_hosts, wanted), is_at_hand=True),
            Source(lambda: (ANONYMOUS,)),
        )

    def _of_pull_secrets(self, wanted: _Wanted) -> tuple[Credentials, ...]:
        pull_secrets, pod, remarks = self._sources.pull_secrets, wanted.caller.pod, wanted.remarks
        if pod is None:
            return ()
        if pull_secrets is None:
            remarks.texts.append("imagePullSecrets are not read (kubernetes.pull_secrets)")
            return ()
        has_pod_info = self._sources.has_pod_info()
        if has_pod_info is not True:  # else a pod would use the secrets of the one that it names
            self._remark(wanted, f"{_PULL_SECRETS_SOURCE} are not used: {FORGEABLE}")
            remarks.is_passing |= has_pod_info is None
            return ()
        secrets = pull_secrets.secrets_of(pod)
        remarks.texts.extend(secrets.lacks)
        remarks.is_passing |= secrets.is_passing
        found: tuple[Credentials, ...] = ()
        for secret in secrets.found:
            try:
                found += _of_secret(secret, wanted.reference, _PULL_SECRETS_SOURCE)
            except InvalidRequest as error:  # one of them is for another registry, maybe
                self._remark(wanted, f"one of {_PULL_SECRETS_SOURCE} cannot be used: {error.message}")
        if secrets.found and not found:
            remarks.texts.append(f"{_PULL_SECRETS_SOURCE} have nothing for {_name(wanted.reference)}")
        return found

    def _of_provider(
        self, providers: Providers, provider: CredentialProvider, wanted: _Wanted
    ) -> tuple[Credentials, ...]:
        attributes = provider.token_attributes
        token = wanted.caller.tokens.get(attributes.audience, "") if attributes else ""
        if attributes and attributes.is_required and not token:
            self._remark(
                wanted,
                f"the credential provider {provider.name} needs a service-account token for {attributes.audience!r}, "
                "which kubelet did not send: is it in the CSIDriver object's tokenRequests?",
            )
            return ()
        if not token and not self._may_use_node(wanted):
            return ()
        try:
            return providers.ask(provider, wanted.reference, token)
        except InvalidRequest as error:
            self._remark(wanted, error.message)
            return ()

    def _of_helper(self, wanted: _Wanted) -> tuple[Credentials, ...]:
        host = wanted.reference.host
        helper = self._node.helper(host)
        return self._node.ask(helper, host) if helper and self._may_use_node(wanted) else ()

    def _of_config(self, wanted: _Wanted) -> tuple[Credentials, ...]:
        stored = self._node.stored(wanted.reference)
        return stored if stored and self._may_use_node(wanted) else ()

    def _of_hosts(self, wanted: _Wanted) -> tuple[Credentials, ...]:
        server = self._server(wanted.reference.host)
        if server is None or not server.authorization or not self._may_use_node(wanted):
            return ()
        return (Credentials(header=server.authorization, source=_HOSTS_SOURCE),)

    def _certificate(self, host: str) -> str:
        """The names of the client certificates that are shown to the registry."""
        server = self._server(host)
        return ", ".join(str(certificate) for certificate, _ in server.tls.client_pairs) if server else ""

    def _server(self, host: str) -> Server | None:
        """What hosts.toml says of the registry, if it can be understood: else nobody can ask, and what is proved needs it not."""
        try:
            return self._sources.hosts.server(host)
        except InvalidRequest:
            return None

    def _may_use_node(self, wanted: _Wanted) -> bool:
        sources = self._sources
        for reference in wanted.narrowed:
            refusal = sources.node_access.refusal(reference, wanted.caller.pod, sources.has_pod_info)
            if refusal:
                self._remark(wanted, refusal)
                return False
        return True

    def _remark(self, wanted: _Wanted, text: str) -> None:
        """Say it to whoever operates the node, and to the caller if the registry refuses the rest."""
        wanted.remarks.texts.append(text)
        self._notices.warn_once(text)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One question to the keychain."""

    reference: Reference
    caller: Caller
    remarks: Remarks
    narrowed: tuple[Reference, ...]
    """What the map of node credentials must give to the caller; nothing where the driver asks for itself."""
    certificate: str = ""
    """What the node shows with whatever is found."""


def _alone(own: tuple[Credentials, ...], wanted: _Wanted) -> Candidates:
    return Candidates((Source(lambda: own, is_at_hand=True),), wanted.remarks, certificate=wanted.certificate)


def _name(reference: Reference) -> str:
    return f"{reference.host}/{reference.repository}"


def _of_secret(secret: Mapping[str, str], reference: Reference, source: str) -> tuple[Credentials, ...]:
    """What a Kubernetes secret holds for the repository. Raises InvalidRequest, without its content."""
    if not secret:
        return ()
    modern, old = secret.get(".dockerconfigjson"), secret.get(".dockercfg")
    if modern is None and old is None:
        raise InvalidRequest(
            f"the secret has the keys {', '.join(sorted(secret))[:200]} and neither .dockerconfigjson nor .dockercfg",
            hint=_HOW_TO_CREATE,
        )
    found: tuple[Credentials, ...] = ()
    if modern is not None:
        document = parse_json(modern, ".dockerconfigjson of the secret", hint=_HOW_TO_CREATE)
        found += matching(document.get("auths"), reference, source)
    if old is not None:
        found += matching(parse_json(old, ".dockercfg of the secret", hint=_HOW_TO_CREATE), reference, source)
    return found
