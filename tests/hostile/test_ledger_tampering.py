"""A ledger that was changed, shortened or rolled back: refused on opening, or found by who holds an earlier head."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.ledger import Ledger, LedgerError
from privacy.ledger_check import verify
from privacy.ledger_entries import decode_entry
from privacy.segment import Segment

FINGERPRINT = bytes(range(32))
ROUND = Segment(sampling_prob=1.0, noise_multiplier=4.0, steps=1)
Lines = list[bytes]


def opened(path: Path, *, fingerprint: bytes = FINGERPRINT) -> Ledger:
    return Ledger.open(path, fingerprint=fingerprint, cap_epsilon=8.0, delta=1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with three charges, a note and bound bytes."""
    path = tmp_path / "ledgers" / "ct.ledger"
    with opened(path) as ledger:
        for server_round in range(3):
            charge = ledger.charge(
                run="run-1", server_round=server_round, plan=bytes(32), segment=ROUND, purpose="training"
            )
            ledger.sent(charge, upload=bytes([server_round]) * 32)
        ledger.note(run="run-1", server_round=2, text="8 of 8 sites survived")
    return path


def last_of(path: Path) -> Path:
    return path.with_name(path.name + ".last")


def require_refused(path: Path) -> None:
    with pytest.raises(LedgerError):
        opened(path)
    assert "failed" in {finding.status for finding in verify(path)}


def relinked(lines: Lines, change: Callable[[list[dict]], None]) -> Lines:
    """The lines after a change, with every digest made anew, as someone would who knows the format."""
    entries = [json.loads(line.split(b" ", 1)[1]) for line in lines]
    change(entries)
    result, previous = [], "0" * 64
    for number, entry in enumerate(entries):
        entry["number"], entry["previous"] = number, previous
        text = json.dumps(entry).encode()
        previous = hashlib.sha256(text).hexdigest()
        result.append(previous.encode() + b" " + text + b"\n")
    return result


def rewrite(path: Path, lines: Lines) -> None:
    path.write_bytes(b"".join(lines))
    last_of(path).write_bytes(lines[-1])


def test_any_changed_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LedgerError):
            opened(path)
    path.write_bytes(whole)
    newest = last_of(path).read_bytes()
    for at in range(0, len(newest), 7):
        last_of(path).write_bytes(newest[:at] + bytes([newest[at] ^ 1]) + newest[at + 1 :])
        with pytest.raises(LedgerError):
            opened(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1] + lines[-1:] * 2,
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: lines[1:],
        lambda lines: lines[:-2],
        lambda lines: lines[:1],
        lambda lines: [b"\n", *lines],
        lambda lines: [*lines, b"\n"],
        lambda lines: [line.replace(b"\n", b"\r\n") for line in lines],
    ],
    ids=["repeated", "one out", "swapped", "no start", "two off", "first alone", "blank before", "blank after", "crlf"],
)
def test_lines_out_of_place_are_noticed(path: Path, change: Callable[[Lines], Lines]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    require_refused(path)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"x", b"x\n"])
def test_a_ledger_without_its_newest_line_is_refused(path: Path, content: bytes | None) -> None:
    if content is None:
        last_of(path).unlink()
    else:
        last_of(path).write_bytes(content)
    require_refused(path)


def test_lines_without_the_file_are_refused_but_for_the_first(path: Path) -> None:
    path.unlink()
    require_refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[1].update(noise_multiplier="0.0"),
        lambda entries: entries[1].update(noise_multiplier="nan"),
        lambda entries: entries[1].update(noise_multiplier=4.0),
        lambda entries: entries[1].update(noise_multiplier="4.00"),
        lambda entries: entries[1].update(steps=0),
        lambda entries: entries[1].update(steps=True),
        lambda entries: entries[1].update(attempt=1),
        lambda entries: entries[1].update(kind="note"),
        lambda entries: entries[1].update(more=1),
        lambda entries: entries[1].update(extra_delta="-0.1"),
        lambda entries: entries[1].update(purpose="a\nb"),
        lambda entries: entries[1].update(purpose=[[[[]]]]),
        lambda entries: entries[2].update(round=7),
        lambda entries: entries[2].update(attempt=-1),
        lambda entries: entries[0].update(ledger="secfed-ledger/0"),
        lambda entries: entries[0].update(cap_epsilon="inf"),
        lambda entries: entries[0].update(delta="0.0"),
        lambda entries: entries[0].pop("unit"),
        lambda entries: entries.append(dict(entries[0])),
        lambda entries: entries.append({**entries[2], "upload": "11" * 32}),
        lambda entries: entries.append(
            {
                "ledger": "secfed-ledger/1",
                "number": 0,
                "previous": "",
                "kind": "cap",
                "cap_epsilon": "9.0",
                "signed_off_by": "",
                "reason": "because",
            }
        ),
    ],
)
def test_entries_that_no_ledger_writes_are_refused_even_with_right_digests(
    path: Path, change: Callable[[list[dict]], None]
) -> None:
    rewrite(path, relinked(path.read_bytes().splitlines(keepends=True), change))
    require_refused(path)


def test_relinking_alone_changes_nothing(path: Path) -> None:
    """The control of the test above."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert relinked(lines, lambda entries: None) == lines


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"kind": ' + b"9" * 5000 + b"}", b"\xff", b"[]", b"null", b'{"kind": []}']
)
def test_hostile_lines_with_right_digests_are_refused(text: bytes) -> None:
    with pytest.raises(LedgerError, match="no entry"):
        decode_entry(hashlib.sha256(text).hexdigest().encode() + b" " + text)


def test_charges_beyond_the_cap_are_found_even_with_right_digests(path: Path) -> None:
    """Opening believes a whole chain, and grants nothing more; an auditor sees what was overspent."""
    rewrite(
        path,
        relinked(
            path.read_bytes().splitlines(keepends=True), lambda entries: entries[5].update(noise_multiplier="0.1")
        ),
    )
    with opened(path) as ledger:
        assert ledger.rounds_left(ROUND) == 0
    assert any("spent under a cap of 8" in finding.what for finding in verify(path) if finding.status == "failed")


def test_an_older_copy_goes_unnoticed_alone_and_fails_against_a_pinned_head(path: Path) -> None:
    """What the documentation says that a ledger cannot do, and what does it."""
    with opened(path) as ledger:
        pinned = ledger.head
    assert "failed" not in {finding.status for finding in verify(path, pinned=pinned)}
    rewrite(path, path.read_bytes().splitlines(keepends=True)[:3])
    opened(path).close()
    assert "failed" not in {finding.status for finding in verify(path)}
    assert any("older copy" in finding.what for finding in verify(path, pinned=pinned) if finding.status == "failed")


def test_a_rewritten_past_fails_against_a_pinned_head(path: Path) -> None:
    with opened(path) as ledger:
        pinned = ledger.head
    rewrite(
        path,
        relinked(
            path.read_bytes().splitlines(keepends=True), lambda entries: entries[1].update(noise_multiplier="400.0")
        ),
    )
    assert "failed" not in {finding.status for finding in verify(path)}
    assert any("not the one" in finding.what for finding in verify(path, pinned=pinned))


def test_the_ledger_of_another_data_set_under_this_name_is_refused(path: Path) -> None:
    other = path.parent.parent / "elsewhere" / "ct.ledger"
    opened(other, fingerprint=bytes(32)).close()
    for name in (other.name, last_of(other).name):
        shutil.copy(other.with_name(name), path.with_name(name))
    with pytest.raises(LedgerError, match="of another data set"):
        opened(path)


def test_a_damaged_ledger_beside_it_stops_every_ledger_of_the_folder(path: Path) -> None:
    """It might hold charges of the same patients."""
    beside = path.with_name("mri.ledger")
    opened(beside, fingerprint=bytes(32)).close()
    last_of(beside).write_bytes(b"x\n")
    with pytest.raises(LedgerError, match=r"mri\.ledger"):
        opened(path)
