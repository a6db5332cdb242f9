"""The Flower ClientApp of a site: wiring only. Each message goes to `clients.participant`.

Runs at a site; torch is imported in training. Where the site's folder is comes from the node's own configuration
(`site-folder`), never from a run.

Flower sends the text of an exception to the server, so none may escape: whatever goes wrong becomes a refusal with one
of a few public words, and the reason is written to the site's own log.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.books import Books
from clients.participant import Participant
from clients.site import Site
from privacy.errors import HostileInputError, OpenedBeforeError, RangeError
from privacy.he.errors import StaleMemberError, UnreadableSumError
from privacy.ledger_entries import BudgetSpentError, LedgerError
from secfed.audit_log import AuditLog
from secfed.errors import DataError, PolicyRefusal, RosterRefusal, SecfedError, StorageError
from secfed.messages import (
    BadMessage,
    Binding,
    Refusal,
    Request,
    Stage,
    decode_request,
    encode_refusal,
    encode_reply,
)

MAX_VECTOR_LENGTH = 2**30
MAX_ATTACHMENT_BYTES = 2**34
"""Largest model, and largest encrypted sum, that are parsed at all; the site's policy sets the real limit."""


def site_folder_of_node(context: Context) -> Path:
    """The site folder that this node was started with (`--node-config 'site-folder="..."'`)."""
    return Path(str(context.node_config["site-folder"]))


def create_app(locate: Callable[[Context], Path] = site_folder_of_node) -> ClientApp:
    """A ClientApp whose nodes find their site folder by `locate`."""
    app = ClientApp()

    def register(stage: Stage) -> None:
        def handle(message: Message, context: Context) -> Message:
            return _handle(message, stage, locate=lambda: locate(context))

        if stage is Stage.TRAIN:
            app.train()(handle)
        else:
            app.query(stage.value)(handle)

    for stage in Stage:
        register(stage)
    return app


def _handle(message: Message, stage: Stage, *, locate: Callable[[], Path]) -> Message:
    books: Books | None = None
    audit: AuditLog | None = None
    binding = Binding(run=bytes(32), session=bytes(32))
    name = "unknown"
    try:
        folder = locate()
        books = Books(folder / "books")
        site = Site(folder)
        name = site.name
        audit = None if not site.file.durable_state else AuditLog(books.folder, fields=site.file.policy.log_fields)
        request = decode_request(
            message.content, max_vector_length=MAX_VECTOR_LENGTH, max_attachment_bytes=MAX_ATTACHMENT_BYTES
        )
        binding = request.binding
        _require_stage(request, stage)
        reply = encode_reply(Participant(site).answer(request))
        if audit is not None:
            # Before the reply leaves, so that nothing leaves unlogged: a disk without room for the line refuses.
            _audit(audit, site, request)
        return Message(reply, reply_to=message)
    except Exception as error:
        reason = _public_reason(error)
        _note(books, stage=stage.value, round=binding.server_round, reason=reason, error=repr(error))
        _audit_refusal(audit, binding, stage=stage, reason=reason)
        return Message(
            encode_refusal(Refusal(stage=stage, binding=binding, site=name, reason=reason)), reply_to=message
        )


def _note(books: Books | None, **details: str | int) -> None:
    """Write a refusal to the site's log, or to the node's own output where there is none to write to."""
    try:
        if books is None:
            raise FileNotFoundError("this node was started without a site folder")
        books.log("refused", **details)
    except OSError as error:
        logging.getLogger(__name__).warning("the site's log cannot be written (%s); refused: %s", error, details)


def _audit(audit: AuditLog, site: Site, request: Request) -> None:
    binding = request.binding
    names = {"run": binding.run.hex(), "session": binding.session.hex()}
    if request.stage is Stage.JOIN:
        plan = site.session(run=binding.run, session=binding.session).plan
        audit.append(
            "joined",
            **names,
            plan=plan.digest().hex(),
            protection=plan.protection.mode,
            privacy=plan.privacy.mode,
            roster="" if plan.protection.mode == "plain" else site.roster().digest.hex(),
        )
    else:
        audit.append("answered", **names, stage=request.stage.value, round=binding.server_round)


def _audit_refusal(audit: AuditLog | None, binding: Binding, *, stage: Stage, reason: str) -> None:
    if audit is None:
        return
    try:
        audit.append(
            "refused",
            run=binding.run.hex(),
            session=binding.session.hex(),
            stage=stage.value,
            round=binding.server_round,
            reason=reason,
        )
    except SecfedError as error:
        logging.getLogger(__name__).warning("%s; refused: %s at %s", error, reason, stage.value)


def _require_stage(request: Request, stage: Stage) -> None:
    if request.stage is not stage:
        raise BadMessage(f"a request for stage {request.stage} came as {stage}")


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (RosterRefusal, "roster"),
    (PolicyRefusal, "policy"),
    (BudgetSpentError, "budget"),
    (LedgerError, "budget"),
    (RangeError, "range"),
    (OpenedBeforeError, "opened"),
    (StaleMemberError, "stale"),
    (UnreadableSumError, "sum"),
    (HostileInputError, "protocol"),
    (BadMessage, "protocol"),
    (DataError, "data"),
    (StorageError, "storage"),
    (OSError, "storage"),
)


def _public_reason(error: Exception) -> str:
    """The first kind that fits: the special ones stand before HostileInputError, which they are too."""
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "internal")


app = create_app()
