from __future__ import annotations

import time
from pathlib import Path

import pytest

from modelcsi.pack.licenses import read_licenses, spdx_name
from modelcsi.pack.walk import walk
from tests.unit.pack.conftest import write

REPOSITORY = Path(__file__).parents[3]
MIT = """\
MIT License

Copyright (c) 2023 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def licenses(directory: Path, *told: str) -> tuple[str, ...]:
    """What the files of a directory, and the metadata of weights, tell."""
    write(directory, "model.bin")
    return read_licenses(walk(directory).files, told)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", ("Apache-2.0",)),
        ("\ufeff---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n", ("MIT",)),
        ("---\ntags: [a]\nlicense: 'cc-by-nc-4.0' # so far\nmore: 1\n---\n", ("CC-BY-NC-4.0",)),
        ("---\nlicense:\n- apache-2.0\n- mit\n- mit\n---\n", ("Apache-2.0", "MIT")),
        ("---\nlicense:\n  - gemma\nx: y\n---\n", ("LicenseRef-gemma",)),
        ("---\nlicense: llama3.1\n---\n", ("LicenseRef-llama3.1",)),
        ("---\nlicense: other\nlicense_name: Qwen Research/2\nlicense_link: x\n---\n", ("LicenseRef-Qwen-Research-2",)),
        ("---\nlicense: other\n---\n", ()),
        ("---\nlicense: unknown\n---\n", ()),
        ("---\nlicense: Apache-2.0 OR MIT\n---\n", ("Apache-2.0 OR MIT",)),
        ("---\nmodel:\n  license: mit\n---\n", ()),
        ("---\nlicense: mit\n", ()),
        ("# A model\n---\nlicense: mit\n---\n", ()),
        ("---\nlicense: [\n---\n", ()),
        ("---\nlicense: 5\n---\n", ()),
        ("---\nlicense: &a [*a]\n---\n", ()),
        ("---\nlicense: !!python/name:os.system\n---\n", ()),
        (f"---\nlicense: {'[' * 4000}\n---\n", ()),
        ("", ()),
    ],
)
def test_front_matter_of_the_model_card(tmp_path: Path, card: str, expected: tuple[str, ...]) -> None:
    """The Hub's names become those of SPDX; what cannot be understood tells nothing."""
    write(tmp_path, "README.md", card.encode())

    assert expected == licenses(tmp_path)


def test_card_of_results_is_read_quickly(tmp_path: Path) -> None:
    """Leaderboards write a megabyte of results into a front matter, which PyYAML would parse for minutes."""
    results = "model-index:\n" + "".join(f"- name: task {number}\n  value: 0.5\n" for number in range(50_000))
    write(tmp_path, "README.md", f"---\n{results}license: mit\n---\n".encode())
    began = time.monotonic()

    assert ("MIT",) == licenses(tmp_path)
    assert time.monotonic() - began < 5


def test_card_goes_before_the_weights_and_these_before_a_file(tmp_path: Path) -> None:
    """The first source that answers counts."""
    write(tmp_path, "LICENSE", MIT.encode())
    assert ("MIT",) == licenses(tmp_path)
    assert ("BSD-3-Clause",) == licenses(tmp_path, "", "bsd-3-clause")
    write(tmp_path, "README.md", b"---\nlicense: isc\n---\n")

    assert ("ISC",) == licenses(tmp_path, "bsd-3-clause")


def test_text_of_a_licence_is_known_only_as_a_whole(tmp_path: Path) -> None:
    """Apache's and MIT's; one with a clause more is another licence."""
    apache = (REPOSITORY / "LICENSE").read_bytes()
    texts = {"a": apache, "b": MIT.encode(), "c": MIT.encode() + b"\nNot for war.", "d": apache + b"No war. " * 500}
    for name, text in texts.items():
        write(tmp_path, f"{name}/LICENSE", text)

    assert [("Apache-2.0",), ("MIT",), (), ()] == [licenses(tmp_path / name) for name in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("APACHE-2.0", "Apache-2.0"),
        (" mit ", "MIT"),
        ("", ""),
        ("\x00\n", ""),
        ("LicenseRef-x", "LicenseRef-x"),
        ("é" * 5000, ""),
    ],
)
def test_name_of_spdx(text: str, expected: str) -> None:
    """Case and blanks do not matter, and nothing strange gets through."""
    assert expected == spdx_name(text)
