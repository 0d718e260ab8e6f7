from __future__ import annotations

import pytest

from modelcsi.artifact.selection import Selection, has_weight_name


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
