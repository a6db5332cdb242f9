"""Checkpoints are whole or not there: a stop between any two writes leaves the one before in force."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_federation import config, digest, journal, last_state, provision, train

from aggregator.folder import AggregatorFolder
from secfed import checkpoint
from secfed.aggregator_files import JOURNAL
from secfed.checkpoint import Checkpoints
from secfed.errors import RunFolderError
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.server_optimizer import ServerState

LAYOUT = ParameterLayout((TensorSpec("w", (3,), "parameter"), TensorSpec("b", (2,), "buffer")))


def state(completed, *, averaged=False, adaptive=False):
    return ServerState(
        completed=completed,
        model=np.arange(5, dtype=np.float32) + completed,
        momentum=np.full(3, 0.5 * completed),
        average=np.arange(5, dtype=np.float32) / completed if averaged else None,
        second_moment=np.full(3, 0.25 * completed) if adaptive else None,
    )


def assert_same(found, expected):
    assert found.completed == expected.completed
    np.testing.assert_array_equal(found.model, expected.model)
    np.testing.assert_array_equal(found.momentum, expected.momentum)
    assert (found.average is None) == (expected.average is None)
    np.testing.assert_array_equal(found.second_moment, expected.second_moment)
    np.testing.assert_array_equal(found.result, expected.result)


def test_the_last_saved_state_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load(LAYOUT) is None
    for completed in (1, 2):
        checkpoints.save(state(completed), LAYOUT)
        assert_same(Checkpoints(tmp_path).load(LAYOUT), state(completed))


def test_an_average_of_models_comes_back_or_is_missed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for completed in (1, 2):
        checkpoints.save(state(completed, averaged=True), LAYOUT)
    assert_same(Checkpoints(tmp_path).load(LAYOUT), state(2, averaged=True))
    path = tmp_path / "round-000002.average.npy"
    np.save(path, np.zeros(5, np.float32))
    with pytest.raises(RunFolderError, match=r"average\.npy is damaged"):
        checkpoints.load(LAYOUT)
    path.unlink()
    with pytest.raises(RunFolderError, match="cannot be read"):
        checkpoints.load(LAYOUT)


def test_a_second_moment_comes_back_or_is_missed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for completed in (1, 2):
        checkpoints.save(state(completed, adaptive=True), LAYOUT)
    assert_same(Checkpoints(tmp_path).load(LAYOUT), state(2, adaptive=True))
    assert_same(Checkpoints(tmp_path).load(LAYOUT, completed=1), state(1, adaptive=True))
    path = tmp_path / "round-000002.second_moment.npy"
    damage_byte(path)
    with pytest.raises(RunFolderError, match=r"second_moment\.npy is damaged"):
        checkpoints.load(LAYOUT)
    np.save(path, np.zeros(4))
    with pytest.raises(RunFolderError, match=r"second_moment\.npy is damaged or of another model"):
        checkpoints.load(LAYOUT)
    path.unlink()
    with pytest.raises(RunFolderError, match="cannot be read"):
        checkpoints.load(LAYOUT)


def test_a_checkpoint_without_a_second_moment_has_no_file_for_one_and_loads_as_ever(tmp_path):
    Checkpoints(tmp_path).save(state(1), LAYOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest.json",
        "round-000001.json",
        "round-000001.momentum.npy",
        "round-000001.safetensors",
    ]
    assert json.loads((tmp_path / "latest.json").read_text()).keys() == {"completed", "model", "momentum"}
    assert Checkpoints(tmp_path).load(LAYOUT).second_moment is None


def test_only_the_newest_checkpoints_stay_on_disk(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for completed in range(1, 6):
        checkpoints.save(state(completed), LAYOUT)
    assert sorted(path.name for path in tmp_path.glob("round-*")) == [
        "round-000004.json",
        "round-000004.momentum.npy",
        "round-000004.safetensors",
        "round-000005.json",
        "round-000005.momentum.npy",
        "round-000005.safetensors",
    ]


class Stopped(BaseException):
    """The process ends here."""


def stop(*_, **__):
    raise Stopped


def stop_at_rename(monkeypatch, suffix):
    rename = Path.replace

    def replace(self, target):
        if str(target).endswith(suffix):
            raise Stopped
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


STOPS = {
    "before the model": lambda patch: patch.setattr(checkpoint, "save_vector", stop),
    "while the model is renamed": lambda patch: stop_at_rename(patch, ".safetensors"),
    "while the momentum is written": lambda patch: patch.setattr(np, "save", stop),
    "while the momentum is renamed": lambda patch: stop_at_rename(patch, ".momentum.npy"),
    "before the pointer": lambda patch: patch.setattr(checkpoint, "model_digest", stop),
    "while the pointer is renamed": lambda patch: stop_at_rename(patch, "latest.json"),
}


@pytest.mark.parametrize("where", STOPS)
def test_a_stop_inside_a_save_leaves_the_previous_checkpoint_in_force(tmp_path, monkeypatch, where):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), LAYOUT)
    with monkeypatch.context() as patch:
        STOPS[where](patch)
        with pytest.raises(Stopped):
            checkpoints.save(state(2), LAYOUT)
    assert_same(Checkpoints(tmp_path).load(LAYOUT), state(1))
    checkpoints.save(state(2), LAYOUT)
    assert_same(Checkpoints(tmp_path).load(LAYOUT), state(2))


def test_a_stop_while_old_checkpoints_are_removed_leaves_the_new_one_in_force(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(1), LAYOUT)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(Stopped):
            checkpoints.save(state(2), LAYOUT)
    assert_same(Checkpoints(tmp_path).load(LAYOUT), state(2))


def damage_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit in the model": ("round-000001.safetensors", damage_byte),
    "model cut short": ("round-000001.safetensors", lambda path: path.write_bytes(path.read_bytes()[:40])),
    "no model": ("round-000001.safetensors", Path.unlink),
    "no momentum": ("latest.json", lambda path: (path.parent / "round-000001.momentum.npy").unlink()),
    "momentum cut short": (
        "latest.json",
        lambda path: (path.parent / "round-000001.momentum.npy").write_bytes(b"\x93NUMPY"),
    ),
    "momentum of another model": (
        "latest.json",
        lambda path: np.save(path.parent / "round-000001.momentum.npy", np.zeros(4)),
    ),
    "momentum of another type": (
        "latest.json",
        lambda path: np.save(path.parent / "round-000001.momentum.npy", np.array(["a", "b", "c"])),
    ),
    "momentum that is not finite": (
        "latest.json",
        lambda path: np.save(path.parent / "round-000001.momentum.npy", np.array([0.5, np.nan, 0.5])),
    ),
    "flipped bit in the momentum": (
        "latest.json",
        lambda path: damage_byte(path.parent / "round-000001.momentum.npy"),
    ),
    "empty momentum": ("latest.json", lambda path: (path.parent / "round-000001.momentum.npy").write_bytes(b"")),
    "empty pointer": ("latest.json", lambda path: path.write_text("")),
    "pointer to nothing": ("latest.json", lambda path: path.write_text('{"completed": 9, "model": ""}')),
    "pointer without a model": ("latest.json", lambda path: path.write_text('{"completed": 1}')),
    "pointer that is no text": ("latest.json", lambda path: path.write_bytes(b"\xff")),
    "pointer that is a list": ("latest.json", lambda path: path.write_text("[1]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_detected_and_named(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), LAYOUT)
    name, act = DAMAGES[damage]
    act(tmp_path / name)
    with pytest.raises(RunFolderError, match=name) as caught:
        checkpoints.load(LAYOUT)
    assert caught.value.exit_code == 4


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), LAYOUT)
    other = ParameterLayout((TensorSpec("w", (5,), "parameter"),))
    with pytest.raises(RunFolderError, match="of another model"):
        checkpoints.load(other)


def test_rewinding_drops_later_rounds_and_a_line_that_was_cut_short(tmp_path):
    folder = AggregatorFolder(tmp_path)
    for number in (1, 2, 3):
        folder.append({"event": "round", "round": number})
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"event": "round", "rou')
    assert [entry["round"] for entry in folder.journal()] == [1, 2, 3]
    folder.rewind(completed=2)
    folder.append({"event": "round", "round": 3})
    assert [json.loads(line)["round"] for line in (tmp_path / JOURNAL).read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("mode", ["masked", "plain"])
@pytest.mark.parametrize("after", ["journal", "checkpoint"])
def test_a_stop_beside_the_checkpoint_loses_no_round_and_doubles_none(scans, tmp_path, monkeypatch, mode, after):
    run_config = config(scans, federation={"rounds": 3}, protection={"mode": mode})
    undisturbed = provision(tmp_path / "undisturbed", run_config)
    train(undisturbed)
    job = provision(tmp_path / "job", run_config)
    seam = (AggregatorFolder, "append") if after == "journal" else (Checkpoints, "save")
    original = getattr(*seam)

    def act_then_stop(self, *arguments):
        original(self, *arguments)
        rounds = [argument for argument in arguments if not isinstance(argument, ParameterLayout)]
        number = rounds[0]["round"] if after == "journal" else rounds[0].completed
        if number == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(*seam, act_then_stop)
        with pytest.raises(Stopped):
            train(job)
    train(job)
    assert [entry["round"] for entry in journal(job)] == [1, 2, 3]
    assert digest(job) == digest(undisturbed)


def test_a_finished_job_that_is_started_again_changes_nothing(scans, tmp_path):
    job = provision(tmp_path, config(scans))
    train(job)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    asked = []
    train(job, intercept=lambda node, message: asked.append(node) or message)
    assert asked == []
    assert last_state(job).completed == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
