"""Everything that the board's page says, gathered and checked: from the run, from one site, from the attack suite.

Run by a site or by an auditor, on files. The transcript is verified here and now, so that the page repeats nobody's
word. What is not there (no site's folder, no attack results) is kept as missing, and the page says so.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.books import RECEIPTS
from clients.budget import Standing, standings
from clients.site import Site
from privacy.errors import HostileInputError, PrivacyError
from privacy.secagg.roster import Roster, parse_unverified_roster, verify_roster
from privacy.secagg.threshold import default_threshold
from secfed.aggregator_files import ANCHOR, JOURNAL, PLAN, ROSTER
from secfed.audit.expected import EXPECTED
from secfed.audit.rows import Mode
from secfed.audit.verify import AuditReport, verify_run
from secfed.audit_log import AUDIT_LOG, read_log
from secfed.config import TrainingPlan
from secfed.errors import ConfigError, RunFolderError, SecfedError
from secfed.provenance import code_digest
from secfed.provisioning.approvals import Approval, Approvals
from secfed.provisioning.files import SIMULATED_NOISE_FILE
from secfed.provisioning.fingerprint import fingerprint

FEDERATED_JOB = Path("jobs") / "federated" / "aggregator"


@dataclass(frozen=True, kw_only=True)
class AttackResults:
    """Counts of the suite's verdicts for the run's mode; `limits` are attacks that succeed as stated, by name."""

    mode: Mode
    refused: int
    limits: tuple[str, ...]
    not_applicable: int
    deviations: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What one site's own folder says; only that site, or whom it shows this page, reads it."""

    name: str
    policy: Mapping[str, Any]
    approvals: tuple[Approval, ...]
    installed_approved: bool
    ledgers: tuple[Standing, ...]
    simulated_noise: bool
    refusals: int
    answers: int


@dataclass(frozen=True, kw_only=True)
class GovernanceFacts:
    """The page's content. `rounds_of` counts in how many sums each site was; times are UTC, None where no log tells."""

    run: str
    plan: TrainingPlan
    code: str
    roster: Roster | None
    roster_problem: str | None
    anchor_fingerprint: str
    threshold: int | None
    rounds_done: int
    smallest_cohort: int | None
    rounds_of: Mapping[str, int]
    began: str | None
    ended: str | None
    verified: AuditReport | None
    verify_problem: str | None
    attacks: AttackResults | None
    site: SiteFacts | None
    made: str


def gather(
    run: Path,
    *,
    site: Path | None = None,
    attacks: Path | None = None,
    anchor: Path | None = None,
    receipts: Sequence[Path] = (),
    logs: Sequence[Path] = (),
) -> GovernanceFacts:
    """Read and verify.

    Raises:
        RunFolderError: `run` is no run of several sites.
        SecfedError: a file that was given cannot be used.
    """
    place = next((found for found in (run, run / FEDERATED_JOB) if (found / PLAN).is_file()), None)
    if place is None:
        raise RunFolderError(f"{run}: neither a deployed run's folder nor a run folder with a federated job")
    plan = TrainingPlan.model_validate_json((place / PLAN).read_text(encoding="utf-8"))
    done = _rounds(place / JOURNAL)
    if site is not None:
        # What the site itself kept of the run is held against the aggregator's record.
        books = site / "books"
        receipts = [*receipts, *(path for path in (books / RECEIPTS,) if path.is_file())]
        logs = [*logs, *(path for path in (books / AUDIT_LOG,) if path.is_file())]
    roster, problem, anchor_bytes = _roster(place, anchor)
    verified, verify_problem = _verify(place, anchor=anchor, receipts=receipts, logs=logs)
    survivors = [entry["survivors"] for entry in done]
    names = roster.names if roster is not None else tuple(sorted({name for found in survivors for name in found}))
    audit = read_log(place / AUDIT_LOG)
    protected = plan.protection.mode != "plain"
    return GovernanceFacts(
        run=run.resolve().name,
        plan=plan,
        code=code_digest(),
        roster=roster,
        roster_problem=problem,
        anchor_fingerprint="" if anchor_bytes is None else fingerprint(anchor_bytes),
        threshold=(plan.protection.threshold or default_threshold(len(names)))
        if protected and len(names) > 1
        else None,
        rounds_done=len(done),
        smallest_cohort=min(map(len, survivors), default=None),
        rounds_of={name: sum(name in found for found in survivors) for name in names},
        began=audit[0]["time"] if audit else None,
        ended=audit[-1]["time"] if audit else None,
        verified=verified,
        verify_problem=verify_problem,
        attacks=None if attacks is None else read_attacks(attacks, mode=plan.protection.mode),
        site=None if site is None else _site(site),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def read_attacks(path: Path, *, mode: Mode) -> AttackResults:
    """What `secfed audit attack --json` printed, for one mode.

    Raises:
        ConfigError: the file is none of that.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in found["rows"] if row["mode"] == mode]
        verdicts = {row["attack"]: row["verdict"] for row in rows}
        deviations = tuple(map(str, found["deviations"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not what `secfed audit attack --mode {mode} --json` prints: {type(error).__name__}: {error}"
        ) from error
    return AttackResults(
        mode=mode,
        refused=sum(verdict == "refused" for verdict in verdicts.values()),
        limits=tuple(sorted(name for name, verdict in verdicts.items() if verdict == "succeeded")),
        not_applicable=sum(verdict == "not applicable" for verdict in verdicts.values()),
        deviations=deviations,
        missing=tuple(sorted(set(EXPECTED) - set(verdicts))),
    )


def _rounds(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            # A kill may have cut the last line short.
            continue
        if entry.get("event") == "round":
            found.append(entry)
    return found


def _roster(place: Path, anchor: Path | None) -> tuple[Roster | None, str | None, bytes | None]:
    if not (place / ROSTER).is_file():
        return None, "this run has no roster: its sites are known by the aggregator's word alone", None
    signed = (place / ROSTER).read_bytes()
    key = (anchor or place / ANCHOR).read_bytes()
    try:
        return verify_roster(signed, anchor=key, now=int(time.time())), None, key
    except HostileInputError as error:
        try:
            return parse_unverified_roster(signed), str(error), key
        except HostileInputError as malformed:
            return None, str(malformed), key


def _verify(
    place: Path, *, anchor: Path | None, receipts: Sequence[Path], logs: Sequence[Path]
) -> tuple[AuditReport | None, str | None]:
    try:
        return verify_run(place, anchor=anchor, receipts=receipts, logs=logs), None
    except RunFolderError as error:
        return None, str(error)


def _site(folder: Path) -> SiteFacts:
    site = Site(folder)
    approvals = Approvals.of(folder, site.file).all()
    try:
        ledgers = tuple(standings(site))
    except PrivacyError as error:
        raise SecfedError(f"site '{site.name}': {error}") from error
    events = [entry["event"] for entry in read_log(folder / "books" / AUDIT_LOG)]
    return SiteFacts(
        name=site.name,
        policy=site.file.policy.model_dump(mode="json"),
        approvals=approvals,
        installed_approved=code_digest() in {approval.code for approval in approvals},
        ledgers=ledgers,
        simulated_noise=(folder / SIMULATED_NOISE_FILE).exists(),
        refusals=events.count("refused") + events.count("bundle refused"),
        answers=events.count("answered"),
    )
