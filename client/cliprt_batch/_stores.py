"""The object stores that sources may lie in."""

from __future__ import annotations

STORES = {
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "az": "adlfs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "hdfs": "pyarrow",
    "memory": "fsspec",
    "oci": "ocifs",
    "oss": "ossfs",
    "s3": "s3fs",
    "s3a": "s3fs",
    "tos": "tosfs",
}
"""Kinds of addresses besides files of this machine, and the package that opens each."""

OPEN_TO_ALL = frozenset(["abfs", "abfss", "az", "gcs", "gs", "memory", "s3", "s3a"])
"""Stores that the rows of any source may name, where the address has but bucket and key."""
