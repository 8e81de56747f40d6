"""Bundle to served model: Triton model repositories, and a real Triton to serve them."""

from cliprt_triton._front._app import openai_app
from cliprt_triton._policy import Policy
from cliprt_triton._repository import write_repository
from cliprt_triton._server import TritonServer
from cliprt_triton._server_flags import ServerTls
from cliprt_triton._supervision import Restarts
from cliprt_triton._tuned import Tuned, read_tuned

__all__ = [
    "Policy",
    "Restarts",
    "ServerTls",
    "TritonServer",
    "Tuned",
    "openai_app",
    "read_tuned",
    "write_repository",
]
