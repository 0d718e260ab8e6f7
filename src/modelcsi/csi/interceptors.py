"""What every call gets: a request id and log fields, a bound on working calls, metrics, and a code for each error.

The services raise the classes of `errors` and never touch the status themselves; this is the only place that catches them,
and the only one where a bug (any other exception) becomes an answer. Runs in the server's threads; its only state is the
bound.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from modelcsi.csi.redaction import redacted
from modelcsi.csi.status import code_of, printable, text_of
from modelcsi.deadline import Deadline
from modelcsi.errors import Busy, ModelCsiError
from modelcsi.logs import bound

logger = logging.getLogger(__name__)

Behaviour = Callable[[Any, grpc.ServicerContext], Any]

# Calls that never wait for a disk, a network or a lock: they are answered however many others work (D1).
_QUICK = frozenset(
    {
        "GetPluginInfo",
        "GetPluginCapabilities",
        "Probe",
        "NodeGetCapabilities",
        "NodeGetInfo",
        "ControllerGetCapabilities",
        "ValidateVolumeCapabilities",
    }
)
# The calls that change something, hence are counted and logged; the names are those of the existing driver's metrics.
_OPERATIONS = {
    "CreateVolume": "create_volume",
    "DeleteVolume": "delete_volume",
    "NodePublishVolume": "publish_volume",
    "NodeUnpublishVolume": "unpublish_volume",
}
# ... which counts a volume that no claim made as dynamic.
_UNCLAIMED_OPERATIONS = {
    "NodePublishVolume": "publish_dynamic_volume",
    "NodeUnpublishVolume": "unpublish_dynamic_volume",
}
_CLAIMED_PREFIX = "pvc-"

# C-core has no "no deadline": it reports the end of its calendar, some centuries away.
_NO_DEADLINE_SECONDS = 366 * 24 * 3600.0
_MAX_FIELD = 128


class OperationMetrics(Protocol):
    """Where calls are counted."""

    def operation(self, name: str) -> AbstractContextManager[None]:
        """Measure the block as an operation of this name; an exception that leaves it is a failure."""


@dataclass(frozen=True, slots=True)
class _Call:
    rpc: str
    volume: str
    request_id: str

    @property
    def operation(self) -> str | None:
        if not self.volume.startswith(_CLAIMED_PREFIX) and self.rpc in _UNCLAIMED_OPERATIONS:
            return _UNCLAIMED_OPERATIONS[self.rpc]
        return _OPERATIONS.get(self.rpc)


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: grpc.StatusCode
    text: str


def deadline_of(context: grpc.ServicerContext) -> Deadline:
    """The caller's deadline; `Deadline.never()` when it gave none."""
    remaining: float | None = context.time_remaining()
    if remaining is None or remaining > _NO_DEADLINE_SECONDS:
        return Deadline.never()
    return Deadline.after(remaining)


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps every call. Of the calls that may wait, `working_calls` run at once; the next one is Busy."""

    def __init__(self, metrics: OperationMetrics, *, working_calls: int) -> None:
        self._metrics = metrics
        self._working_calls = working_calls
        self._permits = threading.BoundedSemaphore(working_calls)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler with everything around it; a method that nobody has stays unknown (UNIMPLEMENTED)."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        rpc = handler_call_details.method.rpartition("/")[2]
        behaviour: Behaviour = handler.unary_unary

        def answer(request: Message, context: grpc.ServicerContext) -> Any:
            call = _Call(rpc, _volume_of(request), secrets.token_hex(4))
            fields = {"rpc": rpc, "request": call.request_id} | ({"volume": call.volume} if call.volume else {})
            with bound(**fields):
                outcome = self._attempt(call, behaviour, request, context)
            if isinstance(outcome, _Refusal):
                # Raises a bare Exception, for grpc itself: outside every except clause, so that nobody takes it for a bug.
                context.abort(outcome.code, outcome.text)
            return outcome

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _attempt(self, call: _Call, behaviour: Behaviour, request: Message, context: grpc.ServicerContext) -> Any:
        """The response, or why there is none; raises nothing."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("asked %s", redacted(request))
        started = time.monotonic()
        try:
            with self._permit(call), self._measured(call):
                response = behaviour(request, context)
        except ModelCsiError as error:
            refusal = _Refusal(code_of(error), text_of(error))
            # Whoever asked reports it; the causes are for a developer.
            logger.info("answered %s: %s", refusal.code.name, refusal.text, exc_info=logger.isEnabledFor(logging.DEBUG))
            return refusal
        except NotImplementedError:
            # The generated body of an RPC that a service leaves out.
            return _Refusal(grpc.StatusCode.UNIMPLEMENTED, f"{call.rpc} is not implemented")
        except Exception:
            logger.exception("failed: a bug in the driver")
            text = f"internal error (the driver's log has the details under request {call.request_id})"
            return _Refusal(grpc.StatusCode.INTERNAL, text)
        level = logging.INFO if call.operation else logging.DEBUG
        logger.log(level, "answered OK after %.0f ms", (time.monotonic() - started) * 1000)
        return response

    @contextmanager
    def _permit(self, call: _Call) -> Iterator[None]:
        if call.rpc in _QUICK:
            yield
            return
        if not self._permits.acquire(blocking=False):
            raise Busy(f"{self._working_calls} calls are being worked on", hint="kubelet asks again by itself")
        try:
            yield
        finally:
            self._permits.release()

    def _measured(self, call: _Call) -> AbstractContextManager[None]:
        return self._metrics.operation(call.operation) if call.operation else nullcontext()


def _volume_of(request: Message) -> str:
    """The id, or for a volume to be created its name."""
    volume = getattr(request, "volume_id", "") or getattr(request, "name", "")
    return printable(volume, _MAX_FIELD) if isinstance(volume, str) else ""
