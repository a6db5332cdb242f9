"""The global model where the aggregator never sees it: it keeps the encrypted sum that the sites step on next.

    checkpoints/state.json       the run's name, completed rounds, the newest round number, whether the run has ended
    checkpoints/sum-000012.bin   the encrypted sum of round 12
    checkpoints/sum-000012.cbor  its announcement and the signed headers of what is inside

Runs at the aggregator. The sums of the last two rounds are kept: where the sites cannot read the newest one, its round
is run again on top of the other. A round number is durable before any site hears it, so that none is used twice.
"""

import json
import secrets

from aggregator.folder import AggregatorFolder
from privacy import cbor
from privacy.errors import HostileInputError
from privacy.he.group_server import PublishedSum
from privacy.he.layout import message_root
from secfed.aggregator_files import CHECKPOINTS
from secfed.errors import GroupKeyLost, RoundAborted, RunFolderError
from secfed.whole_file import write_whole

STATE = "state.json"
KEPT_SUMS = 2
MAX_RERUNS = 3
"""How often one round is run again because the sites could not read its sum: then some site signs nonsense."""

_RUN_BYTES = 32


class SealedModel:
    """What the aggregator holds of an encrypted run; `before` is the sum of the last completed round."""

    def __init__(self, folder: AggregatorFolder, *, rounds: int) -> None:
        self.folder = folder.folder / CHECKPOINTS
        self.rounds = rounds
        self._durable = folder.durable
        self._reruns: dict[int, int] = {}
        self.run, self.completed, self.number, self.ended = self._load_state()
        self.before = self._load_sum(self.completed)
        # The run's name is durable before any site hears it: sessions under two names are no one run's transcript.
        self._save_state()

    def next_number(self) -> int:
        """A round number that no site has heard; numbers rise over the whole run."""
        self.number += 1
        self._save_state()
        return self.number

    def advance(self, published: PublishedSum) -> None:
        """The next round steps on this sum."""
        self.completed, self.before = self.completed + 1, published

    def save(self) -> None:
        """Make the newest sum durable."""
        if self.before is not None:
            self._save_sum(self.completed, self.before)
        self._save_state()
        for path in self.folder.glob("sum-*"):
            if not self.completed - KEPT_SUMS < int(path.name[4:10]) <= self.completed:
                path.unlink()

    def end(self) -> None:
        """The sites have the final model and erased their key."""
        self.ended = True
        self._save_state()

    def roll_back(self) -> None:
        """Run the last round again: the sites cannot read its sum, and none stepped on it.

        Raises:
            RoundAborted: that round was run again too often.
        """
        count = self._reruns[self.completed] = self._reruns.get(self.completed, 0) + 1
        if count > MAX_RERUNS:
            raise RoundAborted(
                f"the sites could not read the sum of round {self.completed}, which was run {count} times: some site "
                "signs and sends what is no encryption of its update. Leave sites out in turn to find it"
            )
        self.completed -= 1
        self.before = self._load_sum(self.completed)
        self._save_state()

    def restart(self) -> None:
        """Begin again: the key is lost, and no site stepped on a sum yet.

        Raises:
            GroupKeyLost: a second sum was formed, so sites had stepped on the first.
        """
        if self.completed > 1:
            raise GroupKeyLost(
                f"no site knows of the {self.completed} rounds of this run: their keys and books are lost, and with "
                "them the model. Start a new run"
            )
        self.completed, self.before = 0, None
        self._save_state()

    def _save_state(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"run": self.run.hex(), "completed": self.completed, "number": self.number, "ended": self.ended}
        write_whole(self.folder / STATE, json.dumps(state).encode(), durable=self._durable)

    def _load_state(self) -> tuple[bytes, int, int, bool]:
        path = self.folder / STATE
        if not path.exists():
            return secrets.token_bytes(_RUN_BYTES), 0, 0, False
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            found = bytes.fromhex(state["run"]), int(state["completed"]), int(state["number"]), bool(state["ended"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: the checkpoint cannot be read: {error}") from error
        if len(found[0]) != _RUN_BYTES:
            raise RunFolderError(f"{path}: run has {len(found[0])} bytes, {_RUN_BYTES} are needed")
        return found

    def _save_sum(self, completed: int, published: PublishedSum) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = cbor.to_cbor(
            {
                "announcement": published.announcement,
                "headers": published.headers,
                "inputs_digest": published.inputs_digest,
                "root": published.root,
                "contributors": published.contributors,
                "dropped": published.dropped,
            }
        )
        stem = f"sum-{completed:06d}"
        write_whole(self.folder / f"{stem}.bin", published.total, durable=self._durable)
        write_whole(self.folder / f"{stem}.cbor", record, durable=self._durable)

    def _load_sum(self, completed: int) -> PublishedSum | None:
        if completed == 0:
            return None
        stem = self.folder / f"sum-{completed:06d}"
        try:
            total = stem.with_suffix(".bin").read_bytes()
            found = cbor.from_cbor(stem.with_suffix(".cbor").read_bytes())
            match found:
                case {
                    "announcement": bytes(announcement),
                    "headers": list(headers),
                    "inputs_digest": bytes(inputs_digest),
                    "root": bytes(root),
                    "contributors": list(contributors),
                    "dropped": list(dropped),
                } if message_root(total) == root:
                    return PublishedSum(
                        announcement=announcement,
                        headers=tuple(data for data in headers if isinstance(data, bytes)),
                        inputs_digest=inputs_digest,
                        total=total,
                        root=root,
                        contributors=tuple(map(str, contributors)),
                        dropped=tuple(map(str, dropped)),
                        excluded={},
                    )
        except (OSError, HostileInputError) as error:
            raise RunFolderError(f"{stem}.*: the encrypted sum cannot be read: {error}") from error
        raise RunFolderError(f"{stem}.*: the encrypted sum is damaged")
