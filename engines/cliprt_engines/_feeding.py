"""A tower in process and the threads that feed it, whether it was loaded here or passed in."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._batch import Batch
from cliprt._card import Card
from cliprt._cores import usable_cores
from cliprt._decoding import Decoder, Decoding
from cliprt._embedder import Embedder
from cliprt._errors import CliprtError, ServerError, closed
from cliprt._limits import Limits
from cliprt._names import PIXELS, TOKENS
from cliprt_engines._cpu_settings import CpuSettings
from cliprt_engines._tower import Tower, TowerInfo

# Threads that prepare batches while others are computed.
_PREPARING = 8

# Batches of one call that wait, prepared or not, besides those that threads are busy with.
_WAITING = 2

# Items of a batch for a tower that was passed in: if it sets no limit itself, and the most.
_ITEMS, _MOST_ITEMS = 32, 256

# Batches of a tower that was passed in that are computed at once: one travels while another is
# computed.
_GIVEN_WORKERS = 2


class FedTower:
    """A loaded tower and the threads that feed it."""

    def __init__(
        self,
        card: Card,
        limits: Limits,
        name: str,
        tower: Tower,
        settings: CpuSettings,
        *,
        preparing: int,
        parts: int,
        most: int,
        decoding: Decoding,
        advice: str,
    ) -> None:
        """Starts no thread before there is work.

        Args:
            card: how the tower is fed.
            limits: bounds on the inputs.
            name: ``image`` or ``text``.
            tower: what computes; it is closed with this object.
            settings: how many batches it computes at once, and of which size.
            preparing: threads that prepare batches beside those that compute.
            parts: into how many batches even a small call is cut.
            most: most items of a batch that a call may ask for.
            decoding: who prepares the pictures of a batch.
            advice: what to do about answers that cannot be right.
        """
        self.settings = settings
        self._name = f"the {name} tower ({tower.info.runtime})"
        self._tower = tower
        self._decoder = Decoder(card.image, limits, decoding) if card.image else None
        self._computing = threading.BoundedSemaphore(settings.workers)
        threads = settings.workers + preparing
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"cliprt-{name}")
        self.embedder = Embedder(
            card,
            names={name: self._name},
            batches={name: settings.batch},
            most={name: most},
            in_flight=threads + _WAITING,
            parts=parts,
            decoder=self._decoder,
            advice=advice,
        )

    def start(self, tower: str, batch: Batch, behind: int) -> Future[NDArray[Any]]:
        """Begins to compute a batch."""
        try:
            return self._threads.submit(self._compute, batch)
        except RuntimeError:  # the pool was shut down by close() in another thread
            raise closed() from None

    def close(self) -> None:
        """Waits for batches under way, and closes the tower."""
        self._threads.shutdown(cancel_futures=True)
        if self._decoder is not None:
            self._decoder.close()
        self._tower.close()

    def _compute(self, batch: Batch) -> NDArray[Any]:
        if (inputs := batch.make()) is None:
            return np.empty((0, self._tower.info.dim), np.float32)
        with self._computing:
            try:
                return self._tower.run(inputs)
            except CliprtError:
                raise
            except Exception as error:  # noqa: BLE001 - runtimes raise many types
                raise ServerError(
                    f"{self._name} failed: {str(error) or type(error).__name__}"
                ) from None


def feed_own(
    card: Card,
    limits: Limits,
    name: str,
    tower: Tower,
    settings: CpuSettings,
    decoding: Decoding,
) -> FedTower:
    """Feeds a tower of the bundle, computed on the CPU.

    Each thread prepares a batch and computes it, so that no more of them are busy than there are
    cores. Where one batch occupies several cores, other threads prepare the next ones.
    """
    cores = usable_cores()
    if decoding.kind == "threads":
        decoding = replace(decoding, workers=1)
    return FedTower(
        card,
        limits,
        name,
        tower,
        settings,
        preparing=min(cores, _PREPARING) if settings.workers < cores else 0,
        parts=settings.workers,
        most=_MOST_ITEMS,
        decoding=decoding,
        advice="check the bundle with cliprt verify",
    )


def feed_given(card: Card, limits: Limits, name: str, tower: Tower, decoding: Decoding) -> FedTower:
    """Feeds a tower that was passed in.

    It computes large batches, so the pictures of each are prepared by several threads.
    """
    batch = min(tower.info.max_batch or _ITEMS, _MOST_ITEMS)
    return FedTower(
        card,
        limits,
        name,
        tower,
        CpuSettings(workers=_GIVEN_WORKERS, batch=batch),
        preparing=1,
        parts=1,
        most=batch if tower.info.max_batch else _MOST_ITEMS,
        decoding=decoding,
        advice="check the tower that was passed in",
    )


def check_fits(card: Card, name: str, info: TowerInfo) -> None:
    """Checks that a tower that was passed in can be one of this bundle.

    Raises:
        ValueError: it cannot.
    """
    sizes: tuple[int, ...]
    if name == "image" and card.image is not None:
        tensor, dtype, sizes = PIXELS, "uint8", (card.image.height, card.image.width, 3)
    elif name == "text" and card.text is not None:
        tensor, dtype, sizes = TOKENS, "int32", (card.text.context_length,)
    else:
        raise ValueError(f"{card.name} has no {name} tower, so none can be passed in")
    found = f"{info.dtype} {info.input} {list(info.shape)}"
    if (info.input, info.dtype) != (tensor, dtype) or not _takes(info.shape, sizes, card, name):
        raise ValueError(
            f"the {name} tower that was passed in ({info.runtime}) takes {found}, but that of "
            f"{card.name} takes {dtype} {tensor} {list(sizes)}"
        )
    if info.dim != card.dim:
        raise ValueError(
            f"the {name} tower that was passed in ({info.runtime}) gives embeddings of length "
            f"{info.dim}, but those of {card.name} have {card.dim}"
        )
    if info.max_length is not None and info.max_length < sizes[0] and name == "text":
        raise ValueError(
            f"the text tower that was passed in ({info.runtime}) takes up to {info.max_length} "
            f"tokens, but texts of {card.name} have up to {sizes[0]}; build it with a profile for "
            "all of them"
        )


def _takes(shape: tuple[int | None, ...], sizes: tuple[int, ...], card: Card, name: str) -> bool:
    """Whether a tower of this shape takes inputs of these sizes; None takes any."""
    if len(shape) != len(sizes):
        return False
    # Texts are padded to the longest of a batch only; one length cannot take them all.
    if name == "text" and card.text is not None and not card.text.fixed_length:
        return shape == (None,)
    return all(mine in (None, size) for mine, size in zip(shape, sizes, strict=True))
