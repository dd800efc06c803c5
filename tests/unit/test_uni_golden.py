"""The authors' checkpoints of Uni-AdaFocus give the authors' numbers.

Boxes of random weights on noise amplify rounding a thousandfold, so that the focuser is compared on
the golden boxes as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published import GOLDEN, sections, videos
from uni_models import published

from adafocus.methods.uni_loss import MIXTURES, focus_terms, mixed, policy_terms
from adafocus.model.published_uni import PREFIX, published_names, translate
from adafocus.model.uni import look_at

NAMES = {"long": "uni_actnet_128", "short": "uni_sth_96_8"}


@pytest.fixture(scope="module", params=["long", "short"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    state = sections(NAMES[kind])["state_dict"]
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    model = published(kind).eval()
    model.load_state_dict(translate(Path("published.pth"), state, model))
    return model


@pytest.fixture(scope="module")
def inputs(kind):
    """Candidates, and frames to glance at where these are others."""
    if kind == "long":
        return videos(7, 2, 48), None
    return videos(8, 2, 24), videos(7, 2, 8)


@pytest.fixture(scope="module")
def golden(kind):
    return {name: torch.from_numpy(value) for name, value in load(NAMES[kind]).items()}


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def glimpse(model, inputs):
    with torch.inference_mode():
        return model.glance(model.glanced_frames(*inputs))


def close(found, expected, tolerance):
    """Within so much of the expected values' spread."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.std()


@torch.inference_mode()
def test_a_glance_is_the_published_one(kind, model, glimpse, golden):
    actions = model.policy.where(glimpse.maps)
    expected = golden["actions"].view_as(actions)
    assert (actions - expected).abs().max() <= 2e-5
    assert (model.weigh(glimpse) - golden["frame_weights"]).abs().max() <= 2e-5
    assert torch.equal(model.look(glimpse).frames, golden["focus_indices"])
    head = model.glancer.others["where"]
    close(head(model.in_boxes(glimpse.maps, actions)), golden["spatial_logits"], 1e-4)
    if kind == "long":
        shape = model.shape
        places = range(shape.share // 2, shape.candidates, shape.share)
        assert golden["glance_indices"].tolist() == list(places)
        close(glimpse.logits, golden["glance_logits"], 1e-4)
    else:
        close(glimpse.logits.mean(1), golden["glance_aux_logits"], 1e-4)


@torch.inference_mode()
def test_frames_taken_away_leave_the_published_view(kind, model, glimpse, golden):
    torch.manual_seed(0)
    clocks = torch.empty(2, model.shape.glanced // 3, MIXTURES, model.shape.glanced).exponential_()
    left = mixed(model.to_mix(glimpse), model.weigh(glimpse), clocks)
    # Both are drawn.
    away = (left - golden["temporal_logits"]).square().mean().sqrt()
    assert away <= 5e-3 * golden["temporal_logits"].std()


@torch.inference_mode()
def test_focusing_in_the_published_boxes_gives_the_published_logits(
    kind, model, inputs, glimpse, golden
):
    actions = golden["actions"].view(2, -1, 4)
    looks = model.place(actions, golden["focus_indices"])
    seen = model.patches(inputs[0], looks)
    pixels, means = seen.flatten(2), golden["patch_mean"]
    assert (pixels.mean(-1).view_as(means) - means).abs().max() <= 1e-5
    assert (seen[0, 0, :, ::16, ::16] - golden["patch0"]).abs().max() <= 1e-4
    local = model.focus(inputs[0], looks)
    opinions = model.opinion(model.focuser, local)
    logits = model.classify(glimpse, local)
    if kind == "long":
        assert (pixels.std(-1).view_as(means) - golden["patch_std"]).abs().max() <= 1e-5
        close(opinions, golden["focus_logits"], 1e-3)
        close(logits, golden["step_logits"], 1e-3)
        close(logits[:, -1], golden["logits"], 1e-3)
    else:
        close(opinions.mean(1), golden["focus_aux_logits"], 1e-3)
        close(logits[:, 0], golden["logits"], 1e-3)


@torch.inference_mode()
def test_end_to_end(kind, model, inputs, golden):
    out = model(*inputs)
    close(out.logits[:, -1], golden["logits"], 3e-2)
    assert out.logits.shape[1] == (32 if kind == "long" else 1)
    assert torch.equal(out.frames, golden["focus_indices"])
    actions = golden["actions"].view(2, -1, 4)
    looks = model.place(actions, golden["focus_indices"])
    assert (out.boxes - looks.boxes).abs().max() <= 1e-2
    assert torch.equal(out.corners, out.boxes[..., :2].round().long())
    assert out.corners.dtype == out.frames.dtype == torch.int64


def test_losses_and_gradients_are_the_published_ones(kind, model, inputs):
    golden = {k: torch.from_numpy(v) for k, v in load(f"{NAMES[kind]}_train").items()}
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    target = torch.nn.functional.one_hot(golden["target"], 200 if kind == "long" else 174).float()
    chosen = golden["focus_indices"]
    glimpse = model.glance(model.glanced_frames(*inputs, golden.get("glance_indices")))
    actions = model.policy.where(glimpse.maps.detach())
    place = model.shape.boxes.place
    policys = place(golden["policy_boxes"].view(2, -1, 4))
    assert (model.place(actions, chosen).boxes - policys).abs().max() <= 1e-2
    squares = place(golden["random_boxes"].view(2, -1, 4))
    halves = look_at(chosen, policys), look_at(chosen, squares)
    terms = focus_terms(model, inputs[0], glimpse, halves, target)
    torch.manual_seed(0)
    clocks = torch.empty(2, model.shape.glanced // 3, MIXTURES, model.shape.glanced).exponential_()
    terms |= policy_terms(model, glimpse, actions, model.weigh(glimpse), clocks, target)

    when = terms.pop("loss_when")
    assert when.item() == pytest.approx(golden["loss_when"].item(), abs=0.01)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: golden[name].item() for name in terms}, abs=1e-4
    )
    size = golden["weight_of_size"].item() * terms.pop("size")
    total = sum(terms.values()) + size
    assert total.item() == pytest.approx(golden["total_without_when"].item(), abs=4e-4)
    total.backward()
    compared = set()
    for name, parameter in model.named_parameters():
        for step, key in enumerate(published_names(model, name)):
            expected = golden.get(f"grad/{key}")
            if expected is not None:
                gradient = parameter.grad[step] if "_heads." in name else parameter.grad
                if gradient.shape != expected.shape:  # see golden/README.md
                    gradient = gradient[:, 3::4]
                # The last bit of a box moves a shifted focuser's by as much as that. Before a batch
                # norm a bias has none but of rounding.
                tolerance = 5e-2 if key == "local_CNN.base_model.conv1.weight" else 1e-2
                least = 1e-6 if "mlp.layers.0.bias" in key else 0
                away = (gradient - expected).abs().max()
                assert away <= max(tolerance * expected.abs().max(), least), key
                compared.add(f"grad/{key}")
    assert compared == {name for name in golden if name.startswith("grad/")}
    assert len(compared) == (9 if kind == "long" else 8)
