"""Credentials as pods bring them: the nodePublishSecretRef of a volume, of type kubernetes.io/dockerconfigjson."""

from __future__ import annotations

import base64
import json

PASSWORD = "s3cret-Pa55word"
HTPASSWD = "alice:$2y$05$abcdefghijklmnopqrstuukgrwhJVWSn5QgrHwRz9RJqqZge4C1eO\n"
"""The password file of a docker-registry: bcrypt of PASSWORD, with a cost that tests can afford."""


def docker_secret(host: str, password: str, username: str = "alice") -> dict[str, str]:
    """What kubelet hands over of such a secret."""
    return {".dockerconfigjson": json.dumps({"auths": {host: {"auth": basic(password, username)}}})}


def basic(password: str, username: str = "alice") -> str:
    """Name and password as HTTP and docker write them."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()
