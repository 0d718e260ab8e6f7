from __future__ import annotations

import time

import pytest

from modelcsi.artifact.selection import ROOT, Selection, explain_nothing, has_weight_name, idle_patterns


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        ((), "model.safetensors", True),
        (("model.safetensors.index.json",), "model.safetensors.index.json", False),
        (("*.safetensors",), "model-00001-of-00003.safetensors", False),
        (("*.model", "!tiktoken.model"), "tiktoken.model", True),
        (("!tiktoken.model", "*.model"), "tiktoken.model", False),
        (("*.safetensors",), "README.md", True),
        (("*.safetensors",), "text_encoder/model.safetensors", False),
        (("text_encoder/*",), "text_encoder/model.safetensors", True),
        (("[", "*.md"), "README.md", False),
    ],
)
def test_patterns_judge_base_names(patterns: tuple[str, ...], name: str, expected: bool) -> None:
    """The last pattern that matches the base name decides; a malformed one matches nothing."""
    assert expected is Selection(exclude_patterns=patterns).wants(name, is_weight=False)


@pytest.mark.parametrize(
    ("path", "is_weight", "expected"),
    [
        ("foo.safetensors", False, False),
        ("bar.zoo.safetensors", False, False),
        ("a/.safetensors", False, False),
        ("model.safetensors.index.json", False, False),
        ("a/model.safetensors.index.json", False, True),
        ("foo.safetensors.bak", False, True),
        ("foo.SAFETENSORS", False, True),
        ("pytorch_model.bin", False, False),
        ("model.gguf", False, False),
        ("shard.dat", True, False),
        ("config.json", False, True),
        ("safetensors", False, True),
    ],
)
def test_weights_by_name_and_type(path: str, is_weight: bool, expected: bool) -> None:
    """Weights are what upstream takes for them, what the media type says, and the other frameworks' suffixes."""
    assert expected is Selection(exclude_weights=True).wants(path, is_weight=is_weight)


def test_a_pattern_beats_the_weights_flag() -> None:
    """`!foo.safetensors` includes a weight although weights are excluded."""
    selection = Selection(exclude_weights=True, exclude_patterns=("!foo.safetensors",))

    assert [True, False] == [selection.wants(f"{name}.safetensors", is_weight=True) for name in ("foo", "bar")]


def test_key_is_stable_text() -> None:
    """Views on disk are named by this text: it may never change."""
    assert (
        '{"exclude_patterns":["*.bin","!\\u00e9"],"exclude_weights":true}'
        == Selection(exclude_weights=True, exclude_patterns=("*.bin", "!é")).key()
    )


def test_only_the_empty_selection_is_everything() -> None:
    """Each filter alone is a filter."""
    selections = (Selection(), Selection(exclude_weights=True), Selection(exclude_patterns=("!x",)))

    assert [True, False, False] == [selection.is_everything for selection in selections]


def test_names_without_a_suffix_are_no_weights() -> None:
    """A file called `bin` or `model` is not a weight by its name."""
    assert [False, False, True] == [has_weight_name(path) for path in ("bin", "a.b/model", "x/y.onnx_data")]


FILES = ("README.md", "config.json", "model.bin", "onnx/config.json", "onnx/model.onnx", "onnx/deep/model.onnx")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(include=("*.json",)), ["config.json", "onnx/config.json"]),
        (Selection(include=("/*.json",)), ["config.json"]),
        (Selection(include=("*.json", "!onnx/*")), ["config.json"]),
        (Selection(exclude=("onnx/",)), ["README.md", "config.json", "model.bin"]),
        (Selection(exclude=("*", "!*.md")), ["README.md"]),
        (Selection(include=("*.json",), exclude=("onnx", "!README.md")), ["config.json"]),
        (Selection(sub_path="onnx"), ["onnx/config.json", "onnx/model.onnx", "onnx/deep/model.onnx"]),
        (Selection(sub_path="onnx", include=("config.json",)), ["onnx/config.json"]),
        (Selection(sub_path="onnx", include=("/config.json",)), []),
        (Selection(sub_path="onnx", exclude=("onnx/deep/",)), ["onnx/config.json", "onnx/model.onnx"]),
        (Selection(sub_path="onn"), []),
        (Selection(sub_path=ROOT, include=("*.md",)), ["README.md"]),
        (Selection(include=("*.bin", "*.md"), exclude_weights=True), ["README.md"]),
        (Selection(include=("*.bin",), exclude_weights=True, exclude_patterns=("!model.*",)), ["model.bin"]),
        (Selection(exclude=("*.json",), exclude_patterns=("!config.json",)), ["README.md", "model.bin", *FILES[4:]]),
    ],
)
def test_all_that_choose_must_want_a_file(selection: Selection, expected: list[str]) -> None:
    """What one leaves out no other brings back; patterns are on the artifact's paths, whatever is shown as root."""
    assert expected == [path for path in FILES if selection.wants(path, is_weight=False)]


def test_only_upstreams_filters_leave_out_what_has_no_name() -> None:
    """`include` can mean a file that is called by its digest, as `modelcsi inspect` lists it."""
    selections = (Selection(include=("sha256-*",)), Selection(exclude=("a",)), Selection(exclude_patterns=("a",)))

    assert [True, True, False] == [
        selection.wants("sha256-abc", is_weight=False, is_unnamed=True) for selection in selections
    ]


@pytest.mark.parametrize(
    ("selection", "directory", "expected"),
    [
        (Selection(include=("a/b",)), "c", True),
        (Selection(exclude=("onnx",)), "onnx", False),
        (Selection(exclude=("onnx",)), "onnx/deep", False),
        (Selection(exclude=("onnx/*",)), "onnx", True),
        (Selection(sub_path="a/b"), "a", True),
        (Selection(sub_path="a/b"), "a/b", True),
        (Selection(sub_path="a/b"), "a/b/c", True),
        (Selection(sub_path="a/b"), "a/bc", False),
        (Selection(sub_path=ROOT), "a", True),
    ],
)
def test_directories_of_which_nothing_is_wanted(selection: Selection, directory: str, expected: bool) -> None:
    """They need not be fetched."""
    assert expected is selection.may_want_below(directory)


def test_keys_tell_selections_apart_and_can_be_read() -> None:
    """Each field is in the key when it is used."""
    selections = [
        Selection(),
        *(Selection(include=("a",)), Selection(exclude=("a",)), Selection(sub_path="a"), Selection(sub_path=ROOT)),
        Selection(True, ("a",), ("b", "c"), ("d",), "e/f"),
    ]

    assert 6 == len({selection.key() for selection in selections})
    assert selections == [Selection.from_key(selection.key()) for selection in selections]
    assert '{"exclude_patterns":[],"exclude_weights":false}' == Selection().key()


@pytest.mark.parametrize("key", ["", "[]", "1", "{}", '{"exclude_weights":true,"exclude_patterns":1}'])
def test_other_text_is_no_selection(key: str) -> None:
    """A record that was damaged."""
    with pytest.raises(ValueError, match=r".*"):
        Selection.from_key(key)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(include=("*.json", "*.gguf")), {"include": ["*.gguf"]}),
        (Selection(include=("*", "!*.gguf"), exclude=("!*.md", "x/")), {"include": ["!*.gguf"], "exclude": ["x/"]}),
        (Selection(exclude_patterns=("onnx/*", "*.md")), {"excludeFilePatterns": ["onnx/*"]}),
        (Selection(), {}),
    ],
)
def test_patterns_that_match_nothing(selection: Selection, expected: dict[str, list[str]]) -> None:
    """Each is judged alone, by attribute."""
    assert expected == idle_patterns(selection, FILES)


@pytest.mark.parametrize(
    ("selection", "message", "hint"),
    [
        (
            Selection(include=("*.gguf", "*.GGUF")),
            "no file is matched by include '*.gguf', '*.GGUF'",
            "it has 'README.md'",
        ),
        (Selection(exclude=("*",)), 'exclude ["*"] leaves nothing of the artifact', "inspect"),
        (Selection(include=("*.md",), exclude=("README.md", "x")), "no file is matched by exclude 'x'", "README.md"),
        (Selection(sub_path="none"), "the artifact has no directory 'none'", "it has 'onnx', 'onnx/deep'"),
        (Selection(sub_path="config.json"), "subPath 'config.json' is no directory", "include names files"),
        (
            Selection(sub_path="onnx", include=("*.md",)),
            "no file is matched by include '*.md'",
            "it has 'onnx/config.json'",
        ),
        (Selection(True, ("*.*",)), 'excludeModelWeights and excludeFilePatterns ["*.*"] leaves nothing', "it has"),
    ],
)
def test_nothing_is_explained(selection: Selection, message: str, hint: str) -> None:
    """The answer says which patterns matched nothing, and what there is."""
    told = explain_nothing(selection, FILES)

    assert message in told[0]
    assert hint in told[1]


def test_only_some_idle_patterns_are_told() -> None:
    """Of many, the first; to hold each against each file takes its time."""
    told, _ = explain_nothing(Selection(include=tuple(f"x{number}" for number in range(250))), FILES)

    assert told.endswith("no file is matched by include 'x0', 'x1', 'x2', 'x3', 'x4', 'x5' and others")


@pytest.mark.parametrize(
    "selection",
    [
        Selection(include=tuple(f"a{number}/**/x{number}*" for number in range(250))),
        Selection(include=("json",), exclude=tuple(f"*{number}.x" for number in range(250))),
        Selection(include=("json",), exclude_patterns=tuple(f"[a-z]*{number}.x?" for number in range(250))),
    ],
)
def test_nothing_is_explained_in_time(selection: Selection) -> None:
    """A pod chooses the patterns, and the model."""
    files = [f"dir{number // 1000}/file-{number}.json" for number in range(100_000)]
    began = time.process_time()
    told, _ = explain_nothing(selection, files)

    assert "no file is matched by" in told
    assert time.process_time() - began < 6
