"""The OpenAI-style HTTP front: ``POST /v1/embeddings`` and what stands around it."""
