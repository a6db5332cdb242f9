"""`secfed audit verify`: every transcript of a run, checked offline, and what that proves.

Run by an auditor, in a process that loads no client and no server role, no encryption library, and without a network.
RUN is a run folder (one transcript per masked or encrypted job) or an aggregator's folder. The anchor and the receipts
should come from the auditor and the sites; where a run folder's own ones are used, the result says so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.chain import entry_name
from privacy.he.transcript import FORMAT as ENCRYPTED
from privacy.secagg.findings import Finding, Findings
from secfed.aggregator_files import ANCHOR, CHECKPOINTS, PLAN, TRANSCRIPT
from secfed.audit.encrypted_reading import EncryptedReading
from secfed.audit.masked_reading import MaskedReading
from secfed.audit.reading import AnyReceipt, ReadEntry, Reading
from secfed.audit.transcript_folder import RECEIPTS, TranscriptFolder, read_receipts
from secfed.audit_log import AUDIT_LOG, LogCheck, check_log
from secfed.config import TrainingPlan
from secfed.errors import RunFolderError

ANCHOR_BYTES = 32
PLAIN = "plain: updates travelled in the clear, so there is nothing protected to verify"
MISSING = "the transcript of a protected run is missing"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one transcript. `replayed` and `by_signatures` are server rounds, in order."""

    job: str
    protection: str
    cannot_be_proved: tuple[str, ...]
    findings: tuple[Finding, ...]
    rounds: int
    replayed: tuple[int, ...]
    by_signatures: tuple[int, ...]
    aborted: int
    sessions: int
    receipts: int
    anchor: str
    receipts_from: str
    bytes: int
    rounds_by_file: dict[str, int]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What does not hold."""
        return tuple(finding for finding in self.findings if finding.status == "failed")

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        by_status = {
            status: [{"where": item.where, "what": item.what} for item in self.findings if item.status == status]
            for status in ("failed", "unchecked", "proved")
        }
        return {
            "job": self.job,
            "protection": self.protection,
            "verified": not self.failed,
            "rounds": self.rounds,
            "replayed": list(self.replayed),
            "by_signatures": list(self.by_signatures),
            "aborted": self.aborted,
            "sessions": self.sessions,
            "receipts": self.receipts,
            "anchor": self.anchor,
            "receipts_from": self.receipts_from,
            "bytes": self.bytes,
            **by_status,
        }


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """All transcripts of a run; `without` names jobs that have none, with the reason, `missing` those that should.

    `logs` has the audit logs of the run's folder and those that the auditor was given, by path.
    """

    run: str
    verdicts: tuple[Verdict, ...]
    without: dict[str, str]
    missing: tuple[str, ...]
    logs: dict[str, LogCheck]

    @property
    def verified(self) -> bool:
        """Whether nothing failed and no transcript is missing."""
        broken = any(log.problems for log in self.logs.values())
        return not self.missing and not broken and not any(verdict.failed for verdict in self.verdicts)

    @property
    def cannot_be_proved(self) -> tuple[str, ...]:
        """What no transcript of these kinds shows."""
        return tuple(dict.fromkeys(line for verdict in self.verdicts for line in verdict.cannot_be_proved))

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "run": self.run,
            "verified": self.verified,
            "transcripts": [verdict.as_dict() for verdict in self.verdicts],
            "without_transcript": self.without,
            "missing": list(self.missing),
            "audit_logs": {
                name: {
                    "lines": log.lines,
                    "last": log.last,
                    "problems": [{"line": problem.line, "what": problem.what} for problem in log.problems],
                }
                for name, log in self.logs.items()
            },
            "cannot_be_proved": list(self.cannot_be_proved),
        }


def count_entries(run: Path) -> int:
    """How many entries `verify_run` will check, for a progress bar; raises RunFolderError as it does."""
    return sum(TranscriptFolder(folder / TRANSCRIPT).count for folder in _with_transcript(run))


def verify_run(
    run: Path,
    *,
    anchor: Path | None = None,
    receipts: Sequence[Path] = (),
    logs: Sequence[Path] = (),
    progress: Callable[[], None] = lambda: None,
) -> AuditReport:
    """Check everything that `run` holds; `progress` is called once per entry.

    Raises:
        RunFolderError: there is no transcript to verify, or the anchor is no public key.
        SecfedError: a log cannot be read.
    """
    folders = _with_transcript(run)
    key = _read_anchor(anchor) if anchor is not None else None
    given = {path: read_receipts(path) for path in receipts}
    strays = {receipt for kept, _ in given.values() for receipt in kept}
    verdicts = []
    for folder in folders:
        audit = _Audit(folder, job=folder.parent.name if folder != run else folder.name)
        audit.read_entries(key if anchor is not None else audit.own_anchor(), progress)
        own = {receipt for receipt in strays if receipt.session in audit.sessions}
        strays -= own
        verdicts.append((audit, own))
    results = []
    for position, (audit, own) in enumerate(verdicts):
        problems = Findings("receipts")
        if receipts:
            # What belongs to no session at all is held against the first transcript, so that it is not lost.
            held: Iterable[AnyReceipt] = own | strays if position == 0 else own
            for path, (_, found) in given.items():
                for problem in found if position == 0 else ():
                    problems.fail(problem, where=path.name)
        else:
            held = audit.own_receipts(problems)
        results.append(
            audit.verdict(
                sorted(held, key=lambda receipt: (receipt.site, receipt.round_number)),
                problems,
                anchor="given by the auditor" if anchor is not None else audit.anchor_source,
                receipts_from="given by the auditor" if receipts else "the run folder's simulated sites",
            )
        )
    without = _without_transcript(run)
    missing = tuple(job for job, reason in without.items() if reason == MISSING)
    own_log = run / AUDIT_LOG
    kept = {str(path): check_log(path) for path in (*((own_log,) if own_log.is_file() else ()), *logs)}
    return AuditReport(run=str(run), verdicts=tuple(results), without=without, missing=missing, logs=kept)


class _Audit:
    """One aggregator folder while it is being checked."""

    def __init__(self, folder: Path, *, job: str) -> None:
        self.folder = folder
        self.job = job
        self.anchor_source = "none: signatures of the roster are not checked"
        self.sessions: set[bytes] = set()
        self._transcript = TranscriptFolder(folder / TRANSCRIPT)
        self._findings: list[Finding] = []
        self._rounds_by_file: dict[str, int] = {}
        self._replayed: list[int] = []
        self._by_signatures: list[int] = []
        self._aborted = 0

    def own_anchor(self) -> bytes | None:
        path = self.folder / ANCHOR
        if not path.is_file():
            return None
        self.anchor_source = f"{ANCHOR} of the run itself: compare it with the consortium's"
        return _read_anchor(path)

    def own_receipts(self, problems: Findings) -> set[AnyReceipt]:
        held: set[AnyReceipt] = set()
        for path in sorted(self.folder.parent.glob(RECEIPTS)):
            found, wrong = read_receipts(path)
            held.update(found)
            for problem in wrong:
                problems.fail(problem, where=f"receipts of {path.parents[1].name}")
        return held

    def read_entries(self, anchor: bytes | None, progress: Callable[[], None]) -> None:
        kind = EncryptedReading if self._transcript.label() == ENCRYPTED.label else MaskedReading
        self._reading: Reading = kind(self.folder, self._transcript, anchor=anchor)
        for data in self._transcript.entries():
            self._note(self._reading.add(data))
            progress()
        self._findings += self._reading.finish(self._transcript.head())

    def verdict(
        self, receipts: Sequence[AnyReceipt], problems: Findings, *, anchor: str, receipts_from: str
    ) -> Verdict:
        self._findings += self._reading.check_receipts(receipts)
        self._findings += problems.found
        for name in self._transcript.unknown_files():
            clean = Findings(name)
            clean.add("unchecked", "is no part of the transcript")
            self._findings += clean.found
        return Verdict(
            job=self.job,
            protection=self._reading.protection,
            cannot_be_proved=self._reading.cannot_be_proved,
            findings=tuple(self._findings),
            rounds=len(self._replayed) + len(self._by_signatures),
            replayed=tuple(self._replayed),
            by_signatures=tuple(self._by_signatures),
            aborted=self._aborted,
            sessions=len(self.sessions),
            receipts=len(receipts),
            anchor=anchor,
            receipts_from=receipts_from if receipts else "none",
            bytes=self._transcript.size_bytes(),
            rounds_by_file=self._rounds_by_file,
        )

    def _note(self, read: ReadEntry) -> None:
        self._findings += read.findings
        self._aborted += read.aborted
        if read.session is not None:
            self.sessions.add(read.session)
        if read.server_round is not None:
            (self._replayed if read.replayed else self._by_signatures).append(read.server_round)
            self._rounds_by_file[entry_name(read.number)] = read.server_round


def _with_transcript(run: Path) -> list[Path]:
    if not run.is_dir():
        raise RunFolderError(f"{run}: no such folder; give a run folder or an aggregator's folder")
    folders = [folder for folder in [run, *sorted(run.glob("jobs/*/aggregator"))] if _has_transcript(folder)]
    if folders:
        return folders
    without = _without_transcript(run)
    if without:
        reasons = "; ".join(f"{job}: {reason}" for job, reason in without.items())
        raise RunFolderError(f"{run}: nothing to verify, because no job keeps a transcript ({reasons})")
    raise RunFolderError(
        f"{run}: nothing to verify: neither a run folder nor an aggregator's folder with {TRANSCRIPT}/"
    )


def _has_transcript(folder: Path) -> bool:
    """Whether there is at least one entry: an aggregator makes the folder before its first session."""
    return TranscriptFolder(folder / TRANSCRIPT).count > 0


def _without_transcript(run: Path) -> dict[str, str]:
    """Jobs without a transcript, and why."""
    without = {}
    for folder in [run, *sorted(run.glob("jobs/*/aggregator"))]:
        if _has_transcript(folder) or not (folder / PLAN).is_file():
            continue
        job = folder.parent.name if folder != run else folder.name
        if not (folder / CHECKPOINTS).is_dir():
            without[job] = "it has not completed a round"
            continue
        try:
            plan = TrainingPlan.model_validate_json((folder / PLAN).read_bytes())
        except (OSError, ValueError):
            without[job] = MISSING
            continue
        without[job] = PLAIN if plan.protection.mode == "plain" else MISSING
    return without


def _read_anchor(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path}: the anchor cannot be read: {error.strerror}") from error
    if len(key) != ANCHOR_BYTES:
        raise RunFolderError(f"{path}: an anchor is a public key of {ANCHOR_BYTES} bytes, this file has {len(key)}")
    return key
