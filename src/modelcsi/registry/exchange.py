"""One authorised question to a registry: endpoint, challenge, redirects, and plain HTTP on loopback.

A question may take several requests; each reason to ask again is used once, so that no answer can make it a loop:
1. a loopback host that does not speak TLS; 2. a challenge, or a token that expired; 3. a redirect whose signature expired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError, RegistryUnavailable, Unauthenticated
from modelcsi.registry.answers import Subject, failure, read_detail
from modelcsi.registry.causes import NotTls
from modelcsi.registry.challenge import parse_challenges
from modelcsi.registry.hosts import Endpoint, Hosts
from modelcsi.registry.redirects import Answer, follow
from modelcsi.registry.tokens import Access, Authorizer
from modelcsi.registry.transport import Request, Timeouts, Transport

# S3 and Azure answer 403 to an expired signature, Google 400.
_EXPIRED_SIGNATURE = frozenset({400, 403})


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a repository."""

    method: str
    path: str
    """Below the repository: "manifests/v1"."""
    what: str
    """For messages: the reference, or the blob and its repository."""
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline: Deadline = Deadline.never()
    """For the answer's head; a blob may take longer."""
    timeouts: Timeouts = Timeouts()


class Exchange:
    """Questions and answers with every registry of this process; threads share it."""

    def __init__(self, transport: Transport, hosts: Hosts, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._hosts = hosts
        self._authorizer = Authorizer(transport, hosts, clock)

    def ask(self, access: Access, question: Question) -> Answer:
        """The answer, whatever its status; the caller closes it.

        Raises RegistryUnavailable, PolicyDenied, CorruptContent, and what a token service may answer.
        """
        try:
            return self._ask(access, question)
        except RegistryUnavailable as error:
            raise RegistryUnavailable(
                f"cannot fetch {question.what}: {error.message}",
                hint=error.hint,
                retry_after_seconds=error.retry_after_seconds,
            ) from error

    def failure(self, access: Access, question: Question, answer: Answer) -> ModelCsiError:
        """The error that an answer's status is; ends the answer."""
        detail = read_detail(answer.response, access.credentials, question.deadline)
        status = answer.response.status
        if not answer.is_foreign:
            return failure(answer.response, Subject(question.what, answer.host, access.credentials), detail)
        # The registry did admit these credentials, and they were not sent on: what the other host refuses is the redirect.
        text = f"{access.asked} redirects {question.what} to {answer.host}, which answers {status}"
        if status == 401:
            return Unauthenticated(text, hint="no credentials are sent to the target of a redirect")
        if status in {403, 404}:
            return RegistryUnavailable(text, hint="are the clocks of the registry and its object store right?")
        return failure(answer.response, Subject(question.what, answer.host, access.credentials), detail)

    def _ask(self, access: Access, question: Question) -> Answer:
        authorization = self._authorizer.known(access)
        endpoint, answer = self._send(access, question, authorization)
        if answer.response.status == 401 and not answer.is_foreign:
            renewed = self._meet(access, endpoint, answer, authorization, question.deadline)
            if not renewed:
                return answer
            authorization = renewed
            read_detail(answer.response, access.credentials, question.deadline)
            _, answer = self._send(access, question, authorization)
            if answer.response.status == 401 and not answer.is_foreign:
                self._authorizer.forget(access)
        if answer.is_foreign and answer.response.status in _EXPIRED_SIGNATURE:
            answer.response.close()
            _, answer = self._send(access, question, authorization)
        return answer

    def _meet(self, access: Access, endpoint: Endpoint, answer: Answer, rejected: str, deadline: Deadline) -> str:
        challenges = parse_challenges(answer.response.header_lines("WWW-Authenticate"))
        try:
            return self._authorizer.answer(access, endpoint, challenges, rejected, deadline)
        except ModelCsiError:
            answer.response.close()
            raise

    def _send(self, access: Access, question: Question, authorization: str) -> tuple[Endpoint, Answer]:
        if access.mirror is not None:
            return access.mirror, self._send_to(access.mirror, access, question, authorization)
        endpoint = self._hosts.origin(access.host)
        try:
            return endpoint, self._send_to_origin(endpoint, access, question, authorization)
        except NotTls:
            if not endpoint.may_be_plain:
                raise
            self._hosts.remember_plain(access.host)
        endpoint = self._hosts.origin(access.host)
        return endpoint, self._send_to_origin(endpoint, access, question, authorization)

    def _send_to_origin(self, endpoint: Endpoint, access: Access, question: Question, authorization: str) -> Answer:
        try:
            answer = self._send_to(endpoint, access, question, authorization)
        except RegistryUnavailable:
            self._hosts.forget(access.host)
            raise
        if answer.response.status == 400:  # what many TLS servers say to plain HTTP
            self._hosts.forget(access.host)
        return answer

    def _send_to(self, endpoint: Endpoint, access: Access, question: Question, authorization: str) -> Answer:
        headers = {**dict(endpoint.headers), **question.headers}
        if authorization:
            headers["Authorization"] = authorization
        namespace = f"?{urlencode({'ns': endpoint.namespace})}" if endpoint.namespace else ""
        request = Request(
            question.method,
            f"{endpoint.url}/{access.repository}/{question.path}{namespace}",
            headers,
            tls=endpoint.tls,
            timeouts=question.timeouts,
        )
        return follow(self._transport, self._hosts, endpoint, request, question.deadline)
