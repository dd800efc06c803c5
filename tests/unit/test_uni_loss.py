from itertools import permutations

import pytest
import torch
from noise import draws_of
from torch.nn import functional
from uni_models import CLASSES, noise, tiny

from adafocus.methods.uni_loss import UniDraws, draw_label, mixed, policy_terms, uni_loss
from adafocus.model.classifier import GlobalFeatures

TERMS = {"loss_steps", "loss_glance", "loss_focus", "loss_where", "loss_when", "size"}


@pytest.fixture(params=["long", "short"])
def model(request):
    return tiny(request.param).train()


@pytest.fixture
def inputs(model):
    torch.manual_seed(0)
    return *noise(model), functional.one_hot(torch.tensor([0, 3, 4]), CLASSES).float()


def test_the_loss_is_the_sum_of_its_terms(model, inputs):
    total, logs = uni_loss(model, *inputs, UniDraws.of(model, draws_of(3)), 0.25)
    assert logs.keys() == {"loss", *TERMS, "box_side", "frame_entropy"}
    parts = [logs[name] * (0.25 if name == "size" else 1) for name in TERMS]
    assert total.item() == pytest.approx(sum(parts).item())
    assert logs["loss"] is total
    assert 20 < logs["box_side"] < 36
    assert 0 < logs["frame_entropy"] <= torch.tensor(4.0).log() + 1e-6
    # The focuser sees both halves at once, the long videos' classifier one after the other.
    seen = {name: buffer.item() for name, buffer in model.named_buffers() if "tracked" in name}
    assert {name: count for name, count in seen.items() if count != 1} == {
        name: 2 for name in seen if name.startswith("classifier.")
    }


def learning(model, loss):
    """Parts of the model which a loss teaches."""
    parts = {
        "glancer.trunk": model.glancer.trunk,
        "glancer.head": model.glancer.head,
        **{f"glancer.{name}": head for name, head in model.glancer.others.items()},
        "focuser.trunk": model.focuser.trunk,
        "focuser.head": model.focuser.head,
        **{f"focuser.{name}": head for name, head in model.focuser.others.items()},
        "where": model.policy.where,
        "when": model.policy.when,
    }
    if not model.shape.apart:
        parts["classifier"] = model.classifier
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name
        for name, part in parts.items()
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    }


def test_each_term_teaches_what_it_should(model, inputs):
    _, logs = uni_loss(model, *inputs, UniDraws.of(model, draws_of(3)), 1.0)
    taught = {name: learning(model, logs[name]) for name in TERMS}
    assert taught["loss_glance"] == {"glancer.trunk", "glancer.head"}
    assert taught["loss_focus"] == {"focuser.trunk", "focuser.head"}
    assert taught["loss_where"] == {"where", "glancer.where"}
    assert taught["size"] == {"where"}
    if model.shape.apart:
        assert taught["loss_steps"] == {"glancer.prediction", "focuser.prediction"}
        assert taught["loss_when"] == {"when"}
    else:
        assert taught["loss_steps"] == {"glancer.trunk", "focuser.trunk", "classifier"}
        assert taught["loss_when"] == {"glancer.trunk", "glancer.head", "when"}


def test_a_few_steps_lower_the_loss(model, inputs):
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    losses = []
    for step in range(12):
        drawn = UniDraws.of(model, draws_of(3, seed=step))
        loss, logs = uni_loss(model, *inputs, drawn, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(logs["loss_glance"].item() + logs["loss_focus"].item())
    assert losses[-1] < 0.7 * losses[0]


def exact(logits, weights, most):
    """The mean of what `mixed` gives, by going through all orders of being drawn."""
    frames = range(len(weights))
    views = []
    for taken in range(most):
        view = torch.zeros_like(logits[0])
        for order in permutations(frames, taken):
            left, probability = set(frames), 1.0
            for frame in order:
                probability *= weights[frame] / sum(weights[i] for i in left)
                left.remove(frame)
            total = sum(weights[i] for i in left)
            view += probability * sum(weights[i] / total * logits[i] for i in left)
        views.append(view)
    return torch.stack(views).mean(0)


def test_what_is_left_of_four_frames_is_the_mean_over_all_draws():
    torch.manual_seed(0)
    logits, weights = (
        torch.randn(2, 4, 3),
        torch.tensor([[0.4, 0.1, 0.2, 0.3], [0.85, 0.05, 0.04, 0.06]]),
    )
    clocks = torch.empty(2, 3, 40000, 4).exponential_()
    found = mixed(logits, weights, clocks)
    for video in range(2):
        assert torch.allclose(found[video], exact(logits[video], weights[video], 3), atol=0.01)
    # Fewer draws come near it.
    target = torch.tensor([0, 2])
    loss = functional.cross_entropy(mixed(logits, weights, clocks[:, :, :128]), target)
    views = torch.stack([exact(logits[video], weights[video], 3) for video in range(2)])
    assert loss.item() == pytest.approx(functional.cross_entropy(views, target).item(), abs=0.05)


def test_the_weights_learn_as_if_their_sum_were_fixed():
    torch.manual_seed(0)
    logits, clocks = torch.randn(1, 4, 1), torch.empty(1, 2, 1, 4).exponential_()
    weights = torch.tensor([[0.4, 0.1, 0.2, 0.3]], requires_grad=True)
    mixed(logits, weights, clocks).sum().backward()
    first = (clocks[0, 1, 0] / weights[0]).argmin()
    left = torch.ones(4).index_fill(0, first, 0)
    expected = (logits[0, :, 0] + logits[0, :, 0] * left / (weights[0] * left).sum()) / 2
    assert torch.allclose(weights.grad[0], expected.detach())


def test_weights_of_nothing_are_numbers():
    clocks = torch.empty(1, 2, 5, 4).exponential_()
    left = mixed(torch.randn(1, 4, 3), torch.tensor([[1.0, 0, 0, 0]]), clocks)
    assert left.isfinite().all()


def test_where_to_look_is_learned_by_true_gradients():
    """By finite differences, for each number of the boxes."""
    torch.manual_seed(0)
    model = tiny("long").double()
    maps = torch.randn(2, 4, model.glancer.channels, 8, 8, dtype=torch.float64)
    glimpse = GlobalFeatures(
        maps, maps.mean((-2, -1)), torch.randn(2, 4, CLASSES, dtype=torch.float64)
    )
    target = functional.one_hot(torch.tensor([1, 2]), CLASSES).double()
    weights = torch.rand(2, 4, dtype=torch.float64).softmax(-1)
    clocks = torch.ones(2, 1, 1, 4, dtype=torch.float64)

    def loss(actions):
        return policy_terms(model, glimpse, actions, weights, clocks, target)["loss_where"]

    for frames in (4, 1):
        actions = torch.rand(2, frames, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(loss, actions, eps=1e-7)
        assert torch.autograd.grad(loss(actions), actions)[0].abs().min() > 0


def test_draws_are_the_same_for_any_number_of_processes(model):
    whole = UniDraws.of(model, draws_of(6))
    part = UniDraws.of(model, draws_of(6).part(slice(2, 5)))
    for some, all_ in zip(part, whole, strict=True):
        assert some is None or torch.equal(some, all_[2:5])
    again, other = UniDraws.of(model, draws_of(6)), UniDraws.of(model, draws_of(6, seed=1))
    for one, same, different in zip(whole, again, other, strict=True):
        assert one is None or (torch.equal(one, same) and not torch.equal(one, different))


def test_what_is_drawn():
    long, short = (UniDraws.of(tiny(kind), draws_of(50)) for kind in ("long", "short"))
    assert short.glanced is None
    # One of each three candidates, each as likely.
    within = long.glanced - torch.tensor([0, 3, 6, 9])
    assert within.unique().tolist() == [0, 1, 2]
    assert within.float().mean() == pytest.approx(1, abs=0.2)
    assert long.offsets.shape == short.offsets.shape == (50, 5)
    assert long.places.shape == (50, 5, 2)
    assert short.places.shape == (50, 1, 2)
    assert long.clocks.shape == (50, 4 // 3, 128, 4)


def test_one_label_of_several_is_drawn_evenly():
    labels = torch.tensor([0, 1, 0, 1, 1], dtype=torch.bool).expand(600, -1)
    drawn = draw_label(labels, draws_of(600))
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn.sum(1), torch.ones(600))
    assert drawn.mean(0).tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3], abs=0.06)
    part = draw_label(labels[2:5], draws_of(600).part(slice(2, 5)))
    assert torch.equal(part, drawn[2:5])
    alone = torch.eye(5, dtype=torch.bool)
    assert torch.equal(draw_label(alone, draws_of(5)), alone.float())
