from __future__ import annotations

from pathlib import Path

import pytest

from modelcsi.config.providers import (
    CredentialProvider,
    TokenAttributes,
    TokenCache,
    load_providers,
    parse_duration,
    plugin_environment,
)
from modelcsi.errors import InvalidRequest

HEAD = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n"
PROVIDER = """
- name: ecr-credential-provider
  matchImages: ["*.dkr.ecr.*.amazonaws.com", "registry.example.com:5000/team"]
  defaultCacheDuration: "12h"
  apiVersion: credentialprovider.kubelet.k8s.io/v1
"""
TOKENS = """
  tokenAttributes:
    serviceAccountTokenAudience: sts.amazonaws.com
    cacheType: ServiceAccount
    requireServiceAccount: true
"""


def load(directory: Path, text: str) -> tuple[CredentialProvider, ...]:
    """The file with this text."""
    path = directory / "providers.yaml"
    path.write_text(text, encoding="utf-8")
    return load_providers(path)


def test_a_file_of_kubelets(tmp_path: Path) -> None:
    """Every key that kubelet knows."""
    more = '  args: [get-credentials, "-v"]\n  env:\n  - name: AWS_PROFILE\n    value: models\n'
    optional = "    optionalServiceAccountAnnotationKeys: [eks.amazonaws.com/role-arn]\n"

    assert (
        CredentialProvider(
            "ecr-credential-provider",
            ("*.dkr.ecr.*.amazonaws.com", "registry.example.com:5000/team"),
            43200.0,
            "credentialprovider.kubelet.k8s.io/v1",
            ("get-credentials", "-v"),
            {"AWS_PROFILE": "models"},
            TokenAttributes("sts.amazonaws.com", is_required=True, cache=TokenCache.SERVICE_ACCOUNT),
        ),
    ) == load(tmp_path, HEAD + PROVIDER + more + TOKENS + optional)


def test_variables_and_arguments_are_in_no_text_of_a_provider(tmp_path: Path) -> None:
    """They may be secrets."""
    more = '  args: ["--key=hunter2"]\n  env:\n  - {name: KEY, value: hunter2}\n'

    assert "hunter2" not in repr(load(tmp_path, HEAD + PROVIDER + more))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no CredentialProviderConfig"),
        (HEAD.replace("/v1", "/v2") + PROVIDER, "is no CredentialProviderConfig"),
        (HEAD, "names no providers"),
        (HEAD + PROVIDER + PROVIDER, "names the provider 'ecr-credential-provider' twice"),
        (HEAD + PROVIDER + "  matchimages: []", "unknown key 'providers[0].matchimages'"),
        (HEAD + PROVIDER.replace("ecr-credential-provider", "../sh"), "'../sh' is no name of a program"),
        (HEAD + PROVIDER.replace("ecr-credential-provider", '".."'), "'..' is no name of a program"),
        (
            HEAD + PROVIDER.replace("io/v1", "io/v7"),
            "providers[0].apiVersion is 'credentialprovider.kubelet.k8s.io/v7'",
        ),
        (HEAD + PROVIDER.replace('"12h"', '"12"'), "providers[0].defaultCacheDuration is no duration"),
        (HEAD + PROVIDER.replace("defaultCacheDuration", "#"), "providers[0].defaultCacheDuration is no duration"),
        (HEAD + PROVIDER.replace('["*.dkr.ecr.*.amazonaws.com", "registry.example.com:5000/team"]', "[]"), "is empty"),
        (HEAD + PROVIDER + "  env: [{value: hunter2}]", "providers[0].env[0] is no environment variable"),
        (HEAD + PROVIDER + TOKENS.replace("cacheType: ServiceAccount", ""), "tokenAttributes.cacheType is missing"),
        (HEAD + PROVIDER + TOKENS.replace(": ServiceAccount", ": Pod"), "tokenAttributes.cacheType is 'Pod'"),
        (HEAD + PROVIDER + TOKENS.replace("requireServiceAccount: true", ""), "requireServiceAccount is missing"),
        (HEAD + PROVIDER.replace("io/v1\n", "io/v1beta1\n") + TOKENS, "tokenAttributes needs apiVersion"),
        (
            HEAD + PROVIDER + TOKENS + "    requiredServiceAccountAnnotationKeys: [role]",
            "requiredServiceAccountAnnotationKeys is not supported",
        ),
    ],
)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    """With the file and the key, and no value of a variable."""
    with pytest.raises(InvalidRequest) as caught:
        load(tmp_path, text)

    assert message in caught.value.message
    assert "providers.yaml: " in caught.value.message
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12h", 43200), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0), ("0s", 0)]
    + [(text, None) for text in ("", "12", "-1h", "1d", "h", 12, None)],
)
def test_durations_are_gos(text: object, seconds: float | None) -> None:
    """As kubelet reads them; less than nothing is none."""
    assert seconds == parse_duration(text)


def test_plugins_get_few_variables() -> None:
    """What they need to run and to reach the network; a secret of the driver's environment is none of it."""
    environment = {"PATH": "/bin", "https_proxy": "http://p", "KUBERNETES_TOKEN": "hunter2", "home": "/x"}

    assert {"PATH": "/bin", "https_proxy": "http://p"} == plugin_environment(environment)
