"""The aggregator's side of an encrypted run loads no key, no site's role and no encryption library."""

import subprocess
import sys

import pytest

PROGRAM = "import sys, privacy.he.group_server; print('\\n'.join(sys.modules))"


@pytest.fixture(scope="module")
def loaded():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "tenseal",
        "privacy.he.key_holder",
        "privacy.he.seal",
        "privacy.he.distribution",
        "privacy.he.model_state",
        "privacy.he.member",
        "privacy.he.member_state",
        "privacy.secagg.client",
        "privacy.secagg.channels",
        "privacy.secagg.identity",
    ],
)
def test_the_aggregator_s_side_loads_none_of_a_site_s(loaded, module):
    assert "privacy.he.evaluator" in loaded
    assert module not in loaded
