"""The process at a site that answers messages: it decides what code runs, and starts a process of its own for each.

    acquire a task -> bundle approved? for this very program? -> fork -> clients.app answers -> reply
                          | no                                     | died, or past the message's time
                          v                                        v
                      error reply, nothing was run             error reply at once

Run at the site, in place of Flower's SuperExec, over the same Runtime API of the SuperNode (process isolation). Flower
would install and run the bundle that the aggregator sent. This runs the site's installed program alone; the bundle is
compared with what the site's reviewer approved, and never unpacked. A process per message keeps what Flower's has: no
state between messages but the site's own files. The program is loaded once and forked, so that no message waits for it.

It protects from the aggregator and from bundles, and not from whoever controls this machine.

Source: flwr 1.41, `flwr.supercore.superexec` and `flwr.supernode.runtime`, whose functions it calls; both are internal
to Flower, therefore the version is pinned and tests/deployment run it against real SuperNodes.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from secfed.alone import die_with_parent, hold_alone
from secfed.audit_log import AuditLog
from secfed.deployment.bundle import bundle_digest, code_of
from secfed.errors import SecfedError
from secfed.provenance import code_digest
from secfed.provisioning.approvals import Approvals

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0
"""Asked often while messages come, seldom while none does: every question costs both processes some milliseconds."""
HEARTBEAT_SECONDS = 10.0
WAIT_SECONDS = 0.01

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the SuperNode's Runtime API is, and the secret that both share; on loopback, without TLS."""

    address: str
    secret: bytes

    def client(self, token: str | None = None) -> RuntimeHttpClient:
        """A client for acquiring tasks, or with a `token` for one task."""
        own = (
            SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods=frozenset({ACQUIRE}))
            if token is None
            else RuntimeTokenHttpInterceptor(token)
        )
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), own],
            retry_invoker=make_simple_http_retry_invoker(),
        )


class SiteWorker:
    """Answers the messages of one SuperNode for one site folder until it is told to stop."""

    def __init__(
        self, folder: Path, *, door: Door, approvals: Callable[[], Approvals], app: ClientApp, log: AuditLog
    ) -> None:
        self.folder = folder
        self.door = door
        self.approvals = approvals
        self.app = app
        self.log = log
        self._stopping = False

    def stop(self) -> None:
        """Finish the message in progress and take no other; safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Take tasks one after another: a SuperNode hands out the next when this one is answered."""
        with_tasks = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        client = self.door.client()
        pause = FIRST_POLL_SECONDS
        try:
            while not self._stopping:
                found = client.AcquireTask(with_tasks)
                if found.HasField("task") and found.token:
                    self._perform(found.token, found.task)
                    pause = FIRST_POLL_SECONDS
                else:
                    time.sleep(pause)
                    pause = min(LONGEST_POLL_SECONDS, 1.02 * pause)
        finally:
            client.close()

    def _perform(self, token: str, task: Task) -> None:
        client = self.door.client(token)
        details, context = "", None
        try:
            message, context, _, fab = pull_task_input(client)
            refusal = self._refusal(fab.content, task.fab_hash)
            if refusal is not None:
                details = "the bundle is not approved at this site"
                error = Error(code=ErrorCode.INVALID_FAB, reason="The app bundle is not approved at this site.")
                push_message(client, Message(error, reply_to=message), context)
            elif not self._answer(client, token, message, context):
                details = "the process that answered ended early"
                error = Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="The site's process ended early.")
                push_message(client, Message(error, reply_to=message), context)
        finally:
            push_task_output(
                client=client,
                context=context,
                sub_status=SubStatus.FAILED if details else SubStatus.COMPLETED,
                details=details,
            )
            client.close()

    def _refusal(self, bundle: bytes, named: str) -> str | None:
        """Why nothing is run for this bundle; it is in the site's log then."""
        digest = bundle_digest(bundle)
        reason: str | None = None
        try:
            self.approvals().require(bundle=digest, code=code_digest())
            made_for = code_of(bundle)
        except SecfedError as error:
            reason = str(error)
        else:
            if made_for != code_digest():
                reason = (
                    f"the run is for the program {made_for[:16]}..., and {code_digest()[:16]}... is installed here: "
                    "both sides must install the same release"
                )
            elif named and named != digest:
                reason = f"the aggregator names bundle {named} and sends {digest}"
        if reason is not None:
            self.log.append("bundle refused", bundle=digest, reason=reason)
        return reason

    def _answer(self, client: RuntimeHttpClient, token: str, message: Message, context: Context) -> bool:
        """Whether a process of its own answered; heartbeats go out meanwhile."""
        child = os.fork()
        if child == 0:
            self._in_child(token, message, context)
        ends = message.metadata.created_at + message.metadata.ttl
        beat = time.monotonic()
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                if status:
                    self.log.append("process ended early", stage=message.metadata.message_type, status=status)
                return status == 0
            if time.time() > ends:
                # Nobody waits for the answer any more, and the next message could not be taken.
                os.kill(child, signal.SIGKILL)
                ends = float("inf")
            if time.monotonic() - beat >= HEARTBEAT_SECONDS:
                beat = time.monotonic()
                if not client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    os.kill(child, signal.SIGKILL)
            time.sleep(WAIT_SECONDS)

    def _in_child(self, token: str, message: Message, context: Context) -> None:
        """Answer the message and end; never returns. The parent's connection is not used: two may not share one."""
        status = 1
        try:
            # A worker that was killed must not leave a second process that writes this site's state.
            die_with_parent()
            hold_alone(self.folder)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent drains; a child finishes its message
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            client = self.door.client(token)
            TaskIdentity.node_id, TaskIdentity.run_id = context.node_id, context.run_id
            push_message(client, self.app(message=message, context=context), context)
            client.close()
            status = 0
        except BaseException:
            logger.exception("the message could not be answered")
        finally:
            logging.shutdown()
            os._exit(status)
