"""A site: its folder, its policy, its keys, its durable protocol state and its prepared cases.

Runs at a site. Everything here is read from the site's own folder; nothing comes from a run configuration. The folder
must be readable by its owner only: it holds the identity key and, between two messages, the secrets of a round.

    site.toml  identity.key  roster.cbor  anchor.pub  rounding.key
    state/     session, optimiser, opened sums; encrypted/ (clients.encrypted_run), normalisation/ (clients.own_layers)
    books/     the site's own notes (clients.books)
    ledgers/   what runs have spent of its patients' privacy, one file per data set (privacy.ledger)
"""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.books import Books
from clients.training import TrainingSource
from privacy import cbor
from privacy.entropy import SYSTEM_ENTROPY
from privacy.errors import HostileInputError, MisuseError
from privacy.fixed_point import VectorFormat
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.differencing import OpenedSums
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Roster, verify_roster
from privacy.streams import KEY_BYTES, Words, derive_key
from secfed.config import PreprocessingConfig, TrainingPlan
from secfed.data.cases import LABEL_MAPS, Case
from secfed.data.preprocessing import PreparedCase, prepare
from secfed.data.readers import DataSet
from secfed.data.site_data import read_site_data
from secfed.errors import ConfigError, PolicyRefusal, RosterRefusal
from secfed.messages import Reply, Request
from secfed.parameters import ParameterLayout
from secfed.protected_vector import vector_format
from secfed.provisioning.files import (
    ANCHOR_FILE,
    IDENTITY_FILE,
    ROSTER_FILE,
    ROUNDING_FILE,
    SIMULATED_NOISE_FILE,
    write_private,
)
from secfed.site_config import SiteData, SiteFile, load_site_file

SESSION_FILE = "session.cbor"
OPENED_FILE = "opened.cbor"
LEDGERS = "ledgers"
MAX_SESSION_BYTES = 64 * 2**20
_SESSION_FIELDS = {"run", "session", "plan", "layout", "max_clients", "client"}


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a site agreed to when it joined: the run, the plan, the model's layout and how many sites sum at most."""

    run: bytes
    session: bytes
    plan: TrainingPlan
    layout: ParameterLayout
    max_clients: int

    @property
    def min_survivors(self) -> int:
        """The fewest sites whose shares of noise make up the noise that was agreed; 0 without shared noise."""
        privacy = self.plan.privacy
        return self.max_clients - privacy.max_dropouts if privacy.mode in ("distributed", "silo") else 0

    @property
    def slots(self) -> VectorFormat:
        """The vector that the site hands in, and the range of its integers."""
        return vector_format(self.layout, self.plan, cohort_size=self.max_clients)


@dataclass(frozen=True, kw_only=True)
class SiteCases:
    """Prepared training and validation cases of one site."""

    sources: tuple[TrainingSource, ...]
    validation: tuple[PreparedCase, ...]

    @property
    def examples(self) -> int:
        """Training cases: the FedAvg weight counts patients' scans, not slices."""
        return sum(len(source.cases) for source in self.sources)


class Site:
    """One site folder, opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: SiteFile = load_site_file(folder)
        self.books = Books(folder / "books")
        self.state = folder / "state"
        self.rounding_key = self._read(ROUNDING_FILE)

    @property
    def name(self) -> str:
        """The site's name in the roster."""
        return self.file.name

    def identity(self) -> Identity:
        """The long-term signing key."""
        return Identity.from_bytes(self._read(IDENTITY_FILE), name=self.name)

    def roster(self) -> Roster:
        """The consortium's roster, verified against the anchor in the site's own folder.

        Raises:
            HostileInputError: forged, expired or malformed.
            RosterRefusal: this site is not in it.
        """
        roster = verify_roster(self._read(ROSTER_FILE), anchor=self._read(ANCHOR_FILE), now=int(time.time()))
        if self.name not in roster:
            raise RosterRefusal(f"site '{self.name}' is not in the consortium's roster version {roster.version}")
        return roster

    def noise_key(self, *, label: str, context: Mapping[str, bytes | int | str]) -> bytes:
        """32 bytes for noise or sampling: fresh OS entropy, or in a simulation from its seed: no guarantee then.

        Raises:
            ConfigError: a simulation's key stands in the folder of a site that is none (`durable_state`).
        """
        path = self.folder / SIMULATED_NOISE_FILE
        if path.exists():
            if self.file.durable_state:
                raise ConfigError(
                    f"{path}: noise from a seed hides nobody, and this site is no simulation (durable_state = true): "
                    "remove the file"
                )
            return derive_key(path.read_bytes(), label=label, context=context)
        return SYSTEM_ENTROPY.token_bytes(KEY_BYTES)

    def ledger_path(self, fingerprint: bytes) -> Path:
        """Where this site accounts for what its runs have spent on one data set."""
        return self.folder / LEDGERS / f"{fingerprint.hex()[:32]}.ledger"

    def floors(self, session: Session) -> ClientFloors:
        """The policy's limits in the protocol's terms; fewer sites than the agreed noise needs open no sum.

        Nor are two sums over one model opened then that differ in a site: their difference would be that site's
        integers with its own share of the noise, whatever the policy says about runs without noise.
        """
        return ClientFloors(
            min_cohort=max(self.file.policy.min_cohort, session.min_survivors),
            min_threshold=self.file.policy.min_threshold,
            max_vector_length=session.slots.length,
            second_sum="same survivors" if session.min_survivors else self.file.policy.second_sum,
            min_cohort_change=self.file.policy.min_cohort_change,
        )

    def opened_sums(self) -> OpenedSums:
        """What this site helped to open in all its sessions.

        Raises:
            ConfigError: the record is damaged. Without it the site would forget which sums it must not open again.
        """
        path = self.state / OPENED_FILE
        if not path.exists():
            return OpenedSums()
        try:
            return OpenedSums.from_bytes(path.read_bytes())
        except MisuseError as error:
            raise ConfigError(
                f"{path}: {error}; restore it from a copy, or remove it to forget what was opened"
            ) from error

    def remember_opened(self, client: SecAggClient) -> None:
        """Make durable what this site is about to help opening: called BEFORE the shares leave."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self.state / OPENED_FILE, client.opened.to_bytes(), durable=self.file.durable_state)

    def open_session(self, session: Session, client: SecAggClient | None) -> None:
        """Make a new session durable; it replaces the previous one and its secrets."""
        self._write_session(
            {
                "run": session.run,
                "session": session.session,
                "plan": session.plan.model_dump_json(),
                "layout": session.layout.to_json(),
                "max_clients": session.max_clients,
                "client": b"" if client is None else client.to_bytes(),
            }
        )

    def has_joined(self, session: bytes) -> bool:
        """Whether this session is the open one; a damaged state is of no session and gives way to the next."""
        try:
            return bool(self._session_record()["session"] == session)
        except (PolicyRefusal, ConfigError):
            return False

    def session(self, *, run: bytes, session: bytes) -> Session:
        """The open session; raises PolicyRefusal where the request belongs to another."""
        record = self._session_record()
        if record["run"] != run or record["session"] != session:
            raise PolicyRefusal("the request belongs to a session that this site has not joined")
        return Session(
            run=run,
            session=session,
            plan=_parse_plan(record["plan"]),
            layout=_parse_layout(record["layout"]),
            max_clients=record["max_clients"],
        )

    def protocol_client(self) -> SecAggClient:
        """The secure-aggregation state machine as it was left."""
        record = self._session_record()
        if not record["client"]:
            raise PolicyRefusal("this site has no open secure-aggregation session")
        return SecAggClient.from_bytes(record["client"], identity=self.identity(), roster=self.roster())

    def keep(self, client: SecAggClient) -> None:
        """Make the state machine durable: called BEFORE its message leaves the site."""
        self._write_session({**self._session_record(), "client": client.to_bytes()})

    def reply(
        self, request: Request, *payloads: bytes, vector: Words | None = None, attachment: bytes | None = None
    ) -> Reply:
        """This site's answer to a request."""
        return Reply(
            stage=request.stage,
            binding=request.binding,
            site=self.name,
            payloads=payloads or (b"",),
            vector=vector,
            attachment=attachment,
        )

    def cases(self, plan: TrainingPlan) -> SiteCases:
        """The site's prepared cases; preprocessing is cached on disk and the list in memory."""
        return _site_cases(self.file, plan.preprocessing, plan.task)

    def _session_record(self) -> dict[str, Any]:
        path = self.state / SESSION_FILE
        if not path.exists():
            raise PolicyRefusal("this site has no open session")
        try:
            record = cbor.from_cbor(path.read_bytes(), max_bytes=MAX_SESSION_BYTES)
        except HostileInputError as error:
            raise ConfigError(f"{path}: damaged, the site has to join a new session: {error}") from error
        if not isinstance(record, dict) or record.keys() != _SESSION_FIELDS:
            raise ConfigError(f"{path}: of another version, the site has to join a new session")
        return record

    def _write_session(self, record: Mapping[str, Any]) -> None:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self.state / SESSION_FILE, cbor.to_cbor(dict(record)), durable=self.file.durable_state)

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.folder / name}: cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=8)
def _parse_plan(text: str) -> TrainingPlan:
    return TrainingPlan.model_validate_json(text)


@functools.lru_cache(maxsize=8)
def _parse_layout(text: str) -> ParameterLayout:
    return ParameterLayout.from_json(text)


@functools.lru_cache(maxsize=8)
def _site_cases(file: SiteFile, preprocessing: PreprocessingConfig, task: str) -> SiteCases:
    sources: list[TrainingSource] = []
    validation: list[PreparedCase] = []
    for data in file.data:
        data_set = read_site_data(data)
        sources.append(
            TrainingSource(
                site=data.name,
                cases=prepare_all(data_set, data_set.training, data=data, preprocessing=preprocessing, task=task),
            )
        )
        validation += prepare_all(data_set, data_set.validation, data=data, preprocessing=preprocessing, task=task)
    return SiteCases(sources=tuple(sources), validation=tuple(validation))


def prepare_all(
    data_set: DataSet, cases: tuple[Case, ...], *, data: SiteData, preprocessing: PreprocessingConfig, task: str
) -> tuple[PreparedCase, ...]:
    """Preprocess cases through the cache."""
    return tuple(
        prepare(case, data_set=data_set, label_map=LABEL_MAPS[task], config=preprocessing, cache=data.cache)
        for case in cases
    )
