"""Keys, rosters and site files: private, whole, made once, and read back as they were written."""

import resource
import stat

import pytest
from small_federation import config, provision

from privacy.secagg.identity import Identity
from privacy.secagg.roster import verify_roster
from secfed.errors import ConfigError, PolicyRefusal
from secfed.provisioning.files import make_identity, write_private
from secfed.provisioning.simulation import provision_simulation
from secfed.site_config import SITE_FILE, SiteData, SiteFile, SitePolicy, load_site_file, save_site_file


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [True, False])
def test_a_private_file_is_its_owner_s_and_replaces_the_former_one(tmp_path, durable):
    path = tmp_path / "state"
    for data in (b"long content of the first time", b"short"):
        write_private(path, data, durable=durable)
        assert path.read_bytes() == data
        assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_that_does_not_fit_on_the_disk_leaves_the_former_one_whole(tmp_path):
    path = tmp_path / "state"
    write_private(path, b"former")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writing past this limit is cut short, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_private(path, bytes(150))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"former"


def test_an_identity_is_made_once(tmp_path):
    folder = tmp_path / "site"
    first = make_identity(folder, name="north", rounding_key=bytes(32))
    assert make_identity(folder, name="north", rounding_key=bytes(32)) == first
    assert Identity.from_bytes((folder / "identity.key").read_bytes(), name="north").public_key == first
    assert mode_of(folder) == 0o700
    assert mode_of(folder / "identity.key") == mode_of(folder / "rounding.key") == 0o600
    assert make_identity(tmp_path / "other", name="north", rounding_key=bytes(32)) != first


def site(tmp_path, name, **more):
    return SiteFile(name=name, data=(SiteData(name=name, folder=tmp_path / "d", cache=tmp_path / "c"),), **more)


def test_all_parties_get_one_roster_and_the_sites_only_their_own_key(tmp_path):
    sites = {tmp_path / name: site(tmp_path, name) for name in ("b-site", "a-site", "c-site")}
    provision_simulation(seed=1, sites=sites, aggregator_folder=tmp_path / "aggregator")
    rosters = {(folder / "roster.cbor").read_bytes() for folder in (*sites, tmp_path / "aggregator")}
    assert len(rosters) == 1
    roster = verify_roster(rosters.pop(), anchor=(tmp_path / "aggregator" / "anchor.pub").read_bytes(), now=0)
    assert roster.names == ("a-site", "b-site", "c-site")
    keys = {(folder / "identity.key").read_bytes() for folder in sites}
    assert len(keys) == 3
    assert sorted(path.name for path in (tmp_path / "aggregator").iterdir()) == ["anchor.pub", "roster.cbor"]
    for folder in sites:
        assert mode_of(folder / "identity.key") == 0o600


def test_rounding_follows_the_seed_and_the_site_and_identities_follow_nothing(scans, tmp_path):
    first, again, other = (
        provision(tmp_path / name, config(scans, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )

    def keys(job, name):
        return [(folder / name).read_bytes() for folder in job.site_folders]

    assert keys(first, "rounding.key") == keys(again, "rounding.key")
    assert not set(keys(first, "rounding.key")) & set(keys(other, "rounding.key"))
    assert len(set(keys(first, "rounding.key"))) == 4
    assert not set(keys(first, "identity.key")) & set(keys(again, "identity.key"))


def test_a_site_file_reads_back_as_it_was_written(tmp_path):
    written = site(
        tmp_path, "north", durable_state=False, policy=SitePolicy(protection=("plain", "masked"), min_cohort=5)
    )
    save_site_file(tmp_path / "site", written)
    assert load_site_file(tmp_path / "site") == written


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", ["not a readable TOML"]),
        ('name = "north"', ["'data' is missing"]),
        ('name = "North!"\ndata = []', ["name = 'North!'"]),
        ("[policy]\nmin_cohrt = 3", ["unknown key 'policy.min_cohrt'", "did you mean 'min_cohort'?"]),
        ('[policy]\nprotection = ["none"]', ["policy.protection.0 = 'none'"]),
    ],
)
def test_a_bad_site_file_is_named_with_its_key(tmp_path, text, words):
    (tmp_path / SITE_FILE).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_site_file(tmp_path)
    for word in (str(tmp_path / SITE_FILE), *words):
        assert word in str(caught.value)


def test_a_folder_without_a_site_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="a site folder holds a"):
        load_site_file(tmp_path)


def test_the_default_policy_asks_for_masking_among_three(scans):
    policy = SitePolicy()
    policy.check_plan(config(scans).plan(), num_parameters=1000)
    policy.check_cohort(3)
    with pytest.raises(PolicyRefusal, match="cohort of 2 sites is below this site's min_cohort = 3"):
        policy.check_cohort(2)
    with pytest.raises(PolicyRefusal, match="allows only"):
        policy.check_plan(config(scans, protection={"mode": "plain"}).plan(), num_parameters=1000)


@pytest.mark.parametrize(
    ("policy", "changes", "words"),
    [
        ({"architectures": ("basic_unet",)}, {}, "model.architecture = 'unet'"),
        ({"metrics": ("train_loss",)}, {"federation": {"validate_every": 1}}, "validates every 1 rounds"),
        ({"metrics": ("validation",)}, {}, "carry the mean training loss"),
        ({"metrics": ()}, {"privacy": {"mode": "clip_only"}}, "carry the mean training loss"),
    ],
)
def test_models_and_metrics_that_a_policy_does_not_let_through_are_refused(scans, policy, changes, words):
    plan = config(scans, **changes).plan()
    SitePolicy(max_delta=0.5).check_plan(plan, num_parameters=1000)
    with pytest.raises(PolicyRefusal, match=words):
        SitePolicy(max_delta=0.5, **policy).check_plan(plan, num_parameters=1000)


def test_a_private_run_carries_no_metric_and_needs_none_allowed(scans):
    private = config(
        scans,
        federation={"min_cohort": 4},
        training={"optimizer_state": "reset"},
        privacy={"mode": "distributed", "epsilon": 8.0, "sampling_prob": 0.5, "delta": 1e-4},
    ).plan()
    SitePolicy(metrics=()).check_plan(private, num_parameters=1000)


def test_paths_in_a_site_file_are_taken_from_its_folder(tmp_path):
    (tmp_path / SITE_FILE).write_text(
        'name = "north"\n[[data]]\nname = "north"\nfolder = "../scans"\ncache = "cache"\n'
    )
    (data,) = load_site_file(tmp_path).data
    assert data.cache == tmp_path / "cache"
    assert data.folder == tmp_path / "../scans"
