"""The consortium signs versions that rise, lists whom it took in, and keeps out whom it took out."""

import shutil
import stat

import pytest
from provisioned import NAMES, new_site

from privacy.secagg.roster import verify_roster
from secfed.errors import ConfigError
from secfed.provisioning.consortium import ConsortiumFile, found_consortium, sign_next
from secfed.provisioning.join_request import load_node_key
from secfed.provisioning.node_list import verify_node_list
from secfed.provisioning.site_folder import load_node_private_key


def roster_of(release):
    anchor = (release.folder / "anchor.pub").read_bytes()
    return verify_roster((release.folder / "roster.cbor").read_bytes(), anchor=anchor, now=0)


def everything_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_lists_the_sites_with_the_keys_that_they_hold(place):
    release = sign_next(place.consortium, requests=place.requests)
    assert roster_of(release).names == NAMES == release.added
    nodes = verify_node_list(
        (release.folder / "nodes.cbor").read_bytes(), anchor=(place.consortium / "anchor.pub").read_bytes()
    )
    for name, key in nodes.nodes:
        assert load_node_key(key) == load_node_private_key(place.site(name)).public_key()


def test_nothing_private_is_in_a_version(place):
    release = sign_next(place.consortium, requests=place.requests, server_request=place.aggregator / "server.csr")
    private = [path for folder in place.root.iterdir() for path in folder.glob("*.key")]
    assert len(private) == 2 + 4 * len(NAMES) + 1
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for data in everything_in(release.folder).values():
            assert path.read_bytes() not in data
    assert sorted(path.name for path in release.folder.iterdir()) == [
        "anchor.pub", "ca.crt", "nodes.cbor", "roster.cbor", "server.crt",
    ]  # fmt: skip


def test_versions_rise_and_a_member_that_was_taken_out_stays_out(place):
    sign_next(place.consortium, requests=place.requests)
    second = sign_next(place.consortium, revoke=["mr-b"])
    assert (second.roster.version, second.revoked) == (2, ("mr-b",))
    assert sign_next(place.consortium).roster.names == ("ct-a", "mr-c")
    before = everything_in(place.consortium)
    with pytest.raises(ConfigError, match="carries a key that was revoked"):
        sign_next(place.consortium, requests=[place.site("mr-b") / "mr-b.request"])
    assert everything_in(place.consortium) == before
    shutil.rmtree(place.site("mr-b"))
    new_site(place.site("mr-b"), "mr-b")
    back = sign_next(place.consortium, requests=[place.site("mr-b") / "mr-b.request"])
    assert back.roster.names == NAMES


def test_a_lost_key_is_replaced_by_name_and_never_silently(place):
    first = sign_next(place.consortium, requests=place.requests)
    shutil.rmtree(place.site("ct-a"))
    new_site(place.site("ct-a"), "ct-a")
    with pytest.raises(ConfigError, match=r"member already, with another key.*--revoke ct-a"):
        sign_next(place.consortium, requests=[place.site("ct-a") / "ct-a.request"])
    replaced = sign_next(place.consortium, requests=[place.site("ct-a") / "ct-a.request"], revoke=["ct-a"])
    assert replaced.roster.names == NAMES
    assert replaced.roster.public_key("ct-a") != first.roster.public_key("ct-a")


def test_one_site_does_not_count_twice(place):
    (place.site("mr-b") / "identity.key").write_bytes((place.site("ct-a") / "identity.key").read_bytes())
    new_site(place.site("mr-b"), "mr-b")
    with pytest.raises(ConfigError, match="have a key in common"):
        sign_next(place.consortium, requests=place.requests)
    assert not (place.consortium / "members").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda place: {"revoke": ["xx"]}, "no member of that name"),
        (lambda place: {"requests": place.requests[:1]}, "2 to 256 members"),
        (lambda place: {"requests": [place.requests[0], place.requests[0]]}, "two requests of one name"),
        (lambda place: {"requests": [place.root / "none.request"]}, "cannot be read"),
        (lambda place: {"requests": [place.aggregator / "server.csr"]}, "ask the site for the file"),
        (lambda place: {"requests": place.requests, "server_request": place.requests[0]}, "no signing request"),
    ],
)
def test_what_cannot_be_signed_is_named_and_changes_nothing(place, change, words):
    before = everything_in(place.consortium)
    with pytest.raises(ConfigError, match=words):
        sign_next(place.consortium, **change(place))
    assert everything_in(place.consortium) == before


def test_a_request_for_another_consortium_is_refused(place, tmp_path):
    made = new_site(tmp_path / "hearts" / "ct-z", "ct-z", consortium="hearts")
    with pytest.raises(ConfigError, match="asks to join 'hearts', and this is 'abdomen'"):
        sign_next(place.consortium, requests=[made.request])


def test_a_consortium_is_founded_once(place):
    before = everything_in(place.consortium)
    with pytest.raises(ConfigError, match="founded here already"):
        found_consortium(place.consortium, ConsortiumFile(name="abdomen"))
    assert everything_in(place.consortium) == before


def test_a_site_s_keys_are_made_once_and_its_rules_are_not_overwritten(place):
    folder = place.site("ct-a")
    (folder / "site.toml").write_text((folder / "site.toml").read_text().replace("min_cohort = 3", "min_cohort = 7"))
    keys = {path.name: path.read_bytes() for path in folder.glob("*.key")}
    assert not new_site(folder, "ct-a").wrote_site_file
    assert {path.name: path.read_bytes() for path in folder.glob("*.key")} == keys
    assert "min_cohort = 7" in (folder / "site.toml").read_text()
    with pytest.raises(ConfigError, match="take another folder"):
        new_site(folder, "ct-b")
