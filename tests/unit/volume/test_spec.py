from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from modelcsi.artifact.layouts import Layout
from modelcsi.artifact.selection import Selection
from modelcsi.errors import InvalidRequest
from modelcsi.pull.policy import PullPolicy
from modelcsi.volume.spec import DynamicSpec, MountMode, VolumeSpec, check_parameters, parse_spec

SERVICE = "model.csi.modelpack.org"
REF = "registry.test/models/tiny:v1"


def parse(
    attributes: Mapping[str, str], secrets: Mapping[str, str] | None = None, service: str = SERVICE
) -> VolumeSpec:
    """A request with these attributes."""
    spec = parse_spec("volume", "/target", attributes, secrets or {}, service)
    assert isinstance(spec, VolumeSpec)
    return spec


@pytest.mark.parametrize("key", ["modelRef", f"{SERVICE}/model-ref", f"{SERVICE}/reference"])
def test_spellings_of_the_reference(key: str) -> None:
    """Ours, ours under the service name, upstream's."""
    assert REF == str(parse({key: REF}).reference)


def test_defaults() -> None:
    """Only the reference is required."""
    spec = parse({"modelRef": REF})

    assert (PullPolicy.IF_NOT_PRESENT, Selection(), None) == (spec.pull_policy, spec.selection, spec.pod)
    assert PullPolicy.ALWAYS is parse({"modelRef": "registry.test/models/tiny"}).pull_policy


@pytest.mark.parametrize(
    ("attributes", "policy", "selection"),
    [
        ({"pullPolicy": "Always"}, PullPolicy.ALWAYS, Selection()),
        ({f"{SERVICE}/pull-policy": "Never"}, PullPolicy.NEVER, Selection()),
        ({"excludeModelWeights": "true"}, PullPolicy.IF_NOT_PRESENT, Selection(exclude_weights=True)),
        ({f"{SERVICE}/exclude-model-weights": "T"}, PullPolicy.IF_NOT_PRESENT, Selection(exclude_weights=True)),
        ({"excludeModelWeights": "0"}, PullPolicy.IF_NOT_PRESENT, Selection()),
        (
            {"excludeFilePatterns": '["*.bin", "!keep.bin"]'},
            PullPolicy.IF_NOT_PRESENT,
            Selection(exclude_patterns=("*.bin", "!keep.bin")),
        ),
        (
            {f"{SERVICE}/exclude-file-patterns": '["a"]'},
            PullPolicy.IF_NOT_PRESENT,
            Selection(exclude_patterns=("a",)),
        ),
        ({"excludeFilePatterns": ""}, PullPolicy.IF_NOT_PRESENT, Selection()),
        (
            {"excludeFilePatterns": json.dumps(["a" * 1024] * 15 + ["b"] * 241)},
            PullPolicy.IF_NOT_PRESENT,
            Selection(exclude_patterns=("a" * 1024,) * 15 + ("b",) * 241),
        ),
        ({"mountMode": "bind"}, PullPolicy.IF_NOT_PRESENT, Selection()),
        ({f"{SERVICE}/mount-mode": "bind"}, PullPolicy.IF_NOT_PRESENT, Selection()),
        (
            {f"{SERVICE}/type": "image", f"{SERVICE}/check-disk-quota": "true", f"{SERVICE}/node-ip": "10.0.0.1"},
            PullPolicy.IF_NOT_PRESENT,
            Selection(),
        ),
    ],
)
def test_every_attribute(attributes: dict[str, str], policy: PullPolicy, selection: Selection) -> None:
    """In both spellings."""
    spec = parse({"modelRef": REF} | attributes)

    assert (policy, selection) == (spec.pull_policy, spec.selection)


@pytest.mark.parametrize("key", ["mountMode", f"{SERVICE}/mount-mode"])
def test_a_lazy_volume_is_not_the_one_that_waits(key: str) -> None:
    """A volume does not change its mode while it is mounted, and those of older releases were all bind."""
    lazy, bind = parse({"modelRef": REF, key: "lazy"}), parse({"modelRef": REF})

    assert (MountMode.LAZY, MountMode.BIND) == (lazy.mount_mode, bind.mount_mode)
    assert lazy.arguments != bind.arguments == parse({"modelRef": REF, key: "bind"}).arguments


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"modelRef": ""}, "modelRef: '' is empty"),
        ({"modelRef": "two words"}, "two words"),
        ({"modelRef": REF, "pullPolicy": "always"}, "one of Always, IfNotPresent, Never; did you mean Always?"),
        ({"modelRef": REF, "mountMode": "overlay"}, "must be one of bind, lazy"),
        ({"modelRef": REF, "excludeModelWeights": "yes"}, "write true or false"),
        ({"modelRef": REF, "excludeFilePatterns": "[1"}, "not a JSON array of strings"),
        ({"modelRef": REF, "excludeFilePatterns": "[1]"}, "not a JSON array of strings"),
        ({"modelRef": REF, "excludeFilePatterns": '"*.bin"'}, "not a JSON array of strings"),
        ({"modelRef": REF, "excludeFilePatterns": "*.bin,*.pt"}, "not a JSON array of strings"),
        ({"modelRef": REF, "excludeFilePatterns": "[" * 100_000}, "not a JSON array of strings"),
        ({"modelRef": REF, "excludeFilePatterns": json.dumps(["a" * 1025])}, "a pattern of over 1024 bytes"),
        ({"modelRef": REF, "excludeFilePatterns": json.dumps(["é" * 513])}, "a pattern of over 1024 bytes"),
        ({"modelRef": REF, "excludeFilePatterns": json.dumps(["a"] * 257)}, "over 256 patterns"),
        ({"modelRef": REF, "excludeFilePatterns": json.dumps(["a" * 1000] * 17)}, "over 16384 bytes of patterns"),
        ({"modelRef": REF, "excludeFilePatterns": r'["\ud800"]'}, "not Unicode text"),
        ({"modelref": REF}, "did you mean modelRef?"),
        ({"modelRef": REF, "pullpolicy": "Always"}, "did you mean pullPolicy?"),
        ({"modelRef": REF, "exclude-model-weights": "true"}, "did you mean excludeModelWeights?"),
        ({"modelRef": REF, f"{SERVICE}/excludeModelWeights": "1"}, f"did you mean {SERVICE}/exclude-model-weights?"),
        ({"modelRef": REF, "zzzz": "1"}, "known are"),
        ({"modelRef": REF, "x" * 100_000: "1"}, "unknown attribute"),
        ({"modelRef": REF, f"{SERVICE}/reference": "registry.test/other:v1"}, "mean the same and disagree"),
        ({f"{SERVICE}/model-ref": REF, f"{SERVICE}/reference": "registry.test/other:v1"}, "disagree"),
    ],
)
def test_bad_attributes(attributes: dict[str, str], message: str) -> None:
    """The attribute is named, and what to write instead."""
    with pytest.raises(InvalidRequest) as caught:
        parse(attributes)

    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name",
    [
        *("pullPolicy", "mountMode", "include", "exclude", "subPath", "excludeModelWeights", "excludeFilePatterns"),
        *("layout", "modelName", "type", "checkDiskQuota", "nodeIp"),
    ],
)
def test_an_empty_value_is_none(name: str) -> None:
    """Templates write such for what nobody set, in a pod as in a StorageClass."""
    check_parameters({"modelRef": REF, name: ""}, SERVICE)

    assert parse({"modelRef": REF}) == parse({"modelRef": REF, name: ""})


def test_an_empty_value_disagrees_with_none() -> None:
    """Another spelling of the attribute counts, and a dynamic volume may have any that are empty."""
    spec = parse({"modelRef": REF, "subPath": "", f"{SERVICE}/sub-path": "a"})
    dynamic = parse_spec("volume", "/target", {"include": "", "layout": ""}, {}, SERVICE)

    assert "a" == spec.selection.sub_path
    assert isinstance(dynamic, DynamicSpec)


def test_two_spellings_that_agree() -> None:
    """Are one."""
    assert REF == str(parse({"modelRef": REF, f"{SERVICE}/reference": REF}).reference)


def test_foreign_domains_are_ignored() -> None:
    """Whatever they say."""
    foreign = {
        "storage.kubernetes.io/csiProvisionerIdentity": "1",
        "csi.storage.k8s.io/ephemeral": "true",
        "a.b/modelRef": "x",
    }

    assert REF == str(parse({"modelRef": REF} | foreign).reference)


def test_another_service_name_changes_the_prefix() -> None:
    """The old one is a foreign domain then."""
    attributes = {"models.example/reference": REF, f"{SERVICE}/reference": "registry.test/other:v1"}

    assert REF == str(parse(attributes, service="models.example").reference)


def test_the_pod_that_asks() -> None:
    """As kubelet says; nobody without podInfoOnMount."""
    info = {"pod.name": "web", "pod.namespace": "shop", "pod.uid": "1234", "serviceAccount.name": "default"}
    pod = parse({"modelRef": REF} | {f"csi.storage.k8s.io/{key}": value for key, value in info.items()}).pod

    assert pod is not None
    assert ("shop/web", "1234", "default") == (str(pod), pod.uid, pod.service_account)


def test_secrets_are_shown_nowhere() -> None:
    """Not in a repr, not in the arguments that are recorded."""
    spec = parse({"modelRef": REF}, {".dockerconfigjson": "s3cret"})

    assert "s3cret" not in repr(spec) + spec.arguments


def test_arguments_are_what_must_not_differ() -> None:
    """Spelling, secrets and the pod may; reference, policy and selection may not."""
    same = [
        {"modelRef": REF},
        {f"{SERVICE}/reference": REF, "csi.storage.k8s.io/pod.name": "web"},
        {"modelRef": REF, "pullPolicy": "IfNotPresent"},
    ]
    other = [
        {"modelRef": f"{REF}2"},
        {"modelRef": REF, "pullPolicy": "Always"},
        {"modelRef": REF, "excludeModelWeights": "1"},
    ]

    assert 1 == len({parse(attributes).arguments for attributes in same})
    assert 4 == len({parse(attributes).arguments for attributes in [same[0], *other]})


def test_parameters_of_a_storage_class() -> None:
    """Upstream's, and ours."""
    check_parameters(
        {f"{SERVICE}/reference": REF, f"{SERVICE}/type": "image", f"{SERVICE}/node-ip": "10.0.0.1"}, SERVICE
    )
    check_parameters({"modelRef": REF, "csi.storage.k8s.io/fstype": "ext4"}, SERVICE)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "the StorageClass has no modelRef"),
        ({"modelRef": "two words"}, "two words"),
        ({"modelRef": REF, f"{SERVICE}/type": "file"}, "must be one of image"),
        ({"modelRef": REF, f"{SERVICE}/check-disk-quota": "maybe"}, "boolean"),
        ({"modelRef": REF, "modelReff": "x"}, "did you mean modelRef?"),
        ({"modelRef": REF, f"{SERVICE}/mount-id": "m"}, "no controller mounts into a running pod"),
        ({"modelRef": REF, "subPath": "../x"}, "subPath"),
        ({"modelRef": "registry.test/a--b:v1", "layout": "huggingface-hub"}, "set modelName"),
    ],
)
def test_bad_parameters(parameters: dict[str, str], message: str) -> None:
    """As attributes are."""
    with pytest.raises(InvalidRequest) as caught:
        check_parameters(parameters, SERVICE)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "selection"),
    [
        ({"include": "*.json"}, Selection(include=("*.json",))),
        ({f"{SERVICE}/include": " *.json , tokenizer/** ,"}, Selection(include=("*.json", "tokenizer/**"))),
        ({"exclude": ' ["a,b", "!c"]'}, Selection(exclude=("a,b", "!c"))),
        ({f"{SERVICE}/exclude": "*.bin,!keep.bin"}, Selection(exclude=("*.bin", "!keep.bin"))),
        ({"include": "", "exclude": "[]", "subPath": ""}, Selection()),
        ({"subPath": "/text_encoder/"}, Selection(sub_path="text_encoder")),
        ({f"{SERVICE}/sub-path": "./a//b/../c"}, Selection(sub_path="a/c")),
        *(({"subPath": text}, Selection(sub_path=".")) for text in ("/", ".", "./", "a/..")),
    ],
)
def test_attributes_that_choose_files(attributes: dict[str, str], selection: Selection) -> None:
    """In both spellings; lists as JSON or with commas."""
    assert selection == parse({"modelRef": REF} | attributes).selection


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({}, ""),
        ({"layout": "files"}, ""),
        ({"layout": "huggingface-hub"}, "models/tiny"),
        ({f"{SERVICE}/layout": "huggingface-hub", f"{SERVICE}/model-name": "Qwen/Qwen3-0.6B"}, "Qwen/Qwen3-0.6B"),
        ({"layout": "huggingface-hub", "modelName": "gpt2"}, "gpt2"),
        ({"layout": "huggingface-hub", "modelName": ""}, "models/tiny"),
        ({"layout": "huggingface-hub", "modelRef": "registry.test/a/b/c/d:v1"}, "c/d"),
        ({"layout": "huggingface-hub", "modelRef": "registry.test/alone:v1"}, "alone"),
    ],
)
def test_layouts(attributes: dict[str, str], name: str) -> None:
    """The name of a model in a hub cache is told, or the end of the reference's path."""
    assert Layout(name) == parse({"modelRef": REF} | attributes).layout


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"include": "[1]"}, "not a JSON array of strings"),
        ({"include": "[ab].json"}, "a pattern that begins with [ can only stand in an array"),
        ({"exclude": ",".join("a" * 257)}, "over 256 patterns"),
        ({"exclude": "a" * 1025}, "a pattern of over 1024 bytes"),
        ({"include": ",".join(["a" * 1000] * 17)}, "over 16384 bytes of patterns"),
        ({"subPath": "../x"}, "it leaves the artifact"),
        ({"subPath": "a\tb"}, "it has control characters"),
        ({"layout": "huggingface"}, "must be one of files, huggingface-hub; did you mean huggingface-hub?"),
        ({"modelName": "org/name"}, "of no use without a layout (set layout: huggingface-hub too)"),
        *(
            ({"layout": "huggingface-hub", "modelName": name}, "is no name of a model")
            for name in ("a/b/c", "-a", "a/", "/a", "a--b", "a..b", "a.git", "a b", "../a", "ä", "n" * 97)
        ),
        ({"layout": "huggingface-hub", "modelRef": "registry.test/a--b:v1"}, "set modelName"),
        ({"inclued": "*"}, "did you mean include?"),
        ({f"{SERVICE}/subPath": "a"}, f"did you mean {SERVICE}/sub-path?"),
    ],
)
def test_bad_choices(attributes: dict[str, str], message: str) -> None:
    """The attribute is named, and what is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        parse({"modelRef": REF} | attributes)

    assert message in str(caught.value)


def test_arguments_of_old_records_stay() -> None:
    """A volume that an earlier release published is known again: what is not used adds nothing to its arguments."""
    assert (
        f'["{REF}", "IfNotPresent", {{"exclude_patterns": [], "exclude_weights": false}}]'
        == parse({"modelRef": REF}).arguments
    )


def test_what_is_shown_is_an_argument() -> None:
    """Each attribute that chooses or arranges files makes another volume."""
    hub = {"layout": "huggingface-hub"}
    others = [{"include": "*"}, {"exclude": "a"}, {"subPath": "a"}, hub, hub | {"modelName": "a/b"}]

    assert 6 == len({parse({"modelRef": REF} | attributes).arguments for attributes in [{}, *others]})


def test_a_dynamic_volume_chooses_nothing() -> None:
    """Its pod does, for each model, by upstream's two filters."""
    with pytest.raises(InvalidRequest, match="the volume has include and no modelRef"):
        parse_spec("volume", "/target", {"include": "*"}, {}, SERVICE)
