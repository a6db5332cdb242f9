"""Settings for all tests: one thread per process, no telemetry, bounded Hypothesis, torch's draws by test name."""

import os
import sys
import zlib

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import pytest  # noqa: E402 - the environment must be set before numpy is imported
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "default",
    deadline=None,  # two shared cores: the time of one example says nothing
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _same_draws_whatever_ran_before(request):
    """Initial weights and the like do not depend on which tests this process ran earlier."""
    # Not imported here: most tests of the mechanisms do without it. Unseeded, torch starts from a constant of its own.
    if torch := sys.modules.get("torch"):
        torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    """Tiny data sets of the sites and test sets that `small_federation` names; read only."""
    from small_federation import write_data_sets

    return write_data_sets(tmp_path_factory.mktemp("scans"))
