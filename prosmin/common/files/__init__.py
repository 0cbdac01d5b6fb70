"""Files that are either whole or absent, and readers that name a file's damage in one sentence.

``atomic``: bytes, text and folders.
``documents``: JSON, metrics and CSV.
``arrays``: NumPy arrays as safetensors files.
``damage``: the sentence on a damaged file.
"""

from prosmin.common.files.arrays import (
    CHECKSUM,
    NUMBER,
    WHOLE,
    Arrays,
    checksum,
    matches,
    read_arrays,
    read_tensors,
    write_arrays,
)
from prosmin.common.files.atomic import (
    private_folder,
    recover,
    running,
    whole_file,
    whole_folder,
    write_bytes,
    write_text,
)
from prosmin.common.files.damage import AGAIN, FETCH, PRETRAIN, damaged, decoding
from prosmin.common.files.documents import (
    Section,
    read_csv,
    read_json,
    read_metrics,
    rounded,
    write_csv,
    write_json,
    write_metrics,
)

__all__ = [
    "AGAIN",
    "CHECKSUM",
    "FETCH",
    "NUMBER",
    "PRETRAIN",
    "WHOLE",
    "Arrays",
    "Section",
    "checksum",
    "damaged",
    "decoding",
    "matches",
    "private_folder",
    "read_arrays",
    "read_csv",
    "read_json",
    "read_metrics",
    "read_tensors",
    "recover",
    "rounded",
    "running",
    "whole_file",
    "whole_folder",
    "write_arrays",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_metrics",
    "write_text",
]
