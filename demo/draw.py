"""Draws small scenes of coloured, patterned shapes and puts them into words.

A scene says what a picture shows; everything it leaves open (size, turn, shade, exact place,
noise) is drawn from a seeded generator, so one scene gives endless different pictures and one
seed always gives the same one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Mask = NDArray[np.bool_]

SUPERSAMPLE = 2

# Hue range in degrees, saturation range, value range. The ranges stay apart, so that a jittered
# shade never changes its name.
COLOURS: dict[str, tuple[Point, Point, Point]] = {
    "red": ((-6, 6), (0.85, 1.0), (0.75, 1.0)),
    "orange": ((24, 33), (0.85, 1.0), (0.92, 1.0)),
    "yellow": ((51, 60), (0.80, 1.0), (0.92, 1.0)),
    "green": ((105, 140), (0.70, 1.0), (0.50, 0.80)),
    "cyan": ((176, 188), (0.75, 1.0), (0.85, 1.0)),
    "blue": ((218, 238), (0.80, 1.0), (0.65, 1.0)),
    "purple": ((270, 284), (0.70, 1.0), (0.50, 0.75)),
    "pink": ((318, 336), (0.35, 0.55), (0.95, 1.0)),
}
PATTERNS = ("solid", "striped", "dotted", "checkered")
BACKGROUNDS: dict[str, Point] = {"white": (0.90, 1.0), "grey": (0.42, 0.58), "black": (0.0, 0.10)}
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
COUNT_CHANCES = (0.46, 0.18, 0.18, 0.18)
# Where a single object stands: the range of its centre in the square frame, across and down.
POSITIONS: dict[str, tuple[Point, Point]] = {
    "centre": ((0.46, 0.54), (0.46, 0.54)),
    "left": ((0.24, 0.29), (0.44, 0.56)),
    "right": ((0.71, 0.76), (0.44, 0.56)),
    "top": ((0.44, 0.56), (0.24, 0.29)),
    "bottom": ((0.44, 0.56), (0.71, 0.76)),
}
POSITION_PHRASES = {
    "centre": "in the middle",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
# Where several objects stand: one of these sets of centres, each centre a little jittered.
LAYOUTS: dict[int, tuple[Polygon, ...]] = {
    2: (
        ((0.27, 0.50), (0.73, 0.50)),
        ((0.50, 0.27), (0.50, 0.73)),
        ((0.29, 0.29), (0.71, 0.71)),
        ((0.71, 0.29), (0.29, 0.71)),
    ),
    3: (
        ((0.27, 0.29), (0.73, 0.29), (0.50, 0.71)),
        ((0.50, 0.29), (0.27, 0.71), (0.73, 0.71)),
        ((0.29, 0.27), (0.29, 0.73), (0.71, 0.50)),
        ((0.71, 0.27), (0.71, 0.73), (0.29, 0.50)),
    ),
    4: (
        ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
        ((0.50, 0.21), (0.21, 0.50), (0.79, 0.50), (0.50, 0.79)),
    ),
}
LAYOUT_JITTER = 0.02
# Radius of an object as a share of the frame's side.
CENTRE_RADIUS: Point = (0.22, 0.38)
ASIDE_RADIUS: Point = (0.19, 0.24)
LAYOUT_RADIUS: dict[int, Point] = {2: (0.16, 0.21), 3: (0.15, 0.20), 4: (0.14, 0.18)}
MAX_TURN = math.radians(20)

TEMPLATES = (
    "{}",
    "{}",
    "a picture of {}",
    "a picture of {}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a photo of {}",
    "this picture shows {}",
    "we see {}",
)


def _ngon(radius: float, centre: Point = (0.0, 0.0), corners: int = 40) -> Polygon:
    """Returns a regular polygon; with many corners it stands for a circle."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return tuple(
        (centre[0] + radius * math.cos(t), centre[1] + radius * math.sin(t)) for t in turns
    )


def _star() -> Polygon:
    """Returns a five-pointed star that stands on two points."""
    radii = (1.0, 0.42)
    turns = [math.pi * (k / 5 - 0.5) for k in range(10)]
    return tuple(
        (radii[k % 2] * math.cos(t), radii[k % 2] * math.sin(t)) for k, t in enumerate(turns)
    )


def _heart() -> Polygon:
    """Returns the usual parametric heart, scaled into the unit circle."""
    turns = [2 * math.pi * k / 40 for k in range(40)]
    return tuple(
        (
            0.92 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17.0
            - 0.10,
        )
        for t in turns
    )


def _cross(arm: float = 0.32, reach: float = 0.95) -> Polygon:
    """Returns an upright cross with four equal arms."""
    a, r = arm, reach
    right = ((a, -r), (a, -a), (r, -a), (r, a), (a, a), (a, r))
    return right + tuple((-x, -y) for x, y in right)


# Each shape is an outline less a hole, inside the unit circle; y points down.
SHAPES: dict[str, tuple[Polygon, Polygon]] = {
    "circle": (_ngon(0.95), ()),
    "square": (((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), ()),
    "triangle": (((0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)), ()),
    "star": (_star(), ()),
    "heart": (_heart(), ()),
    "cross": (_cross(), ()),
    "ring": (_ngon(1.0), _ngon(0.45)),
    "moon": (_ngon(1.0), _ngon(0.80, (0.55, 0.0))),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: equal objects on a plain background.

    Attributes:
        colour: A key of `COLOURS`.
        pattern: One of `PATTERNS`.
        shape: A key of `SHAPES`.
        count: How many objects there are, one to four.
        position: A key of `POSITIONS`; several objects are spread out and always "centre".
        background: A key of `BACKGROUNDS`.
    """

    colour: str
    pattern: str
    shape: str
    count: int = 1
    position: str = "centre"
    background: str = "white"

    def __post_init__(self) -> None:
        """Refuses a scene that cannot be drawn.

        Raises:
            ValueError: If an attribute has an unknown value.
        """
        for field, known in VALUES.items():
            if getattr(self, field) not in known:
                raise ValueError(f"unknown {field}: {getattr(self, field)!r}")
        if self.count > 1 and self.position != "centre":
            raise ValueError("several objects have no position")

    @property
    def name(self) -> str:
        """The scene's class: colour, pattern and shape, as in "red striped circle"."""
        return f"{self.colour} {self.pattern} {self.shape}"


VALUES: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "shape": tuple(SHAPES),
    "count": tuple(COUNTS),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
}
NAME_FIELDS = frozenset({"count", "colour", "pattern", "shape"})


def is_held_out(colour: str, pattern: str, shape: str) -> bool:
    """Tells whether a combination is kept out of training.

    One in four is, laid out like a Latin square: every colour, pattern and shape and every pair
    of them is seen in training, but 64 of the 256 triples never are.

    Args:
        colour: A key of `COLOURS`.
        pattern: One of `PATTERNS`.
        shape: A key of `SHAPES`.
    """
    places = list(COLOURS).index(colour), PATTERNS.index(pattern), list(SHAPES).index(shape)
    return sum(places) % len(PATTERNS) == 0


def combinations(*, held_out: bool) -> list[tuple[str, str, str]]:
    """Returns the (colour, pattern, shape) triples on one side of the split."""
    triples = itertools.product(COLOURS, PATTERNS, SHAPES)
    return [triple for triple in triples if is_held_out(*triple) == held_out]


def random_size(rng: np.random.Generator, smallest: int, largest: int) -> tuple[int, int]:
    """Returns a canvas size, width and height chosen apart; small ones are as likely as large."""
    width, height = np.exp(rng.uniform(math.log(smallest), math.log(largest), 2))
    return round(width), round(height)


def random_scene(
    rng: np.random.Generator, colour: str, pattern: str, shape: str, count: int | None = None
) -> Scene:
    """Returns a scene of the given objects with all that is not given chosen by chance.

    Args:
        rng: The source of chance.
        colour: The colour of the objects.
        pattern: The pattern of the objects.
        shape: The shape of the objects.
        count: How many objects there are, or None to choose.
    """
    if count is None:
        count = int(rng.choice(list(COUNTS), p=COUNT_CHANCES))
    position = str(rng.choice(list(POSITIONS))) if count == 1 else "centre"
    background = str(rng.choice(list(BACKGROUNDS)))
    return Scene(colour, pattern, shape, count, position, background)


def draw(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draws a scene.

    All objects stay in the centred square of the canvas, which CLIP's centre crop keeps.

    Args:
        scene: What to draw.
        size: Width and height of the picture in pixels.
        rng: The source of chance for all that the scene leaves open.

    Returns:
        An RGB picture.
    """
    width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    side = min(width, height)
    paper = _background(scene.background, rng)
    picture = Image.new("RGB", (width, height), paper)
    colour = _shade(scene.colour, rng)
    ink = _ink(scene.background, rng)
    low, high = _radius_range(scene)
    radius = rng.uniform(low, high) * side
    angle = rng.uniform(0, math.pi)
    for x, y in _centres(scene, rng):
        tile, mask = _object(scene, radius * rng.uniform(0.94, 1.0), colour, ink, angle, rng)
        left = round((width - side) / 2 + x * side - tile.width / 2)
        top = round((height - side) / 2 + y * side - tile.height / 2)
        picture.paste(tile, (left, top), mask)
    return _noisy(picture.resize(size, Image.Resampling.BOX), rng)


def choose_stated(scene: Scene, rng: np.random.Generator) -> frozenset[str]:
    """Chooses which attributes of a scene a caption states.

    The count is always among them, for "a circle" and "circles" cannot help telling it.

    Args:
        scene: The scene to be captioned.
        rng: The source of chance.

    Returns:
        The names of the stated attributes.
    """
    chances = {"shape": 0.9, "colour": 0.9, "pattern": 0.85, "position": 0.5, "background": 0.3}
    if scene.count > 1:
        del chances["position"]
    return frozenset({"count"} | {field for field, p in chances.items() if rng.random() < p})


def describe(scene: Scene, stated: Set[str] = NAME_FIELDS) -> str:
    """Returns the plain phrase for a scene, as in "three red striped circles".

    Args:
        scene: The scene.
        stated: The attributes to name; the count is always told.
    """
    return _phrase(scene, stated, _adjectives(scene, stated), numeral=False)


def caption(scene: Scene, rng: np.random.Generator, stated: Set[str] = NAME_FIELDS) -> str:
    """Puts a scene into a few English words, worded by chance.

    Args:
        scene: The scene.
        rng: The source of chance for the wording.
        stated: The attributes to name; the count is always told.

    Returns:
        A caption such as "a picture of three striped red circles on a white background".
    """
    adjectives = _adjectives(scene, stated)
    if rng.random() < 0.2:
        adjectives.reverse()
    phrase = _phrase(scene, stated, adjectives, numeral=rng.random() < 0.15)
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(phrase)


def _adjectives(scene: Scene, stated: Set[str]) -> list[str]:
    """Returns the stated colour and pattern."""
    named = {"colour": scene.colour, "pattern": scene.pattern}
    return [word for field, word in named.items() if field in stated]


def _phrase(scene: Scene, stated: Set[str], adjectives: list[str], *, numeral: bool) -> str:
    """Returns number, adjectives, noun, place and background, as far as they are stated."""
    words = [*adjectives, _noun(scene.shape if "shape" in stated else "shape", scene.count)]
    article = "an" if words[0][0] in "aeiou" else "a"
    words.insert(0, COUNTS[scene.count] if numeral or scene.count > 1 else article)
    if "position" in stated and scene.count == 1:
        words.append(POSITION_PHRASES[scene.position])
    if "background" in stated:
        words.append(f"on a {scene.background} background")
    return " ".join(words)


def _noun(shape: str, count: int) -> str:
    """Returns the shape's word in the singular or plural."""
    if count == 1:
        return shape
    return shape + ("es" if shape.endswith("s") else "s")


def _radius_range(scene: Scene) -> Point:
    """Returns how small and how large the scene's objects may be."""
    if scene.count > 1:
        return LAYOUT_RADIUS[scene.count]
    return CENTRE_RADIUS if scene.position == "centre" else ASIDE_RADIUS


def _centres(scene: Scene, rng: np.random.Generator) -> list[Point]:
    """Returns the objects' centres as shares of the frame's side."""
    if scene.count == 1:
        across, down = POSITIONS[scene.position]
        return [(rng.uniform(*across), rng.uniform(*down))]
    layout = LAYOUTS[scene.count][rng.integers(len(LAYOUTS[scene.count]))]
    jitter = rng.uniform(-LAYOUT_JITTER, LAYOUT_JITTER, (len(layout), 2))
    return [(x + float(dx), y + float(dy)) for (x, y), (dx, dy) in zip(layout, jitter, strict=True)]


def _object(
    scene: Scene,
    radius: float,
    colour: tuple[int, int, int],
    ink: tuple[int, int, int],
    angle: float,
    rng: np.random.Generator,
) -> tuple[Image.Image, Image.Image]:
    """Returns one object's square tile and the mask of its shape."""
    side = math.ceil(2 * radius) + 2
    turn = rng.uniform(-MAX_TURN, MAX_TURN)
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    outline, hole = SHAPES[scene.shape]
    pen.polygon(_placed(outline, radius, side / 2, turn), fill=255)
    if hole:
        pen.polygon(_placed(hole, radius, side / 2, turn), fill=0)
    tile = Image.new("RGB", (side, side), colour)
    inked = _inked(scene.pattern, side, radius, angle, rng)
    tile.paste(ink, (0, 0), Image.fromarray(inked.astype(np.uint8) * 255))
    return tile, mask


def _placed(polygon: Polygon, radius: float, centre: float, turn: float) -> list[Point]:
    """Returns a unit polygon turned, scaled and moved to a tile's centre."""
    c, s = radius * math.cos(turn), radius * math.sin(turn)
    return [(centre + c * x - s * y, centre + s * x + c * y) for x, y in polygon]


def _inked(pattern: str, side: int, radius: float, angle: float, rng: np.random.Generator) -> Mask:
    """Returns where a square tile shows the ink instead of the colour.

    Args:
        pattern: One of `PATTERNS`.
        side: The tile's side in pixels.
        radius: The object's radius in pixels, which the pattern scales with.
        angle: The pattern's direction in radians.
        rng: The source of chance for the period and the phase.
    """
    if pattern == "solid":
        return np.zeros((side, side), dtype=np.bool_)
    # Cells of half a period are numbered along both turned axes: even and odd cells alternate.
    half = radius * rng.uniform(0.25, 0.33)
    across = np.arange(side) / half
    c, s = math.cos(angle), math.sin(angle)
    u = c * across[None, :] + s * across[:, None] + rng.uniform(0, 2)
    v = c * across[:, None] - s * across[None, :] + rng.uniform(0, 2)
    if pattern == "striped":
        inked: Mask = np.floor(u) % 2 == 1
    elif pattern == "checkered":
        inked = (np.floor(u / 1.3) + np.floor(v / 1.3)) % 2 == 1
    else:
        inked = (u % 2 - 1) ** 2 + (v % 2 - 1) ** 2 < 0.58**2
    return inked


def _shade(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Returns a random shade of a named colour."""
    hue, saturation, value = (rng.uniform(*limits) for limits in COLOURS[colour])
    # The usual closed form of HSV to RGB: one shifted triangle wave for each channel.
    waves = ((shift + hue / 60) % 6 for shift in (5, 3, 1))
    red, green, blue = (value - value * saturation * max(0, min(k, 4 - k, 1)) for k in waves)
    return _bytes(red, green, blue)


def _background(background: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Returns a random, faintly tinted shade of a named background."""
    level = rng.uniform(*BACKGROUNDS[background])
    red, green, blue = (level + float(tint) for tint in rng.uniform(-0.03, 0.03, 3))
    return _bytes(red, green, blue)


def _ink(background: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Returns a pattern's second tone, which must differ from the paper to keep the outline."""
    light = background == "black" or (background == "grey" and rng.random() < 0.5)
    level = rng.uniform(0.88, 1.0) if light else rng.uniform(0.0, 0.14)
    return _bytes(level, level, level)


def _bytes(red: float, green: float, blue: float) -> tuple[int, int, int]:
    """Returns channels from 0 to 1 as whole numbers from 0 to 255."""
    r, g, b = (round(255 * min(1.0, max(0.0, channel))) for channel in (red, green, blue))
    return r, g, b


def _noisy(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns the picture with a little grey noise on each pixel."""
    pixels = np.asarray(picture, dtype=np.float32)
    spread = np.float32(rng.uniform(0, 6))
    noise = spread * rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
