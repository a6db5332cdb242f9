"""Readers of data sets on disk: from a folder, or a table, to cases. A site runs them on its own folders.

One module per layout; `read_data_set` tells them apart. Readers open no volume: `secfed.data.preprocessing` does, and
checks it.
"""

from secfed.data.readers.amos22 import read_amos22
from secfed.data.readers.chaos import read_chaos
from secfed.data.readers.data_set import CaseReader, DataSet
from secfed.data.readers.decathlon import read_decathlon
from secfed.data.readers.layouts import READERS, read_data_set
from secfed.data.readers.mm_whs import read_mm_whs
from secfed.data.readers.names import modality_by_name
from secfed.data.readers.nnunet import read_nnunet
from secfed.data.readers.table import read_table
from secfed.data.readers.total_segmentator import read_total_segmentator

__all__ = [
    "READERS",
    "CaseReader",
    "DataSet",
    "modality_by_name",
    "read_amos22",
    "read_chaos",
    "read_data_set",
    "read_decathlon",
    "read_mm_whs",
    "read_nnunet",
    "read_table",
    "read_total_segmentator",
]
