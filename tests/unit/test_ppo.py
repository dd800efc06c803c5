import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noise import noise_batch, tiny_recipe
from torch.distributions import Categorical

from adafocus.model.adafocus import build
from adafocus.model.policy import Decision
from adafocus.training import ppo


def test_discounted_returns_by_hand():
    reward = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    # 3; 2 + 0.7·3 = 4.1; 1 + 0.7·4.1 = 3.87; and 1, 0.7, 0.49.
    expected = torch.tensor([[3.87, 4.1, 3.0], [0.49, 0.7, 1.0]])
    assert torch.allclose(ppo.discounted_returns(reward, 0.7), expected)


@given(rewards=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), gamma=st.floats(0, 1))
def test_discounted_returns_equal_the_recursion(rewards, gamma):
    expected, ahead = [], 0.0
    for reward in reversed(rewards):
        ahead = reward + gamma * ahead
        expected.append(ahead)
    returns = ppo.discounted_returns(torch.tensor([rewards]), gamma)[0]
    assert torch.allclose(returns, torch.tensor(expected[::-1]), atol=1e-5)


def test_standardized_returns():
    returns = ppo.standardized(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    # Mean 3, sum of squares 14, unbiased standard deviation sqrt(14/3).
    expected = (torch.tensor([[1.0, 2.0], [3.0, 6.0]]) - 3) / math.sqrt(14 / 3)
    assert torch.allclose(returns, expected, atol=1e-4)


def even_chances(actions):
    """A rollout of one video by a policy that gave each of two actions one half."""
    nothing = torch.empty(0)
    return ppo.Rollout(
        maps=nothing,
        actions=torch.tensor([actions]),
        log_probability=torch.full((1, len(actions)), math.log(0.5)),
        value=nothing,
        reward=nothing,
        likeliest=nothing,
    )


def test_loss_by_hand():
    # Two actions with probabilities (0.8, 0.2); the old policy gave both 0.5.
    decision = Decision(
        Categorical(probs=torch.tensor([[[0.8, 0.2], [0.8, 0.2]]])), torch.tensor([[0.5, 0.0]])
    )
    rollout = even_chances([0, 1])
    returns = torch.tensor([[1.5, -1.0]])
    loss = ppo.loss(
        decision, rollout, returns, clip=0.2, value_coefficient=0.5, entropy_coefficient=0.01
    )
    # Ratios 1.6 and 0.4, advantages 1 and -1: min(1.6, 1.2) = 1.2; min(-0.4, -0.8) = -0.8.
    assert loss.policy.item() == pytest.approx(-(1.2 - 0.8) / 2)
    assert loss.value.item() == pytest.approx((1.0 + 1.0) / 2)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert loss.entropy.item() == pytest.approx(entropy)
    assert loss.total.item() == pytest.approx(-0.2 + 0.5 * 1.0 - 0.01 * entropy)


def test_what_tells_how_ppo_fares_by_hand():
    decision = Decision(
        Categorical(probs=torch.tensor([[[0.8, 0.2], [0.55, 0.45]]])), torch.zeros(1, 2)
    )
    rollout = even_chances([0, 0])
    weights = {"clip": 0.2, "value_coefficient": 0.5, "entropy_coefficient": 0.01}
    loss = ppo.loss(decision, rollout, torch.zeros(1, 2), **weights)
    # Ratios 1.6 and 1.1, of which one is beyond 1.2: r - 1 - log r of each.
    expected = (0.6 - math.log(1.6) + 0.1 - math.log(1.1)) / 2
    assert loss.divergence.item() == pytest.approx(expected, abs=1e-6)
    assert loss.clipped.item() == 0.5

    returns = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    assert ppo.explained_variance(returns, returns).item() == pytest.approx(1)
    assert ppo.explained_variance(torch.ones(1, 4), returns).item() == pytest.approx(0, abs=1e-6)
    # Errors 1, 1, -1, -1 have the variance 4/3; that of the returns is 14/3.
    near = returns - torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert ppo.explained_variance(near, returns).item() == pytest.approx(1 - 4 / 14, abs=1e-6)


def test_reward_by_hand():
    logits = torch.tensor([[[math.log(3), 0.0]]])  # probabilities 3/4, 1/4
    baseline = torch.tensor([[[0.0, 0.0]]])  # 1/2, 1/2
    assert ppo.contrast(logits, baseline, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.25)
    assert ppo.contrast(logits, baseline, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(
        0.0, abs=1e-6
    )


def test_the_rollouts_reward_equals_a_loop_over_steps(recipe, batch):
    model = build(recipe, 32).eval()
    rollout = ppo.rollout(model, batch, 0.0)
    with torch.no_grad():
        seen = model.glance(batch.glance)
        actions = model.policy.sample(model.policy(seen.maps).actions, batch.draws)
        frames = batch.frames.shape[1]
        chosen = model.looks_at(model.policy.corners(actions, model.margin), frames)
        random = batch.random_boxes(model)
        assert torch.equal(actions, rollout.actions)
        for step in range(chosen.boxes.shape[1]):
            swapped = chosen._replace(boxes=chosen.boxes.clone())
            swapped.boxes[:, step] = random[:, step]
            real = model.classifier(seen, model.focus(batch.frames, chosen))[:, step]
            other = model.classifier(seen, model.focus(batch.frames, swapped))[:, step]
            gained = (real.softmax(-1) - other.softmax(-1))[batch.labels]
            assert torch.allclose(rollout.reward[:, step], gained, atol=1e-6)


def test_a_rollout_made_in_parts_is_that_of_the_whole_batch(recipe, batch):
    model = build(recipe, 32).eval()
    whole = ppo.rollout(model, batch, 0.0)
    parts = [ppo.rollout(model, batch.part(rows), 0.0) for rows in (slice(0, 1), slice(1, 3))]
    for found, expected in zip(ppo.concatenate(parts), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert ppo.concatenate([whole]) is whole


def test_one_pass_has_ratio_one(recipe, batch):
    model = build(recipe, 32).eval()
    rollout = ppo.rollout(model, batch, 0.0)
    again = model.policy(rollout.maps).actions.log_prob(rollout.actions)
    assert torch.allclose(again, rollout.log_probability, atol=1e-5)


def test_sampled_positions_are_clamped_and_scored_as_such():
    recipe = tiny_recipe("tsm")
    model = build(recipe, 32).eval()
    model.policy.actor.bias.data += torch.tensor([9.0, -9.0])  # means at 1 and 0
    rollout = ppo.rollout(model, noise_batch(recipe), 0.0)
    assert ((rollout.actions >= 0) & (rollout.actions <= 1)).all()
    assert (rollout.actions == 1).any() or (rollout.actions == 0).any()
    gaussian = model.policy(rollout.maps).actions
    assert torch.allclose(rollout.log_probability, gaussian.log_prob(rollout.actions), atol=1e-5)
