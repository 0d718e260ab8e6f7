"""docs/artifacts.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from modelcsi.artifact.kinds.names import KNOWN_NAMES, SHARDS
from modelcsi.artifact.kinds.refused import THINGS
from tests.examples import EXPECTED, MOUNTABLE
from tests.producers import PRODUCTS

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "artifacts.md"
_EXAMPLES = {
    "modctl-tar": ("modctl", "v0.2, tar"),
    "modctl-raw": ("modctl", "v0.2, `build --raw`"),
    "modctl-cnai-tar": ("modctl", "v0.0.2 to v0.1, v0.2.1-cnai"),
    "aikit-modelpack-raw": ("AIKit", "modelpack, raw"),
    "aikit-modelpack-tar": ("AIKit", "modelpack, tar"),
    "modelcar-oci-image": ("podman", "`FROM scratch`, `COPY` to `/models/`"),
    "olot-modelpack": ("olot", "`--add-modelpack`"),
    "olot-index": ("olot", "index"),
    "kitops-modelpack-tar": ("KitOps", "`--use-model-pack`"),
    "kitops-modelkit-tar": ("KitOps ModelKit", "since 1.10"),
    "docker-model-runner-v0.2": ("Docker Model Runner", "v0.2"),
    "ollama": ("Ollama", "all"),
    "oras-push-file-and-dir": ("ORAS CLI", "files and directories"),
}
"""The rows that tests/artifacts proves; what is constructed there is no producer's."""


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = _PAGE.read_text().partition(f"{heading}\n")[2]
    lines = section[section.index("|---") :].splitlines()[1:]
    table = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_every_producer_has_a_row_and_every_row_a_proof() -> None:
    """No row is there that no test mounts."""
    proven = {(*_EXAMPLES[name], EXPECTED[name]["kind"]) for name in _EXAMPLES}
    proven |= {(product.producer, product.version, product.kind) for product in PRODUCTS}

    assert proven == {tuple(row[:3]) for row in rows("## Producers")}


def test_every_example_is_of_a_producer() -> None:
    """An example that is added gets its row."""
    assert {name for name in MOUNTABLE if not name.startswith("edge-")} == set(_EXAMPLES)


def test_what_is_refused_says_so() -> None:
    """In its row."""
    refused = {(product.producer, product.version) for product in PRODUCTS if product.refusal}

    assert refused == {(row[0], row[1]) for row in rows("## Producers") if row[3].startswith("refused")}


def test_names_by_media_type() -> None:
    """The table is the code's, in its order."""
    expected = [
        [f"`{media_type}`", f"`{name}`" + (", shards" if media_type in SHARDS else "")]
        for media_type, name in KNOWN_NAMES.items()
    ]

    assert expected == rows("### Names by media type")


def test_things_that_are_no_models() -> None:
    """Likewise."""
    expected = [[thing.name, ", ".join(f"`{prefix}`" for prefix in thing.prefixes)] for thing in THINGS]

    assert expected == rows("## Refused")
