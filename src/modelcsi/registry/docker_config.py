"""Docker's config.json and the older .dockercfg: reading entries, and which of them fit a repository.

Pure text in, values out; nothing of the content ever appears in an exception, nor in its chain. The matching is the
kubelet's (`pkg/credentialprovider/keyring.go`), since the secrets were written for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcsi.artifact.globs import match
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import DOCKER_HUB, Reference

HUB_SERVER = "https://index.docker.io/v1/"
"""What Docker calls its hub in config files and towards helpers."""
HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What to show a registry, and where it came from. The secrets are in no repr."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token (`identitytoken`): exchanged for an access token at the token service."""
    registry_token: str = field(default="", repr=False)
    """An access token (`registrytoken`): sent as Bearer as it is."""
    source: str = "anonymous"
    """For messages: "the volume's secret"."""
    identity: str = field(default="", repr=False)
    """Whom these stand for, where somebody vouches for it and the secrets change by themselves: a service account. Empty: the
    secrets themselves are the identity."""
    header: str = field(default="", repr=False)
    """An Authorization header as an admin wrote it: sent as it is, and unasked."""
    certificate: str = field(default="", repr=False)
    """The client certificate that the node shows the registry whoever asks, where it has one: the registry may say yes to that."""

    def __post_init__(self) -> None:
        # A token goes into a header as it is; http.client would refuse a bad one with its value in the message.
        for token in (self.identity_token, self.registry_token):
            if not all("!" <= character <= "~" for character in token):
                raise InvalidRequest(f"a token of {self.source} has characters that no token has")
        # JSON may hold half of a surrogate pair, which is no character.
        if any("\ud800" <= character <= "\udfff" for character in self.username + self.password):
            raise InvalidRequest(f"the user or password of {self.source} is no text that can be sent")

    @property
    def is_anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.username or self.password or self.identity_token or self.registry_token or self.header)

    @property
    def shown(self) -> str:
        """How an error message speaks of them."""
        return "without credentials" if self.is_anonymous else f"with the credentials of {self.source}"

    @property
    def basic(self) -> str:
        """The value of an Authorization header, or empty without user and password."""
        if not (self.username or self.password):
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")

    def fingerprint(self, salt: bytes) -> str:
        """What may be written down instead of them: equal for equal identities, useless without the salt and a good guess."""
        if self.is_anonymous and not self.certificate:
            return "anonymous"
        secrets = (self.username, self.password, self.identity_token, self.registry_token)
        parts = ["identity", self.identity] if self.identity else list(secrets)
        # What few have is left out where it is empty, so that what was written down before still counts.
        rare = {"header": self.header, "certificate": self.certificate}
        parts.extend(f"{name} {value}" for name, value in rare.items() if value)
        return hmac.new(salt, json.dumps(parts).encode(), hashlib.sha256).hexdigest()

    def redact(self, text: str) -> str:
        """`text` without the secrets: a registry may repeat in an error what it was sent."""
        shown = (self.basic.removeprefix("Basic "), self.header.partition(" ")[2] or self.header)
        for secret in (*shown, self.password, self.identity_token, self.registry_token):
            text = text.replace(secret, "***") if secret else text
        return text


ANONYMOUS = Credentials()


def parse_json(content: str | bytes, what: str, *, hint: str = "") -> dict[str, Any]:
    """The JSON object in `content`; `what` names it in the InvalidRequest that is raised otherwise."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(
        value, dict
    ):  # raised here, outside the except clause: json's exception carries the whole document
        raise InvalidRequest(f"{what} is not a JSON object", hint=hint)
    return value


def matching(auths: object, reference: Reference, source: str) -> tuple[Credentials, ...]:
    """The credentials in `auths` (key -> entry) that fit the repository, the longest key first.

    Raises InvalidRequest for a malformed entry that fits; entries for other registries are not looked at.
    """
    if auths is None:
        return ()
    if not isinstance(auths, Mapping):
        raise InvalidRequest(f"the auths of {source} are not a JSON object")
    fitting = sorted(((normalise(key), key) for key in auths if fits(normalise(key), reference)), reverse=True)
    found = (_parse_entry(auths[key], source) for _, key in fitting)
    return tuple(dict.fromkeys(credentials for credentials in found if not credentials.is_anonymous))


def normalise(key: str) -> str:
    """A key without what does not matter: scheme, /v1/ and /v2/, the many names of Docker's hub."""
    text = key.strip()
    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    host, _, path = text.partition("/")
    for version in ("v1", "v2"):
        if path == version or path.startswith(f"{version}/"):
            path = path[len(version) + 1 :]
            break
    host = host.lower()
    host = DOCKER_HUB if host in HUB_NAMES else host
    return f"{host}/{path}" if path else host


def fits(key: str, reference: Reference) -> bool:
    """kubelet's URLsMatch: equal ports, a glob per label of the host, and the path as a prefix, wherever that ends."""
    host, _, path = key.partition("/")
    wanted_labels, wanted_port = _labels_and_port(reference.host.lower())
    labels, port = _labels_and_port(host)
    return (
        port == wanted_port
        and len(labels) == len(wanted_labels)
        and all(_matches(label, wanted) for label, wanted in zip(labels, wanted_labels, strict=True))
        and reference.repository.startswith(path)
    )


def _matches(pattern: str, label: str) -> bool:
    """A malformed pattern matches nothing."""
    return match(pattern.encode("utf-8", "surrogatepass"), label.encode()) is True


def _labels_and_port(host: str) -> tuple[list[str], str]:
    if host.startswith("["):  # an IPv6 address: one label, and its brackets are no glob
        address, _, port = host.partition("]")
        return [address.removeprefix("[")], port.removeprefix(":")
    name, _, port = host.partition(":")
    return name.split("."), port


def _parse_entry(entry: object, source: str) -> Credentials:
    if not isinstance(entry, Mapping):
        raise InvalidRequest(f"an entry of {source} is not a JSON object")
    values = {key: entry.get(key) or "" for key in ("username", "password", "auth", "identitytoken", "registrytoken")}
    if not all(isinstance(value, str) for value in values.values()):
        raise InvalidRequest(f"an entry of {source} has a field that is not a string")
    username, password = values["username"], values["password"]
    if values["auth"]:
        username, password = _parse_auth(values["auth"], source)
    return Credentials(username, password, values["identitytoken"].strip(), values["registrytoken"].strip(), source)


def _parse_auth(auth: str, source: str) -> tuple[str, str]:
    """`auth` is base64 of user:password; some tools end either with NUL or a newline, some leave out the padding."""
    packed = "".join(auth.split()).rstrip("=")
    try:
        text = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        text = ""
    username, colon, password = text.rstrip("\0\r\n").partition(":")
    if not colon:  # raised outside the except clause: a UnicodeDecodeError carries the bytes
        raise InvalidRequest(f"the auth of an entry of {source} is not base64 of user:password")
    return username, password
