import numpy as np
import pytest
import torch
from published import GOLDEN

from adafocus.evaluation.metrics import compute_metrics, metric_by_class


def test_by_hand():
    logits = torch.tensor([[3.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    labels = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.bool)
    scores = compute_metrics(logits, labels)
    assert scores["top1"] == 75
    assert scores["top5"] == 100
    # Margins of class 0 rank the videos 0, 1, 3, 2: its positives come first and third.
    first = (1 / 1 + 2 / 3) / 2
    # Those of class 1 rank them 2, 3, 1, 0: first and third again.
    assert scores["mAP"] == pytest.approx(100 * first)


def test_any_of_several_labels_counts():
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    labels = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    assert compute_metrics(logits, labels)["top1"] == 50


def test_top_5_stops_at_the_fifth():
    logits = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]).repeat(2, 1)
    labels = torch.zeros(2, 7, dtype=torch.bool)
    labels[0, 4] = labels[1, 5] = True
    assert compute_metrics(logits, labels)["top5"] == 50


def test_a_class_without_a_positive_video_is_left_out_of_the_mean():
    logits = torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, 5.0]])
    labels = torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.bool)
    assert compute_metrics(logits, labels)["mAP"] == 100


def test_precision_ranks_probabilities_and_not_logits():
    # The second video's logit of class 0 is higher, its probability is lower.
    logits = torch.tensor([[1.0, -5.0], [2.0, 8.0]])
    labels = torch.tensor([[1, 0], [0, 1]], dtype=torch.bool)
    assert compute_metrics(logits, labels)["mAP"] == 100


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_precision_is_the_published_codes(kind):
    golden = np.load(GOLDEN / "map_golden.npz")
    logits = torch.from_numpy(golden["outputs"])
    labels = torch.zeros(logits.shape, dtype=torch.bool)
    rows, columns = (golden[kind] >= 0).nonzero()
    labels[rows, golden[kind][rows, columns]] = True
    assert compute_metrics(logits, labels)["mAP"] == pytest.approx(
        float(golden[f"map_{kind}"]), abs=1e-6
    )


def test_an_absent_class_does_not_mix_up_the_others():
    golden = np.load(GOLDEN / "map_golden.npz")
    kept = golden["absent_keep"]
    logits = torch.from_numpy(golden["outputs"][kept])
    labels = torch.nn.functional.one_hot(torch.from_numpy(golden["single"][kept, 0]), 20).bool()
    (absent,) = (~labels.any(0)).nonzero()
    scores = compute_metrics(logits, labels)
    per_class = [
        average_precision(logits.softmax(-1)[:, k], labels[:, k]) for k in range(20) if k != absent
    ]
    assert scores["mAP"] == pytest.approx(100 * sum(per_class) / 19)
    published = float(golden["map_single_class3_absent_authors"])
    assert scores["mAP"] != pytest.approx(published, abs=0.1)


def test_classes_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.5]])
    labels = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.bool)
    top1 = metric_by_class(logits, labels, "top1")
    # A class without a video has no accuracy.
    assert top1 == pytest.approx([100 * 2 / 3, 100, np.nan], nan_ok=True)
    assert metric_by_class(logits, labels, "top5")[0] == 100


def test_the_mean_over_classes_is_that_of_all():
    golden = np.load(GOLDEN / "map_golden.npz")
    logits = torch.from_numpy(golden["outputs"])
    labels = torch.nn.functional.one_hot(torch.from_numpy(golden["single"][:, 0]), 20).bool()
    scores = compute_metrics(logits, labels)
    assert metric_by_class(logits, labels, "mAP").mean() == pytest.approx(scores["mAP"])
    videos = labels.sum(0).numpy()
    top1 = metric_by_class(logits, labels, "top1")
    assert np.average(top1, weights=videos) == pytest.approx(scores["top1"])


def average_precision(scores, truth):
    """Mean over the positives of the precision down to each one's rank."""
    ranked = truth[scores.argsort(descending=True)]
    hits = ranked.cumsum(0)
    return (hits / torch.arange(1, len(ranked) + 1))[ranked].mean().item()
