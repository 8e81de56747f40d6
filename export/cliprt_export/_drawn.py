"""Pictures and texts that every machine draws alike, to measure towers on without anybody's data.

Drawn with integers alone from raw generator bits, whose stream NumPy guarantees.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]

_WORDS = (  # noqa: SIM905
    "a photo of the red small dog cat house river mountain child reading old bicycle street "
    "night market under bright sky with two three birds flying over green field near wooden "
    "table bowl fresh fruit blurry close-up drawing sketch painting satellite view city harbour "
    "ships fog morning train station crowd people dancing snow forest deer lake reflection "
    "sunset beach umbrella black-and-white portrait woman man hat glasses guitar concert stage "
    "lights car engine"
).split()
_OTHERS = (
    "naïve café über façade señor smørrebrød żółw čeština",
    "красная собака бежит по снегу рядом с домом",
    "μια γάτα κοιμάται στον ήλιο δίπλα στη θάλασσα",
    "一只 红色 的 猫 坐在 木桌 上 看 窗外 的 雪",
    "東京 の 夜 に 光る 看板 と 小さな 猫",
    "빨간 자전거 를 탄 아이 가 강가 를 달린다",
    "قطة صغيرة تنام على الكرسي قرب النافذة",
    "नदी के किनारे एक छोटा लाल घर",
    "🐈 🚲 🌆 ❤️ 👩‍🚀 🏳️‍🌈 42 3.14 1,000 50% #1 @home (see) 'quoted' a/b x² ½",
)
# From one word to beyond every usual context.
_LENGTHS = (1, 3, 5, 8, 2, 12, 6, 20, 4, 10, 30, 7, 15, 45, 9, 90)


class _Bits:
    """Whole numbers from a seed."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, bound: int) -> int:
        return int(self._bits.random_raw()) % bound

    def plane(self, *shape: int) -> Plane:
        """Bytes 0..255 of a shape."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(56)).astype(np.int32).reshape(shape)


def drawn_picture(seed: int) -> NDArray[np.uint8]:
    """A picture with a background, up to six shapes and patterns over it, and some grain.

    Returns:
        uint8 [height, width, 3]; sides between 38 and 320 pixels, never square, as seldom in life.
    """
    bits = _Bits(seed)
    long = 96 + bits.below(225)
    short = long * (40 + bits.below(55)) // 100
    height, width = (short, long) if bits.below(2) else (long, short)
    picture = _fill(bits, height, width, flat=False)
    for _ in range(bits.below(7)):
        mask = _mask(bits, height, width)
        fill = _fill(bits, height, width, flat=bits.below(3) > 0)
        if bits.below(4) == 0:
            fill = (picture + fill) // 2
        picture = np.where(mask[..., None], fill, picture)
    grain = (0, 0, 8, 24, 96)[bits.below(5)]
    if grain:
        picture = picture + bits.plane(height, width, 3) * grain // 255 - grain // 2
    return picture.clip(0, 255).astype(np.uint8)


def drawn_texts(count: int, seed: int) -> list[str]:
    """Distinct texts of varied length, most of them like captions, every fourth in other scripts.

    Args:
        count: how many.
        seed: other seeds give other texts, apart from some very short ones.
    """
    bits, texts = _Bits(seed), dict[str, None]()
    while len(texts) < count:
        index = len(texts) + bits.below(2)
        words: tuple[str, ...] | list[str] = _WORDS
        if index % 4 == 3:
            words = _OTHERS[bits.below(len(_OTHERS))].split()
        length = _LENGTHS[bits.below(len(_LENGTHS))]
        text = " ".join(words[bits.below(len(words))] for _ in range(length))
        if bits.below(5) == 0:
            text = f"{text.capitalize()}."
        texts[text] = None
    return list(texts)


def _fill(bits: _Bits, height: int, width: int, *, flat: bool) -> Plane:
    """One colour, or a smooth cloud of colours: [height, width, 3]."""
    if flat:
        return np.broadcast_to(bits.plane(3), (height, width, 3))
    coarse = _smooth(bits.plane(2 + bits.below(3), 2 + bits.below(3), 3), height, width)
    fine = _smooth(bits.plane(6 + bits.below(12), 6 + bits.below(12), 3), height, width)
    share = bits.below(128)
    return (coarse * (255 - share) + fine * share) // 255


def _smooth(nodes: Plane, height: int, width: int) -> Plane:
    """Nodes [rows, columns, 3] interpolated linearly, in 64ths of their distance."""
    down = np.arange(height, dtype=np.int32) * ((len(nodes) - 1) * 64) // height
    right = np.arange(width, dtype=np.int32) * ((nodes.shape[1] - 1) * 64) // width
    top, t = down // 64, (down % 64)[:, None, None]
    rows = (nodes[top] * (64 - t) + nodes[top + 1] * t) // 64
    left, s = right // 64, (right % 64)[None, :, None]
    return np.asarray((rows[:, left] * (64 - s) + rows[:, left + 1] * s) // 64)


def _mask(bits: _Bits, height: int, width: int) -> Mask:
    """Where a shape or a pattern is."""
    y = np.arange(height, dtype=np.int32)[:, None]
    x = np.arange(width, dtype=np.int32)[None, :]
    kind, centre_y, centre_x = bits.below(7), bits.below(height), bits.below(width)
    radius = 6 + bits.below(max(height, width) // 3)
    distance = (x - centre_x) ** 2 + (y - centre_y) ** 2
    slope = bits.below(13) - 6, bits.below(13) - 6
    along = slope[0] * (x - centre_x) + slope[1] * (y - centre_y)
    period = 4 + bits.below(28)
    if kind == 0:
        return np.asarray(distance < radius**2)
    if kind == 1:
        return np.asarray((distance < radius**2) & (distance > (radius * 2 // 3) ** 2))
    if kind == 2:
        return np.asarray((abs(x - centre_x) < radius) & (abs(y - centre_y) < radius * 2 // 3))
    if kind == 3:
        return np.asarray(along < 0)
    if kind == 4:
        return np.asarray(along // (3 * period) % 2 == 0)
    if kind == 5:
        return np.asarray((x // period + y // period) % 2 == 0)
    spots = (x % period - period // 2) ** 2 + (y % period - period // 2) ** 2
    return np.asarray(spots < (period // 3) ** 2)
