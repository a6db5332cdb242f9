"""What hostile tests of secure aggregation start from: a world of honest clients (tests/support/secagg_world.py)."""

import pytest
from secagg_world import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World
