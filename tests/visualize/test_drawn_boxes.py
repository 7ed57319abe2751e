import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from detfuse.structures import Batch, Categories, Detections, Targets
from detfuse.visualize.boxes import CROWDED, BoxMark, draw_detections, draw_marks, draw_targets, save_picture

CATEGORIES = Categories((1, 4), ("cat", "dog"))
GREY = 128


def picture(height=400, width=480):
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def targets(valid=True, ignore=False):
    """One row that says what is asked, and one padded row."""
    return Targets(
        torch.tensor([[100.0, 100, 300, 300], [0, 0, 0, 0]]),
        torch.tensor([1, 0]),
        torch.tensor([valid, False]),
        torch.tensor([ignore, False]),
    )


def batch(count, size=(400, 480), image_size=(380, 448), **options):
    rows = targets(**options)
    sizes = torch.tensor([image_size] * count)
    return Batch(
        torch.stack([picture(*size)] * count),
        sizes,
        sizes,
        torch.ones(count, 2),
        torch.arange(count),
        Targets(*(torch.stack([column] * count) for column in rows)),
    )


def detections(*rows):
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    boxes, scores, labels = (torch.tensor(column) for column in columns)
    return Detections(boxes.reshape(-1, 4).float(), scores.float(), labels.long(), labels.long())


def changed(drawn, before):
    return (drawn != before).any(0)


def test_boxes_lie_where_they_should():
    drawn = draw_detections(picture(), detections(([100, 100, 300, 300], 0.9, 0)), CATEGORIES, threshold=0.5)
    assert drawn.dtype == torch.uint8
    where = changed(drawn, picture())
    assert where[100, 105:300].all()
    assert where[300, 100:300].all()
    assert where[100:300, 300].all()
    assert not where[110:290, 110:290].any()
    assert not where[310:].any()
    assert not where[:, 310:].any()


def test_classes_have_their_own_colours():
    box = [100, 100, 300, 300]
    cat, dog = (
        draw_detections(picture(), detections((box, 0.9, label)), CATEGORIES, threshold=0.5) for label in (0, 1)
    )
    assert not torch.equal(cat[:, 301, 200], dog[:, 301, 200]) or not torch.equal(cat[:, 300, 200], dog[:, 300, 200])


def test_name_and_score_are_written():
    box = [100, 100, 300, 300]
    texts = [draw_detections(picture(), detections((box, score, 0)), CATEGORIES, threshold=0) for score in (0.51, 0.95)]
    differing = changed(*texts).nonzero()
    assert len(differing) > 10
    assert differing[:, 0].max() < 100  # the label is above the box


@pytest.mark.parametrize("score", [0.49, float("nan")])
def test_below_the_threshold_nothing_is_drawn(score):
    found = detections(([100, 100, 300, 300], score, 0))
    assert torch.equal(draw_detections(picture(), found, CATEGORIES, threshold=0.5), picture())


def test_no_detections():
    assert torch.equal(draw_detections(picture(), detections(), CATEGORIES, threshold=0.5), picture())


def test_ground_truth_is_thin_and_white():
    drawn = draw_detections(picture(), detections(), CATEGORIES, threshold=0.5, targets=targets())
    assert (drawn[:, 100, 150] == 255).all()
    assert changed(drawn, picture())[95:105, 150].sum() == 3  # one pixel and its rims
    assert not changed(drawn, picture())[:90].any()  # no name, no padded row


def test_crowds_are_dashed():
    whole, dashed = (
        draw_detections(
            picture(), detections(), CATEGORIES, threshold=0.5, targets=targets(valid=not crowd, ignore=crowd)
        )[0, 100, 100:300]
        for crowd in (False, True)
    )
    assert (whole == 255).all()
    assert (dashed == 255).any()
    assert not (dashed == 255).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 140), (400, 560)), ((319, 400), (638, 800)), ((320, 330), (320, 330))]
)
def test_small_images_are_magnified_by_a_whole_number(size, expected):
    drawn = draw_detections(picture(*size), detections(([10, 20, 60, 80], 0.9, 0)), CATEGORIES, threshold=0.5)
    assert drawn.shape[1:] == expected
    factor = expected[0] // size[0]
    assert changed(drawn, picture(*expected))[20 * factor, 30 * factor]


@pytest.mark.parametrize(
    ("size", "expected"), [((1, 4000), (1, 4000)), ((600, 8), (4800, 64)), ((2, 70_000), (2, 65_500))]
)
def test_a_strip_becomes_no_monster_and_can_be_saved(size, expected, tmp_path):
    drawn = draw_detections(picture(*size), detections(([1, 0, 9, 1], 0.9, 0)), CATEGORIES, threshold=0.5)
    assert drawn.shape[1:] == expected
    assert save_picture(tmp_path / "strip.jpg", drawn).is_file()


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [-50, -50, 900, 900], [470, 390, 480, 400], [200, 200, 200, 260]])
def test_odd_boxes_and_labels_stay_in_the_picture(box):
    drawn = draw_detections(picture(), detections((box, 0.9, 1)), CATEGORIES, threshold=0.5)
    assert drawn.shape == picture().shape
    assert changed(drawn, picture()).any()


def test_a_name_at_the_right_border_is_whole():
    drawn = draw_detections(picture(), detections(([472, 200, 480, 260], 0.9, 1)), CATEGORIES, threshold=0.5)
    assert changed(drawn, picture())[190].sum() > 30


def test_the_best_detection_lies_on_top():
    box = [100, 100, 300, 300]
    both = detections((box, 0.9, 1), (box, 0.6, 0))
    drawn, alone = (
        draw_detections(picture(), both, CATEGORIES, threshold=threshold)[:, 100:310] for threshold in (0.5, 0.8)
    )
    assert torch.equal(drawn, alone)


def test_targets_show_padding_boxes_and_crowds():
    plain, crowd = (draw_targets(batch(1, valid=not ignore, ignore=ignore), CATEGORIES) for ignore in (False, True))
    assert plain.dtype == torch.uint8
    frame = (plain.shape[1] - 400) // 2
    tile = plain[:, frame : frame + 400, frame : frame + 480]
    where = changed(tile, picture())
    assert where[380:].all()  # padding
    assert where[:, 448:].all()
    assert where[100, 105:300].all()
    assert not where[310:370, :440].any()
    assert not torch.equal(plain, crowd)


@pytest.mark.parametrize(
    ("count", "max_images", "grid"), [(1, 8, (1, 1)), (3, 8, (1, 3)), (4, 8, (2, 2)), (9, 6, (2, 4))]
)
def test_targets_make_a_grid(count, max_images, grid):
    drawn = draw_targets(batch(count), CATEGORIES, max_images=max_images)
    assert (drawn.shape[1] // 400, drawn.shape[2] // 480) == grid


def test_large_images_are_reduced_in_a_grid():
    drawn = draw_targets(batch(1, size=(960, 1600), image_size=(900, 1600)), CATEGORIES)
    assert drawn.shape[2] < 820


def test_inputs_are_not_changed():
    given, image, found = batch(2), picture(), detections(([100, 100, 300, 300], 0.9, 0))
    draw_targets(given, CATEGORIES)
    draw_detections(image, found, CATEGORIES, threshold=0)
    assert torch.equal(given.images, batch(2).images)
    assert torch.equal(image, picture())
    assert found.boxes.tolist() == [[100, 100, 300, 300]]


def test_no_image_to_draw():
    with pytest.raises(ValueError, match="at least one image"):
        draw_targets(batch(1), CATEGORIES, max_images=0)


def test_only_pictures_are_drawn():
    with pytest.raises(ValueError, match=r"uint8 picture \(3, H, W\), got torch.float32"):
        draw_detections(picture().float(), detections(), CATEGORIES, threshold=0.5)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "new folder/a.jpeg"])
def test_pictures_are_saved(name, tmp_path):
    image = picture()
    image[:, 100:200, 100:200] = 40
    path = save_picture(tmp_path / name, image)
    with Image.open(path) as file:
        back = pil_to_tensor(file)
    assert (back.int() - image.int()).abs().max() <= (0 if name.endswith("png") else 12)
    assert list(path.parent.iterdir()) == [path]


def test_unknown_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: expected a name that ends in \.png, \.jpg, \.jpeg"):
        save_picture(tmp_path / "a.gif", picture())
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = save_picture(tmp_path / "a.png", picture())
    before = path.read_bytes()

    def fail(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_picture(path, picture(50, 50))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_written_where_they_can_be_read() -> None:
    def named(marks: list[BoxMark]) -> bool:
        drawn = draw_marks(picture(), marks)
        return not torch.equal(drawn, draw_marks(picture(), [mark._replace(name="") for mark in marks]))

    places = [(20.0 + 80 * (i % 5), 40.0 + 80 * (i // 5)) for i in range(CROWDED + 1)]
    thick = [BoxMark((x, y, x + 40, y + 30), "cat", (0, 200, 0)) for x, y in places]
    thin = [mark._replace(thin=True) for mark in thick]
    assert named(thick[:CROWDED])
    assert not named(thick)
    assert named(thin[: CROWDED // 2])
    assert not named(thin[:CROWDED])


def test_no_name_covers_another() -> None:
    one = BoxMark((100, 100, 300, 300), "dog", (0, 200, 0))
    marks = [one._replace(color=(200, 0, 40 * i)) for i in range(5)] + [one]
    drawn = draw_marks(picture(), marks)
    alone = draw_marks(picture(), [one])
    above = (slice(None), slice(70, 98), slice(100, 140))
    assert torch.equal(drawn[above], alone[above]), "the topmost box's name has the best place, whole"
    colors = [tuple(color) for color in drawn.flatten(1).T.unique(dim=0).tolist()]
    assert sum((200, 0, 40 * i) in colors for i in range(5)) == 2, "inside and below; the others have no room"
