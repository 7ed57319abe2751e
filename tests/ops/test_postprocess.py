import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from detfuse.ops.postprocess import Nms, SoftNms, WeightedBoxFusion

COMBINES = [
    Nms(),
    Nms(class_agnostic=True),
    SoftNms(),
    SoftNms(method="linear"),
    WeightedBoxFusion(),
    WeightedBoxFusion(score_scaling="members", class_agnostic=True),
]
NAMES = ["nms", "agnostic", "gaussian", "linear", "wbf", "agnostic wbf"]


def candidates(seed, count=300, classes=4, padding=40, steps=None):
    """Clustered boxes, the last rows padding; ``steps`` coarsens the scores, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    centres = (
        torch.rand(count, 2, generator=generator).mul(6).floor() * 40 + torch.rand(count, 2, generator=generator) * 9
    )
    sizes = 20 + 30 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([centres, centres + sizes], 1)
    scores = torch.rand(count, generator=generator) * 0.98 + 0.01
    if steps is not None:
        scores = (scores * steps).ceil() / steps
    labels = torch.randint(classes, (count,), generator=generator)
    levels = torch.randint(5, (count,), generator=generator)
    scores[count - padding :] = 0
    return boxes, scores, labels, levels


def one_class(boxes, scores, levels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    levels = torch.zeros(len(boxes)) if levels is None else torch.tensor(levels)
    return boxes, torch.tensor(scores), torch.zeros(len(boxes)).long(), levels.long()


@pytest.mark.parametrize("combine", COMBINES, ids=NAMES)
@pytest.mark.parametrize("steps", [None, 5], ids=["plain", "ties"])
def test_contract(combine, steps):
    given = candidates(0, steps=steps)
    before = [column.clone() for column in given]
    found = combine(*given)
    assert 0 < len(found.scores) <= 100
    assert (found.scores.diff() <= 0).all()
    assert (found.scores > 0).all()
    assert [column.dtype for column in found] == [torch.float32, torch.float32, torch.int64, torch.int64]
    assert [column.shape for column in found] == [(len(found.scores), *c.shape[1:]) for c in given]
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    again = combine(*(column[given[1] > 0] for column in given))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))  # padding changes nothing


@pytest.mark.parametrize("combine", COMBINES, ids=NAMES)
@pytest.mark.parametrize("count", [0, 7], ids=["no rows", "only padding"])
def test_nothing_found(combine, count):
    found = combine(torch.zeros(count, 4), torch.zeros(count), torch.zeros(count).long(), torch.zeros(count).long())
    assert [tuple(column.shape) for column in found] == [(0, 4), (0,), (0,), (0,)]


@pytest.mark.parametrize("combine", COMBINES, ids=NAMES)
def test_ties_keep_the_order_given(combine):
    apart = torch.arange(20.0)[:, None] * 50 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    found = combine(apart, torch.full((20,), 0.5), torch.arange(20) % 2, torch.zeros(20).long())
    assert torch.equal(found.boxes, apart)


@pytest.mark.parametrize("make", [Nms, SoftNms, WeightedBoxFusion])
def test_max_detections_keeps_the_best(make):
    given = candidates(1)
    few, many = make(max_detections=7)(*given), make(max_detections=100)(*given)
    assert len(few.scores) == 7
    assert all(torch.equal(a, b[:7]) for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize("combine", COMBINES, ids=NAMES)
def test_a_score_that_is_not_a_number_is_not_hidden(combine):
    given = one_class([[0, 0, 10, 10], [50, 50, 60, 60]], [float("nan"), 0.5])
    assert combine(*given).scores.isnan().sum() == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [None, 5], ids=["plain", "ties"])
def test_nms_equals_torchvision(seed, steps):
    boxes, scores, labels, levels = candidates(seed, steps=steps)
    rows = (scores > 0).nonzero().flatten()
    expected = rows[batched_nms(boxes[rows], scores[rows], labels[rows], 0.5)][:100]
    found = Nms(iou_threshold=0.5)(boxes, scores, labels, levels)
    assert torch.equal(found.scores, scores[expected])
    order = torch.argsort(scores[expected], descending=True, stable=True)
    if steps is None:
        assert torch.equal(found.boxes, boxes[expected][order])
        assert torch.equal(found.labels, labels[expected][order])
        assert torch.equal(found.levels, levels[expected][order])


def test_nms_classes_meet_only_if_agnostic():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    given = (boxes, torch.tensor([0.4, 0.8]), torch.tensor([0, 1]), torch.tensor([3, 2]))
    assert Nms()(*given).labels.tolist() == [1, 0]
    assert Nms(class_agnostic=True)(*given).levels.tolist() == [2]


def soft_nms_by_the_paper(boxes, scores, labels, decay, threshold):
    """Bodla et al., figure 3, class by class, in plain Python: [(score, row)] in the order taken."""
    iou = box_iou(boxes.double(), boxes.double()).tolist()
    taken = []
    for label in sorted(set(labels.tolist())):
        remaining = {i: s for i, s in enumerate(scores.double().tolist()) if labels[i] == label and s > 0}
        while remaining:
            best = max(remaining, key=lambda i: (remaining[i], -i))
            taken.append((remaining.pop(best), best))
            remaining = {i: s * decay(iou[best][i]) for i, s in remaining.items()}
    return sorted((t for t in taken if t[0] >= threshold), reverse=True)


@pytest.mark.parametrize(
    ("method", "decay"),
    [("gaussian", lambda v: math.exp(-v * v / 0.4)), ("linear", lambda v: 1 - v if v > 0.3 else 1.0)],
)
@pytest.mark.parametrize("seed", range(2))
def test_soft_nms_equals_the_paper(method, decay, seed):
    boxes, scores, labels, levels = candidates(seed, count=120)
    expected = soft_nms_by_the_paper(boxes, scores, labels, decay, 0.05)
    combine = SoftNms(method=method, sigma=0.4, iou_threshold=0.3, score_threshold=0.05, max_detections=500)
    found = combine(boxes, scores, labels, levels)
    rows = [row for _, row in expected]
    assert found.scores.tolist() == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert torch.equal(found.boxes, boxes[rows])
    assert torch.equal(found.labels, labels[rows])
    assert torch.equal(found.levels, levels[rows])


def test_linear_soft_nms_takes_an_exact_copy_once():
    found = SoftNms(method="linear", score_threshold=0)(*one_class([[0, 0, 10, 10]] * 3, [0.9, 0.8, 0.7], [0, 1, 2]))
    assert found.levels.tolist() == [0, 1, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0, 0])
    assert len(SoftNms(method="linear")(*one_class([[0, 0, 10, 10]] * 3, [0.9, 0.8, 0.7])).scores) == 1


# By hand: boxes 0 and 1 overlap by 90/110 = .82; fused x1 = (.8*0 + .4*1) / 1.2 = 1/3, x2 = 31/3. Box 2 stands alone.
WBF_BOXES = [[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50]]
WBF_LEVELS = [1, 2, 4]


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.7, 0.6]),
        ({"score_scaling": "members"}, [0.6 * 2 / 3, 0.7 / 3]),
    ],
)
def test_wbf_by_hand(options, scores):
    found = WeightedBoxFusion(**options)(*one_class(WBF_BOXES, [0.8, 0.4, 0.7], WBF_LEVELS))
    assert found.scores.tolist() == pytest.approx(scores)
    pair = found.levels.tolist().index(1)  # the level of its better member
    assert found.boxes[pair].tolist() == pytest.approx([1 / 3, 0, 31 / 3, 10])
    assert found.boxes[1 - pair].tolist() == [40, 40, 50, 50]


def test_wbf_joins_the_cluster_that_overlaps_most_and_moves_it():
    # Box 2 overlaps box 0 by 6/14 and box 1 by 9/11; then box 3 meets the moved box 1.
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [4, 0, 14, 10], [4.6, 0, 14.6, 10]]
    found = WeightedBoxFusion(iou_threshold=0.4)(*one_class(boxes, [0.9, 0.8, 0.4, 0.3]))
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.boxes[1, 0].item() == pytest.approx((5 * 0.8 + 4 * 0.4 + 4.6 * 0.3) / 1.5)


def test_wbf_clusters_move_as_they_grow():
    # Box 2 overlaps box 0 by only 7/13, but the mean of boxes 0 and 1 by 8/12.
    boxes = [[0, 0, 10, 10], [2, 0, 12, 10], [3, 0, 13, 10]]
    found = WeightedBoxFusion(iou_threshold=0.6)(*one_class(boxes, [0.6, 0.6, 0.3]))
    assert found.boxes.tolist() == [pytest.approx([1.4, 0, 11.4, 10])]


def test_wbf_members_beyond_the_number_of_levels_add_nothing():
    given = one_class([[0, 0, 10, 10]] * 5, [0.6] * 5, [0, 1, 0, 0, 0])
    assert WeightedBoxFusion(score_scaling="members")(*given).scores.tolist() == pytest.approx([0.6])


def test_wbf_keeps_classes_apart():
    boxes, scores, _, levels = one_class([[0, 0, 10, 10]] * 2, [0.8, 0.4])
    found = WeightedBoxFusion()(boxes, scores, torch.tensor([3, 1]), levels)
    assert found.labels.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Nms, {"iou_threshold": 1.5}, "iou_threshold must lie in 0..1, got 1.5"),
        (Nms, {"max_detections": 0}, "max_detections must be at least 1, got 0"),
        (SoftNms, {"method": "cubic"}, "gaussian or linear, got 'cubic'"),
        (SoftNms, {"sigma": 0}, "sigma must be positive, got 0"),
        (SoftNms, {"score_threshold": -1}, "score_threshold must lie"),
        (WeightedBoxFusion, {"score_scaling": "levels"}, "none or members, got 'levels'"),
    ],
)
def test_wrong_arguments(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("combine", COMBINES, ids=NAMES)
def test_gpu_gives_what_the_cpu_gives(combine):
    given = candidates(2)
    on_gpu = combine(*(column.cuda() for column in given))
    for a, b in zip(combine(*given), on_gpu, strict=True):
        torch.testing.assert_close(a, b.cpu())
