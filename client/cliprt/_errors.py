"""Everything cliprt raises, arranged by what the caller can do about it.

::

    CliprtError
    ├── InvalidInput (also ValueError)    fix the input; retrying cannot help
    │   ├── ImageTooLarge                 bytes, pixels, sides or scans beyond the limits
    │   └── SpaceMismatch                 embeddings of two models meet; embed both with one
    ├── RetryableError                    wait, then try the same call again
    │   ├── ServerUnavailable             nothing answered at that address
    │   ├── Overloaded                    the server's queue is full
    │   └── DeadlineExceeded (also TimeoutError)   no answer in time
    ├── DeploymentError                   fix the installation or the deployment
    │   ├── ModelUnavailable              the server runs, but not this model
    │   ├── ServerError                   the server failed on a good request, or answered nonsense
    │   ├── ServerStartError              a tritonserver was not found or did not come up
    │   ├── BundleError                   a bundle is missing, damaged or from another version
    │   ├── EngineError                   an engine cannot be built, or must not be loaded here
    │   │   └── EngineMismatch            it is for another GPU, driver or TensorRT than this one
    │   ├── CheckpointError               a checkpoint cannot be read or is of no supported kind
    │   ├── FidelityError                 an exported tower does not answer like the checkpoint
    │   ├── MissingExtra (also ImportError)        an optional dependency is not installed
    │   └── in cliprt_batch:
    │       ├── SourceChanged             a source is not what it was when the job began
    │       └── OutputError               the folder of a job cannot be written or read
    │           ├── OutputMismatch        it is another job's
    │           ├── OutputBusy            another process writes it
    │           └── OutputUnfinished      the job has not been carried to its end
    └── ClosedError                       the client was used after close()
"""

from __future__ import annotations


class CliprtError(Exception):
    """Base of every error that cliprt raises on purpose."""


class InvalidInput(CliprtError, ValueError):
    """An input cannot be embedded, whoever is asked and however often.

    Attributes:
        index: position of the offending item in the list that was passed, or None when the call as
            a whole is at fault (an empty batch, for instance).
        what: what the list holds, ``item`` or, where a call takes two lists, ``label``.
        reason: the message without the position.
    """

    def __init__(self, reason: str, *, index: int | None = None, what: str = "item") -> None:
        super().__init__(reason if index is None else f"{what} {index}: {reason}")
        self.index = index
        self.what = what
        self.reason = reason


class ImageTooLarge(InvalidInput):
    """An image would take more to decode than the limits allow; it was not decoded."""


class SpaceMismatch(InvalidInput):
    """Embeddings of different spaces were to be compared or joined.

    Attributes:
        spaces: the two, hexadecimal.
    """

    def __init__(
        self,
        reason: str,
        *,
        spaces: tuple[str, str] = ("", ""),
        index: int | None = None,
        what: str = "item",
    ) -> None:
        super().__init__(reason, index=index, what=what)
        self.spaces = spaces


class RetryableError(CliprtError):
    """The request was fine and may succeed later."""


class ServerUnavailable(RetryableError):
    """No Triton server answered at the address."""


class Overloaded(RetryableError):
    """The server refused the request because its queue is full."""


class DeadlineExceeded(RetryableError, TimeoutError):
    """No answer arrived before the deadline."""


class DeploymentError(CliprtError):
    """Something about the installation or the deployment has to be fixed first."""


class ModelUnavailable(DeploymentError):
    """The server is there but does not serve the model, or not one that cliprt made."""


class ServerError(DeploymentError):
    """The server failed on a valid request or sent an answer that cannot be right."""


class ServerStartError(DeploymentError):
    """A tritonserver could not be found or did not become ready."""


class BundleError(DeploymentError):
    """A bundle is missing, incomplete, damaged, or written by an incompatible version."""


class EngineError(DeploymentError):
    """A TensorRT engine cannot be built, or is missing, damaged, foreign or not vouched for."""


class EngineMismatch(EngineError):
    """An engine is for another GPU, driver or TensorRT; nothing says that it is damaged."""


class CheckpointError(DeploymentError):
    """A checkpoint cannot be read, or is of a kind that cliprt does not support."""


class FidelityError(DeploymentError):
    """An exported tower differs from the checkpoint by more than the bar allows."""


class MissingExtra(DeploymentError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""


class ClosedError(CliprtError):
    """The client has been closed."""


def closed() -> ClosedError:
    """What a call after close() raises."""
    return ClosedError("the client is closed; make a new one")
