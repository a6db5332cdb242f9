"""The aggregator of a masked round in a process of its own, so that its memory and its time are its own.

A process that has loaded nothing but `privacy` takes the calls of `privacy.secagg.server` through a pipe. Uploads come
one at a time, as files: what arrives is read into one array, added, and forgotten.
"""

import multiprocessing
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import reset_peak, status_bytes
from benchmarks.stopwatch import Seconds, Stopwatch
from privacy.errors import MisuseError
from privacy.fixed_point import VectorFormat, decode_sum
from privacy.secagg.roster import Roster
from privacy.secagg.server import SecAggRound, SecAggServer


class AggregatorRole:
    """What runs in the process: every method is one call of the aggregator's, timed."""

    def __init__(self, roster: Roster, session: bytes) -> None:
        self.stopwatch = Stopwatch()
        self._server = SecAggServer(roster=roster, session=session)
        self._round: SecAggRound | None = None
        self._rss_before = 0

    @property
    def _opened(self) -> SecAggRound:
        if self._round is None:
            raise MisuseError("the calls of a round come after invite")
        return self._round

    def relay(self, step: str, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """One of the three steps of the session's set-up."""
        collect = {
            "advertisements": self._server.collect_advertisements,
            "encapsulations": self._server.collect_encapsulations,
            "confirmations": self._server.collect_confirmations,
        }[step]
        with self.stopwatch.part("setup"):
            return collect(messages)

    def invite(self, round_number: int) -> bytes:
        """Open a round, with fresh clocks; its memory counts from here."""
        self._rss_before = reset_peak()
        self.stopwatch.laps.pop("round", None)
        with self.stopwatch.part("round"):
            self._round = self._server.invite(round_number=round_number)
            return self._round.invitation

    def announce(self, messages: Iterable[bytes], model_hash: bytes, length: int) -> tuple[bytes, tuple[bytes, ...]]:
        """Take the shares; returns the announcement and the shares to relay."""
        with self.stopwatch.part("round"):
            self._opened.collect_shares(messages)
            announcement = self._opened.announce(model_hash=model_hash, plan_hash=bytes(32), vector_length=length)
            return announcement, self._opened.shares

    def add_upload(self, header: bytes, file: Path) -> None:
        """Read one upload and add it; reading stands for the network and is not timed."""
        words = np.fromfile(file, dtype="<u4")
        with self.stopwatch.part("round"):
            self._opened.add_upload(header, words)

    def request_agreement(self) -> bytes:
        """Fix the survivors."""
        with self.stopwatch.part("round"):
            return self._opened.request_agreement()

    def request_unmask(self, agreements: Iterable[bytes]) -> bytes:
        """Take the agreements and ask for shares."""
        with self.stopwatch.part("round"):
            self._opened.collect_agreements(agreements)
            return self._opened.request_unmask()

    def finish(self, replies: Iterable[bytes], vector_format: VectorFormat) -> float:
        """Unmask and decode the sum; returns its first entry as a check."""
        with self.stopwatch.part("round"):
            decoded = decode_sum(self._opened.finish(replies).total, vector_format=vector_format)
        self._round = None
        return float(decoded[0])

    def seconds(self) -> tuple[Seconds, Seconds]:
        """What the set-up and the last round took."""
        return self.stopwatch.total("setup"), self.stopwatch.total("round")

    def peak_bytes(self) -> int:
        """The largest resident memory since `invite`, above what it was then."""
        return status_bytes("VmHWM") - self._rss_before


class AggregatorProcess:
    """A running aggregator; `call` names a method of `AggregatorRole`."""

    def __init__(self, *, roster: Roster, session: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, roster, session), daemon=True)
        self._process.start()
        other_end.close()

    def __enter__(self) -> "AggregatorProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def call(self, method: str, *arguments: object) -> Any:
        """The method's result, from the other process.

        Raises:
            EOFError: the process died; its traceback is on standard error.
        """
        self._connection.send((method, arguments))
        return self._connection.recv()


def _serve(connection: Connection, roster: Roster, session: bytes) -> None:
    role = AggregatorRole(roster, session)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(role, method)(*arguments))
        # An upload's header is small, but a hundred relayed messages are not: they must not outlive the call.
        del arguments
