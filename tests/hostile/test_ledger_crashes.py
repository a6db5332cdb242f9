"""The ledger under kills and power cuts at every step of writing: a granted charge is never lost, the file reads on.

The accountant is replaced by one that is quick, since these tests are about the disk.
"""

import os
import signal
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privacy import ledger_file
from privacy.accounting import Spend
from privacy.ledger import Ledger, LedgerError
from privacy.ledger_check import verify
from privacy.segment import Segment

ROUND = Segment(sampling_prob=0.5, noise_multiplier=100.0, steps=1)
FINGERPRINT = bytes(range(32))
ROUNDS = 2
CALLS = ("open", "write", "fsync", "replace", "close")


class PowerCutError(BaseException):
    """Nothing after this runs."""


@pytest.fixture(autouse=True)
def quick_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "privacy.ledger_account.spend",
        lambda segments, *, delta: Spend(epsilon=1e-6 * len(segments), delta=delta),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / "ct.ledger"


def opened(path: Path) -> Ledger:
    return Ledger.open(path, fingerprint=FINGERPRINT, cap_epsilon=8.0, delta=1e-5)


def charge_next(ledger: Ledger) -> None:
    ledger.charge(run="run-1", server_round=len(ledger.charges()), plan=bytes(32), segment=ROUND, purpose="training")


def require_sound(path: Path, *, granted: int) -> None:
    """What was granted is charged, at most one more is, nothing is damaged, and the ledger goes on."""
    before = verify(path)
    with opened(path) as ledger:
        assert granted <= len(ledger.charges()) <= granted + 1
        assert len(ledger.segments()) == len(ledger.charges())
        charge_next(ledger)
        count = ledger.head.count
    assert "failed" not in {finding.status for finding in verify(path)}
    assert len(path.read_bytes().splitlines()) == count
    assert all(finding.status != "failed" or finding.what == "there is no ledger" for finding in before)


class Disk:
    """Watches the calls of ledger_file, ends it at the n-th, and knows what of each file had reached the disk."""

    def __init__(self, *, end_at: int, half: bool, crash: Callable[[], None]) -> None:
        self.calls = 0
        self._end_at, self._half, self._crash = end_at, half, crash
        self._contents: dict[int, bytes] = {}
        self._folders: dict[Path, dict[str, int]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(ledger_file.os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable) -> Callable:
        def call(*arguments, **named):
            self.calls += 1
            last = self.calls == self._end_at
            if last and name == "write" and self._half:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if last:
                self._crash()
            result = real(*arguments, **named)
            if name == "fsync":
                self._flushed(arguments[0])
            return result

        return call

    def _flushed(self, file: int) -> None:
        where = Path(f"/proc/self/fd/{file}").readlink()
        if stat.S_ISDIR(os.fstat(file).st_mode):
            self._folders[where] = {found.name: found.stat().st_ino for found in where.iterdir()}
        else:
            self._contents[os.fstat(file).st_ino] = where.read_bytes()

    def lose_what_was_not_flushed(self, folder: Path) -> None:
        """A file that was not flushed is empty, a name that was not flushed is not there."""
        kept = {name: self._contents.get(inode, b"") for name, inode in self._folders.get(folder, {}).items()}
        for found in list(folder.iterdir()):
            found.unlink()
        for name, content in kept.items():
            (folder / name).write_bytes(content)


def run_in_child(work: Callable[[Callable[[], None]], None]) -> tuple[int, Iterator[bytes]]:
    """A forked process; what it grants arrives as bytes, one each, until it ends."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that other tests' libraries started; the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            with os.fdopen(writing, "wb", buffering=0) as file:
                work(lambda: file.write(b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)

    def grants() -> Iterator[bytes]:
        with os.fdopen(reading, "rb", buffering=0) as file:
            while found := file.read(1):
                yield found

    return child, grants()


@pytest.mark.parametrize("half", [False, True], ids=["before the call", "in the middle of a write"])
def test_a_process_that_dies_at_any_call_loses_no_granted_charge(tmp_path: Path, half: bool) -> None:
    finished, n = False, 0
    while not finished:
        n += 1
        path = tmp_path / str(n) / "ct.ledger"

        def work(granted: Callable[[], None], path: Path = path, n: int = n) -> None:
            with pytest.MonkeyPatch.context() as patch:
                Disk(end_at=n, half=half, crash=lambda: os._exit(9)).install(patch)
                with opened(path) as ledger:
                    for _ in range(ROUNDS):
                        charge_next(ledger)
                        granted()

        child, grants = run_in_child(work)
        granted = len(list(grants))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        finished = code == 0
        require_sound(path, granted=granted)
    assert n > 40, "three lines of more than a dozen calls each were interrupted"
    assert granted == ROUNDS


@pytest.mark.parametrize("half", [False, True], ids=["before the call", "in the middle of a write"])
def test_a_power_cut_at_any_call_loses_no_granted_charge(tmp_path: Path, half: bool) -> None:
    finished, n = False, 0

    def cut() -> None:
        raise PowerCutError

    while not finished:
        n += 1
        path = tmp_path / str(n) / "ct.ledger"
        granted, disk = 0, Disk(end_at=n, half=half, crash=cut)
        ledger = None
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            try:
                ledger = opened(path)
                for _ in range(ROUNDS):
                    charge_next(ledger)
                    granted += 1
                finished = True
            except PowerCutError:
                pass
        if ledger is not None:
            ledger.close()
        disk.lose_what_was_not_flushed(path.parent)
        require_sound(path, granted=granted)
    assert n > 40


def test_the_power_cut_of_these_tests_loses_charges_that_are_not_flushed(tmp_path: Path) -> None:
    """The control: without flushing, a granted charge is gone."""
    path = tmp_path / "ledgers" / "ct.ledger"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(end_at=-1, half=False, crash=lambda: None)
        disk.install(patch)
        opened(path).close()
        with Ledger.open(path, fingerprint=FINGERPRINT, cap_epsilon=8.0, delta=1e-5, durable=False) as ledger:
            charge_next(ledger)
    disk.lose_what_was_not_flushed(path.parent)
    with opened(path) as ledger:
        assert ledger.charges() == ()


def test_killed_processes_lose_no_granted_charge(path: Path) -> None:
    """Real SIGKILLs at arbitrary moments, on one ledger that goes on."""
    total = 0

    def work(granted: Callable[[], None]) -> None:
        with opened(path) as ledger:
            while True:
                charge_next(ledger)
                granted()

    for attempt in range(25):
        child, grants = run_in_child(work)
        wanted, seen = 1 + 7 * attempt % 11, 0
        for _ in grants:
            seen += 1
            if seen == wanted:
                os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with opened(path) as ledger:
            assert total + seen <= len(ledger.charges()) <= total + seen + 1
            total = len(ledger.charges())
    assert "failed" not in {finding.status for finding in verify(path)}


def test_a_line_torn_anywhere_is_completed_as_charged(path: Path) -> None:
    with opened(path) as ledger:
        charge_next(ledger)
        charge_next(ledger)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole), 3):
        path.write_bytes(whole[:end])
        found = verify(path)
        assert "failed" not in {finding.status for finding in found}
        assert any("cut short" in finding.what for finding in found)
        assert path.read_bytes() == whole[:end]
        with opened(path) as ledger:
            assert len(ledger.charges()) == 2
        assert path.read_bytes() == whole


def test_a_killed_process_gives_its_lock_back(path: Path) -> None:
    def work(granted: Callable[[], None]) -> None:
        with opened(path):
            granted()
            signal.pause()

    child, grants = run_in_child(work)
    next(grants)
    with pytest.raises(LedgerError, match="open already"):
        opened(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    grants.close()
    opened(path).close()
