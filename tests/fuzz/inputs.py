"""Targets: what a caller embeds. Pictures, texts, and the body of a request."""

from __future__ import annotations

import functools
import json
import random
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
from bad_pictures import spec
from fuzz.harness import refusing, scratch, target
from fuzz.mutation import Raw, in_json, plain
from fuzz.picture_forms import in_picture
from hostile import BASE
from numpy.typing import NDArray
from PIL import Image
from siglip_checkpoints import write_words

from cliprt import ImageSpec, ImageTooLarge, InvalidInput, Limits, TextSpec
from cliprt._cleaning import clean
from cliprt._decoding import Decoder, Decoding
from cliprt._images import FORMATS, preprocess, preprocess_with_size
from cliprt._texts import TextTokenizer, real_lengths, text_of
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._openclip_text import END_ID, OPENAI_TOKENS, START_ID, own_tokenizer
from cliprt_export._siglip_tokenizer import read_siglip_tokenizer
from cliprt_triton._front._errors import Refusal
from cliprt_triton._front._inputs import parse_request
from pictures import rgb

# Small, so that an input costs little; the limits themselves are tested where they are set.
LIMITS = Limits(max_image_bytes=2**18, max_image_pixels=2**18, max_text_characters=3000)

SPECS: tuple[ImageSpec, ...] = (
    spec(32),
    spec(32, convert="last", transparency="drop", crop="round"),
    spec(24, resize="squash", crop="none", resample="bilinear"),
    spec(24, resize="cover", convert="last", transparency="white", crop="round"),
    spec(40, resize="none"),
)


def spec_of(data: bytes) -> ImageSpec:
    """The way in which a picture is prepared: always the same one of SPECS."""
    return SPECS[zlib.crc32(data) % len(SPECS)]


@target(in_picture, most=2**15)
def picture(data: bytes) -> None:
    """Any bytes are refused as no picture, or have the pixels that Pillow's plain calls give."""
    # Pillow itself warns of pictures between its limit and twice that, whoever opens them.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    asked = spec_of(data)
    with refusing(InvalidInput) as read:
        pixels, size = preprocess_with_size(data, asked, LIMITS)
    expected = by_plain_calls(data, asked)
    if isinstance(read.error, ImageTooLarge):
        # How large is too large is tested where the limits are.
        pass
    elif not read.accepted:
        assert expected is None, f"Pillow decodes it, refused with {read.error}"
    else:
        assert expected is not None, "Pillow does not decode it"
        assert (pixels.dtype, pixels.shape) == (np.uint8, (asked.height, asked.width, 3))
        assert size[0] * size[1] <= LIMITS.max_image_pixels
        assert np.array_equal(pixels, expected), "the pixels are others"
    if zlib.crc32(data) % 8 == 0:
        _other_ways(data, asked, pixels if read.accepted else None)


def _other_ways(data: bytes, asked: ImageSpec, pixels: NDArray[np.uint8] | None) -> None:
    """By threads among others it is the same; a scaled decode refuses and accepts the same."""
    found = _decoder(asked).prepare(0, [_neighbour(), data, _neighbour(), data])
    assert np.array_equal(found[0], found[2]), "its neighbours are disturbed"
    assert isinstance(found[0], np.ndarray)
    for place in (1, 3):
        one = found[place]
        if isinstance(one, InvalidInput):
            assert pixels is None
            assert one.index == place
        else:
            assert np.array_equal(one, pixels)
    with refusing(InvalidInput) as fast:
        scaled = preprocess(data, asked, LIMITS, fast_jpeg=True)
    # A scaled decode reads all of the file, too.
    assert fast.accepted == (pixels is not None)
    if fast.accepted:
        assert scaled.shape == (asked.height, asked.width, 3)


@functools.cache
def _decoder(asked: ImageSpec) -> Decoder:
    return Decoder(asked, LIMITS, Decoding(workers=2))


@functools.cache
def _neighbour() -> bytes:
    out = BytesIO()
    rgb(40, 30).save(out, "PNG")
    return out.getvalue()


def by_plain_calls(data: bytes, asked: ImageSpec) -> NDArray[np.uint8] | None:
    """The recipes of transformers and OpenCLIP in Pillow's plain calls; None for no picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > LIMITS.max_image_pixels or len(data) > LIMITS.max_image_bytes:
                return None
            if max(image.size) > LIMITS.max_image_aspect_ratio * min(image.size):
                return None
            image.load()
            if asked.convert == "first":
                image = _in_rgb(image, asked.transparency)
            if asked.resize != "none":
                resample = Image.Resampling[asked.resample.upper()]
                image = image.resize(_size_of(image.size, asked), resample)
            if asked.crop != "none":
                image = _cropped(image, asked)
            if asked.convert == "last":
                image = _in_rgb(image, asked.transparency)
            # Without a crop and a resize pictures of other sizes are refused.
            return np.asarray(image) if image.size == (asked.width, asked.height) else None
        except Exception:  # noqa: BLE001 - Pillow's codecs raise many types
            return None


def _size_of(size: tuple[int, int], asked: ImageSpec) -> tuple[int, int]:
    target = (asked.resize_width, asked.resize_height)
    if asked.resize == "squash":
        return target
    if asked.resize == "cover":
        ratio = min(size[0] / target[0], size[1] / target[1])
        return round(size[0] / ratio), round(size[1] / ratio)
    long = int(target[0] * max(size) / min(size))
    return (target[0], long) if size[0] <= size[1] else (long, target[0])


def _cropped(image: Image.Image, asked: ImageSpec) -> Image.Image:
    if asked.crop == "floor":
        left, top = (image.width - asked.width) // 2, (image.height - asked.height) // 2
        return image.crop((left, top, left + asked.width, top + asked.height))
    # torchvision's: pads first, with the odd pixel behind, then rounds half a pixel to even.
    left, top = max(asked.width - image.width, 0) // 2, max(asked.height - image.height, 0) // 2
    width, height = max(image.width, asked.width), max(image.height, asked.height)
    image = image.crop((-left, -top, width - left, height - top))
    left, top = round((width - asked.width) / 2), round((height - asked.height) / 2)
    return image.crop((left, top, left + asked.width, top + asked.height))


def _in_rgb(image: Image.Image, transparency: str) -> Image.Image:
    transparent = "A" in image.getbands() or image.info.get("transparency") is not None
    if transparency == "white" and transparent:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    image = image.copy()
    image.info.pop("transparency", None)
    return image.convert("RGB")


def in_text(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Strings that tokenizers trip over, among others."""
    kind = rng.randrange(6)
    if kind == 0:
        return raw(data)
    text = data.decode("utf-8", "replace")
    place = rng.randrange(len(text) + 1)
    if kind == 1:
        text = text[:place] + text[: rng.randrange(len(text) + 1)]
    elif kind == 2:
        text = text[:place] + chr(rng.randrange(0xD800)) + text[place:]
    elif kind == 3:
        text = text[:place] + chr(rng.randrange(0xE000, 0x110000)) + text[place:]
    else:
        text = text[:place] + rng.choice(BASE)[:200] + rng.choice(["", " ", "\x1e"]) + text[place:]
    return text.encode()


@functools.cache
def tokenizers() -> dict[str, TextTokenizer]:
    """OpenCLIP's tokenizer with each way to clean, OpenAI's, and SigLIP's."""
    clip = TextSpec(
        context_length=77,
        fixed_length=False,
        pooling="highest",
        cleaning="none",
        end_id=END_ID,
        pad_id=0,
        vocabulary=END_ID + 1,
    )
    content = own_tokenizer(OPENAI_TOKENS)
    found = {}
    for cleaning in ("none", "whitespace", "lower", "canonicalize"):
        asked = msgspec.structs.replace(clip, cleaning=cleaning)
        found[cleaning] = TextTokenizer(content, asked, LIMITS)
    folder = scratch() / "siglip"
    write_words(folder, "SiglipTokenizer")
    # No tensor is read.
    Path(folder / "model.safetensors").touch()
    words = read_siglip_tokenizer(Checkpoint(folder, "siglip"))
    siglip = TextSpec(
        context_length=16,
        fixed_length=True,
        pooling="last",
        cleaning="siglip",
        end_id=words.end_id,
        pad_id=words.pad_id,
        vocabulary=words.ids,
    )
    return {**found, "siglip": TextTokenizer(words.json, siglip, LIMITS)}


@target(in_text, most=4096)
def text(data: bytes) -> None:
    """Any strings are refused for a reason, or have the same ids alone and among others."""
    with refusing(InvalidInput) as read:
        assert text_of(data, 3) == data.decode()
    whole = data.decode("utf-8", "surrogateescape")
    assert read.accepted != _has_surrogate(whole)
    texts = whole.split("\x1e")[:4]
    for cleaning in ("whitespace", "lower", "canonicalize"):
        if read.accepted:
            _check_cleaned(clean(texts[0], cleaning), cleaning)
    for name, tokenizer in tokenizers().items():
        _check_tokens(texts, tokenizer, name)


def _check_cleaned(cleaned: str, cleaning: str) -> None:
    assert cleaned == " ".join(cleaned.split())
    if cleaning == "canonicalize":
        assert not set(cleaned) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    cleaned.encode()


def _check_tokens(texts: list[str], tokenizer: TextTokenizer, name: str) -> None:
    asked = tokenizer._spec
    among = tokenizer.each([*texts, "a cat", *texts], first=5)
    assert len(among) == 2 * len(texts) + 1
    assert isinstance(among[len(texts)], list)
    good: list[list[int]] = []
    for place, one in enumerate(texts):
        with refusing(InvalidInput) as read:
            (ids,) = tokenizer([one])
        again = among[place], among[len(texts) + 1 + place]
        if not read.accepted:
            assert all(isinstance(found, InvalidInput) for found in again), name
            assert isinstance(again[0], InvalidInput)
            assert again[0].index == 5 + place
            assert len(one) > LIMITS.max_text_characters or _has_surrogate(one)
            continue
        assert again == (ids, ids), f"{name}: alone {ids}, among others {again}"
        assert all(0 <= token < asked.vocabulary for token in ids)
        assert len(ids) <= asked.context_length
        assert ids[-1] == asked.end_id
        if name != "siglip":
            assert len(ids) >= 2
            assert ids[0] == START_ID
        with refusing(InvalidInput) as whole:
            (uncut,) = tokenizer([one], truncate=False)
        assert uncut == ids if whole.accepted else len(ids) == asked.context_length
        good.append(ids)
    if good:
        batch = tokenizer.pad(good)
        longest = asked.context_length if asked.fixed_length else max(map(len, good))
        assert (batch.dtype, batch.shape) == (np.int32, (len(good), longest))
        for row, ids in zip(batch, good, strict=True):
            assert row[: len(ids)].tolist() == ids
            assert set(row[len(ids) :].tolist()) <= {asked.pad_id}
        counted = real_lengths(batch, asked.end_id)
        assert (counted >= 1).all()
        assert (counted <= [max(len(ids), 1) for ids in good]).all()


def _has_surrogate(one: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in one)


@target(in_json, most=8192)
def request(data: bytes) -> None:
    """Any body is a request whose items keep their places, or a refusal in OpenAI's form."""
    with refusing(Refusal) as read:
        found = parse_request(data, model="clip", dim=8, max_items=16)
    if isinstance(read.error, Refusal):
        assert read.error.status in (400, 404)
        error = json.loads(read.error.body())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return
    assert 1 <= found.items <= 16
    assert sorted((*found.text_places, *found.picture_places)) == list(range(found.items))
    assert all(isinstance(one, str) and one.encode() is not None for one in found.texts)
    assert all(isinstance(one, bytes) for one in found.pictures)


@target(plain, most=64)
def array(data: bytes) -> None:
    """Arrays of any type, shape and order are refused, or prepared as the picture they show."""
    asked = spec_of(data)
    rng = random.Random(zlib.crc32(data))
    given = _array(data, rng)
    with refusing(InvalidInput) as read:
        pixels = preprocess(given, asked, LIMITS)
    fits = given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3
    sides = given.shape[:2] if fits else (0, 0)
    fits = fits and min(sides) > 0 and max(sides) <= LIMITS.max_image_aspect_ratio * min(sides)
    if asked.resize != "none":
        assert read.accepted == fits
    if read.accepted:
        assert (pixels.dtype, pixels.shape) == (np.uint8, (asked.height, asked.width, 3))
        plainly = preprocess(Image.fromarray(np.ascontiguousarray(given)), asked, LIMITS)
        assert np.array_equal(pixels, plainly)


def _array(data: bytes, rng: random.Random) -> NDArray[np.generic]:
    kinds = ["u1", "u1", "u1", "u1", "i1", "u2", "f4", "f8", "?", "S3", "O", "c8", "M8[s]"]
    shape = [
        rng.choice([0, 1, 2, 3, 7, 31, 64, 101, 250]) for _ in range(rng.choice([2, 2, 2, 0, 3]))
    ]
    if rng.random() < 0.8:
        shape.append(3)
    kind = np.dtype(rng.choice(kinds))
    count = int(np.prod(shape)) * kind.itemsize
    if not count:
        return np.zeros(shape, dtype=kind)
    if kind.hasobject:
        return np.full(shape, None, dtype=object)
    values = (data * (count // max(len(data), 1) + 1) + bytes(count))[:count]
    made = np.frombuffer(values, dtype=kind).reshape(shape)
    for axis in range(min(made.ndim, 2)):
        if rng.random() < 0.3:
            made = np.flip(made, axis)
    return made.swapaxes(0, 1) if made.ndim > 1 and rng.random() < 0.3 else made
