"""Batch inference: a folder of embeddings from any number of pictures and texts."""

from cliprt_batch._encoders import Encoder, LocalEncoder, ServedEncoder
from cliprt_batch._job import JobOptions, embed
from cliprt_batch._kinds import Source
from cliprt_batch._manifest import Manifest, read_manifest
from cliprt_batch._merge import merge
from cliprt_batch._models import Local, Served
from cliprt_batch._summary import Summary

__all__ = [
    "Encoder",
    "JobOptions",
    "Local",
    "LocalEncoder",
    "Manifest",
    "Served",
    "ServedEncoder",
    "Source",
    "Summary",
    "embed",
    "merge",
    "read_manifest",
]
