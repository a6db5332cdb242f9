"""A restored optimiser is the one that was saved."""

import pytest
import torch

from clients.optimizer_state import OptimizerStates
from secfed.errors import RunFolderError
from secfed.parameters import load_vector


def network(width=3):
    generator = torch.Generator().manual_seed(width)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, width, 3), torch.nn.GroupNorm(1, width))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.99), fused=True)


def step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_a_restored_optimizer_steps_as_the_saved_one_would_have(tmp_path):
    model, optimizer = network()
    for seed in range(5):
        step(model, optimizer, seed)
    states = OptimizerStates(tmp_path, owner="run")
    states.save(model, optimizer, server_round=1)
    other, fresh = network()
    other.load_state_dict(model.state_dict())
    assert states.restore(other, fresh, before=2)
    for each in ((model, optimizer), (other, fresh)):
        step(*each, seed=9)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_an_earlier_round_nothing_is_restored(tmp_path):
    states = OptimizerStates(tmp_path / "absent", owner="run")
    assert not states.restore(*network(), before=1)
    states = OptimizerStates(tmp_path, owner="run")
    model, optimizer = network()
    step(model, optimizer, 0)
    states.save(model, optimizer, server_round=4)
    assert not states.restore(*network(), before=4)
    assert states.restore(*network(), before=5)


def test_the_newest_earlier_round_is_restored(tmp_path):
    states = OptimizerStates(tmp_path, owner="run")
    model, optimizer = network()
    for server_round in (9, 10, 11):
        step(model, optimizer, server_round)
        states.save(model, optimizer, server_round=server_round)
    other, _ = network()
    fresh = torch.optim.AdamW(other.parameters(), fused=True)
    states.restore(other, fresh, before=11)
    assert {int(state["step"]) for state in fresh.state.values()} == {2}


def test_an_optimizer_that_never_stepped_leaves_no_file(tmp_path):
    OptimizerStates(tmp_path, owner="run").save(*network(), server_round=1)
    assert not any(tmp_path.iterdir())


def test_restoring_keeps_the_settings_of_the_new_optimizer(tmp_path):
    model, optimizer = network()
    step(model, optimizer, 0)
    states = OptimizerStates(tmp_path, owner="run")
    states.save(model, optimizer, server_round=1)
    other, _ = network()
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5, weight_decay=0.25, fused=True)
    states.restore(other, fresh, before=2)
    assert (fresh.param_groups[0]["lr"], fresh.param_groups[0]["weight_decay"]) == (0.5, 0.25)


@pytest.mark.parametrize(("owner", "width"), [("other run", 3), ("run", 4)])
def test_a_state_of_another_run_or_model_is_refused(tmp_path, owner, width):
    model, optimizer = network()
    step(model, optimizer, 0)
    OptimizerStates(tmp_path, owner="run").save(model, optimizer, server_round=1)
    with pytest.raises(RunFolderError, match=r"optimizer-round-000001\.safetensors: belongs to another run"):
        OptimizerStates(tmp_path, owner=owner).restore(*network(width), before=2)


def test_the_file_names_every_moment(tmp_path):
    model, optimizer = network()
    step(model, optimizer, 0)
    OptimizerStates(tmp_path, owner="run").save(model, optimizer, server_round=1)
    _, layout, metadata = load_vector(tmp_path / "optimizer-round-000001.safetensors")
    assert [spec.name for spec in layout.tensors[::4]] == ["exp_avg/0.weight", "exp_avg_sq/0.weight"]
    assert metadata == {"owner": "run", "steps": "1"}
