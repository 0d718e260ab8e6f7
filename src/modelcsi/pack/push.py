"""From a layout to a registry: what it does not have of the blobs, then the manifest.

The manifest goes last, so that nobody ever sees a tag of which blobs are missing. A push that was interrupted is started
again: blobs that arrived whole are found and not sent again, large ones go on inside (`parts.py` says where that is possible).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from modelcsi.deadline import Deadline
from modelcsi.errors import Forbidden, InvalidRequest, ModelCsiError, RegistryUnavailable, ShuttingDown, Unauthenticated
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import PackedArtifact
from modelcsi.pack.uploads import UploadRecord, UploadRecords
from modelcsi.pack.wire import BlobBody
from modelcsi.pull.progress import Progress
from modelcsi.registry.caller import Caller
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import Transport

if TYPE_CHECKING:
    from modelcsi.pack.client import RepositoryClient

_UPLOADS = 4
"""At once: the many small files of a model wait for answers, not for the network. As many as a pull takes layers."""
_PAUSES_SECONDS = (1.0, 5.0)
_MAX_PAUSE_SECONDS = 60.0
_FINISH_SECONDS = 20.0
"""A part arrives within that at 3 MB/s; nobody waits longer for Ctrl-C."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push sent."""

    reference: Reference
    """With the digest."""
    sent_bytes: int
    found_bytes: int
    """Of blobs that the registry had already."""


class Pusher:
    """Pushes artifacts; one thread asks, a few upload."""

    def __init__(
        self,
        transport: Transport,
        hosts: Hosts,
        keychain: Keychain,
        *,
        records: UploadRecords | None = None,
        pauses_seconds: tuple[float, ...] = _PAUSES_SECONDS,
        part_bytes: int | None = None,
    ) -> None:
        """`pauses_seconds` are waited before a failed upload is made again; blobs above `part_bytes` go in parts of that size.

        Raises InvalidRequest when oras is not installed.
        """
        try:
            from modelcsi.pack.client import RepositoryClient
        except ImportError as error:
            raise InvalidRequest(
                f"pushing needs oras, which is not installed ({error.name})",
                hint="pip install 'model-csi-driver[pack]'",
            ) from error
        self._make_client = RepositoryClient if part_bytes is None else partial(RepositoryClient, part_bytes=part_bytes)
        self._records = records or UploadRecords(None)
        self._transport = transport
        self._hosts = hosts
        self._keychain = keychain
        self._pauses_seconds = pauses_seconds

    def push(self, artifact: PackedArtifact, reference: Reference, progress: Progress) -> Pushed:
        """Returning normally means that the registry has the artifact under the tag, else the digest, of `reference`.

        The credentials of the docker config are tried in turn; the error is the first one's. Raises Unauthenticated,
        Forbidden, NotFound, RegistryUnavailable, UnsupportedArtifact, CorruptContent, PolicyDenied, InvalidRequest.
        """
        if reference.digest not in {None, artifact.digest}:
            raise InvalidRequest(f"{artifact.root} holds {artifact.digest}, not {reference.digest}")
        return self._with_credentials(
            reference,
            lambda client: _Push(client, artifact, reference, progress, self._records, self._pauses_seconds).run(),
        )

    def check(self, reference: Reference) -> None:
        """Ask whether these credentials may push to the repository, before the work of packing. Raises as `push` does."""
        self._with_credentials(reference, lambda client: client.check_rights())

    def _with_credentials(self, reference: Reference, operation: Callable[[RepositoryClient], _Result]) -> _Result:
        first_refusal: ModelCsiError | None = None
        for credentials in self._keychain.candidates(reference, Caller()):
            try:
                return operation(self._make_client(self._transport, self._hosts, reference, credentials))
            except (Unauthenticated, Forbidden) as error:
                first_refusal = first_refusal or error
            except RegistryUnavailable as error:
                raise RegistryUnavailable(
                    f"cannot push {reference}: {error.message}",
                    hint=error.hint or "push again: what arrived is not sent again",
                    retry_after_seconds=error.retry_after_seconds,
                ) from error
        assert first_refusal is not None, "a keychain names at least one candidate"
        raise _with_hint(first_refusal, reference.host) from first_refusal


@dataclass
class _Push:
    """One push with one set of credentials."""

    client: RepositoryClient
    artifact: PackedArtifact
    reference: Reference
    progress: Progress
    records: UploadRecords
    pauses_seconds: tuple[float, ...]
    stopped: threading.Event = field(default_factory=threading.Event)
    # When what can be continued must have come to the end of a part; set before `stopped` is.
    finish: Deadline = field(default_factory=lambda: Deadline.after(0))

    def run(self) -> Pushed:
        """Blobs side by side, then the manifest."""
        with ThreadPoolExecutor(_UPLOADS, "push") as pool:
            # The large ones first, so that the end is not one of them alone.
            by_size = sorted(self.artifact.blobs, key=lambda blob: -blob.size)
            uploads = {pool.submit(self._upload, blob): blob for blob in by_size}
            try:
                wait(uploads, return_when=FIRST_EXCEPTION)
                _raise_first(uploads)
            except BaseException as error:  # Ctrl-C, too
                self._stop(pool, uploads, _FINISH_SECONDS if isinstance(error, KeyboardInterrupt) else 0.0)
                raise
        sent = sum(upload.result() for upload in uploads)
        self._retried(self._put_manifest)
        total = sum(blob.size for blob in self.artifact.blobs)
        return Pushed(self.reference.with_digest(self.artifact.digest), sent, total - sent)

    def _put_manifest(self) -> None:
        artifact = self.artifact
        target = self.reference.tag or str(artifact.digest)
        self.client.upload_manifest_bytes(artifact.content, artifact.manifest.media_type, target)

    def _upload(self, blob: Descriptor) -> int:
        """How many of its bytes were sent."""
        body = BlobBody(self.artifact.blob(blob.digest), blob.digest, blob.size, self)
        in_parts = self.client.uploads_in_parts(blob.size)
        claimed = self.records.claimed(self.reference, blob.digest) if in_parts else nullcontext(UploadRecord())
        with claimed as record:
            try:
                self._retried(lambda: self.client.upload(body, record))
            except BaseException:
                body.seek(0)
                raise
        return body.sent

    def count(self, size: int, *, is_sent: bool) -> None:
        """Called by uploads."""
        if size < 0:
            self.progress.take_back(-size)
        else:
            self.progress.add(size, is_downloaded=is_sent)

    def check(self, *, may_finish: bool) -> None:
        """Called by uploads. Raises ShuttingDown."""
        if self.stopped.is_set() and (not may_finish or self.finish.is_over()):
            raise ShuttingDown("the push is stopped")

    def _retried(self, operation: Callable[[], _Result]) -> _Result:
        for pause_seconds in self.pauses_seconds:
            try:
                return operation()
            except RegistryUnavailable as error:
                asked_seconds = error.retry_after_seconds or 0.0
                if asked_seconds > _MAX_PAUSE_SECONDS:
                    raise
                self.progress.failed(error)
                if self.stopped.wait(max(pause_seconds, asked_seconds)):
                    raise
        return operation()

    def _stop(self, pool: ThreadPoolExecutor, uploads: dict[Future[int], Descriptor], seconds: float) -> None:
        """End the other uploads, and leave the progress as it was found: other credentials may begin again.

        A part that is on its way may take so many seconds to arrive, unless Ctrl-C comes once more.
        """
        self.finish = Deadline.after(seconds)
        self.stopped.set()
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:
            self.finish = Deadline.after(0)
            pool.shutdown(wait=True)
        for upload, blob in uploads.items():
            if not upload.cancelled() and upload.exception() is None:
                self.progress.take_back(blob.size)


def _with_hint(refusal: ModelCsiError, host: str) -> ModelCsiError:
    """What somebody who pushes can do about it; the registry client speaks to those who pull."""
    if isinstance(refusal, Forbidden):
        return Forbidden(refusal.message, hint="grant them the right to push")
    return Unauthenticated(
        refusal.message, hint=f"docker login {host}, or name the directory of another config.json with --docker-config"
    )


def _raise_first(uploads: Iterable[Future[int]]) -> None:
    for upload in uploads:
        if upload.done():
            upload.result()
