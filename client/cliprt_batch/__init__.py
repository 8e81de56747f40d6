"""Batch inference: a folder of embeddings from any number of pictures and texts."""

from cliprt_batch._dedup import Group, Member, near_duplicates
from cliprt_batch._encoders import Encoder, LocalEncoder, ServedEncoder
from cliprt_batch._job import embed
from cliprt_batch._manifest import Manifest, read_manifest
from cliprt_batch._merge import merge
from cliprt_batch._models import Local, Served
from cliprt_batch._options import JobOptions
from cliprt_batch._output_errors import OutputBusy, OutputError, OutputMismatch, OutputUnfinished
from cliprt_batch._ray import embed_on_ray
from cliprt_batch._search import Hit, search
from cliprt_batch._source import Source, SourceChanged
from cliprt_batch._summary import Summary

__all__ = [
    "Encoder",
    "Group",
    "Hit",
    "JobOptions",
    "Local",
    "LocalEncoder",
    "Manifest",
    "Member",
    "OutputBusy",
    "OutputError",
    "OutputMismatch",
    "OutputUnfinished",
    "Served",
    "ServedEncoder",
    "Source",
    "SourceChanged",
    "Summary",
    "embed",
    "embed_on_ray",
    "merge",
    "near_duplicates",
    "read_manifest",
    "search",
]
