"""How much arithmetic a tower takes: decides on how many items a certificate is measured."""

from __future__ import annotations

from cliprt_export._specs import ResNetTower, TextTower, Tower, TransformerSpec


def operations(tower: Tower) -> float:
    """Multiplications and additions of one item: the matrix products, at a text's full length."""
    if isinstance(tower, ResNetTower):
        return _resnet(tower)
    if isinstance(tower, TextTower):
        return _transformer(tower.transformer, tower.context)
    patches = 2.0 * tower.patches * 3 * tower.patch**2 * tower.transformer.width
    return patches + _transformer(tower.transformer, tower.tokens)


def _transformer(spec: TransformerSpec, tokens: int) -> float:
    linear = 2.0 * tokens * spec.width * (4 * spec.width + 2 * spec.hidden)
    attention = 4.0 * tokens**2 * spec.width
    return spec.layers * (linear + attention)


def _resnet(tower: ResNetTower) -> float:
    pixels, stem = tower.height * tower.width, tower.stem
    half = stem // 2
    total = 2.0 * 9 * (pixels / 4) * (3 * half + half * half + half * stem)
    channels = stem
    for stage, blocks in enumerate(tower.blocks):
        planes, places = stem * 2**stage, pixels / 16 / 4**stage
        for block in range(blocks):
            # The first block of a later stage halves its sides after its second convolution.
            before = places * (4 if stage and not block else 1)
            total += 2.0 * before * (channels * planes + 9 * planes * planes)
            total += 2.0 * places * 4 * planes * (planes + (0 if block else channels))
            channels = 4 * planes
    rows, columns = tower.grid
    return total + 4.0 * (rows * columns + 1) * channels * channels
