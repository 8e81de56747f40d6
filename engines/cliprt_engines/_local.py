"""The client without a server: pictures and strings to embeddings in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt._arguments import iterate
from cliprt._bundle import TOKENIZER, Bundle, open_bundle
from cliprt._card import Card, ImageSpec, TextSpec
from cliprt._embedder import Embedder, Prepare, closed
from cliprt._errors import (
    BundleError,
    CliprtError,
    ClosedError,
    FidelityError,
    InvalidInput,
    ModelUnavailable,
    ServerError,
)
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt_engines._cpu_choice import chosen_settings
from cliprt_engines._cpu_measure import Goal
from cliprt_engines._cpu_settings import CpuSettings, load_tower
from cliprt_engines._processor import usable_cores
from cliprt_engines._tower import Tower

_Spec = TypeVar("_Spec", ImageSpec, TextSpec)

LocalPrecision: TypeAlias = Literal["fp32", "int8-cpu", "fastest"]
_PRECISIONS = ("fp32", "int8-cpu", "fastest")

# Items of a batch for a tower that was passed in, if it sets no limit itself.
_ITEMS = 32


class LocalClip:
    """Embeds pictures and texts in this process, with the methods of ``cliprt.Client``.

    Towers are loaded when they are first used. Which runtime computes them, with how many threads
    and in batches of which size, is measured then and remembered (see ``_cpu_choice``): the first
    use on a machine takes some seconds more.

    One object may be used from many threads. After ``os.fork`` make a new one in the child.

    Example:
        >>> with LocalClip("bundle") as clip:
        ...     images = clip.encode_image(["cat.jpg"])
        ...     texts = clip.encode_text(["a photo of a cat", "a photo of a dog"])
        ...     similarity = images @ texts.T
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        precision: LocalPrecision | None = None,
        goal: Goal = "throughput",
        settings: CpuSettings | None = None,
        towers: Mapping[str, Tower] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Opens a bundle.

        Args:
            bundle: its folder, or the bundle opened.
            precision: ``fp32``, or ``int8-cpu`` where the bundle has it, or ``fastest``: int8-cpu
                where the bundle has it and it answers right on this machine, else fp32. None means
                fp32, which answers like the checkpoint. What int8-cpu loses stands in the bundle's
                certificate.
            goal: whether the settings are chosen for many items at once or for single ones.
            settings: use these, and measure nothing.
            towers: by ``image`` and ``text``, towers that compute instead of the bundle's own; they
                must be made from the same bundle. They are closed with this object.
            limits: bounds on the inputs; None means the defaults.

        Raises:
            ValueError: precision, goal or a tower's name is none of those.
            BundleError: the bundle is missing or damaged, or has no tower in that precision.
        """
        if precision is not None and precision not in _PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}; the others "
                "are for GPUs"
            )
        if goal not in ("throughput", "latency"):
            raise ValueError(f"goal must be 'throughput' or 'latency', got {goal!r}")
        self._towers = dict(towers or {})
        if unknown := self._towers.keys() - {"image", "text"}:
            raise ValueError(f"there is no tower {sorted(unknown)[0]!r}, only 'image' and 'text'")
        self._bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self._limits = limits or Limits()
        self._goal, self._settings = goal, settings
        self._wanted: LocalPrecision = precision or "fp32"
        self._precisions = {
            tower: self._precision_of(tower, self._wanted)
            for tower in self._bundled() - self._towers.keys()
        }
        self._lanes: dict[str, _Lane] = {}
        self._lazy_tokenizer: TextTokenizer | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()

    @property
    def card(self) -> Card:
        """The bundle's card; ``card.space`` says which embeddings may be compared."""
        return self._bundle.card

    def settings(self, tower: Literal["image", "text"]) -> CpuSettings:
        """How a tower is computed; measured now if it was not before.

        Raises:
            ModelUnavailable: the bundle has no such tower.
        """
        self._check_open()
        if tower not in self._bundled():
            raise self._missing(tower)
        return self._lane(tower).settings

    def encode_image(self, images: ImageInput | Iterable[ImageInput]) -> NDArray[np.float32]:
        """Embeds pictures.

        Args:
            images: one picture or any number of them: paths, encoded bytes (JPEG, PNG, WebP, GIF,
                BMP), Pillow images, or uint8 arrays [height, width, 3] in RGB order. Of animations
                the first frame counts; orientation tags are ignored, as by the reference.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input.

        Raises:
            InvalidInput: an item is no usable image (``error.index`` says which), or there is none.
            ModelUnavailable: the bundle has no image tower.
            FidelityError: the tower does not answer right on this machine.
            ServerError: the tower failed or gave an answer that cannot be right.
        """
        self._check_open()
        spec = self._spec(self.card.image, "image")
        lane = self._lane("image")
        return lane.embedder.encode_image(spec, images, lane.start)

    def encode_text(
        self, texts: str | Iterable[str], *, truncate: bool = True
    ) -> NDArray[np.float32]:
        """Embeds texts.

        Args:
            texts: one string or any number of them. A string is always text, never a path.
            truncate: cut texts beyond the model's context (the end token stays, as in the
                checkpoint's own pipeline), or refuse them.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input.

        Raises:
            InvalidInput: an item is no usable text (``error.index`` says which), or there is none.
            ModelUnavailable: the bundle has no text tower.
            FidelityError: the tower does not answer right on this machine.
            ServerError: the tower failed or gave an answer that cannot be right.
        """
        self._check_open()
        spec = self._spec(self.card.text, "text")
        items = [texts] if isinstance(texts, str) else list(iterate(texts, "texts"))
        tokenizer, lane = self._tokenizer(spec), self._lane("text")
        return lane.embedder.encode_text(tokenizer, items, lane.start, truncate=truncate)

    def classify(
        self, images: ImageInput | Iterable[ImageInput], labels: Sequence[str]
    ) -> NDArray[np.float32]:
        """Zero-shot classification: how probable each label is for each picture.

        Args:
            images: as for encode_image.
            labels: the texts to choose from, used as they are.

        Returns:
            float32 [n, len(labels)], each 0 to 1, as by ``Client.classify``.

        Raises:
            InvalidInput: as for encode_image and encode_text, or labels is a bare string.
            ModelUnavailable: the bundle has one tower only, or no logit scale.
        """
        if isinstance(labels, str):
            raise InvalidInput("labels must be a list of strings, got one string")
        self._check_open()
        self._spec(self.card.image, "image")
        self._spec(self.card.text, "text")
        return self._lane("text").embedder.classify(
            labels, self.encode_text, partial(self.encode_image, images)
        )

    def close(self) -> None:
        """Gives back the towers. Waits for batches under way; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if os.getpid() == self._process:
            for lane in self._lanes.values():
                lane.close()
            for name in self._towers.keys() - self._lanes.keys():
                self._towers[name].close()

    def __enter__(self) -> LocalClip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lane(self, tower: str) -> _Lane:
        """What computes a tower; made when it is first asked for."""
        with self._lock:
            self._check_open()
            if tower not in self._lanes:
                self._lanes[tower] = self._new_lane(tower)
            return self._lanes[tower]

    def _new_lane(self, tower: str) -> _Lane:
        if tower in self._towers:
            loaded = self._towers[tower]
            settings = CpuSettings(batch=min(loaded.info.max_batch or _ITEMS, _ITEMS))
            return _Lane(self.card, self._limits, tower, loaded, settings)
        precision = self._precisions[tower]
        try:
            settings = self._settings or chosen_settings(self._bundle, tower, precision, self._goal)
        except FidelityError:
            # Processors without VNNI saturate products of int8-cpu.
            if self._wanted != "fastest" or precision == "fp32":
                raise
            precision = self._precisions[tower] = "fp32"
            settings = chosen_settings(self._bundle, tower, precision, self._goal)
        loaded = load_tower(self._bundle, f"{tower}.{precision}.onnx", settings)
        return _Lane(self.card, self._limits, tower, loaded, settings)

    def _tokenizer(self, spec: TextSpec) -> TextTokenizer:
        with self._lock:
            if self._lazy_tokenizer is None:
                content = self._bundle.file(TOKENIZER).read_text(encoding="utf-8")
                self._lazy_tokenizer = TextTokenizer(content, spec, self._limits)
            return self._lazy_tokenizer

    def _precision_of(self, tower: str, wanted: LocalPrecision) -> str:
        """The precision a tower is computed in."""
        files = self.card.files
        there = [name for name in ("int8-cpu", "fp32") if f"{tower}.{name}.onnx" in files]
        if wanted == "fastest" and there:
            return there[0]
        if wanted not in there:
            raise BundleError(
                f"{self._bundle.path} holds no {tower} tower in {wanted}, only in "
                f"{', '.join(there) or 'precisions for GPUs'}; export the checkpoint with: "
                f"--precision {wanted}"
            )
        return wanted

    def _bundled(self) -> set[str]:
        specs = {"image": self.card.image, "text": self.card.text}
        return {tower for tower, spec in specs.items() if spec is not None}

    def _spec(self, spec: _Spec | None, tower: str) -> _Spec:
        """How a tower is fed, if there is one."""
        if spec is None:
            raise self._missing(tower)
        return spec

    def _missing(self, tower: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"{self.card.name} in {self._bundle.path} has no {tower} tower; "
            "export a checkpoint that has one"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
        if os.getpid() != self._process:
            raise ClosedError(
                "this LocalClip was made before the process forked, and its threads stayed with "
                "the parent; make a new one in the child"
            )


class _Lane:
    """A loaded tower and the threads that feed it."""

    def __init__(
        self, card: Card, limits: Limits, name: str, tower: Tower, settings: CpuSettings
    ) -> None:
        self.settings = settings
        self._name = f"the {name} tower ({tower.info.runtime})"
        self._tower = tower
        self._computing = threading.BoundedSemaphore(settings.workers)
        # Each thread prepares a batch and computes it, so that no more of them are busy than there
        # are cores. Where one batch occupies several cores, other threads prepare the next ones.
        cores = usable_cores()
        threads = settings.workers + (cores if settings.workers < cores else 0)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"cliprt-{name}")
        self.embedder = Embedder(
            card,
            limits,
            names={name: self._name},
            batches={name: settings.batch},
            in_flight=threads + settings.workers,
            parts=settings.workers,
        )

    def start(self, tower: str, prepare: Prepare, behind: int) -> Future[NDArray[Any]]:
        """Begins to compute a batch."""
        try:
            return self._pool.submit(self._compute, prepare)
        except RuntimeError:  # the pool was shut down by close() in another thread
            raise closed() from None

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._tower.close()

    def _compute(self, prepare: Prepare) -> NDArray[Any]:
        batch = prepare()
        with self._computing:
            try:
                return self._tower.run(batch)
            except CliprtError:
                raise
            except Exception as error:  # noqa: BLE001 - runtimes raise many types
                raise ServerError(f"{self._name} failed: {error}") from None
