import torch

from adafocus.model.classifier import AverageClassifier, GlobalFeatures, RecurrentClassifier

B, T, G, L, K = 3, 5, 6, 4, 7


def global_features() -> GlobalFeatures:
    return GlobalFeatures(torch.randn(B, T, G, 2, 2), torch.randn(B, T, G), torch.randn(B, T, K))


def test_counterfactual_equals_a_loop_over_steps():
    torch.manual_seed(0)
    classifier = RecurrentClassifier(G, L, hidden=8, classes=K, dropout=0.5).eval()
    seen, local, other = global_features(), torch.randn(B, T, L), torch.randn(B, T, L)
    hidden = torch.zeros(1, B, 8)
    for t in range(T):
        branch = torch.cat((seen.pooled[:, t : t + 1], other[:, t : t + 1]), -1)
        expected = classifier.fc(classifier.gru(branch, hidden)[0][:, 0])
        batched = classifier.counterfactual(seen, local, other)[:, t]
        assert torch.allclose(batched, expected, atol=1e-6)
        real = torch.cat((seen.pooled[:, t : t + 1], local[:, t : t + 1]), -1)
        _, hidden = classifier.gru(real, hidden)


def test_counterfactual_of_the_same_patch_is_the_prediction():
    classifier = RecurrentClassifier(G, L, hidden=8, classes=K, dropout=0.5).eval()
    seen, local = global_features(), torch.randn(B, T, L)
    expected = classifier(seen, local)
    assert torch.allclose(classifier.counterfactual(seen, local, local), expected, atol=1e-6)


def test_average_classifier_by_hand():
    classifier = AverageClassifier(L, K, dropout=0.5).eval()
    seen, local = global_features(), torch.randn(B, 12, L)
    expected = seen.logits.mean(1) + torch.stack([classifier.fc(x).mean(0) for x in local])
    assert torch.allclose(classifier(seen, local)[:, 0], expected, atol=1e-6)
