"""The names that media types give to files which have none of their own: a promise, listed in docs/artifacts.md.

One of a kind has the name of the table. Of several, weights that a runtime loads together are counted as Hugging Face counts
shards, licences are `LICENSE`, `LICENSE.2` …, all others `projector.gguf`, `projector-2.gguf` …; always in the manifest's order.
A name that some layer has of its own is passed over.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence

from modelcsi.artifact.annotations import annotated_path
from modelcsi.artifact.mediatypes import DOCKER_PREFIX, canonical
from modelcsi.oci.descriptor import Descriptor

OLLAMA_PREFIX = "application/vnd.ollama.image."

KNOWN_NAMES = {
    f"{OLLAMA_PREFIX}model": "model.gguf",
    f"{OLLAMA_PREFIX}projector": "projector.gguf",
    f"{OLLAMA_PREFIX}adapter": "adapter.gguf",
    f"{OLLAMA_PREFIX}draft": "draft.gguf",
    f"{OLLAMA_PREFIX}template": "template",
    f"{OLLAMA_PREFIX}system": "system",
    f"{OLLAMA_PREFIX}prompt": "prompt",
    f"{OLLAMA_PREFIX}params": "params.json",
    f"{OLLAMA_PREFIX}messages": "messages.json",
    f"{OLLAMA_PREFIX}embed": "embed",
    f"{OLLAMA_PREFIX}license": "LICENSE",
    f"{DOCKER_PREFIX}gguf.v3": "model.gguf",
    f"{DOCKER_PREFIX}gguf.v3.lora": "adapter.gguf",
    f"{DOCKER_PREFIX}gguf.v3.mmproj": "model.mmproj",
    f"{DOCKER_PREFIX}mmproj": "model.mmproj",
    f"{DOCKER_PREFIX}safetensors": "model.safetensors",
    f"{DOCKER_PREFIX}dduf": "model.dduf",
    f"{DOCKER_PREFIX}chat.template.jinja": "template.jinja",
    f"{DOCKER_PREFIX}license": "LICENSE",
}
"""By canonical media type."""

SHARDS = frozenset({f"{DOCKER_PREFIX}gguf.v3", f"{DOCKER_PREFIX}safetensors"})
"""Of several, each is `model-00001-of-00002.…`, as Docker Model Runner's own bundle names them."""

# Of these types each layer has a name of its own, or is kept under its digest.
_NAMED_THEMSELVES = frozenset({f"{OLLAMA_PREFIX}tensor", f"{OLLAMA_PREFIX}json", f"{DOCKER_PREFIX}model.file"})


def is_known(media_type: str) -> bool:
    """Whether a canonical type is that of a file of Ollama or Docker Model Runner."""
    return media_type in KNOWN_NAMES or media_type in _NAMED_THEMSELVES


def own_name(descriptor: Descriptor) -> str:
    """The `name` field of an Ollama layer, which no specification knows; empty elsewhere."""
    name = descriptor.extra.get("name")
    is_ollama = canonical(descriptor.media_type).startswith(OLLAMA_PREFIX)
    return name if is_ollama and isinstance(name, str) else ""


def known_names(layers: Sequence[Descriptor]) -> list[str]:
    """For each layer the name that its media type, or its own `name`, gives it; empty where neither does.

    A layer whose annotations name it has none here. Those that the types give are all different.
    """
    types = [canonical(layer.media_type) for layer in layers]
    told = [annotated_path(layer) or own_name(layer) for layer in layers]
    places = [posixpath.normpath(path) for path in told if path]
    taken = {*places, *(place.partition("/")[0] for place in places)}  # a directory has its name, too
    counts = Counter(media_type for media_type, path in zip(types, told, strict=True) if not path)
    numbers: Counter[str] = Counter()
    names: list[str] = []
    for layer, media_type, path in zip(layers, types, told, strict=True):
        name = "" if path else KNOWN_NAMES.get(media_type, "")
        if name and media_type in SHARDS and counts[media_type] > 1:
            stem, _, suffix = name.rpartition(".")
            numbers[media_type] += 1
            name = f"{stem}-{numbers[media_type]:05d}-of-{counts[media_type]:05d}.{suffix}"
        if name:
            name = _free(name, taken, numbers)
            taken.add(name)
        names.append(name or own_name(layer))
    return names


def _free(name: str, taken: set[str], numbers: Counter[str]) -> str:
    """The name, with the next number where it is taken; `numbers` has the last one that was given to each."""
    candidate = name
    while candidate in taken:
        numbers[name] = max(2, numbers[name] + 1)
        candidate = _numbered(name, numbers[name])
    return candidate


def _numbered(name: str, number: int) -> str:
    stem, dot, suffix = name.rpartition(".")
    if name == "LICENSE":
        return f"{name}.{number}"
    return f"{stem}-{number}.{suffix}" if dot else f"{name}-{number}"
