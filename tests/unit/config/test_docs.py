from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def test_the_page_says_what_the_code_does() -> None:
    """docs/configuration.md is what hack/gen-docs writes now, and every field has its text."""
    result = subprocess.run(
        [sys.executable, _ROOT / "hack" / "gen-docs", "--check"], capture_output=True, text=True, check=False
    )

    assert "" == result.stderr
