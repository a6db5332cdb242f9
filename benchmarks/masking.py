"""What a masked round costs, party by party: CPU time of all clients and the aggregator, and bytes on the wire.

In process, without Flower and without training; the bare keystream (AES-256-CTR over the same number of bytes) is
measured beside it in the same run, because absolute times on a shared machine say little.

    python -m benchmarks.masking --json bench/masking.json
"""

import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.rows import Row, parser, publish
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster, verify_roster
from privacy.secagg.server import SecAggServer
from privacy.streams import Keystream


class Clock:
    """CPU seconds per part of a round."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the CPU time of the block to a part."""
        started = time.process_time()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - started


def main() -> None:
    """Measure several cohort sizes and lengths and publish the rows."""
    given = parser(__doc__ or "").parse_args()
    shapes = [(4, 500_000), (10, 500_000)]
    if not given.quick:
        shapes += [(20, 500_000), (10, 10_000_000)]
    rows = [row for clients, length in shapes for row in measure(clients, length, repeats=3 if given.quick else 5)]
    publish(rows, path=given.json)


def measure(clients: int, length: int, *, repeats: int) -> list[Row]:
    """One cohort: the median round, its parts, the same keystream alone, and the bytes of one client."""
    names = [f"site-{index:02d}" for index in range(clients)]
    members, server = _session(names)
    vector = np.zeros(length, np.uint32)
    rounds: list[dict[str, float]] = []
    uploaded = 0
    for number in range(1, repeats + 1):
        clock = Clock()
        round_ = server.begin_round(
            round_number=number, model_hash=bytes(32), plan_hash=bytes(32), vector_length=length
        )
        with clock.part("R1 clients"):
            dealt = [client.begin_round(round_.announcement) for client in members]
        with clock.part("R1 aggregator"):
            shared = round_.collect_shares(dealt)
        header = b""
        for client in members:
            with clock.part("R2 clients"):
                header, masked = client.mask(shared, vector)
            with clock.part("R2 aggregator"):
                round_.add_upload(header, masked)
        with clock.part("R5 aggregator"):
            request = round_.request_unmask()
        with clock.part("R4 clients"):
            replies = [client.unmask(request) for client in members]
        with clock.part("R5 aggregator"):
            round_.finish(replies)
        uploaded = len(dealt[0]) + len(header) + 4 * length + len(replies[0])
        rounds.append(clock.parts)
    clock = Clock()
    streams = clients + clients * (clients - 1) + clients  # self masks, pair masks, and the self masks taken off again
    block = np.zeros(length, np.uint32)
    for _ in range(streams):
        with clock.part("keystream"):
            Keystream(secrets.token_bytes(32)).add_to(block, sign=1)
    totals = [sum(parts.values()) for parts in rounds]
    shape = f"n = {clients}, {length:,} entries"
    rows = [
        Row(measure="round, all parties", value=1000 * statistics.median(totals), unit="ms CPU", note=shape),
        Row(
            measure="round / bare keystream",
            value=statistics.median(totals) / clock.parts["keystream"],
            unit="1",
            note=f"{shape}, {streams} streams",
        ),
        Row(measure="bytes up per entry, one client", value=uploaded / length, unit="bytes", note=shape),
    ]
    rows += [
        Row(
            measure=part,
            value=1000 * statistics.median(parts[part] for parts in rounds),
            unit="ms CPU",
            note=shape,
        )
        for part in rounds[0]
    ]
    return rows


def _session(names: list[str]) -> tuple[list[SecAggClient], SecAggServer]:
    identities = {name: Identity.generate(name) for name in names}
    key = generate_consortium_key()
    members = tuple(Member(name, identities[name].public_key) for name in names)
    signed = sign_roster(Roster(consortium="benchmark", version=1, expires=2**40, members=members), key)
    roster = verify_roster(signed, anchor=key.public_key().public_bytes_raw(), now=0)
    session = secrets.token_bytes(32)
    floors = ClientFloors(min_cohort=2)
    clients = [
        SecAggClient.create(identity=identities[name], roster=roster, session=session, floors=floors) for name in names
    ]
    server = SecAggServer(roster=roster, session=session)
    advertised = server.collect_advertisements([client.advertise_keys() for client in clients])
    encapsulated = server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
    confirmed = server.collect_confirmations([client.confirm_keys(encapsulated) for client in clients])
    for client in clients:
        client.accept_confirmations(confirmed)
    return clients, server


if __name__ == "__main__":
    main()
