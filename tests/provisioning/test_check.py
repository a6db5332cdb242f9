"""`check` finds each thing that a folder lacks, says it in words, and says who must do what."""

import shutil

import pytest
from provisioned import NAMES, make_place, new_site

from secfed.data.phantom.writer import write_mixed_phantom
from secfed.errors import ConfigError
from secfed.provenance import code_digest
from secfed.provisioning.aggregator_service import make_aggregator_folder
from secfed.provisioning.approvals import Approvals
from secfed.provisioning.check import check
from secfed.provisioning.consortium import sign_next
from secfed.provisioning.reviewer import load_reviewer_key
from secfed.site_config import load_site_file


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans") / "scans"
    write_mixed_phantom(folder, ct=1, mri=0, seed=0, population="north", task="abdomen", on_case=lambda _: None)
    return folder


@pytest.fixture
def ready(joined, scans):
    shutil.copytree(scans, joined.root / "scans")
    for folder in map(joined.site, NAMES):
        approve(folder, code_digest())
    return joined


def approve(folder, code):
    approvals, key = Approvals.of(folder, load_site_file(folder)), load_reviewer_key(folder / "reviewer.key")
    approvals.add(bundle="b" * 64, code=code, by="R. Viewer", reason="review 7", key=key)


def problems(folder, **options):
    return [(point.what, point.todo) for point in check(folder, **options).points if point.status != "ok"]


def test_who_has_everything_is_ready(ready):
    for folder in (*map(ready.site, NAMES), ready.aggregator, ready.consortium):
        found = check(folder)
        assert found.ready, found
        assert problems(folder) == []


def test_a_new_site_lacks_the_roster_and_the_authority_and_is_told_whom_to_ask(place, scans):
    shutil.copytree(scans, place.root / "scans")
    lacking = problems(place.site("ct-a"))
    assert [what for what, _ in lacking if "is not approved here" not in what] == ["no roster.cbor", "no ca.crt"]
    assert "Send the request to the consortium" in lacking[0][1]


def test_a_program_that_nobody_approved_is_pointed_out_but_keeps_nobody_from_connecting(ready):
    folder = ready.site("ct-a")
    (folder / "approvals.json").unlink()
    assert [todo for _, todo in problems(folder)] == [
        "Before the first run the reviewer signs for it: secfed site approve."
    ]
    approve(folder, "c" * 64)
    assert [code_digest()[:12] in what for what, _ in problems(folder)] == [True]
    assert check(folder).ready


def test_a_forged_approval_stops_everything(ready):
    path = ready.site("ct-a") / "approvals.json"
    change_text(path, "R. Viewer", "E. Vil")
    assert not check(ready.site("ct-a")).ready
    assert "is not signed by this site's reviewer" in problems(ready.site("ct-a"))[0][0]


def change_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


SITE_FAULTS = {
    "no identity": (lambda folder: (folder / "identity.key").unlink(), "no identity.key"),
    "short identity": (lambda folder: (folder / "identity.key").write_bytes(b"x"), "32 raw bytes"),
    "no node key": (lambda folder: (folder / "node.key").unlink(), "no node.key"),
    "a node key that is none": (lambda folder: (folder / "node.key").write_bytes(b"x"), "no OpenSSH key"),
    "a key that others read": (lambda folder: (folder / "identity.key").chmod(0o644), "can be read by others"),
    "an open folder": (lambda folder: folder.chmod(0o755), "can be entered by others"),
    "a simulation's noise": (
        lambda folder: (folder / "simulated-noise.key").write_bytes(bytes(32)),
        "noise hides nobody",
    ),
    "state that a kill brings back": (
        lambda folder: change_text(folder / "site.toml", "[[data]]", "durable_state = false\n\n[[data]]"),
        "mask two updates alike",
    ),
    "a typing error": (
        lambda folder: change_text(folder / "site.toml", "min_cohort =", "min_cohrt ="),
        "did you mean 'min_cohort'",
    ),
    "no scans": (lambda folder: shutil.rmtree(folder.parent / "scans"), "scans"),
    "no reviewer": (
        lambda folder: change_text(folder / "site.toml", "reviewer =", "# reviewer ="),
        "names no reviewer",
    ),
    "no aggregator": (
        lambda folder: change_text(folder / "site.toml", "superlink =", "# superlink ="),
        "names no aggregator",
    ),
    "a forged roster": (lambda folder: (folder / "anchor.pub").write_bytes(bytes(31) + b"\x07"), "not signed by"),
    "a damaged authority": (lambda folder: (folder / "ca.crt").write_bytes(b"x"), "ca.crt"),
}


@pytest.mark.parametrize("fault", SITE_FAULTS)
def test_a_fault_of_a_site_is_found_and_comes_with_what_to_do(ready, fault):
    spoil, words = SITE_FAULTS[fault]
    spoil(ready.site("ct-a"))
    found = check(ready.site("ct-a"))
    assert not found.ready
    assert any(words in point.what and point.todo for point in found.points), found


def test_a_roster_with_another_key_for_this_site_is_found(ready):
    shutil.copy(ready.site("mr-b") / "identity.key", ready.site("ct-a") / "identity.key")
    assert any("another key than this folder's" in what for what, _ in problems(ready.site("ct-a")))


def test_what_ends_soon_is_said_while_there_is_time_and_what_has_ended_is_wrong(ready, monkeypatch):
    release = sign_next(ready.consortium, days=10)
    ready.accept(ready.site("ct-a"), release.folder)
    found = check(ready.site("ct-a"))
    assert found.ready
    assert any(point.status == "soon" and "9 days" in point.what and point.todo for point in found.points)
    monkeypatch.setattr("secfed.provisioning.check.time.time", lambda: release.roster.expires + 1)
    assert any("expired" in what and "clock" in todo for what, todo in problems(ready.site("ct-a")))


def test_an_aggregator_s_faults_are_found(ready):
    second = sign_next(ready.consortium, revoke=["mr-c"])
    shutil.copy(second.folder / "roster.cbor", ready.aggregator / "roster.cbor")
    assert any("nodes.cbor is of version 1" in what for what, _ in problems(ready.aggregator))
    (ready.aggregator / "server.key").unlink()
    make_aggregator_folder(ready.aggregator, consortium="abdomen", hosts=["localhost"], port=18443)
    assert any("belongs to another key" in what for what, _ in problems(ready.aggregator))


def test_a_consortium_that_has_signed_nothing_is_told_so(place):
    assert [what for what, _ in problems(place.consortium)] == ["no version of the roster was signed"]


def test_a_call_finds_nobody_strangers_and_the_aggregator(ready, unused_tcp_port, serve_tls):
    change_text(ready.site("ct-a") / "site.toml", "localhost:18443", f"localhost:{unused_tcp_port}")
    assert any("refused" in what for what, _ in problems(ready.site("ct-a"), connect=True))
    with serve_tls(ready.aggregator) as port:
        change_text(ready.site("ct-a") / "site.toml", f"localhost:{unused_tcp_port}", f"localhost:{port}")
        assert problems(ready.site("ct-a"), connect=True) == []
        change_text(ready.site("ct-a") / "site.toml", f"localhost:{port}", f"127.0.0.2:{port}")
        assert any("--host" in todo for _, todo in problems(ready.site("ct-a"), connect=True))


def test_a_call_to_another_aggregator_is_no_connection(ready, serve_tls, tmp_path):
    other = make_place(tmp_path / "other")
    release = sign_next(other.consortium, requests=other.requests, server_request=other.aggregator / "server.csr")
    other.accept(other.aggregator, release.folder)
    with serve_tls(other.aggregator) as port:
        change_text(ready.site("ct-a") / "site.toml", "localhost:18443", f"localhost:{port}")
        assert any("Do not connect" in todo for _, todo in problems(ready.site("ct-a"), connect=True))


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(-30.0, "30 s ahead of the aggregator's"), (400.0, "400 s behind the aggregator's"), (60.0, None)],
)
def test_a_clock_that_is_off_is_named_with_what_to_set(ready, serve_tls, ahead, words):
    with serve_tls(ready.aggregator, ahead=ahead) as port:
        change_text(ready.site("ct-a") / "site.toml", "localhost:18443", f"localhost:{port}")
        found = problems(ready.site("ct-a"), connect=True)
    if words is None:
        assert found == []
    else:
        ((what, todo),) = found
        assert words.split(" s ")[1] in what
        assert "by NTP" in todo


def test_a_folder_of_nobody_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds none of site.toml, aggregator.toml, consortium.toml"):
        check(tmp_path)


def test_a_site_of_an_unreadable_file_still_gets_an_answer(tmp_path):
    new_site(tmp_path / "ct-a", "ct-a")
    (tmp_path / "ct-a" / "site.toml").write_text("name =")
    assert not check(tmp_path / "ct-a").ready
