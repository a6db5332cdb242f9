"""Roots of the certificate-transparency project's test tree (merkletree/merkle_tree_test.cc), and one of our own."""

import hashlib

import numpy as np
import pytest

from privacy.merkle import merkle_root, vector_root

LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_the_published_ones(count):
    leaves = [hashlib.sha256(b"\x00" + bytes.fromhex(leaf)).digest() for leaf in LEAVES[:count]]
    assert merkle_root(leaves).hex() == ROOTS[count - 1]


def test_the_root_of_a_vector_is_ours_to_keep():
    """A change of leaf size, byte order or tags shows here and needs a new suite."""
    assert (
        vector_root(np.arange(3 * 2**18 + 5, dtype=np.uint32)).hex()
        == "a7d6bebdb6c1d8152229e1317d068e7a0178dc9bc7fe21ab1fc86cb02288a773"
    )
