"""Bundle to served model: Triton model repositories, and a real Triton to serve them."""

from cliprt_triton._policy import Policy
from cliprt_triton._repository import write_repository
from cliprt_triton._server import TritonServer

__all__ = ["Policy", "TritonServer", "write_repository"]
