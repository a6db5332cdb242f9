"""A compiled network trains as the plain one does, and nothing that leaves the site tells them apart."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from torch import nn

from clients import compilation, training
from clients.compilation import require_compiler
from clients.training import TrainingSource, compiled_network_for, network_for, train_one_round
from secfed.errors import ConfigError
from secfed.model import flatten, initial_model, layout_of
from secfed.parameters import load_vector

CPU = torch.device("cpu")
# It imports modules that warn of their own future, which is not this project's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")


@pytest.fixture(autouse=True)
def _compiled_anew(monkeypatch):
    """A backend that needs no compiler, and no graph of another test."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    training.compiled_network_for.cache_clear()
    yield
    torch._dynamo.reset()
    training.compiled_network_for.cache_clear()


def train(plan, cases, folder, *, server_round=1, start=None, **more):
    model = initial_model(plan.model, 9, plan.seed)
    return train_one_round(
        plan=plan,
        sources=(TrainingSource(site="ct-1", cases=cases),),
        start=flatten(model) if start is None else start,
        layout=layout_of(model),
        server_round=server_round,
        state_folder=folder,
        **more,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"normalisation": "batch"}},
        {"training": {"precision": "bfloat16"}},
        {"augmentation": {"consistency": {"weight": 1.0}}},
    ],
    ids=str,
)
def test_a_compiled_round_stays_near_the_plain_one(make_plan, cases, tmp_path, changes):
    plan = make_plan(**changes)
    plain = train(plan, cases, tmp_path / "plain")
    compiled = train(plan, cases, tmp_path / "compiled", compiled=True)
    again = train(plan, cases, tmp_path / "again", compiled=True)
    assert compiled.mean_loss == pytest.approx(plain.mean_loss, rel=1e-3)
    np.testing.assert_array_equal(compiled.weights, again.weights)
    moved = np.linalg.norm(plain.weights - flatten(initial_model(plan.model, 9, plan.seed)))
    assert np.linalg.norm(compiled.weights - plain.weights) < 0.05 * moved


def test_open_background_trains_compiled_too(make_plan, make_case, tmp_path):
    partial = tuple(dataclasses.replace(make_case(seed), unlabelled=(3, 4)) for seed in range(3))
    plan = make_plan()
    plain = train(plan, partial, tmp_path / "plain")
    compiled = train(plan, partial, tmp_path / "compiled", compiled=True)
    assert compiled.mean_loss == pytest.approx(plain.mean_loss, rel=1e-3)


def test_names_shapes_and_states_are_those_of_the_plain_network(make_plan, cases, tmp_path):
    plan = make_plan()
    compiled, plain = compiled_network_for(plan, CPU), network_for(plan, CPU)
    assert layout_of(compiled) == layout_of(plain)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    first = train(plan, cases, tmp_path, compiled=True)
    _, layout, metadata = load_vector(tmp_path / "optimizer-round-000001.safetensors")
    train(plan, cases, tmp_path / "plain")
    assert (layout, metadata) == load_vector(tmp_path / "plain" / "optimizer-round-000001.safetensors")[1:]
    # A site that stops compiling goes on where it was.
    train(plan, cases, tmp_path, server_round=2, start=first.weights)


def test_the_network_alone_is_compiled_in_one_piece_and_once_for_all_rounds(make_plan, cases, tmp_path, monkeypatch):
    graphs = []

    def recorded(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", recorded)
    plan = make_plan(training={"optimizer_state": "reset"})
    first = train(plan, cases, tmp_path, compiled=True)
    train(plan, cases, tmp_path, compiled=True, server_round=2, start=first.weights)
    assert len(graphs) == 1
    convolutions = [node for node in graphs[0].graph.nodes if "conv" in str(node.target).rpartition(".")[2]]
    layers = [module for module in network_for(plan, CPU).modules() if isinstance(module, nn.modules.conv._ConvNd)]
    # GIN's convolutions are groups of one image's own, and would come on top.
    assert len([node for node in convolutions if node.op == "call_function"]) == len(layers)


def test_what_cannot_be_compiled_is_an_error_about_the_setting(make_plan, cases, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise OSError("no such program: cc1plus")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    with pytest.raises(ConfigError, match=r"compile = true: torch cannot compile .*cc1plus.* C\+\+ compiler"):
        train(make_plan(), cases, tmp_path, compiled=True)
    with pytest.raises(ConfigError, match=r"compile = true.*Without this setting"):
        require_compiler(CPU)


def test_a_machine_without_a_compiler_says_so_at_the_start(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "inductor")
    with (
        inductor.patch({"cpp.cxx": ("/nowhere/g++",), "compile_threads": 1}),
        pytest.raises(ConfigError, match=r"No working C\+\+ compiler found"),
    ):
        require_compiler(CPU)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_the_real_compiler_trains_a_round(make_plan, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "inductor")
    plan = make_plan(model={"residual_units": 0})
    plain = train(plan, cases, tmp_path / "plain")
    # In this process: the compiler's own workers would be waited for when the tests end.
    with inductor.patch({"compile_threads": 1}):
        compiled = train(plan, cases, tmp_path / "compiled", compiled=True)
    assert compiled.mean_loss == pytest.approx(plain.mean_loss, rel=1e-3)
