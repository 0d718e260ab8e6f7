"""A small blob, read into memory: a config."""

from __future__ import annotations

import logging

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, RegistryUnavailable
from modelcsi.oci.descriptor import Descriptor
from modelcsi.pull.sources import Sources
from modelcsi.registry.client import Repository

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_READ_BYTES = 1 << 20


def read_small_blob(repository: Repository, descriptor: Descriptor, deadline: Deadline) -> bytes:
    """The verified bytes of a blob of a bounded size, from where layers come from: mirrors, then the registry.

    Raises CorruptContent and RegistryUnavailable after three attempts, NotFound, Unauthenticated, Forbidden.
    """
    sources = Sources()
    sources.add(repository)
    attempt = 1
    while True:
        try:
            return _read(sources, descriptor, deadline)
        except (CorruptContent, RegistryUnavailable) as error:
            is_mirrors_fault = isinstance(error, CorruptContent) and sources.blame_mirrors(descriptor.digest)
            if deadline.is_over() or (attempt == _ATTEMPTS and not is_mirrors_fault):
                raise
            logger.debug("attempt %d: %s", attempt, error)
            attempt += not is_mirrors_fault


def _read(sources: Sources, descriptor: Descriptor, deadline: Deadline) -> bytes:
    content = bytearray()
    with sources.open_blob(descriptor) as stream:
        while len(content) <= descriptor.size and (piece := stream.read(_READ_BYTES)):
            if deadline.is_over():
                raise RegistryUnavailable(f"{sources.host} has not sent the blob {descriptor.digest} in time")
            content += piece
    if len(content) != descriptor.size or not descriptor.digest.matches(content):
        raise CorruptContent(f"{sources.host} sends for the blob {descriptor.digest} other bytes than its digest says")
    return bytes(content)
