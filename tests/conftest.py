"""Settings for all tests: one thread per process, no telemetry, Hypothesis profiles with a bounded cost."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from hypothesis import HealthCheck, settings  # noqa: E402 - the environment must be set before numpy is imported

settings.register_profile(
    "default",
    deadline=None,  # two shared cores: the time of one example says nothing
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
