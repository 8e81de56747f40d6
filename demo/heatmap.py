"""The demo's picture: similarity of every sample and every caption, with thumbnails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def draw_heatmap(
    pictures: list[Path],
    labels: list[str],
    similarity: NDArray[np.float32],
    truth: list[int],
    path: Path,
) -> Path:
    """Draws a heat map with a thumbnail for each row.

    Args:
        pictures: files of the rows.
        labels: names of the columns.
        similarity: cosine similarities [pictures, labels].
        truth: per picture the index of its right label; marked with a frame.
        path: the PNG file to write.

    Returns:
        The file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    order = np.argsort(truth, kind="stable")
    values = similarity[order]
    rows, columns = values.shape
    figure, axes = plt.subplots(figsize=(3.2 + columns * 0.34, 2.4 + rows * 0.34), dpi=110)
    image = axes.imshow(values, cmap="magma", aspect="equal", interpolation="nearest")
    axes.set_xticks(range(columns), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(rows), [""] * rows)
    axes.tick_params(length=0)
    axes.set_title("Cosine similarity over gRPC; the frames mark the right captions", loc="left")
    for row, index in enumerate(order):
        frame = plt.Rectangle((truth[index] - 0.5, row - 0.5), 1, 1, fill=False, ec="white", lw=1.5)
        axes.add_patch(frame)
        thumbnail = Image.open(pictures[index]).convert("RGB")
        thumbnail.thumbnail((96, 96))
        beside = axes.inset_axes((-1.45, row - 0.45, 0.9, 0.9), transform=axes.transData)
        beside.imshow(np.asarray(thumbnail))
        beside.axis("off")
    figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
