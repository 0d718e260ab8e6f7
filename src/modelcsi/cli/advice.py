"""Advice for a person at a shell, who has no driver, no pod and no node: errors are made for those who have."""

from __future__ import annotations

ADVICE = {
    "then name a secret of type kubernetes.io/dockerconfigjson as nodePublishSecretRef": (
        "then docker login, or name the directory of another config.json with --docker-config"
    ),
    "or the secret if the repository is private": "and docker login if the repository is private",
    "then say so on the node: serverscheme in the docker config, or a hosts.toml": (
        "then say so: serverscheme in the docker config, or a hosts.toml in the directory of --registry-config"
    ),
    "the node's DNS": "this machine's DNS",
    "one driver runs per root_dir: end the other one, or ask it by `modelcsi status`": (
        "is another pull into this directory under way? wait for it, or end it"
    ),
    "is root_dir the right directory?": "remove it and pull again",
    "or empty the directory while no pod uses it": "or remove it and pull again",
    "a shorter root_dir leaves": "a shorter path of the directory leaves",
    "mount that one as well": "pull that one as well",
    "set layout: ": "set --layout ",
    "set modelName to": "set --model-name to",
    "by subPath": "by --sub-path",
    "by exclude": "by --exclude",
}
"""Parts of hints, and what to say instead to who pulls or inspects."""


def advice(hint: str) -> str:
    """The hint of an error, in the words of the commands."""
    for part, instead in ADVICE.items():
        hint = hint.replace(part, instead)
    return hint
