"""What sites and aggregator say to each other, as frozen records, and their form on Flower's wire.

One exchange is one request and one reply. A `Request` carries a CBOR header (version, stage, run, session, round), a
list of opaque protocol messages (signed and parsed by privacy.secagg or privacy.he), and at most one vector or one
attachment of bytes. Parsing is strict: an unknown version, a missing field, a wrong type or an oversized part raises
`BadMessage`, which never travels. The letters say in which runs a stage occurs: plain, masked, encrypted.

    stage        Flower message type   request carries                reply carries                  runs
    join         query.join            plan, layout                   key advertisement              p m e
    encapsulate  query.encapsulate     all advertisements             encapsulations                 m e
    confirm      query.confirm         all encapsulations             confirmation tags              m e
    offer        query.offer           all confirmation tags          offer; sealed group key        e
    take         query.take            all offers; sealed group key   key confirmation               e
    share        query.share           invitation, (tags)             wrapped and sealed shares      m
    train        train                 model                          uint32 vector                  p
                                       model, announcement, shares    header; uint32 vector          m
                                       announcement, headers of the   header; ciphertext             e
                                       sum before; that sum
    agree        query.agree           survivors' signed headers      a signature on their set       m
    unmask       query.unmask          agreements, (invitation)       shares, (next round's shares)  m
    snapshot     query.snapshot        nothing                        header; sealed model           e
    restore      query.restore         header; sealed model           nothing                        e
    end          query.end             as for train                   final model's tag              e
    finish       query.finish          all tags                       nothing                        e

A masked round takes three exchanges: train, agree, unmask; the last one also deals the shares of the next round. The
`share` stage is for a session's first round, and for sites that were not there when the others dealt. An encrypted
round takes one, `train`; in a site's first request of a session after `take` all key confirmations follow the payloads.

Runs at both sides. Protects nothing: confidentiality and integrity of the payloads come from privacy and TLS.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from privacy import cbor
from privacy.errors import HostileInputError

WIRE_VERSION = 3
MAX_HEADER_BYTES = 4 * 2**20
MAX_PAYLOADS = 1100
MAX_PAYLOAD_BYTES = 8 * 2**20
_RECORD = "secfed"
_VECTOR = "vector"
_ATTACHMENT = "attachment"


class BadMessage(Exception):  # noqa: N818 - the name says what it is
    """A record that no honest party of this version sends; the text is for the local log only."""


class Stage(StrEnum):
    """The exchanges of a run, in order of first use."""

    JOIN = "join"
    ENCAPSULATE = "encapsulate"
    CONFIRM = "confirm"
    OFFER = "offer"
    TAKE = "take"
    SHARE = "share"
    TRAIN = "train"
    AGREE = "agree"
    UNMASK = "unmask"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    END = "end"
    FINISH = "finish"

    @property
    def message_type(self) -> str:
        """Flower's name: category, then action."""
        return "train" if self is Stage.TRAIN else f"query.{self.value}"


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Which run, session and round a message belongs to; a reply must repeat its request's binding."""

    run: bytes
    session: bytes
    server_round: int = 0
    sequence: int = 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """Aggregator to site. `fields` holds small stage-specific values: bytes, text, numbers from 0."""

    stage: Stage
    binding: Binding
    fields: dict[str, Any] = field(default_factory=dict)
    payloads: tuple[bytes, ...] = ()
    vector: npt.NDArray[np.float32] | None = None
    attachment: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Site to aggregator. `site` is a claim; in masked and encrypted runs the signed payloads prove it."""

    stage: Stage
    binding: Binding
    site: str
    payloads: tuple[bytes, ...] = (b"",)
    vector: npt.NDArray[np.uint32] | None = None
    attachment: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The answer to the stage itself; a second payload is the next round's shares."""
        return self.payloads[0]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A site declines a stage. `reason` is one of a few public words; the details stay in the site's own log."""

    stage: Stage
    binding: Binding
    site: str
    reason: str


REFUSAL_REASONS = (
    "policy",
    "roster",
    "budget",
    "opened",
    "protocol",
    "data",
    "range",
    "storage",
    "internal",
    "stale",
    "sum",
)
"""The last two occur in encrypted runs: an earlier sum is missing at the site; the sum that it was shown is no sum of
the announced contributors' updates. "roster" says that the site holds another version than the aggregator, or one that
has ended; "budget" that the patients' privacy budget does not allow the round, or that its ledger cannot be used;
"opened" that a sum over the same model was opened before, for other sites;
"storage" that the site could not write what has to be on its disk before anything leaves."""


def encode_request(request: Request) -> RecordDict:
    """Request to Flower records."""
    header = {
        "version": WIRE_VERSION,
        "kind": "request",
        "stage": request.stage.value,
        **_binding_fields(request.binding),
        "fields": request.fields,
    }
    return _records(header, request.payloads, request.vector, request.attachment)


def encode_reply(reply: Reply) -> RecordDict:
    """Reply to Flower records."""
    header = {
        "version": WIRE_VERSION,
        "kind": "reply",
        "stage": reply.stage.value,
        **_binding_fields(reply.binding),
        "site": reply.site,
    }
    return _records(header, reply.payloads, reply.vector, reply.attachment)


def encode_refusal(refusal: Refusal) -> RecordDict:
    """Refusal to Flower records."""
    header = {
        "version": WIRE_VERSION,
        "kind": "refusal",
        "stage": refusal.stage.value,
        **_binding_fields(refusal.binding),
        "site": refusal.site,
        "reason": refusal.reason,
    }
    return _records(header, (), None, None)


def decode_request(records: RecordDict, *, max_vector_length: int, max_attachment_bytes: int = 0) -> Request:
    """Parse an untrusted request; raises BadMessage."""
    header, payloads, vector = _parse(records, np.dtype(np.float32), max_vector_length)
    attachment = _attachment(records.get(_ATTACHMENT), max_attachment_bytes)
    if _text(header, "kind") != "request":
        raise BadMessage(f"expected a request, got {header.get('kind')!r}")
    fields = header.get("fields")
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise BadMessage("fields must map names to values")
    return Request(
        stage=_stage(header),
        binding=_binding(header),
        fields=fields,
        payloads=payloads,
        vector=vector,
        attachment=attachment,
    )


def decode_reply(records: RecordDict, *, max_vector_length: int, max_attachment_bytes: int = 0) -> Reply | Refusal:
    """Parse an untrusted reply; raises BadMessage."""
    header, payloads, vector = _parse(records, np.dtype(np.uint32), max_vector_length)
    attachment = _attachment(records.get(_ATTACHMENT), max_attachment_bytes)
    stage, binding, site = _stage(header), _binding(header), _text(header, "site")
    match _text(header, "kind"):
        case "refusal":
            reason = _text(header, "reason")
            if reason not in REFUSAL_REASONS:
                raise BadMessage(f"unknown refusal reason {reason!r}")
            return Refusal(stage=stage, binding=binding, site=site, reason=reason)
        case "reply":
            if not 1 <= len(payloads) <= (2 if stage is Stage.UNMASK else 1):
                raise BadMessage(f"a reply to stage '{stage}' carries {len(payloads)} payloads")
            return Reply(
                stage=stage, binding=binding, site=site, payloads=payloads, vector=vector, attachment=attachment
            )
        case kind:
            raise BadMessage(f"expected a reply, got {kind!r}")


def _records(
    header: dict[str, Any],
    payloads: tuple[bytes, ...],
    vector: npt.NDArray[np.float32] | npt.NDArray[np.uint32] | None,
    attachment: bytes | None,
) -> RecordDict:
    records = RecordDict()
    config = ConfigRecord({"header": cbor.to_cbor(header)})
    if payloads:
        # An empty list stays out: Flower 1.41 cannot count the bytes of one.
        config["payloads"] = list(payloads)
    records[_RECORD] = config
    if vector is not None:
        # Little-endian on the wire whatever the host, because the bytes are hashed and signed.
        little = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
        records[_VECTOR] = ArrayRecord(
            {"vector": Array(dtype=str(vector.dtype), shape=tuple(vector.shape), stype="raw", data=little.tobytes())}
        )
    if attachment is not None:
        records[_ATTACHMENT] = ArrayRecord(
            {"bytes": Array(dtype="uint8", shape=(len(attachment),), stype="raw", data=attachment)}
        )
    return records


def _parse(
    records: RecordDict, dtype: np.dtype[Any], max_vector_length: int
) -> tuple[dict[str, Any], tuple[bytes, ...], Any]:
    record = records.get(_RECORD)
    if not isinstance(record, ConfigRecord):
        raise BadMessage(f"no '{_RECORD}' record")
    raw, payloads = record.get("header"), record.get("payloads", [])
    if not isinstance(raw, bytes) or len(raw) > MAX_HEADER_BYTES:
        raise BadMessage("the header is missing or too long")
    if not isinstance(payloads, list) or len(payloads) > MAX_PAYLOADS:
        raise BadMessage("payloads must be a list of limited length")
    parts = []
    for part in payloads:
        if not isinstance(part, bytes) or len(part) > MAX_PAYLOAD_BYTES:
            raise BadMessage("a payload is no byte string or too long")
        parts.append(part)
    try:
        header = cbor.from_cbor(raw, max_bytes=MAX_HEADER_BYTES)
    except HostileInputError as error:
        raise BadMessage(f"the header cannot be parsed: {error}") from error
    if not isinstance(header, dict) or header.get("version") != WIRE_VERSION:
        raise BadMessage(f"this program speaks wire version {WIRE_VERSION}")
    return header, tuple(parts), _vector(records.get(_VECTOR), dtype, max_vector_length)


def _vector(record: object, dtype: np.dtype[Any], max_length: int) -> npt.NDArray[Any] | None:
    if record is None:
        return None
    if not isinstance(record, ArrayRecord) or list(record.keys()) != ["vector"]:
        raise BadMessage("the vector record must hold exactly one array")
    array = record["vector"]
    if array.stype != "raw" or array.dtype != str(dtype) or len(array.shape) != 1:
        raise BadMessage(f"the vector must be a flat {dtype} array, got {array.dtype} {tuple(array.shape)}")
    if array.shape[0] > max_length or len(array.data) != array.shape[0] * dtype.itemsize:
        raise BadMessage(f"the vector's length {array.shape[0]} does not fit its bytes or the limit {max_length}")
    return np.frombuffer(array.data, dtype=dtype.newbyteorder("<"))


def _attachment(record: object, max_bytes: int) -> bytes | None:
    if record is None:
        return None
    if not isinstance(record, ArrayRecord) or list(record.keys()) != ["bytes"]:
        raise BadMessage("the attachment record must hold exactly one array of bytes")
    array = record["bytes"]
    if array.stype != "raw" or array.dtype != "uint8" or len(array.shape) != 1:
        raise BadMessage(f"the attachment must be a flat uint8 array, got {array.dtype} {tuple(array.shape)}")
    if len(array.data) > max_bytes or len(array.data) != array.shape[0]:
        raise BadMessage(f"an attachment of {len(array.data)} bytes is malformed or above the limit of {max_bytes}")
    return array.data


def _binding_fields(binding: Binding) -> dict[str, Any]:
    return {
        "run": binding.run,
        "session": binding.session,
        "round": binding.server_round,
        "sequence": binding.sequence,
    }


def _binding(header: dict[str, Any]) -> Binding:
    run, session = header.get("run"), header.get("session")
    server_round, sequence = header.get("round"), header.get("sequence")
    if not (isinstance(run, bytes) and len(run) == 32 and isinstance(session, bytes) and len(session) == 32):
        raise BadMessage("run and session must be 32 bytes each")
    if type(server_round) is not int or type(sequence) is not int or min(server_round, sequence) < 0:
        raise BadMessage("round and sequence must be whole numbers from 0")
    return Binding(run=run, session=session, server_round=server_round, sequence=sequence)


def _stage(header: dict[str, Any]) -> Stage:
    try:
        return Stage(_text(header, "stage"))
    except ValueError:
        raise BadMessage(f"unknown stage {header.get('stage')!r}") from None


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str) or len(value) > 256:
        raise BadMessage(f"'{name}' must be a short text")
    return value
