"""Batch inference: a folder of embeddings from any number of pictures and texts."""

__all__: list[str] = []
