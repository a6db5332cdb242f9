"""Somebody changed an encrypted run's transcript, or wrote another one: it is detected, named, and nothing raises."""

import copy
import dataclasses
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_encrypted_run import RecordedEncryptedRun, contents, entry_files, failed, reader, verify
from tampered_entries import Files, mutate, mutations, resigned, sealed

from privacy.cbor import from_cbor, to_cbor
from privacy.chain import HEAD, entry_name
from privacy.he.evaluator import CiphertextSum
from privacy.he.group_server import PublishedSum
from privacy.he.layout import message_root
from privacy.he.messages import EncryptedInput, FinalModel, GroupKeyConfirmation
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement
from privacy.he.transcript import FORMAT
from privacy.he.verifier import EncryptedVerifier
from privacy.secagg.envelope import open_envelope
from privacy.secagg.identity import Identity

ROUND, ABORT, AGAIN, SECOND, LAST, END = 1, 2, 3, 5, 6, 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Session, round with a dropout, aborted round, round, the same again, session, round, end: every kind of entry."""
    recorded = RecordedEncryptedRun(tmp_path_factory.mktemp("tampering") / "transcript")
    recorded.open_session()
    recorded.play(absent="b")
    recorded.play(fail=True)
    recorded.play()
    recorded.rerun(absent="c")
    recorded.open_session()
    recorded.play()
    recorded.end()
    return recorded


@pytest.fixture(scope="module")
def files(run):
    return Files(entry_files(run.folder))


@pytest.fixture
def small(tmp_path):
    """A run of three sites and no round yet, for aggregators that lie while it goes on."""
    recorded = RecordedEncryptedRun(tmp_path / "transcript", count=3)
    recorded.open_session()
    return recorded


def where(findings):
    return {finding.where for finding in failed(findings)}


def said(findings, text):
    """Where that failed."""
    return [finding.where for finding in failed(findings) if text in finding.what]


def check(run, **changes):
    return verify(run.folder, anchor=run.anchor, **changes)


def rebuilt(contents):
    """A consistent chain over other contents, which an aggregator can always write: entries and head for `verify`."""
    files, previous = [], bytes(32)
    for number, content in enumerate(contents):
        data, previous = FORMAT.encode_entry(content, number=number, previous=previous)
        files.append(data)
    return {"entries": files, "head": FORMAT.encode_head(count=len(files), last=previous)}


def changed(run, number, /, **changes):
    """The whole chain with other fields in one entry."""
    found = contents(run.folder)
    found[number] = dataclasses.replace(found[number], **changes)
    return rebuilt(found)


def with_announcement(content, **changes):
    """An entry with another E0, under the same signatures."""
    announced = dataclasses.replace(EncryptedAnnouncement.from_bytes(content.announcement), **changes)
    return dataclasses.replace(content, announcement=announced.to_bytes())


def forged(run, content, name, body_type=EncryptedInput, *, previous=None, signer=None, **changes):
    """One message of an entry with another body, signed again by its own site or by `signer`."""
    context = EncryptedAnnouncement.from_bytes(content.announcement).context
    messages = content.headers if body_type is EncryptedInput else content.endings
    found = {open_envelope(data, body_type, context=context, roster=run.world.roster).sender: data for data in messages}
    admitted = open_envelope(found[name], body_type, context=context, roster=run.world.roster)
    found[name] = run.world.pairs.sign(
        dataclasses.replace(admitted.body, **changes),
        context,
        sender=name,
        previous=admitted.previous if previous is None else previous,
        key_of=signer,
    )
    return tuple(found.values())


def sum_of(run, number, owners):
    """The sum of kept uploads of an entry; `owners` may name one twice."""
    announced = EncryptedAnnouncement.from_bytes(contents(run.folder)[number].announcement)
    total = CiphertextSum.create(
        parameters=run.world.parameters, fingerprint=announced.fingerprint, length=announced.vector_length
    )
    for index, name in enumerate(owners):
        total.add((run.folder / FORMAT.vector_name(number, name)).read_bytes(), contributor=f"{index}-{name}")
    return total.total()


def test_the_untouched_transcript_verifies(run):
    assert not failed(check(run, receipts=run.all_receipts()))


def test_every_changed_byte_of_every_entry_is_detected_in_its_file(run, files):
    verifier = EncryptedVerifier(anchor=run.anchor, read=reader(run.folder))
    for number, data in enumerate(files):
        before = copy.copy(verifier)
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1 + (position * 7 + number) % 255
            findings = copy.copy(before).add(bytes(damaged)).findings
            assert [(finding.status, finding.where) for finding in findings] == [("failed", entry_name(number))]
        verifier.add(data)


def test_every_changed_byte_of_the_head_is_detected(run, files):
    verifier = EncryptedVerifier(anchor=run.anchor, read=reader(run.folder))
    for data in files:
        verifier.add(data)
    head = (run.folder / HEAD).read_bytes()
    for position in range(len(head)):
        damaged = bytearray(head)
        damaged[position] ^= 1 + position * 7 % 255
        assert where(verifier.finish(bytes(damaged))) == {HEAD}


def test_changed_byte_of_an_upload_is_detected_in_its_file(run, files):
    verifier = EncryptedVerifier(anchor=run.anchor, read=reader(run.folder))
    verifier.add(files[0])
    stored = {name: reader(run.folder)(ROUND, name, limit=2**20) for name in "acd"}
    for name, data in stored.items():
        for position in (*range(100), *range(100, len(data), 997), len(data) - 1):
            damaged = bytearray(data)
            damaged[position] ^= 0x80 >> position % 8
            found = {**stored, name: bytes(damaged)}
            tried = copy.copy(verifier)
            tried._read = lambda number, owner, *, limit, found=found: found[owner][:limit]
            assert where(tried.add(files[ROUND]).findings) == {FORMAT.vector_name(ROUND, name)}


@pytest.mark.parametrize("cut", [0, 1, -1, -8], ids=str)
def test_upload_of_another_length_is_named(run, cut):
    original = reader(run.folder)

    def read(number, owner, *, limit):
        data = original(number, owner, limit=limit)
        if (number, owner) != (ROUND, "d") or data is None:
            return data
        return data[:cut] if cut <= 0 else data + b"\0"

    assert where(check(run, read=read)) == {FORMAT.vector_name(ROUND, "d")}


def test_uploads_of_a_round_are_not_exchangeable(run):
    """The files of two sites swapped: the sum is the same, the signatures are not."""
    original, swapped = reader(run.folder), {"a": "c", "c": "a"}

    def read(number, owner, *, limit):
        return original(number, swapped.get(owner, owner) if number == ROUND else owner, limit=limit)

    assert where(check(run, read=read)) == {FORMAT.vector_name(ROUND, "a"), FORMAT.vector_name(ROUND, "c")}


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_truncated_entry_is_named(run, files, cut):
    changed = [*files[:3], files[3][:cut], *files[4:]]
    assert where(check(run, entries=changed)) == {entry_name(3)}


def test_missing_session_leaves_its_rounds_unchecked_and_fails(run, files):
    findings = check(run, entries=[*files[:SECOND], b"", *files[LAST:]])
    assert where(findings) == {entry_name(SECOND)}
    assert any("its session's entry is missing" in finding.what for finding in findings)


def test_swapped_entries_are_both_named(run, files):
    swapped = [files[0], files[3], files[2], files[1], *files[4:]]
    assert {entry_name(1), entry_name(3)} <= where(check(run, entries=swapped))


def test_removed_entry_is_noticed_by_the_next(run, files):
    found = where(check(run, entries=[*files[:3], *files[4:]]))
    assert {entry_name(3), HEAD} <= found


def test_removed_entry_in_a_chain_that_was_made_to_fit_is_noticed_by_what_was_signed(run):
    found = contents(run.folder)
    del found[ROUND]
    findings = check(run, **rebuilt(found))
    assert said(findings, "is not in the transcript")
    assert said(findings, "names another entry as the one before")


def test_removed_end_with_a_matching_head_is_noticed_by_receipts_alone(run):
    shorter = rebuilt(contents(run.folder)[:END])
    assert not failed(check(run, **shorter))
    found = check(run, receipts=run.all_receipts(), **shorter)
    assert where(found) == {f"receipts of {name}" for name in run.names}


def test_entry_of_another_run_is_noticed(run, files, small):
    small.play()
    assert entry_name(1) in where(check(run, entries=[files[0], entry_files(small.folder)[1], *files[2:]]))


def test_roster_of_another_consortium_is_noticed(run):
    other = Identity.generate("other").public_key
    assert where(verify(run.folder, anchor=other)) == {entry_name(0), entry_name(SECOND)}


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (0, "advertisements"),
        (0, "encapsulations"),
        (0, "confirmations"),
        (0, "offers"),
        (0, "key_confirmations"),
        (ROUND, "headers"),
        (ABORT, "headers"),
        (END, "endings"),
    ],
)
def test_message_signed_again_by_another_key_is_noticed(run, number, step):
    messages = getattr(contents(run.folder)[number], step)
    findings = check(
        run, **changed(run, number, **{step: (resigned(messages[0], Identity.generate("a")), *messages[1:])})
    )
    assert entry_name(number) in said(findings, "not by the key in the roster")


@pytest.mark.parametrize(("number", "step"), [(0, "offers"), (0, "key_confirmations"), (ROUND, "headers")])
def test_message_that_is_left_out_is_noticed(run, number, step):
    findings = check(run, **changed(run, number, **{step: getattr(contents(run.folder)[number], step)[:-1]}))
    assert failed(findings)


def test_contributor_left_out_of_everything_is_missed_by_what_the_others_signed_next(run):
    """Header, upload and sum without d, and a chain that fits: the next round's sites stepped on another sum."""
    found = contents(run.folder)
    headers, root = found[LAST].headers[:-1], message_root(sum_of(run, LAST, "abc"))
    forgery = changed(run, LAST, headers=headers, sum_root=root)
    findings = check(run, **forgery)
    assert not said(findings, "NOT that of the signed ciphertexts")
    assert said(findings, "another root, or other contributors") == [entry_name(END)]
    assert said(findings, "came to its model by other inputs") == [entry_name(END)] * 4


def test_replaced_sum_is_contradicted_by_the_uploads_and_by_the_next_round(run):
    findings = check(run, **changed(run, LAST, sum_root=bytes(range(32))))
    assert said(findings, "the published sum is NOT that of the signed ciphertexts") == [entry_name(LAST)]
    assert said(findings, "another root, or other contributors") == [entry_name(END)]
    original = reader(run.folder)
    without = check(
        run,
        **changed(run, LAST, sum_root=bytes(range(32))),
        read=lambda number, owner, *, limit: None if number == LAST else original(number, owner, limit=limit),
    )
    assert said(without, "another root, or other contributors") == [entry_name(END)]


@pytest.mark.parametrize("owners", ["aac", "aa", "bc"])
def test_sum_that_counts_an_upload_twice_or_leaves_one_out_is_found(small, owners):
    """The aggregator publishes it, hashes it and chains it consistently; it is the last entry."""

    def doubled(published: PublishedSum) -> PublishedSum:
        folder = small.folder / "vectors" / ".open"
        total = CiphertextSum.create(
            parameters=small.world.parameters, fingerprint=small.world.server.fingerprint, length=6
        )
        for index, name in enumerate(owners):
            total.add((folder / f"{name}{FORMAT.ending}").read_bytes(), contributor=str(index))
        return dataclasses.replace(published, total=total.total(), root=message_root(total.total()))

    small.play(change=doubled)
    found = failed(check(small, receipts=small.all_receipts()))
    assert [(finding.where, finding.what) for finding in found] == [
        (entry_name(1), "the published sum is NOT that of the signed ciphertexts")
    ]


def test_upload_of_another_site_signed_as_ones_own_is_noticed(run):
    content = contents(run.folder)[LAST]
    context = EncryptedAnnouncement.from_bytes(content.announcement).context
    copied = open_envelope(content.headers[0], EncryptedInput, context=context, roster=run.world.roster).body.root
    findings = check(run, **changed(run, LAST, headers=forged(run, content, "c", root=copied)))
    assert said(findings, "a and c signed one and the same ciphertext") == [entry_name(LAST)]


def test_header_that_stands_twice_is_noticed(run):
    headers = contents(run.folder)[LAST].headers
    findings = check(run, **changed(run, LAST, headers=(headers[0], *headers)))
    assert said(findings, "a stands twice") == [entry_name(LAST)]


def test_signed_bytes_that_are_no_ciphertext_of_the_round_are_named(run):
    """A site signs what no honest aggregator adds: a residue at its prime, or another group key in the header."""
    content, original = contents(run.folder)[LAST], reader(run.folder)
    honest = original(LAST, "b", limit=2**20)
    for position, size in ((88, 6), (48, 1)):
        data = honest[:position] + b"\xff" * size + honest[position + size :]
        forgery = changed(run, LAST, headers=forged(run, content, "b", root=message_root(data)))

        def read(number, owner, *, limit, data=data):
            return data[:limit] if (number, owner) == (LAST, "b") else original(number, owner, limit=limit)

        found = said(check(run, **forgery, read=read), "is no encrypted vector of this round")
        assert found == [FORMAT.vector_name(LAST, "b")]


def test_input_signed_by_another_member_is_noticed(run):
    content = contents(run.folder)[LAST]
    findings = check(run, **changed(run, LAST, headers=forged(run, content, "a", signer="c")))
    assert said(findings, "E1 encrypted input: a: the signature is not by the key") == [entry_name(LAST)]


def test_input_of_another_round_is_noticed(run):
    content, other = contents(run.folder)[LAST], contents(run.folder)[ROUND]
    findings = check(run, **changed(run, LAST, headers=(other.headers[0], *content.headers[1:])))
    assert said(findings, "another session, round or announcement") == [entry_name(LAST)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_tag": b"x" * 32}, "['b'] signed different models"),
        ({"previous": b"x" * 32}, "b: came to its model by other inputs"),
        ({"sum_root": b"x" * 32}, "b: stepped on another sum"),
        ({"length": 5}, "b: signed a ciphertext of 5 bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_site_that_signs_something_else_is_named(run, change, text):
    content = contents(run.folder)[LAST]
    findings = check(run, **changed(run, LAST, headers=forged(run, content, "b", **change)))
    assert said(findings, text)[0] == entry_name(LAST)


def test_ending_on_another_model_is_noticed(run):
    content = contents(run.folder)[END]
    endings = forged(run, content, "b", FinalModel, model_tag=b"x" * 32)
    findings = check(run, **changed(run, END, endings=endings))
    assert said(findings, "['b'] signed different models") == [entry_name(END)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"run": bytes(32)}, "another run"),
        ({"session": bytes(32)}, "another run or another session"),
        ({"roster_hash": bytes(32)}, "another roster"),
        ({"parameters": bytes(32)}, "other parameters of encryption"),
        ({"fingerprint": bytes(32)}, "another group key"),
        ({"plan_hash": bytes(32)}, "another plan"),
        ({"minimum": 2}, "minimum = 2 of 4 sites"),
        ({"previous": bytes(32)}, "names another entry as the one before"),
        ({"previous_round": b"x" * 32}, "the sum to step on is not in the transcript"),
        ({"sum_root": b"x" * 32}, "another root, or other contributors"),
        ({"contributors": ("a", "b")}, "another root, or other contributors"),
        ({"invited": ("a", "b", "c", "z")}, "['z'] are invited but did not confirm"),
        ({"server_round": 2}, "the entry about server round 3"),
        ({"step": "end", "vector_length": 0}, "about the step 'end'"),
        ({"vector_length": 2**31}, "another session, round or announcement"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_announcement_that_does_not_fit_is_noticed(run, change, text):
    """Nothing of it is signed any more either; here the reason is looked for."""
    found = contents(run.folder)
    found[LAST] = with_announcement(found[LAST], **change)
    findings = check(run, **rebuilt(found))
    assert entry_name(LAST) in [finding.where for finding in failed(findings) if text in finding.what]


def test_parameters_below_the_floor_are_refused(run):
    fields = from_cbor(run.world.parameters.to_bytes())
    for change in ({"ring_degree": 2048}, {"plain_modulus": 65537}, {"max_clients": 2**20}, {"modulus_bits": [60, 60]}):
        findings = check(run, **changed(run, 0, parameters=to_cbor({**fields, **change})))
        assert said(findings, "the session cannot be checked") == [entry_name(0)]


def test_other_parameters_than_the_sites_signed_are_noticed(run):
    other = HeParameters.exact(max_clients=100).to_bytes()
    findings = check(run, **changed(run, 0, parameters=other))
    assert said(findings, "names other parameters of encryption than the session") == [entry_name(0)] * 4
    findings = check(run, **changed(run, SECOND, parameters=other))
    assert said(findings, "the session has another parameters") == [entry_name(SECOND)]


@pytest.mark.parametrize("name", ["run", "roster", "plan"])
def test_what_is_fixed_for_a_run_does_not_change_with_a_session(run, name):
    other = {"run": bytes(32), "roster": run.signed_roster + b"\0", "plan": b"{ }"}[name]
    assert said(check(run, **changed(run, SECOND, **{name: other})), f"another {name}") == [entry_name(SECOND)]


def test_session_is_needed_and_its_identifier_never_used_twice(run):
    found = contents(run.folder)
    assert entry_name(0) in where(check(run, **rebuilt(found[1:2])))
    twice = rebuilt([*found, dataclasses.replace(found[0], completed=3)])
    assert said(check(run, **twice), "used before") == [entry_name(8)]
    later = changed(run, SECOND, completed=3)
    assert said(check(run, **later), "goes on after round 3, whose entry is missing") == [entry_name(SECOND)]


def test_group_key_that_nobody_offered_or_not_all_confirmed_is_noticed(run):
    content = contents(run.folder)[0]
    context = run_setup_context(run, content)
    for names in ("abcd", "b"):
        messages = []
        for data in content.key_confirmations:
            found = open_envelope(data, GroupKeyConfirmation, context=context, roster=run.world.roster)
            body = GroupKeyConfirmation(fingerprint=bytes(32)) if found.sender in names else found.body
            messages.append(run.world.pairs.sign(body, context, sender=found.sender, previous=found.previous))
        findings = check(run, **changed(run, 0, key_confirmations=tuple(messages)))
        text = "none of ['a', 'b', 'c', 'd'] offered" if names == "abcd" else "2 group keys were confirmed"
        assert said(findings, text) == [entry_name(0)]


def run_setup_context(run, content):
    from privacy.he.messages import setup_context
    from privacy.secagg.messages import session_context

    return setup_context(run.world.run, session_context=session_context(content.session, run.world.roster))


def test_half_of_the_sites_confirm_no_group_key(run):
    content = contents(run.folder)[0]
    findings = check(run, **changed(run, 0, key_confirmations=content.key_confirmations[:2]))
    assert said(findings, "2 of 4 sites confirmed the group key") == [entry_name(0)]


def test_group_key_replaced_after_a_step_is_noticed(small):
    """All sites forget the run and their books; the aggregator starts over in the same transcript."""
    small.play()
    small.play()
    small.sums.clear()
    small.open_session(new_members=True)
    small.play()
    findings = check(small, receipts=small.all_receipts())
    assert said(findings, "the group key was replaced, although ['a', 'b', 'c'] had signed") == [entry_name(3)]
    assert said(findings, "server round 1 was run again, although") == [entry_name(4)]


def test_round_run_again_after_sites_stepped_on_its_sum_is_noticed(small):
    """The aggregator rolls the sites back to old copies of their states, and sums the same round a second time."""
    small.play()
    saved = {name: member.to_bytes() for name, member in small.world.members.items()}
    models = dict(small.world.models)
    small.play(fail=True)
    small.world.members = {name: small.world.load(name, stored) for name, stored in saved.items()}
    small.world.models = models
    small.rerun()
    findings = check(small)
    assert said(findings, "server round 1 was run again, although ['a', 'b', 'c'] had signed") == [entry_name(3)]


def test_two_sums_of_one_round_that_both_were_stepped_on_are_noticed(small):
    small.play()
    first, saved = small.sums[0], {name: member.to_bytes() for name, member in small.world.members.items()}
    models = dict(small.world.models)
    small.rerun()
    small.play()
    small.sums = [first]
    small.world.members = {name: small.world.load(name, stored) for name, stored in saved.items()}
    small.world.models = models
    small.play()
    findings = check(small)
    assert said(findings, "stepped on another sum of server round 1 than") == [entry_name(4)]


def test_round_number_that_comes_again_is_noticed(small):
    small.play()
    saved = {name: member.to_bytes() for name, member in small.world.members.items()}
    small.play()
    small.world.members = {name: small.world.load(name, stored) for name, stored in saved.items()}
    small.world.last_round = 1
    small.open_session()
    small.sums.pop()
    small.world.models = dict.fromkeys(small.names, small.world.models["a"])
    small.play(fail=True)
    assert said(check(small), "the round number 2, which follows 2") == [entry_name(4)]


def test_two_histories_are_consistent_in_themselves_and_told_apart_by_receipts_alone(small, tmp_path):
    """The aggregator goes back to an earlier copy of its transcript and shows the auditor only one branch."""
    small.play()
    shutil.copytree(small.folder, tmp_path / "saved")
    small.play(fail=True)
    shutil.rmtree(small.folder)
    shutil.copytree(tmp_path / "saved", small.folder)
    small.reopen()
    hidden, small.receipts = small.receipts, {name: kept[:1] for name, kept in small.receipts.items()}
    small.play()
    assert not failed(check(small, receipts=small.all_receipts()))
    found = failed(check(small, receipts=[*small.all_receipts(), *hidden["b"]]))
    assert [finding.where for finding in found] == ["receipts of b"]
    assert "another history" in found[0].what


@pytest.mark.parametrize(
    "change",
    [
        {"session": bytes(32)},
        {"round_number": 9},
        {"server_round": 2},
        {"context": bytes(32)},
        {"message_digest": bytes(32)},
        {"sum_root": b"x" * 32},
        {"inputs_digest": b"x" * 32},
        {"fingerprint": bytes(32)},
        {"site": "d"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_receipt_that_says_something_else_is_noticed(run, change):
    receipt = dataclasses.replace(run.receipts["a"][-2], **change)
    assert where(check(run, receipts=[receipt])) == {f"receipts of {receipt.site}"}


@settings(max_examples=300)
@given(number=st.integers(0, END), mutation=mutations())
def test_any_well_formed_lie_is_detected_and_never_raises(run, files, number, mutation):
    """Checksums are made to fit, so that the mutation reaches the parsers behind them."""
    path, new = mutation
    [payload, _] = from_cbor(files[number])
    data = sealed(mutate(from_cbor(payload), path, new))
    findings = check(run, entries=[*files[:number], data, *files[number + 1 :]])
    assert failed(findings) or data == files[number]


@settings(max_examples=200)
@given(junk=st.binary(max_size=300), head=st.binary(max_size=60))
def test_junk_never_raises(run, files, junk, head):
    assert failed(verify(run.folder, anchor=junk[:32], entries=[files[0], junk, *files[2:]], head=head))


def test_text_of_a_transcript_reaches_no_terminal_unclean(run):
    findings = check(run, **changed(run, 0, suite="\x1b[2Jgone"))
    assert failed(findings)
    assert all(finding.what.isprintable() and finding.where.isprintable() for finding in findings)


def test_entries_hold_no_key_and_nothing_that_decrypts(run, files):
    """The sealed keys stay out of the transcript: only their digests and wraps are in it."""
    [member, *_] = run.world.members.values()
    secret = member._state.group_key
    assert len(secret) > 1000
    for start in range(0, len(secret) - 64, 64):
        assert not any(secret[start : start + 64] in data for data in files)
    assert max(len(message) for message in contents(run.folder)[0].offers) < 1000
