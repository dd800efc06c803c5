import pytest
import torch
from noise import BATCH, CLASSES, noise_batch, tiny_recipe

from adafocus.model.adafocus import build
from adafocus.model.backbones import Normalize
from adafocus.model.patches import crop, grid_corners
from adafocus.recipe import RecipeError


def steps(recipe) -> int:
    return recipe.model.steps


def test_shapes(recipe, batch):
    model = build(recipe, 32).eval()
    out = model(batch.frames, glance=batch.glance)
    assert out.logits.shape == (BATCH, steps(recipe), CLASSES)
    assert out.logits.dtype == torch.float32
    assert out.corners.shape == (BATCH, steps(recipe), 2)
    assert out.corners.dtype == torch.int64
    assert ((out.corners >= 0) & (out.corners <= 64 - 32)).all()
    assert torch.equal(out.boxes[..., :2], out.corners.float())
    assert (out.boxes[..., 2:] == 32).all() and out.boxes.dtype == torch.float32
    assert out.frames.tolist() == [list(range(recipe.model.frames))] * BATCH


def test_videos_do_not_see_each_other(recipe, batch):
    model = build(recipe, 32).eval()
    together = model(batch.frames, glance=batch.glance)
    for i in range(BATCH):
        alone = model(batch.frames[i : i + 1], glance=batch.glance[i : i + 1])
        assert torch.equal(alone.corners[0], together.corners[i])
        assert torch.allclose(alone.logits[0], together.logits[i], atol=1e-5)


def test_gru_family_equals_a_loop_over_frames():
    torch.manual_seed(0)
    recipe = tiny_recipe("gru")
    model, frames = build(recipe, 32).eval(), noise_batch(recipe).frames
    out = model(frames)
    seen, state, hidden = [], None, None
    for t in range(frames.shape[1]):
        glanced = model.glance(frames[:, t : t + 1])
        encoded = model.policy.encoder(glanced.maps[:, 0])[:, None]
        output, state = model.policy.gru(encoded, state)
        corners = grid_corners(model.policy.actor(output).argmax(-1), 3, 64 - 32)
        patch = crop(frames[:, t : t + 1], corners, 32)
        local = model.focuser(patch).mean((-2, -1))
        output, hidden = model.classifier.gru(torch.cat((glanced.pooled, local), -1), hidden)
        seen.append(model.classifier.fc(output[:, 0]))
        assert torch.equal(out.corners[:, t], corners[:, 0])
    assert torch.allclose(out.logits, torch.stack(seen, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["floats", "bytes"])
def test_a_stream_gives_what_the_batch_gives(kind):
    torch.manual_seed(0)
    recipe = tiny_recipe("gru")
    model, frames = build(recipe, 32).eval(), noise_batch(recipe).frames
    if kind == "bytes":
        frames = (frames * 40 + 128).clamp(0, 255).byte()
    stream = model.stream()
    steps = [stream(frame) for frame in frames.unbind(1)]
    out = model(frames)
    for name in ("corners", "boxes", "frames"):
        found = torch.cat([getattr(step, name) for step in steps], 1)
        assert torch.equal(found, getattr(out, name)), name
    assert torch.allclose(torch.cat([step.logits for step in steps], 1), out.logits, atol=1e-5)
    # Another stream begins anew.
    assert torch.equal(model.stream()(frames[:, 0]).logits, steps[0].logits)


def test_what_cannot_stream_says_so():
    for model in (build(tiny_recipe("tsm"), 32), build(tiny_recipe("gru"), 32, with_policy=False)):
        with pytest.raises(ValueError, match="whose policy chooses a place in every frame"):
            model.stream()


def test_given_corners_replace_the_policys(recipe, batch):
    model = build(recipe, 32).eval()
    corners = torch.full((BATCH, steps(recipe), 2), 7)
    out = model(batch.frames, glance=batch.glance, corners=corners)
    assert torch.equal(out.corners, corners)
    glanced = model.glance(batch.glance)
    expected = model.classifier(glanced, model.focus(batch.frames, out.looks))
    assert torch.allclose(out.logits, expected)


def test_bytes_give_what_normalised_floats_give(recipe, batch):
    model = build(recipe, 32).eval()
    frames, glance = (
        torch.randint(256, clips.shape, dtype=torch.uint8) for clips in (batch.frames, batch.glance)
    )
    out = model(frames, glance=glance)
    expected = model(Normalize()(frames), glance=Normalize()(glance))
    assert torch.equal(out.corners, expected.corners)
    assert torch.allclose(out.logits, expected.logits, atol=1e-5)


def test_a_model_without_policy_says_so(recipe, batch):
    model = build(recipe, 32, with_policy=False)
    with pytest.raises(ValueError, match="no policy"):
        model(batch.frames, glance=batch.glance)


def test_frames_of_another_size_are_an_error(recipe, batch):
    with pytest.raises(ValueError, match=r"\(B, T, 3, 64, 64\)"):
        build(recipe, 32)(batch.frames[..., :-1], glance=batch.glance)


def test_a_patch_size_that_is_not_in_the_recipe_is_an_error(recipe):
    with pytest.raises(RecipeError, match="allowed: 32, 48"):
        build(recipe, 40)
