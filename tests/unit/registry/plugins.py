"""Credential provider plugins that run, and service-account tokens that look like kubelet's."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROTOCOL = "credentialprovider.kubelet.k8s.io/v1"


def jwt(account: str, serial: str = "1", namespace: str = "default") -> str:
    """A token of a service account; another serial is another token of the same account."""
    claims = {
        "jti": serial,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": f"uid-{account}"}},
    }
    parts = [{"alg": "none"}, claims]
    packed = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*packed, "signature"])


class Plugin:
    """A program in a directory of plugins, which writes down what it is asked."""

    def __init__(self, directory: Path, name: str = "plugin") -> None:
        self._log = directory / f"{name}.log"
        self._path = directory / name
        self._answer = directory / f"{name}.json"

    def answer(self, auth: object, key_type: str = "Image", duration: object = None) -> None:
        """Answer this from now on."""
        self.change(auth, {"cacheKeyType": key_type, "cacheDuration": duration})

    def change(self, auth: object, changes: Mapping[str, object]) -> None:
        """Answer this from now on, right but for the changes."""
        document = {
            "kind": "CredentialProviderResponse",
            "apiVersion": PROTOCOL,
            "cacheKeyType": "Image",
            "auth": auth,
            **changes,
        }
        self._answer.write_text(json.dumps(document), encoding="utf-8")
        self.script(f"cat {self._answer}")

    def script(self, text: str) -> None:
        """Run this shell script after the question was written down."""
        self._path.write_text(f"#!/bin/sh\ncat >> {self._log}\necho >> {self._log}\n{text}\n", encoding="utf-8")
        self._path.chmod(0o755)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The requests so far."""
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines]
