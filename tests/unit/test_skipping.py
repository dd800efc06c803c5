"""AdaFocus+: the policy skips frames, and the focuser does not run on them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noise import BATCH, noise_batch, skip_half, skipping_recipe, tiny_recipe

from adafocus.model.adafocus import build
from adafocus.model.looks import Looks
from adafocus.model.patches import SKIPPED
from adafocus.model.policy import CellOrSkip
from adafocus.recipe import RecipeError, parse_recipe
from adafocus.training import ppo

NEVER = -1e4
COST = 0.25


@pytest.fixture
def batch():
    torch.manual_seed(4)
    return noise_batch(skipping_recipe())


@pytest.fixture
def model(batch):
    """A model that skips half of the batch's frames."""
    torch.manual_seed(3)
    return skip_half(build(skipping_recipe(), 32).eval(), batch.frames)


numbers = st.floats(-20, 20)


@given(st.lists(numbers, min_size=2, max_size=9), numbers)
def test_both_decisions_are_one_distribution(cells, skip):
    numbers = torch.tensor([*cells, skip], dtype=torch.float64)
    actions = CellOrSkip(numbers[:-1], numbers[-1:])
    p_skip = 1 / (1 + math.exp(-skip))
    total = sum(map(math.exp, cells))
    looks = [(1 - p_skip) * math.exp(cell) / total for cell in cells]
    torch.testing.assert_close(actions.probs, torch.tensor([*looks, p_skip]).double())
    outcomes = torch.arange(len(cells) + 1)
    expected = torch.tensor([*looks, p_skip]).double().log()
    torch.testing.assert_close(actions.log_prob(outcomes), expected)
    assert actions.best_cell == numbers[:-1].log_softmax(-1).argmax()
    assert actions.mode == (len(cells) if actions.probs[-1] > 0.5 else actions.best_cell)


def test_it_skips_only_where_that_is_likelier_than_all_cells_together():
    cells = torch.zeros(49)  # each has at most a 49th, less than skipping's third
    assert CellOrSkip(cells, torch.tensor([math.log(0.5)])).mode != 49
    assert CellOrSkip(cells, torch.tensor([math.log(1.5)])).mode == 49


def test_the_focuser_runs_on_the_frames_that_are_kept_alone(model, batch):
    looks = model.look(model.glance(batch.glance), batch.frames.shape[1])
    kept = looks.looked
    assert 0 < kept.sum() < kept.numel()
    assert ((looks.corners == SKIPPED).all(-1) == ~kept).all()
    assert ((looks.patches == SKIPPED).all(-1) == ~kept).all()
    seen = []
    model.focuser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    local = model.focus(batch.frames, looks)
    assert seen == [(kept.sum(), 1, 3, 32, 32)]
    assert (local[~kept] == 0).all()
    whole = model.focus(batch.frames, Looks.at(looks.boxes.clamp(min=0), 4))
    torch.testing.assert_close(local[kept], whole[kept])


def test_nothing_runs_where_all_frames_are_skipped(model, batch):
    model.focuser.register_forward_pre_hook(lambda *_: pytest.fail("the focuser ran"))
    nowhere = model.looks_at(torch.full((BATCH, 4, 2), SKIPPED), 4)
    assert (model.focus(batch.frames, nowhere) == 0).all()


def test_never_skipping_is_the_plain_model_exactly(batch):
    torch.manual_seed(0)
    skipping = build(skipping_recipe(0.0), 32).eval()
    torch.nn.init.zeros_(skipping.policy.skip.weight)
    torch.nn.init.constant_(skipping.policy.skip.bias, NEVER)
    plain = build(tiny_recipe("gru"), 32).eval()
    state = {k: v for k, v in skipping.state_dict().items() if not k.startswith("policy.skip")}
    plain.load_state_dict(state)
    with torch.no_grad():
        ours, theirs = skipping(batch.frames), plain(batch.frames)
    assert torch.equal(ours.logits, theirs.logits)
    assert all(map(torch.equal, ours.looks, theirs.looks))

    rollouts, losses = [], []
    for model in (skipping, plain):
        actions = plain.policy(model.glance(batch.glance).maps).actions.mode
        model.policy.sample = lambda *_, actions=actions: actions
        rollouts.append(ppo.rollout(model, batch, 0.0))
        returns = ppo.standardized(ppo.discounted_returns(rollouts[-1].reward, 0.7))
        decision = model.policy(rollouts[-1].maps)
        weights = {"clip": 0.2, "value_coefficient": 0.5, "entropy_coefficient": 0.01}
        losses.append(torch.stack(ppo.loss(decision, rollouts[-1], returns, **weights)))
    assert torch.equal(rollouts[0].reward, rollouts[1].reward)
    torch.testing.assert_close(rollouts[0].log_probability, rollouts[1].log_probability)
    torch.testing.assert_close(*losses)


def test_a_look_is_paid_its_contrast_less_its_cost_and_a_skipped_frame_nothing(model, batch):
    paid, free = (ppo.rollout(model, batch, cost) for cost in (COST, 0.0))
    skipped = paid.actions == model.policy.grid**2
    assert 0 < skipped.sum() < skipped.numel()
    assert (paid.reward[skipped] == 0).all()
    torch.testing.assert_close(paid.reward[~skipped], free.reward[~skipped] - COST)
    assert (free.reward[~skipped] != 0).all()


def test_a_stream_says_the_same(model, batch):
    with torch.no_grad():
        logits, looks = model(batch.frames)
    stream = model.stream()
    steps = [stream(frame) for frame in batch.frames.unbind(1)]
    torch.testing.assert_close(torch.cat([step.logits for step in steps], 1), logits)
    assert torch.equal(torch.cat([step.corners for step in steps], 1), looks.corners)


def test_costs_are_those_of_the_recipe():
    recipe = skipping_recipe(COST)
    assert recipe.skip_cost == COST
    assert recipe.never_skipping.skip_cost is None
    with pytest.raises(RecipeError, match=r"skip cost 0.5 is not in .* of tiny; skip_costs: 0.25"):
        recipe.skipping(0.5)
    assert recipe.suffixes == ["", "_skip0.25"]
    assert recipe.named("_skip0.25") == recipe
    assert recipe.named("") == recipe.never_skipping
    for another in ("_skip0.250", "_skip00.25", "_skip0.2.5"):
        with pytest.raises(RecipeError, match=f"skip cost {another[5:]} is not in the recipe"):
            recipe.named(another)
    for cost in (1e-05, 0.0123456789):
        values = tiny_recipe("gru").to_dict() | {"skip_costs": [cost]}
        with pytest.raises(RecipeError, match="skip_costs: .* cannot stand in a file's name"):
            parse_recipe(values, "tiny.yaml")
    values = tiny_recipe("tsm").to_dict() | {"skip_costs": [0.1]}
    with pytest.raises(RecipeError, match="skip_costs is for a policy of the kind grid"):
        parse_recipe(values, "tiny.yaml")
