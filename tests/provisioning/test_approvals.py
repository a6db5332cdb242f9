"""A bundle runs where the site's reviewer signed for it and for the program that is installed, and nowhere else."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secfed.errors import ConfigError, PolicyRefusal
from secfed.provisioning.approvals import APPROVALS, Approvals

KEY = Ed25519PrivateKey.generate()
REVIEWER = KEY.public_key().public_bytes_raw()
BUNDLE, CODE, OTHER = "a" * 64, "b" * 64, "c" * 64


def approvals(folder, *, site="ct-a", reviewer=REVIEWER):
    return Approvals(folder, site=site, reviewer=reviewer)


def approve(folder, **changes):
    given = {"bundle": BUNDLE, "code": CODE, "by": "R. Viewer", "reason": "review 7", "key": KEY, **changes}
    return approvals(folder).add(**given)


def test_what_was_approved_is_let_through_and_says_by_whom(tmp_path):
    made = approve(tmp_path)
    approvals(tmp_path).require(bundle=BUNDLE, code=CODE)
    assert approvals(tmp_path).all() == (made,)
    assert (made.by, made.reason) == ("R. Viewer", "review 7")


def test_nothing_is_approved_until_somebody_does(tmp_path):
    with pytest.raises(PolicyRefusal, match="secfed site approve"):
        approvals(tmp_path).require(bundle=BUNDLE)


def test_another_bundle_and_another_program_are_refused(tmp_path):
    approve(tmp_path)
    with pytest.raises(PolicyRefusal, match="is not approved"):
        approvals(tmp_path).require(bundle=OTHER, code=CODE)
    with pytest.raises(PolicyRefusal, match="install the release that was reviewed"):
        approvals(tmp_path).require(bundle=BUNDLE, code=OTHER)


def test_two_releases_stand_side_by_side_until_one_is_withdrawn(tmp_path):
    approve(tmp_path)
    approve(tmp_path, bundle=OTHER, code=OTHER)
    approvals(tmp_path).withdraw("aa")
    with pytest.raises(PolicyRefusal):
        approvals(tmp_path).require(bundle=BUNDLE, code=CODE)
    approvals(tmp_path).require(bundle=OTHER, code=OTHER)
    with pytest.raises(ConfigError, match="0 approved bundles begin so"):
        approvals(tmp_path).withdraw("aa")


@pytest.mark.parametrize("field", ["bundle", "code", "by", "reason", "time", "signature"])
def test_a_changed_approval_stops_everything_until_it_is_removed(tmp_path, field):
    approve(tmp_path)
    entries = json.loads((tmp_path / APPROVALS).read_text())
    entries[0][field] = "d" * len(entries[0][field])
    (tmp_path / APPROVALS).write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match="not signed by this site's reviewer"):
        approvals(tmp_path).require(bundle=BUNDLE)


def test_an_approval_of_one_site_is_none_at_another(tmp_path):
    approve(tmp_path)
    with pytest.raises(ConfigError, match="not signed"):
        approvals(tmp_path, site="ct-b").require(bundle=BUNDLE)


def test_only_the_named_reviewer_can_approve(tmp_path):
    with pytest.raises(ConfigError, match="not the key of the reviewer"):
        approve(tmp_path, key=Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="names no reviewer"):
        approvals(tmp_path, reviewer=None).add(bundle=BUNDLE, code=CODE, by="R", reason="r", key=KEY)
    assert not (tmp_path / APPROVALS).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by": " "}, "--by is empty"),
        ({"reason": ""}, "--reason is empty"),
        ({"bundle": "abc"}, "64 hexadecimal digits"),
        ({"code": "G" * 64}, "64 hexadecimal digits"),
    ],
)
def test_an_approval_without_a_name_a_reason_or_a_digest_is_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        approve(tmp_path, **changes)


def test_a_damaged_file_approves_nothing(tmp_path):
    (tmp_path / APPROVALS).write_text("[{}]")
    with pytest.raises(ConfigError, match="nothing is approved by it"):
        approvals(tmp_path).require(bundle=BUNDLE)
