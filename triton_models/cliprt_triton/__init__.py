"""Bundle to served model: Triton model repositories, and a real Triton to serve them."""

from cliprt_triton._config import Batching
from cliprt_triton._repository import write_repository
from cliprt_triton._server import TritonServer
from cliprt_triton._server_flags import ServerTls

__all__ = ["Batching", "ServerTls", "TritonServer", "write_repository"]
