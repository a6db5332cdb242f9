"""Our side of the comparison: a session of clients in this process, in series, and an aggregator in another.

Everything that a client does counts: fixed-point encoding, masking, hashing, signing, checking. What stands for the
network (pipe and files) does not.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.aggregator_process import AggregatorProcess
from benchmarks.stopwatch import Seconds, Stopwatch
from privacy.errors import MisuseError
from privacy.fixed_point import Segment, VectorFormat, encode
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster, verify_roster
from privacy.streams import Keystream

MAX_ABS = 8.0


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """One round: `clients` for all of them together, `masking_cpu` for the upload step of the middle client."""

    setup: Seconds
    clients: Seconds
    server: Seconds
    masking_cpu: float
    sharing_cpu: float
    bytes_up: int
    server_peak_bytes: int

    @property
    def total(self) -> Seconds:
        """All parties, set-up included."""
        return self.setup + self.clients + self.server


class MaskedSession:
    """Clients that have confirmed their keys, and their aggregator."""

    def __init__(self, clients: int, *, folder: Path) -> None:
        names = [f"site-{index:03d}" for index in range(clients)]
        identities = {name: Identity.generate(name) for name in names}
        roster, session = _roster(identities), secrets.token_bytes(32)
        self._upload = folder / "upload.bin"
        self._stopwatch = Stopwatch()
        self._round_number = 0
        self._aggregator = AggregatorProcess(roster=roster, session=session)
        floors = ClientFloors(min_cohort=2)
        self._clients = [
            SecAggClient.create(identity=identities[name], roster=roster, session=session, floors=floors)
            for name in names
        ]
        with self._stopwatch.part("setup"):
            messages = [client.advertise_keys() for client in self._clients]
        relayed = self._aggregator.call("relay", "advertisements", messages)
        with self._stopwatch.part("setup"):
            messages = [client.encapsulate_keys(relayed) for client in self._clients]
        relayed = self._aggregator.call("relay", "encapsulations", messages)
        with self._stopwatch.part("setup"):
            messages = [client.confirm_keys(relayed) for client in self._clients]
        relayed = self._aggregator.call("relay", "confirmations", messages)
        with self._stopwatch.part("setup"):
            for client in self._clients:
                client.accept_confirmations(relayed)

    def __enter__(self) -> "MaskedSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._aggregator.__exit__()
        self._upload.unlink(missing_ok=True)

    def round(self, vector: npt.NDArray[np.float64], *, dropouts: int = 0) -> RoundCost:
        """Every client sends this vector but the last `dropouts`, which fall silent after the shares.

        Raises:
            MisuseError: the sum is not what the survivors sent.
        """
        watch, call = Stopwatch(), self._aggregator.call
        self._round_number += 1
        slots = VectorFormat(
            segments=(Segment(name="delta", length=vector.size, max_abs=MAX_ABS),), max_clients=len(self._clients)
        )
        up = 0
        invitation = call("invite", self._round_number)
        shared = []
        for client in self._clients:
            with watch.part("share"):
                shared.append(client.share(invitation))
        announcement, shares = call("announce", shared, secrets.token_bytes(32), vector.size)
        survivors = self._clients[: len(self._clients) - dropouts]
        for client in survivors:
            with watch.part("accept"):
                complaint = client.accept(announcement, shares)
            if complaint is not None:
                raise MisuseError("a client complained about shares that honest clients dealt")
            with watch.part("mask"):
                words = encode(vector, vector_format=slots, rounding=Keystream(secrets.token_bytes(32)))
                header, masked = client.mask(words)
            up = len(header) + masked.nbytes
            masked.astype("<u4", copy=False).tofile(self._upload)
            del words, masked
            call("add_upload", header, self._upload)
        request = call("request_agreement")
        with watch.part("agree"):
            agreements = [client.agree(request) for client in survivors]
        request = call("request_unmask", agreements)
        with watch.part("unmask"):
            replies = [client.unmask(request) for client in survivors]
        first = call("finish", replies, slots)
        if abs(first - len(survivors) * float(vector[0])) > len(survivors) * slots.quantum(slots.segments[0]):
            raise MisuseError(f"the sum's first entry is {first}, expected {len(survivors)} times {vector[0]}")
        setup, server = call("seconds")
        return RoundCost(
            setup=self._stopwatch.total("setup") + setup,
            clients=watch.total(),
            server=server,
            masking_cpu=watch.median_cpu("mask"),
            sharing_cpu=watch.median_cpu("share") + watch.median_cpu("accept"),
            bytes_up=up + len(shared[0]) + len(agreements[0]) + len(replies[0]),
            server_peak_bytes=call("peak_bytes"),
        )


def _roster(identities: dict[str, Identity]) -> Roster:
    key = generate_consortium_key()
    members = tuple(Member(name, identity.public_key) for name, identity in sorted(identities.items()))
    signed = sign_roster(Roster(consortium="benchmark", version=1, expires=2**40, members=members), key)
    return verify_roster(signed, anchor=key.public_key().public_bytes_raw(), now=0)
