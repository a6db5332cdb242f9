"""A site's own record of one encrypted run: the group key and protocol state, and the model that it stepped to itself.

Held by a site alone, one folder per run, readable by its owner only:

    state/encrypted/RUN/run.json     plan, layout and number of sites, as agreed when the site first joined
    state/encrypted/RUN/member.cbor  protocol state with the group key, until the run has ended
    state/encrypted/RUN/initial.safetensors   where the plan names a model to start from
    state/encrypted/RUN/model/       the model and the server's moments after the newest rounds

The model is written before the protocol state that counts its round: after a kill between the two, the same sum is
shown again and gives the same model. Whoever reads these files reads the model, and with the key every upload.
"""

import json
from pathlib import Path
from typing import Self

import numpy as np

from clients.site import Session, Site
from privacy import cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.he.errors import StaleMemberError
from privacy.he.member import GroupMember
from privacy.he.member_state import MemberState
from secfed.checkpoint import Checkpoints
from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.errors import ConfigError, PolicyRefusal, RunFolderError
from secfed.parameters import FloatVector, ParameterLayout, load_vector, model_digest, save_vector
from secfed.protected_vector import encryption_parameters
from secfed.provisioning.files import write_private
from secfed.server_optimizer import ServerState, max_state_bytes

RUNS = "encrypted"
RECORD = "run.json"
MEMBER = "member.cbor"
MODEL = "model"
INITIAL = "initial.safetensors"


class EncryptedRun:
    """One run's folder at a site."""

    def __init__(self, site: Site, session: Session) -> None:
        self.site = site
        self.session = session
        self.folder = site.state / RUNS / session.run.hex()[:32]
        self.checkpoints = Checkpoints(self.folder / MODEL, keep=2, durable=site.file.durable_state)

    @classmethod
    def open(cls, site: Site, folder: Path) -> Self:
        """The run whose folder that is, for what the site's owner does with it.

        Raises:
            ConfigError: it holds no run, or a damaged record.
        """
        path = folder / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            session = Session(
                run=bytes.fromhex(record["run"]),
                session=bytes(32),
                plan=TrainingPlan.model_validate_json(record["plan"]),
                layout=ParameterLayout.from_json(record["layout"]),
                max_clients=int(record["max_clients"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: no readable record of an encrypted run: {error}") from error
        return cls(site, session)

    def check(self) -> None:
        """Refuse a run of this name that was another one when the site first joined it.

        Raises:
            PolicyRefusal: another plan, layout or number of sites, or a damaged record.
        """
        path = self.folder / RECORD
        if path.exists() and path.read_bytes() != self._record().encode():
            raise PolicyRefusal("the plan, the layout or the number of sites is not what this run had when it began")

    def begin(self, initial: FloatVector | None) -> None:
        """Note what the run is, once, and with it the model that the plan names.

        Raises:
            PolicyRefusal: the plan names an initial model and another one was sent, or none.
        """
        named = self.session.plan.initial_model
        if named is not None:
            fits = initial is not None and initial.shape == (self.session.layout.size,)
            if not fits or initial is None or model_digest(initial, self.session.layout).hex() != named:
                raise PolicyRefusal(f"the run did not bring the initial model that its plan names, {named[:16]}...")
        # One by one: `parents` would make all but the last with the ordinary mode.
        for folder in (self.site.state, self.site.state / RUNS, self.folder, self.folder / MODEL):
            folder.mkdir(exist_ok=True, mode=0o700)
        if named is not None and initial is not None and not (self.folder / INITIAL).exists():
            durable = self.site.file.durable_state
            save_vector(self.folder / INITIAL, initial, self.session.layout, metadata={}, durable=durable)
        path = self.folder / RECORD
        if not path.exists():
            write_private(path, self._record().encode(), durable=True)

    def rejoin(self) -> GroupMember:
        """The protocol state for a new session: as it was left, or made anew from what the site's books say.

        A damaged state counts as lost: then a peer seals the key again, and the books say how far the run was.

        Raises:
            ConfigError: the state is whole, but of another roster; it holds the group key and is not given up.
        """
        if (self.folder / MEMBER).exists():
            try:
                return self.member()
            except ConfigError as error:
                if self._is_whole():
                    raise
                self.site.books.log("state lost", run=self.session.run.hex(), error=str(error))
        completed, digest = self.site.books.standing(self.session.run)
        return GroupMember.create(
            identity=self.site.identity(),
            roster=self.site.roster(),
            run=self.session.run,
            parameters=encryption_parameters(self.session.slots, self.session.plan.protection),
            floors=self.site.floors(self.session),
            model_hash=digest or model_digest(self._initial().model, self.session.layout),
            completed=completed,
        )

    def member(self) -> GroupMember:
        """The protocol state as it was left.

        Raises:
            PolicyRefusal: there is none.
            ConfigError: it is damaged.
        """
        path = self.folder / MEMBER
        if not path.exists():
            raise PolicyRefusal("this site has no state of that encrypted run")
        try:
            return GroupMember.from_bytes(
                path.read_bytes(),
                identity=self.site.identity(),
                roster=self.site.roster(),
                parameters=encryption_parameters(self.session.slots, self.session.plan.protection),
                floors=self.site.floors(self.session),
            )
        except MisuseError as error:
            raise ConfigError(f"{path}: {error}") from error

    def keep(self, member: GroupMember) -> None:
        """Make the protocol state durable: called BEFORE its message leaves the site."""
        write_private(self.folder / MEMBER, member.to_bytes(), durable=self.site.file.durable_state)

    def state(self, member: GroupMember) -> ServerState:
        """The model that the site stands on, and the server's momentum.

        Raises:
            StaleMemberError: the files of that round are missing or damaged; a peer's snapshot brings them back.
        """
        if member.completed == 0:
            return self._initial()
        try:
            state = self.checkpoints.load(self.session.layout, completed=member.completed)
        except RunFolderError as error:
            raise StaleMemberError(f"the model after round {member.completed} is lost here: {error}") from error
        if state is None or model_digest(state.model, self.session.layout) != member.model_hash:
            raise StaleMemberError(f"the model after round {member.completed} is not at hand here")
        return state

    def save(self, state: ServerState) -> None:
        """Make a model durable, before the protocol state counts its round."""
        self.checkpoints.save(state, self.session.layout)

    def snapshot(self, state: ServerState) -> bytes:
        """What a peer needs to stand where this site stands, to be sealed under the group key."""
        fields: dict[str, cbor.Encodable] = {
            "completed": state.completed,
            "model": state.model.astype("<f4").tobytes(),
            "momentum": state.momentum.astype("<f8").tobytes() if self.session.plan.federation.has_momentum else b"",
            "average": b"" if state.average is None else state.average.astype("<f4").tobytes(),
        }
        if state.second_moment is not None:
            fields["second_moment"] = state.second_moment.astype("<f8").tobytes()
        return cbor.to_cbor(fields)

    def read_snapshot(self, payload: bytes) -> ServerState:
        """The reverse of `snapshot`, from a peer.

        Raises:
            HostileInputError: malformed, or of another layout.
        """
        layout, federation = self.session.layout, self.session.plan.federation
        found = cbor.from_cbor(payload, max_bytes=max_state_bytes(layout, federation))
        match found:
            case {
                "completed": int(completed),
                "model": bytes(model),
                "momentum": bytes(momentum),
                "average": bytes(average),
                **rest,
            } if rest.keys() <= {"second_moment"} and isinstance(second := rest.get("second_moment", b""), bytes):
                pass
            case _:
                raise HostileInputError("the snapshot is malformed")
        # Without momentum the server's step does not look at it, and before the first round there is no average.
        momentum_bytes = 8 * layout.num_parameters if federation.has_momentum else 0
        second_bytes = 8 * layout.num_parameters if completed and federation.has_second_moment else 0
        average_bytes = 4 * layout.size if completed and federation.ema_decay else 0
        lengths = tuple(map(len, (model, momentum, second, average)))
        if lengths != (4 * layout.size, momentum_bytes, second_bytes, average_bytes):
            raise HostileInputError("the snapshot is of another model's layout")
        velocity = np.frombuffer(momentum, "<f8") if momentum else np.zeros(layout.num_parameters)
        return ServerState(
            completed=completed,
            model=np.frombuffer(model, "<f4"),
            momentum=velocity,
            average=np.frombuffer(average, "<f4") if average else None,
            second_moment=np.frombuffer(second, "<f8") if second else None,
        )

    def _initial(self) -> ServerState:
        # Made here, or named by the plan: an aggregator's choice could be one that tells about single patients.
        from secfed.network import initial_vector

        plan = self.session.plan
        if plan.initial_model is not None:
            try:
                vector, layout, _ = load_vector(self.folder / INITIAL)
            except RunFolderError as error:
                raise StaleMemberError(f"the model that the run starts from is lost here: {error}") from error
            return ServerState.initial(vector, layout)
        vector, layout = initial_vector(plan, num_classes=LABEL_MAPS[plan.task].num_classes)
        return ServerState.initial(vector, layout)

    def _is_whole(self) -> bool:
        try:
            MemberState.from_bytes((self.folder / MEMBER).read_bytes())
        except MisuseError:
            return False
        return True

    def _record(self) -> str:
        return json.dumps(
            {
                "run": self.session.run.hex(),
                "plan": self.session.plan.model_dump_json(),
                "layout": self.session.layout.to_json(),
                "max_clients": self.session.max_clients,
            }
        )


def encrypted_runs(site: Site) -> tuple[Path, ...]:
    """The folders of all encrypted runs that this site has taken part in, the newest first."""
    found = [path.parent for path in (site.state / RUNS).glob(f"*/{RECORD}")]
    return tuple(sorted(found, key=lambda folder: (folder / RECORD).stat().st_mtime, reverse=True))
