"""Secure aggregation with double masking (Bonawitz et al. 2017, eprint 2017/281) over signed hybrid keys."""
