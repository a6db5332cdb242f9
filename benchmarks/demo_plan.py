"""The demo's plan for benchmarks that train by themselves, without what is of one machine."""

import tomllib
from importlib import resources
from typing import Any

OF_ONE_MACHINE = frozenset({"sites", "test", "references"})


def demo_tree(*, rounds: int, **changes: Any) -> dict[str, Any]:
    """The demo's plan as a tree, for so many rounds and without validation; tables in `changes` are merged in."""
    text = resources.files("secfed").joinpath("configs", "demo.toml").read_text(encoding="utf-8")
    tree = {name: value for name, value in tomllib.loads(text).items() if name not in OF_ONE_MACHINE}
    tree["federation"] |= {"rounds": rounds, "validate_every": 0}
    for name, value in changes.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    return tree
