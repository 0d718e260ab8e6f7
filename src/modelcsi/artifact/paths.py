"""The one rule set for names of files, whatever kind of artifact and layer they come from (design D15).

Names are decided lexically, as text: what the file system would make of them (symbolic links) is `tree`'s concern.
"""

from __future__ import annotations

import re

from modelcsi.errors import UnsupportedArtifact

MAX_COMPONENT_BYTES = 255
MAX_PATH_BYTES = 4095
"""PATH_MAX counts the terminating NUL: with 4096 bytes no system call accepts the path."""
MAX_DEPTH = 64
_MAX_TARGET_COMPONENTS = 2 * MAX_DEPTH
_SHOWN_CHARACTERS = 200

# Names that need no thought: nearly all of them. 100,000 members pass through here, and this halves their cost.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/){0,8}[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PLAIN_CHARACTERS = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def normalise_path(text: str, where: str) -> str:
    """The relative path that `text` means below the artifact's root, without `.`, `..`, and doubled or trailing slashes.

    A backslash is an ordinary character, and so is any number of dots beside others. Raises UnsupportedArtifact, which
    names the path and `where` ("layer sha256:…"), for a path that is absolute, leaves the root, is empty, or that the
    rules or a Linux file system do not allow.
    """
    if len(text) <= _PLAIN_CHARACTERS and _PLAIN.fullmatch(text):
        return text
    if reason := _objection(text):
        raise UnsupportedArtifact(f"unsafe path {shown(text)} in {where}: {reason}")
    if text.startswith("/"):
        raise UnsupportedArtifact(f"unsafe path {shown(text)} in {where}: it is absolute")
    components = _components(text, where)
    if not components:
        raise UnsupportedArtifact(f"unsafe path {shown(text)} in {where}: it names no file")
    if len(components) > MAX_DEPTH:
        raise UnsupportedArtifact(f"unsafe path {shown(text)} in {where}: it is over {MAX_DEPTH} directories deep")
    if any(len(component.encode()) > MAX_COMPONENT_BYTES for component in components):
        raise UnsupportedArtifact(f"unsafe path {shown(text)} in {where}: a part has over {MAX_COMPONENT_BYTES} bytes")
    return _within_length("/".join(components), where)


def lexical_path(text: str, where: str) -> str:
    """Where any `text` at all would lie below a root that is also that of absolute paths: what a container's root is.

    Empty for the root itself. Not checked but for one thing: raises UnsupportedArtifact if it leaves the root.
    """
    if len(text) <= _PLAIN_CHARACTERS and _PLAIN.fullmatch(text):
        return text
    return "/".join(_components(text, where))


def _components(text: str, where: str) -> list[str]:
    components: list[str] = []
    for component in text.split("/"):
        if component == "..":
            if not components:
                raise UnsupportedArtifact(f"unsafe path {shown(text)} in {where}: it leaves the artifact")
            components.pop()
        elif component not in {"", "."}:
            components.append(component)
    return components


def check_link_target(path: str, target: str, where: str) -> None:
    """Refuse a symbolic link at the normalised `path` whose `target`, read as text, is absolute or leaves the root.

    Raises UnsupportedArtifact naming both and `where`. A link to the root itself is inside.
    """
    reason = _objection(target)
    components = target.split("/")
    if reason is None and not target:
        reason = "it is empty"
    if reason is None and target.startswith("/"):
        reason = "it is absolute"
    if reason is None and (len(components) > _MAX_TARGET_COMPONENTS or len(target.encode()) > MAX_PATH_BYTES):
        reason = "it is too long"
    if reason is None and _leaves(path.count("/"), components):
        reason = "it leaves the artifact"
    if reason is not None:
        raise UnsupportedArtifact(f"unsafe link {shown(path)} -> {shown(target)} in {where}: {reason}")


def base_name(path: str) -> str:
    """The last component of a normalised path."""
    return path.rpartition("/")[2]


def shown(text: str) -> str:
    """Untrusted text as it may stand in a message: quoted, escaped, of bounded length."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")


def _leaves(depth: int, components: list[str]) -> bool:
    for component in components:
        if component == "..":
            depth -= 1
        elif component not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False


def _objection(text: str) -> str | None:
    if _CONTROL.search(text):
        return "it has control characters"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8"  # JSON can carry half a surrogate pair
    return None


def _within_length(path: str, where: str) -> str:
    if len(path.encode()) > MAX_PATH_BYTES:
        raise UnsupportedArtifact(f"unsafe path {shown(path)} in {where}: it has over {MAX_PATH_BYTES} bytes")
    return path
