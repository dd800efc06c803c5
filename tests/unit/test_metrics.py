import pytest
import torch

from adafocus.evaluation.metrics import accuracy


def test_by_hand():
    logits = torch.tensor([[3.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    labels = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.bool)
    scores = accuracy(logits, labels)
    assert scores["top1"] == 75
    assert scores["top5"] == 100
    # Margins of class 0 rank the videos 0, 1, 3, 2: its positives come first and third.
    first = (1 / 1 + 2 / 3) / 2
    # Those of class 1 rank them 2, 3, 1, 0: first and third again.
    assert scores["mAP"] == pytest.approx(100 * first)


def test_any_of_several_labels_counts():
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    labels = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    assert accuracy(logits, labels)["top1"] == 50


def test_top_5_stops_at_the_fifth():
    logits = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]).repeat(2, 1)
    labels = torch.zeros(2, 7, dtype=torch.bool)
    labels[0, 4] = labels[1, 5] = True
    assert accuracy(logits, labels)["top5"] == 50


def test_a_class_without_a_positive_video_is_left_out_of_the_mean():
    logits = torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, 5.0]])
    labels = torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.bool)
    assert accuracy(logits, labels)["mAP"] == 100


def test_precision_ranks_probabilities_and_not_logits():
    # The second video's logit of class 0 is higher, its probability is lower.
    logits = torch.tensor([[1.0, -5.0], [2.0, 8.0]])
    labels = torch.tensor([[1, 0], [0, 1]], dtype=torch.bool)
    assert accuracy(logits, labels)["mAP"] == 100
