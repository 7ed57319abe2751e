"""Published detectors of torchvision and effdet against ours, live and whole; all: ``scripts/benchmark.py parity``."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from detfuse.build import build_detector
from detfuse.config import conf_dir
from detfuse.data.collate import collate
from detfuse.data.scene import Objects
from detfuse.data.transforms import Transforms
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.heads.ssd import SSDHead
from detfuse.structures import IMAGENET, Categories, FeatureSpec
from detfuse.weights.effdet import EFFDET
from detfuse.weights.torchvision import PUBLISHED, without_eps

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # effdet scripts functions at import, which torch deprecates
    from effdet import EfficientDet, get_efficientdet_config
    from effdet.data.transforms import ResizePad

CLASSES = 5  # with the background
BOXES = torch.tensor([[10.3, 12.1, 50.7, 60.2], [20.2, 15.9, 45.1, 41.3], [0.4, 0.6, 68.3, 65.9]])


@pytest.fixture(scope="module")
def parity(repository: Path) -> Any:
    sys.path.append(str(repository / "scripts"))
    yield import_module("benchmarks.parity")
    sys.path.remove(str(repository / "scripts"))


@pytest.fixture(scope="module")
def picture() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 9, 12, generator=generator)  # blobs, which coarse levels see too
    return (nn.functional.interpolate(coarse, (72, 96), mode="bilinear")[0] * 255).to(torch.uint8)


def objects(count: int) -> Objects:
    return Objects(BOXES[:count], torch.tensor([0, 2, 1])[:count], torch.zeros(count, dtype=torch.bool))


def test_detections_and_losses_equal_torchvision(parity: Any, picture: Tensor) -> None:
    """Of its smallest detector; the others differ in parts that are compared one by one."""
    pair = parity.pair_of("ssdlite320_mobilenet_v3_large", picture, num_classes=CLASSES, dtype=torch.float32)
    pictures = [picture, picture[:, :31]]  # lying, and flat
    found = parity.compare(pair, pictures[1:])
    assert found.detections > 100
    assert found.boxes < 1e-2
    assert found.scores < 1e-4
    assert found.ties < 5
    with torch.no_grad():
        losses = parity.compare_losses(pair, pictures, [objects(3), objects(0)])
    assert losses < 1e-4


def test_detections_losses_and_gradients_equal_effdet(parity: Any, picture: Tensor) -> None:
    """Of the smallest with TensorFlow's padding; the other padding: tests/parity/test_effdet_bifpn.py."""
    sides = [f"data.transform.{side}=128" for side in ("short_side", "long_side", "pad_multiple")]
    pair = parity.pair_of("tf_efficientdet_d0", picture, *sides, num_classes=CLASSES, image_size=128)
    pictures = [picture, picture[:, :31]]  # lying, and flat
    found = parity.compare(pair, pictures[1:])
    assert found.detections == 100
    assert found.boxes < 1e-3
    assert found.scores < 1e-5
    assert not found.ties
    losses = parity.compare_losses(pair, pictures, [objects(3), objects(0)])
    assert losses < 1e-5
    assert parity.compare_gradients(pair) < 1e-3


def config_of(model: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [f"experiment={model}", "data.root=none", "backbone.pretrained=false"])
    return OmegaConf.to_container(composed, resolve=True)


@pytest.mark.parametrize(
    "model",
    [
        "retinanet_resnet50_fpn_v2",
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "ssd300_vgg16",
    ],
)
def test_every_weight_has_a_place_and_finds_its_way_back(model: str) -> None:
    published = PUBLISHED[model]
    with torch.device("meta"):
        theirs = get_model(model, weights=None, weights_backbone=None).state_dict()
        ours = build_detector(config_of(model), len(published.categories)).state_dict()
    state, unknown = published.table.to_ours(theirs)
    assert not unknown
    counted = {key for key in {*state, *ours} if key.endswith("num_batches_tracked")}
    assert state.keys() - counted == ours.keys() - counted
    assert all(state[key].shape == ours[key].shape for key in ours if key not in counted)
    back, unknown = published.table.to_theirs(ours)
    assert not unknown
    assert all(back[key].shape == theirs[key].shape for key in theirs if not key.endswith("num_batches_tracked"))


def test_every_weight_of_effdets_largest_has_a_place() -> None:
    published = EFFDET["tf_efficientdet_d3"]
    config = get_efficientdet_config(published.model)
    with torch.device("meta"):
        theirs = EfficientDet(config, pretrained_backbone=False).state_dict()
        ours = build_detector(config_of(published.model), len(published.categories)).state_dict()
    assert len(published.categories) == config.num_classes
    assert config.url == published.url
    found, unknown = published.table.to_ours(theirs)
    state, (told,) = published.settled(found, published=True)
    assert not unknown
    assert told.startswith(f"{len(found) - len(state)} biases of convolutions before a norm")
    assert state.keys() == ours.keys()
    assert all(state[key].shape == ours[key].shape for key in ours)
    back, unknown = published.table.to_theirs(ours)
    assert not unknown
    assert all(back[key].shape == theirs[key].shape for key in back)


def test_names_of_older_files_are_those_of_today() -> None:
    """The first files of torchvision are from before its pyramids and towers had numbers."""
    table = PUBLISHED["retinanet_resnet50_fpn"].table
    older = {"backbone.fpn.inner_blocks.1.weight": "neck.edges.c4->t4.project.0.weight"}
    older |= {"head.classification_head.conv.4.bias": "head.cls_tower.2.conv.bias"}
    state, unknown = table.to_ours({key: torch.zeros(1) for key in older})
    assert (list(state), unknown) == (list(older.values()), [])
    rpn, _ = PUBLISHED["fasterrcnn_resnet50_fpn"].table.to_ours({"rpn.head.conv.weight": torch.zeros(1)})
    assert list(rpn) == ["head.rpn.tower.0.conv.weight"]


def test_norms_that_expect_no_eps_give_the_same() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(3)).eval()
    variance = torch.tensor([1e-7, 1e-5, 1.0])
    layers[0].running_var = variance
    x = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    layers.load_state_dict(without_eps(layers.state_dict(), 0.0))
    torch.testing.assert_close(layers(x), x / variance.view(1, 3, 1, 1).sqrt(), rtol=1e-5, atol=1e-6)


def test_classes_of_coco_keep_their_ids_and_gaps() -> None:
    with_background, without = PUBLISHED["retinanet_resnet50_fpn"].categories, PUBLISHED["ssd300_vgg16"].categories
    assert isinstance(without, Categories)
    assert (len(with_background), len(without)) == (91, 90)
    assert without.names[without.ids.index(90)] == with_background.names[90] == "toothbrush"
    assert with_background.names[18] == "dog"
    assert "N/A 12" in without.names


def test_priors_of_odd_maps_equal_torchvision() -> None:
    """Where 104 pixels give 7 cells, torchvision's lie 104 // 7 apart, on whole pixels, in the padding too."""
    spec = FeatureSpec((4, 4, 4), (8, 16, 32))
    head = RetinaNetHead(spec, 1, grid="torchvision")
    sizes = tuple((4 * s, int(4 * s * 2 ** (1 / 3)), int(4 * s * 2 ** (2 / 3))) for s in spec.strides)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
    maps = [torch.zeros(1, 4, -(-104 // s), -(-152 // s)) for s in spec.strides]
    outputs = head(maps)
    (expected,) = generator(ImageList(torch.zeros(1, 3, 104, 152), [(100, 150)]), maps)
    assert torch.equal(torch.cat(head.anchors(outputs)), expected)
    assert torch.cat(head.inside(outputs, torch.tensor([[10, 10]])), dim=1).all()


@pytest.mark.parametrize("size", [(48, 64), (31, 96), (77, 33)])
def test_resizing_equals_effdet(size: tuple[int, int]) -> None:
    """Boxes are moved by the factor asked for, not by that of the cut sides."""
    picture = torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = {"bbox": BOXES[:2, [1, 0, 3, 2]].numpy().copy(), "cls": torch.zeros(2).numpy()}
    image, expected = ResizePad(60, fill_color=(124, 116, 104))(to_pil_image(picture), given)
    sample = Transforms(short_side=60, long_side=60, resize="effdet").evaluate(picture, objects(2))
    height, width = sample.image.shape[1:]
    assert torch.equal(sample.image, pil_to_tensor(image)[:, :height, :width])
    assert set(pil_to_tensor(image)[0, height:].flatten().tolist()) <= {124}
    assert sample.scale == pytest.approx((1 / expected["img_scale"],) * 2, rel=1e-12)
    inside = [row for row in sample.objects.boxes[:, [1, 0, 3, 2]].tolist() if row[0] < row[2] and row[1] < row[3]]
    torch.testing.assert_close(torch.tensor(inside), torch.from_numpy(expected["bbox"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(48, 64), (30, 91), (77, 33)])
def test_resizing_and_padding_equal_torchvision(size: tuple[int, int]) -> None:
    picture = torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = GeneralizedRCNNTransform(60, 100, list(IMAGENET.mean), list(IMAGENET.std))
    (images, targets) = theirs([picture / 255], [{"boxes": BOXES[1:2]}])
    transform = Transforms(short_side=60, long_side=100, resize="torchvision", flip=0.0, brightness=0.1)
    ours = collate([transform.evaluate(picture, objects(2))], size_divisor=32)
    assert ours.image_sizes.tolist() == [list(images.image_sizes[0])]
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in IMAGENET)
    height, width = images.image_sizes[0]
    pixels = (ours.images / 255 - mean) / std
    assert ours.images.shape == images.tensors.shape
    torch.testing.assert_close(pixels[..., :height, :width], images.tensors[..., :height, :width], rtol=0, atol=1e-5)
    if BOXES[1, 3] < size[0] and BOXES[1, 2] < size[1]:
        torch.testing.assert_close(ours.targets.boxes[0, 1:2], targets[0]["boxes"])
    assert [step.name for step in transform.steps] == ["brightness", "resize"], "the others take uint8"


def test_the_best_of_each_class_are_candidates() -> None:
    """torchvision's SSD takes the best of each class over all levels."""
    head = SSDHead(FeatureSpec((4, 4), (8, 16)), 3, candidates_per_class=5, score_threshold=0.3)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, size, size, generator=generator) for size in (6, 3)]
    with torch.no_grad():
        for layer in head.cls_logits:
            nn.init.normal_(layer.weight, std=0.3, generator=generator)
        outputs = head(maps)
        boxes, scores, labels, levels = head.candidates(outputs, torch.tensor([[48, 48]] * 2))
        ranking = torch.cat([level.ranking for level in head.levels(outputs, torch.tensor([[48, 48]] * 2))], dim=1)
    assert boxes.shape == (2, 15, 4)
    assert set(levels.flatten().tolist()) == {0, 1}
    for image in range(2):
        for label in range(3):
            best = ranking[image, :, label].topk(5).values
            expected = torch.where(best > 0.3, best, 0.0)
            assert torch.equal(scores[image][labels[image] == label], expected)
