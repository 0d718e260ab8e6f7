from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs" / "semantics.md"
_NO_PROMISES = "## Not promised"


def _sentences() -> list[str]:
    """The points of the lists, but for the section of what is not promised; each on one line."""
    promises = _PAGE.read_text().partition(_NO_PROMISES)[0]
    points = promises.split("\n- ")[1:]
    return [" ".join(point.partition("\n\n")[0].partition("\n#")[0].split()) for point in points]


def _docstrings() -> Iterator[str]:
    for path in (_ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield " ".join((ast.get_docstring(node) or "").split())


@pytest.fixture(scope="module")
def quotes() -> list[str]:
    """What all tests say."""
    return list(_docstrings())


@pytest.mark.parametrize("sentence", _sentences())
def test_every_promise_is_tested(sentence: str, quotes: list[str]) -> None:
    """A sentence of docs/semantics.md is quoted by the docstring of a test that proves it."""
    assert [quote for quote in quotes if sentence in quote]


def test_the_page_is_read() -> None:
    """The list is not empty because the page changed its form."""
    assert len(_sentences()) > 20
