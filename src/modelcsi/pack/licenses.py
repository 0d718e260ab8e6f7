"""Under which licences a model says that it is, as SPDX expressions (model-spec, config.md).

Asked in this order, and the first that answers counts: the front matter of README.md (the model card of the Hugging Face
Hub), a field of the weights' own metadata, the text of a LICENSE file. What is no licence of SPDX's list is a `LicenseRef-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from modelcsi.pack.walk import SourceFile

_MAX_CARD_BYTES = 4 << 20
"""Of a README's front matter; leaderboards put their results there, 1 MB was met."""
_MAX_FIELD_BYTES = 4096
_MAX_TEXT_BYTES = 64 << 10
"""Of a licence's text; the GPL has 35 kB."""
_MAX_APACHE = 12_000
"""The Apache License without superfluous blanks has 11,000 characters."""
_MAX_LICENSES = 16
_FENCE = re.compile(rb"---[ \t]*\r?\n")
_END = re.compile(rb"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)
_KEY = re.compile(r"^(license|license_name)[ \t]*:", re.MULTILINE)
_NEXT_KEY = re.compile(r"^[^\s#\-]", re.MULTILINE)
_SPDX_NAMES = (
    "AFL-3.0", "AGPL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0",
    "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-3.0",
    "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
    "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ECL-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.1",
    "EUPL-1.2", "GFDL-1.3", "GPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0", "GPL-3.0-only", "GPL-3.0-or-later", "ISC",
    "LGPL-2.1", "LGPL-3.0", "LGPL-3.0-only", "LGPL-3.0-or-later", "LPPL-1.3c", "MIT", "MPL-2.0", "MS-PL", "NCSA", "ODC-By-1.0",
    "ODbL-1.0", "OFL-1.1", "OSL-3.0", "PDDL-1.0", "PostgreSQL", "Unlicense", "WTFPL", "Zlib",
)  # fmt: skip
_SPDX = {name.lower(): name for name in _SPDX_NAMES} | {
    # As the Hub calls them.
    "apache 2.0": "Apache-2.0",
    "cc": "",
    "bsd": "",
    "gpl": "",
    "lgpl": "",
    "pddl": "PDDL-1.0",
    "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0",
    "gfdl": "",
    "unknown": "",
    "other": "",
}
"""By the name in lower case; empty for those that leave open which one is meant."""
_EXPRESSION = re.compile(r"[A-Za-z0-9.+() -]+")
_WORD = re.compile(r"\b(?:AND|OR|WITH)\b")
_NO_REF = re.compile(r"[^A-Za-z0-9.-]+")
# Only whole texts: one with a clause more is another licence.
_APACHE = re.compile(r"apache license version 2\.0, january 2004 .* end of terms and conditions\b")
_MIT = re.compile(
    r"(?:the )?mit license(?: \(mit\))? (?:copyright .{1,400} )?permission is hereby granted, free of charge, .{930,970}"
    r"dealings in the software\."
)
_LICENSE_FILES = frozenset({"license", "license.txt", "license.md", "licence", "licence.txt", "licence.md", "copying"})


def read_licenses(files: Sequence[SourceFile], told: Iterable[str]) -> tuple[str, ...]:
    """The licences of one model's files; `told` is what the weights' metadata say."""
    by_name = {file.path.lower(): file for file in files}
    card = by_name.get("readme.md")
    licenses = _of_card(_head(card.source, _MAX_CARD_BYTES)) if card else []
    licenses = licenses or [name for text in told if (name := spdx_name(text))]
    if not licenses:
        texts = (by_name[name] for name in sorted(_LICENSE_FILES & by_name.keys()))
        licenses = [name for file in texts if file.size <= _MAX_TEXT_BYTES and (name := _of_text(file.source))]
    return tuple(dict.fromkeys(licenses))[:_MAX_LICENSES]


def spdx_name(text: str) -> str:
    """The SPDX expression that a name means; empty for one that tells nothing."""
    text = text.strip()
    known = _SPDX.get(text.lower())
    if known is not None or not text or len(text) > _MAX_FIELD_BYTES:
        return known or ""
    if _WORD.search(text) and _EXPRESSION.fullmatch(text):
        return text
    if text.startswith("LicenseRef-") and not _NO_REF.search(text):
        return text
    reference = _NO_REF.sub("-", text).strip("-.")[:100]
    return f"LicenseRef-{reference}" if reference else ""


def _of_card(content: bytes) -> list[str]:
    """Only the two fields are parsed as YAML: a whole card of results takes PyYAML many seconds."""
    fence = _FENCE.match(content.removeprefix(b"\xef\xbb\xbf"))
    end = _END.search(content, fence.end()) if fence else None
    if fence is None or end is None:
        return []
    matter = content[fence.end() : end.start()].decode("utf-8", "replace").replace("\r\n", "\n")
    names = _field(matter, "license")
    if [name.lower() for name in names] == ["other"]:
        names = _field(matter, "license_name")
    return [found for name in names if (found := spdx_name(name))]


def _field(matter: str, key: str) -> list[str]:
    start = next((match.start() for match in _KEY.finditer(matter) if match[1] == key), None)
    if start is None:
        return []
    following = _NEXT_KEY.search(matter, matter.find("\n", start) + 1 or len(matter))
    text = matter[start : following.start() if following else len(matter)]
    try:
        value = yaml.safe_load(text) if len(text) <= _MAX_FIELD_BYTES else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in (found if isinstance(found, list) else [found]) if isinstance(item, str)]


def _of_text(path: Path) -> str:
    text = " ".join(_head(path, _MAX_TEXT_BYTES).decode("utf-8", "replace").lower().split())
    if _MIT.fullmatch(text):
        return "MIT"
    return "Apache-2.0" if len(text) <= _MAX_APACHE and _APACHE.match(text) else ""


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""
