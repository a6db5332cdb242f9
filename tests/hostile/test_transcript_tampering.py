"""Somebody changed a transcript, or wrote another one: it is detected, the file is named, and nothing ever raises."""

import copy
import dataclasses
import hashlib
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_run import RecordedRun, entry_files, failed, reader, verify
from tampered_entries import Files, mutate, mutations, resigned, sealed

from privacy.cbor import from_cbor, to_cbor
from privacy.merkle import leaf_digests, merkle_root
from privacy.secagg.identity import Identity
from privacy.secagg.transcript import (
    HEAD,
    SUM,
    RoundEntry,
    decode_entry,
    encode_entry,
    encode_head,
    entry_name,
    vector_name,
)
from privacy.secagg.verifier import TranscriptVerifier


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Session, round with a dropout, aborted round, round: every kind of entry."""
    recorded = RecordedRun(tmp_path_factory.mktemp("tampering") / "transcript")
    recorded.open_session()
    recorded.play(absent="b")
    recorded.play(bad_dealer="c")
    recorded.play(invited="abd", evidence=(decode_entry(entry_files(recorded.folder)[2]).content.evidence,))
    recorded.play()
    return recorded


@pytest.fixture(scope="module")
def files(run):
    return Files(entry_files(run.folder))


def where(findings):
    return {finding.where for finding in failed(findings)}


def rebuilt(contents, *, first=0):
    """A consistent chain over other contents: what an aggregator can always write. Files, digest of the last."""
    files, previous = [], bytes(32)
    for number, content in enumerate(contents, start=first):
        data, previous = encode_entry(content, number=number, previous=previous)
        files.append(data)
    return files, previous


def head_of(files, last):
    return encode_head(count=len(files), last=last)


def test_the_untouched_transcript_verifies(run):
    assert not failed(verify(run.folder, anchor=run.anchor, receipts=run.all_receipts()))


def test_every_changed_byte_of_every_entry_is_detected_in_its_file(run, files):
    verifier = TranscriptVerifier(anchor=run.anchor, vectors=reader(run.folder))
    for number, data in enumerate(files):
        before = copy.copy(verifier)
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1 + (position * 7 + number) % 255
            findings = copy.copy(before).add(bytes(damaged)).findings
            assert [(finding.status, finding.where) for finding in findings] == [("failed", entry_name(number))]
        verifier.add(data)


def test_every_changed_byte_of_the_head_is_detected(run, files):
    verifier = TranscriptVerifier(anchor=run.anchor, vectors=reader(run.folder))
    for data in files:
        verifier.add(data)
    head = (run.folder / HEAD).read_bytes()
    for position in range(len(head)):
        damaged = bytearray(head)
        damaged[position] ^= 1 + position * 7 % 255
        assert where(verifier.finish(bytes(damaged))) == {HEAD}


def test_every_changed_byte_of_a_small_vector_is_detected_in_its_file(run, files):
    stored = {owner: b"".join(reader(run.folder)(1, owner)) for owner in ("a", "c", "d", SUM)}
    for owner, data in stored.items():
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 0x80 >> position % 8
            changed = {**stored, owner: bytes(damaged)}
            vectors = {1: {name: [value] for name, value in changed.items()}}
            verifier = TranscriptVerifier(anchor=run.anchor, vectors=lambda n, name, v=vectors: v.get(n, {}).get(name))
            verifier.add(files[0])
            assert where(verifier.add(files[1]).findings) == {vector_name(1, owner)}


def test_changed_byte_of_a_long_vector_is_named_with_its_block_of_coordinates(tmp_path):
    run = RecordedRun(tmp_path / "transcript", count=3, length=2 * 2**18 + 100)
    run.open_session()
    run.play()
    rng = np.random.default_rng(0)
    ranges = ["0 to 262143", "262144 to 524287", "524288 to 524387"]
    for owner in ("a", "b", SUM):
        path = run.folder / vector_name(1, owner)
        data = path.read_bytes()
        for block, place in enumerate(ranges):
            position = int(rng.integers(block * 2**20, min((block + 1) * 2**20, len(data))))
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            found = failed(verify(run.folder, anchor=run.anchor))
            assert [finding.where for finding in found] == [vector_name(1, owner)]
            assert f"within the coordinates {place}" in found[0].what
        path.write_bytes(data)
    assert not failed(verify(run.folder, anchor=run.anchor))


@pytest.mark.parametrize("change", [b"", b"\0\0\0\0", b"\0"], ids=["cut", "longer by a word", "longer by a byte"])
def test_vector_of_another_length_is_named(run, files, change):
    original = reader(run.folder)

    def vectors(number, owner):
        blocks = original(number, owner)
        if (number, owner) != (1, "d"):
            return blocks
        return [blocks[0] + change] if change else [blocks[0][:-4]]

    assert where(verify(run.folder, anchor=run.anchor, vectors=vectors)) == {vector_name(1, "d")}


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_truncated_entry_is_named(run, files, cut):
    changed = [*files[:3], files[3][:cut], files[4]]
    findings = verify(run.folder, anchor=run.anchor, entries=changed)
    assert where(findings) == {entry_name(3)}


def test_swapped_entries_are_both_named(run, files):
    swapped = [files[0], files[3], files[2], files[1], files[4]]
    assert {entry_name(1), entry_name(3)} <= where(verify(run.folder, anchor=run.anchor, entries=swapped))


def test_removed_entry_is_noticed_by_the_next(run, files):
    found = where(verify(run.folder, anchor=run.anchor, entries=[*files[:2], *files[3:]]))
    assert entry_name(2) in found
    assert HEAD in found


def test_removed_last_entry_is_noticed_by_the_head(run, files):
    assert where(verify(run.folder, anchor=run.anchor, entries=files[:-1])) == {HEAD}


def test_removed_last_entry_with_a_matching_head_is_noticed_by_receipts_alone(run, files):
    head = head_of(files[:-1], decode_entry(files[-2]).digest)
    shorter = {"entries": files[:-1], "head": head}
    assert not failed(verify(run.folder, anchor=run.anchor, **shorter))
    found = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts(), **shorter)
    assert where(found) == {f"receipts of {name}" for name in "abd"} | {"receipts of c"}


def test_entry_of_another_run_is_noticed(run, files, tmp_path):
    other = RecordedRun(tmp_path / "transcript")
    other.open_session()
    other.play()
    foreign = [*files[:1], entry_files(other.folder)[1], *files[2:]]
    assert entry_name(1) in where(verify(run.folder, anchor=run.anchor, entries=foreign))


def test_roster_of_another_consortium_is_noticed(run, files):
    other = Identity.generate("other").public_key
    assert where(verify(run.folder, anchor=other, entries=files)) == {entry_name(0)}


def contents_of(files):
    return [decode_entry(data).content for data in files]


def with_messages(content, **changes):
    return dataclasses.replace(content, messages=dataclasses.replace(content.messages, **changes))


@pytest.mark.parametrize("step", ["shares", "headers", "agreements", "replies"])
def test_message_signed_again_by_another_key_is_noticed(run, files, step):
    contents = contents_of(files)
    messages = getattr(contents[1].messages, step)
    changed = (resigned(messages[0], Identity.generate("a")), *messages[1:])
    forged, last = rebuilt([contents[0], with_messages(contents[1], **{step: changed})])
    findings = verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last))
    assert any("not by the key in the roster" in finding.what for finding in failed(findings))
    assert entry_name(1) in where(findings)


@pytest.mark.parametrize("step", ["advertisements", "encapsulations", "confirmations"])
def test_setup_message_signed_again_by_another_key_is_noticed(run, files, step):
    content = contents_of(files)[0]
    messages = getattr(content, step)
    changed = dataclasses.replace(content, **{step: (resigned(messages[0], Identity.generate("a")), *messages[1:])})
    forged, last = rebuilt([changed])
    findings = verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last))
    assert any("not by the key in the roster" in finding.what for finding in failed(findings))


@pytest.mark.parametrize("step", ["shares", "headers"])
def test_message_that_is_left_out_is_noticed(run, files, step):
    """Even one that the threshold does not need: everything after it was signed over it."""
    contents = contents_of(files)
    messages = getattr(contents[1].messages, step)
    forged, last = rebuilt([contents[0], with_messages(contents[1], **{step: messages[:-1]})])
    assert failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))


def test_published_sum_that_differs_by_one_in_one_coordinate_is_named_with_its_values(tmp_path):
    """The aggregator publishes, hashes and chains its false sum consistently; the uploads contradict it."""
    run = RecordedRun(tmp_path / "transcript", count=3, length=2**18 + 50)
    run.open_session()

    def one_more(total):
        total[2**18 + 7] += 1

    run.play(change_sum=one_more)
    found = failed(verify(run.folder, anchor=run.anchor, receipts=run.all_receipts()))
    assert [finding.where for finding in found] == [entry_name(1)]
    assert "differs within the coordinates 262144 to 262193" in found[0].what
    assert "first at coordinate 262151: published 112, replayed 111" in found[0].what


def test_false_sum_is_found_even_where_its_file_was_made_to_fit(run, files):
    """File, leaves, root and the whole chain are rewritten; the uploads and the next round contradict them."""
    contents = contents_of(files)
    false = np.full(run.length, 5, np.uint32)
    leaves = leaf_digests(false)
    contents[1] = dataclasses.replace(contents[1], sum_leaves=leaves, sum_root=merkle_root(leaves))
    forged, last = rebuilt(contents)
    vectors = reader(run.folder)

    def changed(number, owner):
        return [false.tobytes()] if (number, owner) == (1, SUM) else vectors(number, owner)

    found = failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last), vectors=changed))
    assert any("NOT that of the signed uploads" in finding.what for finding in found)
    assert any("names another entry as the one before" in finding.what for finding in found)


def test_rewritten_history_is_contradicted_by_what_the_sites_signed_next(run, files):
    contents = contents_of(files)
    contents[1] = dataclasses.replace(contents[1], model_after=hashlib.sha256(b"other").digest())
    forged, last = rebuilt(contents)
    found = where(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    assert entry_name(2) in found


def test_two_histories_are_consistent_in_themselves_and_told_apart_by_receipts_alone(tmp_path):
    """A dishonest aggregator goes back to an earlier copy of its transcript and shows the auditor only one branch."""
    run = RecordedRun(tmp_path / "shown")
    run.open_session()
    run.play()
    shutil.copytree(run.folder, tmp_path / "saved")
    model, completed, opened = run.model, run.completed, dict(run.opened)
    run.play(absent="a")
    hidden = list(run.receipts["b"])
    shutil.rmtree(run.folder)
    shutil.copytree(tmp_path / "saved", run.folder)
    run.model, run.completed, run.opened = model, completed, opened
    run.receipts = {name: [] for name in run.names}
    run.reopen()
    run.open_session()
    run.play(absent="b")
    assert not failed(verify(run.folder, anchor=run.anchor))
    found = failed(verify(run.folder, anchor=run.anchor, receipts=[*run.all_receipts(), *hidden]))
    assert [finding.where for finding in found] == ["receipts of b"]
    assert "another history" in found[0].what


@pytest.mark.parametrize(
    "change",
    [
        {"model_hash": bytes(32)},
        {"previous": bytes(32)},
        {"header_digest": bytes(32)},
        {"survivors_digest": bytes(32)},
        {"survivors": ("a",)},
        {"session": bytes(32)},
        {"round_number": 9},
        {"context": bytes(32)},
        {"site": "b"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_receipt_that_says_something_else_is_noticed(run, change):
    receipt = dataclasses.replace(run.receipts["a"][0], **change)
    assert where(verify(run.folder, anchor=run.anchor, receipts=[receipt])) == {f"receipts of {receipt.site}"}


def test_session_is_needed_and_its_identifier_never_used_twice(run, files):
    contents = contents_of(files)
    forged, last = rebuilt(contents[1:2])
    assert entry_name(0) in where(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    twice = [*contents, dataclasses.replace(contents[0], completed=3, model_hash=contents[4].model_after)]
    forged, last = rebuilt(twice)
    found = failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    assert any("used before" in finding.what for finding in found)


def test_evidence_against_an_honest_site_proves_nothing(run, files):
    contents = contents_of(files)
    honest = contents[1].messages
    evidence = to_cbor(
        {
            "suite": contents[0].suite,
            "announcement": honest.announcement,
            "shares": honest.shares[0],
            "replies": honest.replies,
        }
    )
    contents[2] = dataclasses.replace(contents[2], evidence=evidence)
    forged, last = rebuilt(contents)
    found = failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    assert any("proves nothing" in finding.what and finding.where == entry_name(2) for finding in found)


def test_second_sum_over_one_model_is_noticed(tmp_path):
    """Sites that forget what they opened help with a second sum without b; the verifier sees what they should have."""
    run = RecordedRun(tmp_path / "transcript")
    run.open_session()
    run.play()
    run.model, run.completed, run.opened = decode_entry(entry_files(run.folder)[0]).content.model_hash, 0, {}
    run.reopen()
    run.open_session()
    run.play(absent="b")
    found = failed(verify(run.folder, anchor=run.anchor, receipts=run.all_receipts()))
    assert [finding.where for finding in found] == [entry_name(3)]
    assert "single sites out" in found[0].what


def test_low_threshold_is_noticed(run, files):
    """Two survivor sets could be opened with it; the sites would not have signed, so signatures fail too."""
    content = contents_of(files)[1]
    fields = from_cbor(content.messages.invitation)
    changed = with_messages(content, invitation=to_cbor({**fields, "threshold": 2}))
    forged, last = rebuilt([contents_of(files)[0], changed])
    found = failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    assert any("threshold = 2 for 4 sites" in finding.what for finding in found)


def test_upload_header_of_another_round_is_noticed(run, files):
    contents = contents_of(files)
    header = contents[4].messages.headers[0]
    assert header not in contents[1].messages.headers
    changed = with_messages(contents[1], headers=(header, *contents[1].messages.headers[1:]))
    forged, last = rebuilt([contents[0], changed])
    found = failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    assert any("another session, round or announcement" in finding.what for finding in found)


@settings(max_examples=300)
@given(number=st.integers(0, 4), mutation=mutations())
def test_any_well_formed_lie_is_detected_and_never_raises(run, files, number, mutation):
    """Checksums are made to fit, so that the mutation reaches the parsers behind them."""
    path, new = mutation
    [payload, _] = from_cbor(files[number])
    changed = mutate(from_cbor(payload), path, new)
    data = sealed(changed)
    findings = verify(run.folder, anchor=run.anchor, entries=[*files[:number], data, *files[number + 1 :]])
    assert failed(findings) or data == files[number]


@settings(max_examples=200)
@given(junk=st.binary(max_size=300), head=st.binary(max_size=60))
def test_junk_never_raises(run, files, junk, head):
    assert failed(verify(run.folder, anchor=junk[:32], entries=[files[0], junk, *files[2:]], head=head))


def test_absurd_vector_length_ends_in_a_finding(run, files):
    """A corrupt cohort signs whatever length; the verifier must not fall over it."""
    contents = contents_of(files)
    fields = from_cbor(contents[1].messages.announcement)
    changed = with_messages(contents[1], announcement=to_cbor({**fields, "vector_length": 2**31}))
    forged, last = rebuilt([contents[0], changed])
    assert failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))


def test_text_of_a_transcript_reaches_no_terminal_unclean(run, files):
    contents = contents_of(files)
    changed = dataclasses.replace(contents[0], suite="\x1b[2Jgone")
    forged, last = rebuilt([changed])
    findings = verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last))
    assert failed(findings)
    assert all(finding.what.isprintable() and finding.where.isprintable() for finding in findings)


def test_uploads_of_a_round_are_not_exchangeable(run, files):
    """The files of two sites swapped: the sum is the same, the signatures are not."""
    original = reader(run.folder)
    swapped = {"a": "c", "c": "a"}

    def vectors(number, owner):
        return original(number, swapped.get(owner, owner) if number == 1 else owner)

    assert where(verify(run.folder, anchor=run.anchor, vectors=vectors)) == {vector_name(1, "a"), vector_name(1, "c")}


def test_round_entries_hold_no_secret_of_a_surviving_site(run, files):
    """What is revealed is what the aggregator knew anyway: no pair secret between two survivors can be opened."""
    content = contents_of(files)[1]
    assert isinstance(content, RoundEntry)
    verifier = TranscriptVerifier(anchor=run.anchor, vectors=reader(run.folder))
    verifier.add(files[0])
    opened = verifier.add(files[1]).facts.opened
    assert set(opened.self_seeds) == {"a", "c", "d"}
    assert {dropped for _, dropped in opened.pair_secrets} == {"b"}


def test_forged_message_by_a_member_for_another_is_noticed(run, files):
    """Site c signs an agreement in the name of a."""
    contents = contents_of(files)
    [signed_part, _] = from_cbor(contents[1].messages.agreements[0])
    forged_message = to_cbor([signed_part, run.identities["c"].sign(signed_part)])
    changed = with_messages(contents[1], agreements=(forged_message, *contents[1].messages.agreements[1:]))
    forged, last = rebuilt([contents[0], changed])
    found = failed(verify(run.folder, anchor=run.anchor, entries=forged, head=head_of(forged, last)))
    assert any(finding.what.startswith("R3 survivor agreement: a:") for finding in found)
