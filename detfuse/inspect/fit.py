"""Which objects of a data set the priors of a detector fit, before anything is learnt."""

from __future__ import annotations

from collections import defaultdict
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from detfuse.data import AnnotationIndex, Transforms
from detfuse.data.collate import padded_size
from detfuse.data.doctor import Fit
from detfuse.detector import Detector
from detfuse.protocols import Fitting
from detfuse.structures import Size

MOST = 1000
"""Objects that are tried: their shares are then known to about 3 % (two standard deviations)."""

_AT_ONCE = 32  # objects


def fit_of(detector: Detector, index: AnnotationIndex, transform: Transforms, size_divisor: int) -> Fit | None:
    """Try objects of an index on a detector's head, in images of the size that they are evaluated at.

    Args:
        detector: only the sizes of its maps and the settings of its head matter; it is set to evaluation.
        index: if it has many objects, some are tried, at equal distances in its order.
        transform: what is done to the images.
        size_divisor: images are padded to a multiple of it.

    Returns:
        None if the head has no such priors.
    """
    head = detector.head
    if not isinstance(head, Fitting):
        return None
    rows = np.flatnonzero(index.counted)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(np.int64))]
    by_size: defaultdict[Size, list[int]] = defaultdict(list)
    images = index.images
    for position, row in enumerate(rows.tolist()):
        height, width = index.sizes[images[row]].tolist()
        by_size[height, width].append(position)
    maps_of = cache(partial(map_sizes, detector))  # many sizes of files become one
    counts = np.zeros((len(rows), len(detector.neck.out_spec)), np.int64)
    for (height, width), positions in by_size.items():
        size = transform.resized(height, width)
        maps = maps_of(padded_size(*size, transform.divisor(size_divisor)))
        boxes = index.boxes[rows[positions]] * np.tile([size[1] / width, size[0] / height], 2)
        boxes[:, 2:] += boxes[:, :2]  # corners
        fitting = partial(head.fitting, maps, size)
        tried = map(fitting, torch.split(torch.from_numpy(boxes).float(), _AT_ONCE))
        counts[positions] = torch.cat(list(tried)).numpy()
    return Fit([f"P{level}" for level in detector.neck.out_spec.levels], rows, counts)


def map_sizes(detector: Detector, image_size: Size) -> list[Size]:
    """(H, W) of each of the maps that the head reads, of an image of a padded size; computed without numbers."""
    detector.eval()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        maps: list[Tensor] = detector.neck(detector.backbone(torch.zeros(1, 3, *image_size)))
        return [(int(x.shape[2]), int(x.shape[3])) for x in maps]
