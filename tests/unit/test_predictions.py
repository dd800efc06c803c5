from dataclasses import replace

import numpy as np
import pytest

from adafocus.evaluation.predictions import Predictions, coverage, grid_shares


def predictions_of(labels, predicted):
    labels = np.array(labels, bool)
    videos, classes = labels.shape
    return Predictions(
        classes=np.array([f"class {k}" for k in range(classes)]),
        videos=np.array([f"v{n}" for n in range(videos)]),
        labels=labels,
        predicted=np.array(predicted, np.int16),
        probability=np.linspace(0, 1, videos, dtype=np.float32),
        corners=np.zeros((videos, 2, 2), np.int16),
        accuracy=np.array([50.0] * classes, np.float32),
        accuracy_random=np.arange(classes, dtype=np.float32),
    )


def boxes_at(corners, size=1):
    """Square boxes at corners (..., 2)."""
    corners = np.asarray(corners, np.float32)
    return np.concatenate((corners, np.full_like(corners, size)), axis=-1)


def test_a_file_of_an_older_version_tells_corners_alone(tmp_path):
    written = predictions_of([[1, 0], [0, 1]], [0, 1])
    written.corners[0, 1] = -1
    written.write(tmp_path / "a.predictions.npz")
    with np.load(tmp_path / "a.predictions.npz") as arrays:
        assert {"corners", "labels"} <= set(arrays) and not {"boxes", "frames"} & set(arrays)
    read = Predictions.read(tmp_path / "a.predictions.npz")
    assert read.boxes_of(5)[0].tolist() == [[0, 0, 5, 5], [-1, -1, -1, -1]]
    assert read.frames_of(1, [1, 0]).tolist() == [1, 0]


def test_a_file_holds_all(tmp_path):
    written = replace(
        predictions_of([[1, 0], [0, 1], [1, 1]], [0, 0, 1]),
        boxes=boxes_at(np.zeros((3, 1, 2)), 5),
        frames=np.array([[0, 2], [1, 2], [0, 1]], np.int16),
    )
    written.write(tmp_path / "a.predictions.npz")
    read = Predictions.read(tmp_path / "a.predictions.npz")
    for name, array in vars(written).items():
        assert array.dtype == getattr(read, name).dtype
        assert (array == getattr(read, name)).all()
    assert read.boxes_of(32) is read.boxes and read.frames_of(1, [0, 1]).tolist() == [1, 2]


def test_confusion_of_single_labels():
    labels = np.eye(3, dtype=bool)[[0, 0, 1, 2]]
    found = predictions_of(labels, [0, 1, 1, 0])
    assert found.right.tolist() == [True, False, True, False]
    assert found.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_each_video_of_several_labels_counts_once():
    """Right: on the diagonal. Wrong: in equal parts for each label."""
    found = predictions_of([[1, 1, 0], [1, 1, 0]], [1, 2])
    assert found.confusion().tolist() == [[0, 0, 0.5], [0, 1, 0.5], [0, 0, 0]]


def test_gain_is_over_random_patches():
    assert predictions_of([[1, 0]], [0]).gain.tolist() == [50, 49]


@pytest.mark.parametrize(
    ("margin", "grid"),
    [(96, 7), (24, 5), (68, 7), (32, 7), (20, 7), (64, 8), (128, 6), (8, 7), (11, 7), (6, 7)],
)
def test_every_cell_of_the_policys_grid_has_its_place(margin, grid):
    places = [margin * i // (grid - 1) for i in range(grid)]
    boxes = boxes_at([(y, x) for y in places for x in places])[:, None]
    assert grid_shares(boxes, margin, grid) == pytest.approx(np.full((grid,) * 2, 100 / grid**2))


def test_corners_at_random_fall_into_all_cells_alike():
    boxes = boxes_at([(y, x) for y in range(84) for x in range(84)])
    assert grid_shares(boxes, 83, 7) == pytest.approx(np.full((7, 7), 100 / 49))


def test_rows_of_a_grid_go_down():
    assert grid_shares(boxes_at([(8, 0), (8, 1)]), 8, 3)[2, 0] == 100
    # A patch as large as the frame has one place.
    assert grid_shares(boxes_at([(0, 0)] * 4), 0, 3) == [[100]]


def test_coverage_counts_the_patches_over_each_pixel():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12 - 5 + 1, size=(6, 3, 2)).astype(np.int16)
    expected = np.zeros((12, 12))
    for top, left in corners.reshape(-1, 2):
        expected[top : top + 5, left : left + 5] += 100 / 18
    assert coverage(boxes_at(corners, 5), 12) == pytest.approx(expected)


def test_coverage_of_boxes_of_any_shape():
    """A pixel counts by its centre; frames without a patch are passed over."""
    boxes = np.array([[0.4, 1.6, 2.2, 1.0], [0.6, 0.4, 0.8, 2.2], [-1] * 4], np.float32)
    expected = np.zeros((4, 4))
    expected[0:3, 2] += 50  # rows 0.4 to 2.6 and columns 1.6 to 2.6; of the other no row
    assert coverage(boxes, 4) == pytest.approx(expected)


def test_looks_of_files_of_older_versions():
    """Which told corners alone, one of a model that looks once."""
    skipped = np.array([[[1, 2]], [[-1, -1]]], np.int16)
    named = np.array(["a", "b"])
    found = Predictions(
        named, named, np.eye(2, dtype=bool), *[np.zeros(2)] * 2, skipped, *[named] * 2
    )
    looks = found.looks(16, 4)
    assert looks.frames.tolist() == [[0, 1, 2, 3]] * 2
    assert looks.patches.tolist() == [[[1, 2, 16, 16]], [[-1] * 4]]
    assert looks.skipped.tolist() == [[False], [True]]
    told = replace(found, boxes=looks.patches.numpy(), frames=np.array([[1, 3]] * 2, np.int16))
    assert told.looks(16, 4).frames.tolist() == [[1, 3]] * 2
