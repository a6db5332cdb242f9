"""A site's owner takes the final model out of an encrypted run: whole, once asked for, and never by accident."""

import dataclasses
import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from flwr.app import Error
from small_federation import config, journal, last_state, provision, train

from clients.encrypted_run import MEMBER, RECORD, encrypted_runs
from clients.export import export_model, standings
from clients.site import Site
from secfed.config import RunConfig, TrainingPlan
from secfed.engines.job import Job
from secfed.errors import ConfigError, RoundAborted, RunFolderError
from secfed.experiment.final_model import final_state
from secfed.model import build_model, load_flat
from secfed.parameters import PLAN_KEY, load_vector, model_digest

ROUNDS = 3


def configuration(scans: Path) -> RunConfig:
    return config(
        scans,
        training={"optimizer_state": "average", "steps_per_round": 1},
        federation={"rounds": ROUNDS},
        protection={"mode": "encrypted"},
    )


def stopped_before(scans: Path, folder: Path, *, stage: str, server_round: int) -> Job:
    """A run in which no site answers any more from this stage on."""
    job = provision(folder, configuration(scans))

    def fail(_, message):
        found = (message.metadata.message_type.removeprefix("query."), int(message.metadata.group_id))
        return Error(2, "the site's program failed") if found == (stage, server_round) else message

    with pytest.raises(RoundAborted):
        train(job, intercept=fail)
    return job


@pytest.fixture(scope="module")
def ended(scans, tmp_path_factory) -> Job:
    job = provision(tmp_path_factory.mktemp("ended"), configuration(scans))
    train(job)
    return job


@pytest.fixture(scope="module")
def under_way(scans, tmp_path_factory) -> Job:
    return stopped_before(scans, tmp_path_factory.mktemp("stopped"), stage="train", server_round=ROUNDS)


def copy_of(job: Job, folder: Path) -> Job:
    """The same job elsewhere, whose sites may note and lose things."""
    return dataclasses.replace(job, folder=Path(shutil.copytree(job.folder, folder)))


@pytest.fixture
def site(ended, tmp_path):
    """A copy of one site's folder, to be spoiled."""
    return Site(Path(shutil.copytree(ended.site_folders[0], tmp_path / "site")))


def run_folder(site: Site) -> Path:
    [folder] = encrypted_runs(site)
    return folder


def exports_of(site: Site) -> list[dict]:
    lines = (site.folder / "books" / "site.log").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"].startswith("export")]


def test_every_site_of_an_ended_run_exports_the_same_model_without_moments(ended, tmp_path):
    files = []
    for folder in copy_of(ended, tmp_path / "copy").site_folders:
        out = tmp_path / f"{folder.name}.safetensors"
        written = export_model(Site(folder), out=out)
        assert (written.standing.state, written.standing.completed) == ("ended", ROUNDS)
        files.append(load_vector(out))
    state, layout = final_state(ended)
    for vector, found, metadata in files:
        np.testing.assert_array_equal(vector, state.model[: layout.model_size])
        assert found == layout.model_layout()
        assert layout.num_moments > found.num_moments == 0
        assert metadata == files[0][2]
    vector, found, metadata = files[0]
    assert metadata["sha256"] == written.sha256 == model_digest(vector, found).hex()
    assert (metadata["model"], metadata["rounds"], metadata["planned_rounds"]) == ("federated", "3", "3")
    assert metadata["plan"] == ended.plan.digest().hex()
    assert TrainingPlan.model_validate_json(metadata[PLAN_KEY]) == ended.plan
    assert bytes.fromhex(metadata["run"])[:16].hex() == run_folder(Site(ended.site_folders[0])).name
    load_flat(build_model(ended.plan.model, num_classes=9), vector, found)


def test_the_file_is_readable_by_its_owner_alone_and_the_site_notes_time_target_and_hash(site, tmp_path):
    out = tmp_path / "model.safetensors"
    written = export_model(site, out=out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    [entry] = exports_of(site)
    assert entry.items() >= {"event": "export", "out": str(out), "sha256": written.sha256, "rounds": ROUNDS}.items()
    assert entry["run"] == written.standing.run
    assert len(entry["time"]) == len("2026-01-01T00:00:00")


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_an_export_overwrites_nothing(site, tmp_path, kind):
    out = tmp_path / "taken"
    {
        "file": lambda: out.write_bytes(b"precious"),
        "folder": out.mkdir,
        "dangling link": lambda: out.symlink_to(tmp_path / "elsewhere"),
    }[kind]()
    with pytest.raises(ConfigError, match="overwrites nothing"):
        export_model(site, out=out)
    assert kind != "file" or out.read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()
    assert exports_of(site) == []


def test_a_target_that_cannot_be_written_is_named_and_leaves_nothing(site, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        export_model(site, out=tmp_path / "nowhere" / "model.safetensors")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clients.export.save_vector", full)
    with pytest.raises(ConfigError, match="No space left"):
        export_model(site, out=tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
    assert [entry["event"] for entry in exports_of(site)] == ["export", "export failed"]


def test_a_run_that_has_not_ended_is_exported_only_by_whoever_names_its_rounds(under_way, tmp_path):
    site, out = Site(copy_of(under_way, tmp_path / "copy").site_folders[0]), tmp_path / "model.safetensors"
    [standing], _ = standings(site)
    assert (standing.state, standing.completed, standing.rounds) == ("under way", ROUNDS - 2, ROUNDS)
    with pytest.raises(RunFolderError, match=r"1 of 3 rounds are done; add --unfinished 1"):
        export_model(site, out=out)
    with pytest.raises(ConfigError, match=r"--unfinished = 2: 1 rounds"):
        export_model(site, out=out, unfinished=2)
    assert not out.exists()
    export_model(site, out=out, unfinished=1)
    assert load_vector(out)[2]["rounds"] == "1"
    assert len(journal(under_way)) == 2


def test_a_last_round_that_the_others_have_not_confirmed_is_no_end(scans, tmp_path):
    """Every site stands on the last model, but never hears that the others do, too."""
    job = provision(tmp_path / "run", configuration(scans))

    def lose(_, message):
        return Error(2, "lost") if message.metadata.message_type == "query.finish" else message

    train(job, intercept=lose)
    site = Site(job.site_folders[0])
    with pytest.raises(RunFolderError, match="not enough sites showed yet"):
        export_model(site, out=tmp_path / "model.safetensors")
    export_model(site, out=tmp_path / "model.safetensors", unfinished=ROUNDS)


def test_an_ended_run_is_not_called_unfinished(site, tmp_path):
    with pytest.raises(ConfigError, match="has ended; leave it out"):
        export_model(site, out=tmp_path / "model.safetensors", unfinished=ROUNDS)


def test_a_run_without_a_round_has_no_model(scans, tmp_path):
    job = stopped_before(scans, tmp_path / "run", stage="train", server_round=1)
    with pytest.raises(RunFolderError, match=r"0 of 3 rounds are done$"):
        export_model(Site(job.site_folders[0]), out=tmp_path / "model.safetensors")


def test_where_there_are_several_runs_one_must_be_named(site, under_way, tmp_path):
    other = run_folder(Site(under_way.site_folders[0]))
    shutil.copytree(other, site.state / "encrypted" / other.name)
    found, problems = standings(site)
    assert ({run.state for run in found}, problems) == ({"ended", "under way"}, ())
    done = next(run for run in found if run.state == "ended")
    with pytest.raises(ConfigError, match=r"2 encrypted runs: choose by --run: .*; "):
        export_model(site, out=tmp_path / "model.safetensors")
    for wrong in ("", "zz", done.run[:-1] + "x", done.run + "0"):
        with pytest.raises(ConfigError, match="names"):
            export_model(site, out=tmp_path / "model.safetensors", run=wrong)
    for index, name in enumerate((done.run[:8], done.run[:32], done.run)):
        assert export_model(site, out=tmp_path / f"{index}", run=name).standing == done


def test_a_damaged_run_is_named_and_hides_no_other(site, under_way, tmp_path):
    other = run_folder(Site(under_way.site_folders[0]))
    shutil.copytree(other, site.state / "encrypted" / other.name)
    (site.state / "encrypted" / other.name / RECORD).write_text("{")
    [done], [problem] = standings(site)
    assert other.name in problem
    export_model(site, out=tmp_path / "model.safetensors", run=done.run)


def test_a_site_without_encrypted_runs_says_where_other_models_are(site, tmp_path):
    shutil.rmtree(site.state / "encrypted")
    assert standings(site) == ((), ())
    with pytest.raises(RunFolderError, match="no encrypted run; of a masked or plain run the aggregator has the model"):
        export_model(site, out=tmp_path / "model.safetensors")


@pytest.mark.parametrize("spoil", ["missing", "flipped", "cut", "another model"])
def test_a_model_that_is_missing_or_damaged_is_never_exported(site, under_way, tmp_path, spoil):
    model = run_folder(site) / "model"
    file = model / f"round-{ROUNDS:06d}.safetensors"
    data = file.read_bytes()
    match spoil:
        case "missing":
            file.unlink()
        case "flipped":
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "cut":
            file.write_bytes(data[:-100])
        case "another model":
            # A whole and consistent checkpoint, but of another run: only the protocol state knows the difference.
            other = run_folder(Site(under_way.site_folders[0])) / "model"
            for path in model.glob(f"round-{ROUNDS:06d}*"):
                text = (other / path.name.replace(f"{ROUNDS:06d}", f"{ROUNDS - 2:06d}")).read_bytes()
                path.write_bytes(text.replace(b'"completed": 1,', b'"completed": 3,'))
    with pytest.raises(RunFolderError, match=r"round-000003|not the one that this site stepped to"):
        export_model(site, out=tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
    assert exports_of(site) == []


def test_after_the_loss_of_the_key_the_books_vouch_for_the_model(site, tmp_path):
    (run_folder(site) / MEMBER).unlink()
    [standing], _ = standings(site)
    assert (standing.state, standing.completed) == ("key lost", ROUNDS)
    with pytest.raises(RunFolderError, match=r"its protocol state is lost here.*--unfinished 3"):
        export_model(site, out=tmp_path / "model.safetensors")
    written = export_model(site, out=tmp_path / "model.safetensors", unfinished=ROUNDS)
    assert written.standing.model_hash == standing.model_hash


def test_the_state_of_another_site_is_refused(site, ended, tmp_path):
    other = run_folder(Site(ended.site_folders[1]))
    shutil.copyfile(other / MEMBER, run_folder(site) / MEMBER)
    with pytest.raises(RunFolderError, match="another run or another site than 'ct-a'"):
        export_model(site, out=tmp_path / "model.safetensors")


def test_an_export_needs_neither_the_identity_key_nor_a_roster(site, tmp_path):
    for name in ("identity.key", "roster.cbor", "anchor.pub"):
        (site.folder / name).unlink()
    export_model(site, out=tmp_path / "model.safetensors")


def test_the_commands_list_and_export_and_refuse_with_their_exit_codes(site, under_way, tmp_path, monkeypatch, capfd):
    out = tmp_path / "model.safetensors"
    code, text, _ = call(monkeypatch, capfd, "site", "runs", "--site", site.folder, "--json")
    [listed] = json.loads(text)["runs"]
    assert (code, listed["rounds_done"], listed["rounds"], listed["state"]) == (0, ROUNDS, ROUNDS, "ended")
    code, text, _ = call(monkeypatch, capfd, "site", "runs", "--site", site.folder)
    assert code == 0
    assert all(word in text for word in (listed["run"][:12], "3 of 3", "ended", "small"))
    code, text, _ = call(
        monkeypatch, capfd, "site", "export", "--site", site.folder, "--out", out, "--run", listed["run"][:8], "--json"
    )
    written = json.loads(text)
    assert (code, written["run"], written["site"]) == (0, listed["run"], "ct-a")
    assert written["sha256"] == load_vector(out)[2]["sha256"]
    code, _, err = call(monkeypatch, capfd, "site", "export", "--site", site.folder, "--out", out)
    assert (code, "overwrites nothing" in err) == (2, True)
    other = copy_of(under_way, tmp_path / "copy").site_folders[0]
    arguments = ("site", "export", "--site", other, "--out", tmp_path / "early.safetensors")
    code, _, err = call(monkeypatch, capfd, *arguments)
    assert (code, "--unfinished 1" in err) == (4, True)
    code, text, _ = call(monkeypatch, capfd, *arguments, "--unfinished", 1)
    assert code == 0
    assert all(word in text for word in ("SHA-256", "1 of 3, under way", "not encrypted"))


def test_the_experiment_tests_the_model_that_a_site_would_export(ended, tmp_path):
    written = export_model(Site(copy_of(ended, tmp_path / "copy").site_folders[2]), out=tmp_path / "model.safetensors")
    state, layout = final_state(ended)
    assert model_digest(state.model[: layout.model_size], layout.model_layout()).hex() == written.sha256
    assert last_state(ended).completed == ROUNDS


def test_sites_with_different_models_have_no_final_model(ended, scans, tmp_path):
    """One site's whole record is that of another run of as many rounds: the experiment must not pick one."""
    other = provision(tmp_path / "other", configuration(scans).model_copy(update={"seed": 4}))
    train(other)
    copied = copy_of(ended, tmp_path / "copy")
    folder = copied.site_folders[0] / "state" / "encrypted"
    shutil.rmtree(folder)
    shutil.copytree(other.site_folders[0] / "state" / "encrypted", folder)
    with pytest.raises(RunFolderError, match="after 3 rounds the sites have 2 different models"):
        final_state(copied)


def test_nothing_of_the_aggregators_can_be_exported(ended):
    """The aggregator's folder holds no model but the first, which the plan's seed makes."""
    files = [path for path in ended.aggregator_folder.rglob("*") if path.is_file()]
    assert {path.name for path in files if path.suffix == ".safetensors"} == {"initial.safetensors"}
    state, _ = final_state(ended)
    needle = state.model[:16].astype("<f4").tobytes()
    assert len(set(state.model[:16])) == 16
    site_files = [path for path in ended.site_folders[0].rglob("*") if path.is_file()]
    assert any(needle in path.read_bytes() for path in site_files), "the needle is what a model file holds"
    assert not any(needle in path.read_bytes() for path in files)
