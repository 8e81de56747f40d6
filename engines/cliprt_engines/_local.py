"""The client without a server: pictures and strings to embeddings in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, TypeVar, get_args, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._arguments import checked_labels
from cliprt._batch import Item, OnError, Options, Result
from cliprt._bundle import TOKENIZER, Bundle, open_bundle
from cliprt._card import Card, ImageSpec, TextSpec
from cliprt._decoding import Decoding
from cliprt._embedder import each_text
from cliprt._errors import (
    BundleError,
    ClosedError,
    FidelityError,
    ModelUnavailable,
    closed,
)
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._space import Embeddings
from cliprt._steps import Steps, finish
from cliprt._texts import TextTokenizer
from cliprt_engines._cpu_choice import load_chosen
from cliprt_engines._cpu_measure import Goal
from cliprt_engines._cpu_settings import CpuSettings
from cliprt_engines._feeding import FedTower, check_fits, feed_given, feed_own
from cliprt_engines._tower import Tower

_Spec = TypeVar("_Spec", ImageSpec, TextSpec)

Precision: TypeAlias = Literal["fp32", "int8-cpu"]
LocalPrecision: TypeAlias = Precision | Literal["fastest"]
_PRECISIONS = (*get_args(Precision), "fastest")


class LocalClip:
    """Embeds pictures and texts in this process, with the methods of ``cliprt.Client``.

    Towers are loaded when they are first used. Which runtime computes them, with how many threads
    and in batches of which size, is measured then and remembered (see ``_cpu_choice``): the first
    use on a machine takes some seconds more. In int8-cpu runtimes round differently: embeddings of
    the same input from two machines, or from before and after OpenVINO was installed, have a cosine
    of 0.999 or more and are not equal bit by bit.

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
        settings: CpuSettings | Mapping[str, CpuSettings] | None = None,
        towers: Mapping[str, Tower] | None = None,
        limits: Limits | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        """Opens a bundle.

        Args:
            bundle: its folder, or the bundle opened.
            precision: ``fp32``, or ``int8-cpu`` where the bundle has it, or ``fastest``: int8-cpu
                where the bundle has it and it answers right on this machine, else fp32. None means
                fp32, which answers like the checkpoint. What int8-cpu loses stands in the bundle's
                certificate.
            goal: whether the settings are chosen for many items at once or for single ones.
            settings: use these, for both towers or by tower's name, and measure nothing; that the
                answers are right is still checked.
            towers: by ``image`` and ``text``, towers that compute instead of the bundle's own; they
                must be made from the same bundle. Two threads run each of them at once, with
                batches of up to its ``max_batch``, at most 256. They are closed with this object.
            limits: bounds on the inputs; None means the defaults.
            decoding: who decodes pictures, and how; None means threads and the exact way.

        Raises:
            ValueError: precision, goal or a tower's name is none of those, or a tower that was
                passed in does not fit the bundle.
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
        for name, own in self._towers.items():
            check_fits(self.card, name, own.info)
        self._limits = limits or Limits()
        self._decoding = decoding or Decoding()
        self._goal, self._settings = goal, settings
        self._wanted: LocalPrecision = precision or "fp32"
        self._precisions: dict[str, Precision] = {
            tower: self._precision_of(tower, self._wanted)
            for tower in ("image", "text")
            if getattr(self.card, tower) is not None and tower not in self._towers
        }
        self._fed: dict[str, FedTower] = {}
        self._lazy_tokenizer: TextTokenizer | None = None
        self._lock = threading.Lock()
        # Whoever uses one tower does not wait until the other is loaded.
        self._tower_locks = {tower: threading.Lock() for tower in ("image", "text")}
        self._closed, self._process = False, os.getpid()

    @property
    def card(self) -> Card:
        """The bundle's card; ``card.space`` says which embeddings may be compared."""
        return self._bundle.card

    def settings(self, tower: Literal["image", "text"]) -> CpuSettings:
        """How a tower is computed; measured now if it was not before.

        Raises:
            ValueError: the tower was passed in, so that its settings are not known here.
            ModelUnavailable: the bundle has no such tower.
            FidelityError: the tower does not answer right on this machine.
        """
        self._check_own(tower)
        return self._feeding(tower).settings

    def precision(self, tower: Literal["image", "text"]) -> Precision:
        """The precision a tower is computed in; with ``fastest``, found now if it was not before.

        Raises:
            ValueError: the tower was passed in, so that its precision is not known here.
            ModelUnavailable: the bundle has no such tower.
            FidelityError: the tower does not answer right on this machine.
        """
        self._check_own(tower)
        if self._wanted == "fastest":
            self._feeding(tower)
        return self._precisions[tower]

    @overload
    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Embeddings: ...

    @overload
    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["return"],
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[Item]: ...

    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Result:
        """Embeds pictures, as ``Client.encode_image`` with the same arguments.

        Args:
            images: as there.
            on_error: as there.
            batch_size: pictures that are computed at once; None means what was measured as fastest.
            show_progress: as there.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input. With
            ``on_error="return"`` a list: per item float32 [dim] or the error.

        Raises:
            InvalidInput: an item is no usable image (``error.index`` says which), or there is none.
            ModelUnavailable: the bundle has no image tower.
            FidelityError: the tower does not answer right on this machine.
            ServerError: the tower failed or gave an answer that cannot be right.
        """
        return finish(self._image_steps(images, Options(on_error, batch_size, show_progress)))

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        truncate: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Embeddings: ...

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        truncate: bool = True,
        on_error: Literal["return"],
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[Item]: ...

    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        truncate: bool = True,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Result:
        """Embeds texts, as ``Client.encode_text`` with the same arguments.

        Args:
            texts: as there.
            truncate: as there.
            on_error: as there.
            batch_size: texts that are computed at once; None means what was measured as fastest.
            show_progress: as there.

        Returns:
            float32 [n, dim], rows of length 1, in the order of the input. With
            ``on_error="return"`` a list: per item float32 [dim] or the error.

        Raises:
            InvalidInput: an item is no usable text (``error.index`` says which), or there is none.
            ModelUnavailable: the bundle has no text tower.
            FidelityError: the tower does not answer right on this machine.
            ServerError: the tower failed or gave an answer that cannot be right.
        """
        options = Options(on_error, batch_size, show_progress, truncate)
        return finish(self._text_steps(texts, options))

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
        labels = checked_labels(labels)
        self._check_open()
        self._spec(self.card.image, "image")
        self._spec(self.card.text, "text")
        return finish(
            self._feeding("text").embedder.classify(
                labels,
                lambda texts: self._text_steps(texts, Options()),
                lambda: self._image_steps(images, Options()),
            )
        )

    def close(self) -> None:
        """Gives back the towers. Waits for batches under way; a second call does nothing."""
        if os.getpid() != self._process:
            # Everything belongs to the parent, the lock too: a thread of it may have held it when
            # the process forked, and nobody would ever give it back here.
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with ExitStack() as stack:  # closes all, whatever one of them raises
            for tower, lock in self._tower_locks.items():
                with lock:
                    fed, given = self._fed.pop(tower, None), self._towers.get(tower)
                    if owner := fed or given:
                        stack.callback(owner.close)

    def __enter__(self) -> LocalClip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _image_steps(
        self, images: ImageInput | Iterable[ImageInput], options: Options
    ) -> Steps[Result]:
        self._check_open()
        self._spec(self.card.image, "image")
        fed = self._feeding("image")
        return fed.embedder.encode_image(images, fed.start, options)

    def _text_steps(self, texts: str | Iterable[str], options: Options) -> Steps[Result]:
        self._check_open()
        spec = self._spec(self.card.text, "text")
        items = each_text(texts)
        tokenizer, fed = self._tokenizer(spec), self._feeding("text")
        return fed.embedder.encode_text(tokenizer, items, fed.start, options, given=texts)

    def _feeding(self, tower: str) -> FedTower:
        """What computes a tower; made when it is first asked for."""
        if fed := self._fed.get(tower):
            return fed
        with self._tower_locks[tower]:
            self._check_open()
            if tower not in self._fed:
                self._fed[tower] = self._load(tower)
            return self._fed[tower]

    def _load(self, tower: str) -> FedTower:
        if tower in self._towers:
            return feed_given(self.card, self._limits, tower, self._towers[tower], self._decoding)
        precision, settings = self._precisions[tower], self._settings
        if isinstance(settings, Mapping):
            settings = settings.get(tower)
        try:
            loaded, used = load_chosen(self._bundle, tower, precision, self._goal, settings)
        except FidelityError:
            # It does not give the known answers in int8-cpu on this processor.
            if self._wanted != "fastest" or precision == "fp32":
                raise
            if settings is not None:
                settings = msgspec.structs.replace(settings, bfloat16=False)
            loaded, used = load_chosen(self._bundle, tower, "fp32", self._goal, settings)
            self._precisions[tower] = "fp32"
        return feed_own(self.card, self._limits, tower, loaded, used, self._decoding)

    def _tokenizer(self, spec: TextSpec) -> TextTokenizer:
        with self._lock:
            if self._lazy_tokenizer is None:
                content = self._bundle.file(TOKENIZER).read_text(encoding="utf-8")
                self._lazy_tokenizer = TextTokenizer(content, spec, self._limits)
            return self._lazy_tokenizer

    def _precision_of(self, tower: str, wanted: LocalPrecision) -> Precision:
        """The precision a tower is computed in."""
        files, faster_first = self.card.files, get_args(Precision)[::-1]
        there: list[Precision] = [name for name in faster_first if f"{tower}.{name}.onnx" in files]
        if wanted == "fastest" and there:
            return there[0]
        if wanted == "fastest" or wanted not in there:
            raise BundleError(
                f"{self._bundle.path} holds no {tower} tower in {wanted}, only in "
                f"{', '.join(there) or 'precisions for GPUs'}; export the checkpoint with: "
                f"--precision {wanted}"
            )
        return wanted

    def _spec(self, spec: _Spec | None, tower: str) -> _Spec:
        """How a tower is fed, if there is one."""
        if spec is None:
            raise ModelUnavailable(
                f"{self.card.name} in {self._bundle.path} has no {tower} tower; "
                "export a checkpoint that has one"
            )
        return spec

    def _check_own(self, tower: str) -> None:
        """Refuses towers whose computation is not chosen here."""
        self._check_open()
        self._spec(getattr(self.card, tower), tower)
        if tower in self._towers:
            raise ValueError(
                f"the {tower} tower was passed in ({self._towers[tower].info.runtime}); ask it how "
                "it computes"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
        if os.getpid() != self._process:
            raise ClosedError(
                "this LocalClip was made before the process forked, and its threads stayed with "
                "the parent; make a new one in the child"
            )
