"""The walls between trust domains, at run time: what a fresh process has in memory after it imported one side."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules_after(statement: str) -> set[str]:
    program = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_room_of_secfed_has_its_layer() -> None:
    """A new module must say where it stands, or the contract would not see it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = {name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")}
    rooms = {
        f"secfed.{path.stem}"
        for path in (ROOT / "secfed").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert rooms | {"clients", "aggregator", "privacy"} == layers


@pytest.fixture(scope="module")
def aggregator_modules() -> set[str]:
    return modules_after("import aggregator.app")


@pytest.mark.parametrize(
    "forbidden",
    [
        "clients",
        "privacy.secagg.client",
        "privacy.secagg.client_state",
        "privacy.secagg.identity",
        "privacy.he.key_holder",
        "privacy.he.seal",
        "privacy.he.checks",
        "privacy.he.library",
        "privacy.he.distribution",
        "privacy.he.member",
        "privacy.he.model_state",
        "privacy.secagg.channels",
        "tenseal",
        "secfed.data",
        "secfed.augmentation",
        "secfed.model",
        "secfed.provisioning",
        "secfed.site_config",
        "torch",
        "monai",
        "nibabel",
    ],
)
def test_aggregator_process_holds_no_key_no_client_role_and_no_site_data(
    aggregator_modules: set[str], forbidden: str
) -> None:
    assert "aggregator.federation" in aggregator_modules
    assert not {name for name in aggregator_modules if name == forbidden or name.startswith(f"{forbidden}.")}


def test_client_process_never_loads_the_aggregator() -> None:
    loaded = modules_after("import clients.app, clients.training, clients.evaluation")
    assert "clients.participant" in loaded
    assert not {name for name in loaded if name.split(".")[0] == "aggregator"}


def test_client_app_starts_without_torch() -> None:
    """A Flower process starts per message, and importing torch costs more than a second."""
    assert "torch" not in modules_after("import clients.app")


def test_every_privacy_module_loads_without_ours_flower_monai_or_torch() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "privacy").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert len(names) > 10
    loaded = modules_after("import " + ", ".join(names))
    roots = {name.split(".")[0] for name in loaded}
    assert "privacy" in roots
    assert not roots & {"secfed", "clients", "aggregator", "flwr", "monai", "torch"}


def test_adding_ciphertexts_needs_no_encryption_library() -> None:
    """The aggregator and the auditor add without TenSEAL; only the key holders' side loads it."""
    loaded = modules_after("import privacy.he.evaluator")
    assert not {name for name in loaded if "tenseal" in name or name == "zstandard"}
    assert "tenseal" in modules_after("import privacy.he.key_holder")


@pytest.mark.parametrize("package", ["privacy", "privacy/secagg", "privacy/he", "clients", "aggregator"])
def test_package_init_holds_a_docstring_only(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


WEAK_DRAWS = {"torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.normal", "torch.rand_like"}
SEEDED_NUMPY = {"np.random.Generator", "np.random.default_rng", "np.random.SeedSequence"}


def weak_randomness(tree: ast.AST, *, package: str) -> list[str]:
    """`random` is never imported; numpy and torch draw only from generators that are passed in, and not in privacy."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [f"import {name}" for name in names if name == "random" or name.startswith("random.")]
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            plain = re.fullmatch(r"np\.random\.\w+", text) is not None
            if plain and (package == "privacy" or text not in SEEDED_NUMPY):
                found.append(text)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WEAK_DRAWS:
            given = {keyword.arg for keyword in node.keywords}
            if package == "privacy" or "generator" not in given:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("package", ["privacy", "clients", "aggregator", "secfed"])
def test_no_module_draws_from_a_weak_or_global_source(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = {path.name: weak_randomness(ast.parse(path.read_text(encoding="utf-8")), package=package) for path in paths}
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source", ["import random", "from random import choice", "np.random.rand(3)", "np.random.seed(0)", "torch.rand(3)"]
)
def test_the_search_for_weak_randomness_finds_it(source: str) -> None:
    assert weak_randomness(ast.parse(source), package="secfed")
