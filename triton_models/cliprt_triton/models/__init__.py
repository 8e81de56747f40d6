"""What runs inside Triton's Python backend: a module per model, each with its own class.

The ``model.py`` of a repository imports one of them. They use what the client uses, so that limits,
decoding, tokenizing and the wording of errors are the same wherever an input is refused.
"""
