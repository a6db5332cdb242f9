"""A folder takes over what its own consortium signed, never an older version, and all of it or nothing."""

import shutil

import pytest
from provisioned import NAMES, make_place

from clients.site import Site
from secfed.errors import ConfigError
from secfed.provisioning.adoption import adopt
from secfed.provisioning.aggregator_service import make_aggregator_folder
from secfed.provisioning.consortium import sign_next


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def release(place):
    return sign_next(place.consortium, requests=place.requests, server_request=place.aggregator / "server.csr")


def test_a_site_and_the_aggregator_get_what_they_need_and_no_more(place, release):
    before = {folder: set(files_of(folder)) for folder in (place.site("ct-a"), place.aggregator)}
    for folder in before:
        adopted = place.accept(folder, release.folder)
        assert (adopted.before, adopted.roster) == (0, release.roster)
    new = {folder: set(files_of(folder)) - before[folder] for folder in before}
    assert new[place.site("ct-a")] == {"anchor.pub", "ca.crt", "roster.cbor"}
    assert new[place.aggregator] == {"anchor.pub", "ca.crt", "nodes.cbor", "roster.cbor", "server.crt"}
    assert Site(place.site("ct-a")).roster().names == NAMES


def test_the_first_time_somebody_has_to_say_the_anchor_and_the_message_does_not(place, release):
    with pytest.raises(ConfigError, match="by telephone") as caught:
        adopt(place.site("ct-a"), release.folder, anchor_fingerprint=None)
    assert place.anchor_fingerprint not in str(caught.value)
    told = place.anchor_fingerprint[:-1] + ("0" if place.anchor_fingerprint[-1] != "0" else "1")
    with pytest.raises(ConfigError, match="somebody may have changed the files"):
        adopt(place.site("ct-a"), release.folder, anchor_fingerprint=told)
    spelled = place.anchor_fingerprint.upper().replace(" ", ":")
    adopt(place.site("ct-a"), release.folder, anchor_fingerprint=spelled)
    adopt(place.site("ct-a"), release.folder, anchor_fingerprint=None)


def test_an_older_version_is_refused_and_the_newer_one_stays(place, release):
    second = sign_next(place.consortium, revoke=["mr-b"])
    place.accept(place.site("ct-a"), second.folder)
    before = files_of(place.site("ct-a"))
    with pytest.raises(ConfigError, match="bring back members"):
        place.accept(place.site("ct-a"), release.folder)
    assert files_of(place.site("ct-a")) == before
    assert place.accept(place.site("ct-a"), second.folder).before == 2


def test_a_site_that_was_taken_out_is_told_so(place, release):
    place.accept(place.site("mr-b"), release.folder)
    second = sign_next(place.consortium, revoke=["mr-b"])
    with pytest.raises(ConfigError, match=r"does not name 'mr-b'.*why it was taken out"):
        place.accept(place.site("mr-b"), second.folder)


def test_another_consortium_s_release_is_refused_even_with_its_own_fingerprint(place, release, tmp_path):
    place.accept(place.site("ct-a"), release.folder)
    other = make_place(tmp_path / "other")
    foreign = sign_next(other.consortium, requests=other.requests)
    with pytest.raises(ConfigError, match="another consortium key"):
        adopt(place.site("ct-a"), foreign.folder, anchor_fingerprint=other.anchor_fingerprint)
    # To a folder that has no anchor yet it is a roster that names this site with another key.
    with pytest.raises(ConfigError, match="with another key"):
        adopt(place.site("mr-b"), foreign.folder, anchor_fingerprint=other.anchor_fingerprint)


@pytest.mark.parametrize("name", ["roster.cbor", "nodes.cbor", "server.crt", "ca.crt"])
def test_a_changed_or_missing_file_is_named_and_nothing_is_taken_over(place, release, name):
    before = files_of(place.aggregator)
    path = release.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=name.split(".", maxsplit=1)[0] if name != "ca.crt" else "server.crt"):
        place.accept(place.aggregator, release.folder)
    path.unlink()
    with pytest.raises(ConfigError, match=f"{name}: no such file"):
        place.accept(place.aggregator, release.folder)
    assert files_of(place.aggregator) == before


def test_a_certificate_for_another_key_is_refused(place, release):
    (place.aggregator / "server.key").unlink()
    make_aggregator_folder(place.aggregator, consortium="abdomen", hosts=["localhost"], port=18443)
    with pytest.raises(ConfigError, match="belongs to another key"):
        place.accept(place.aggregator, release.folder)


def test_a_folder_of_nobody_is_refused(place, release, tmp_path):
    with pytest.raises(ConfigError, match="neither a site's folder"):
        place.accept(tmp_path, release.folder)


def test_an_expired_version_is_refused(place, release, monkeypatch):
    monkeypatch.setattr("secfed.provisioning.adoption.time.time", lambda: release.roster.expires + 1)
    with pytest.raises(ConfigError, match=r"expired.*ask the consortium for a newer one"):
        place.accept(place.site("ct-a"), release.folder)


def test_a_copied_folder_without_its_key_is_refused(place, release):
    shutil.copy(place.site("mr-b") / "identity.key", place.site("ct-a") / "identity.key")
    with pytest.raises(ConfigError, match="with another key than the one in"):
        place.accept(place.site("ct-a"), release.folder)
