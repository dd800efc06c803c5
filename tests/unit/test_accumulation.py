"""A batch in parts is the same experiment, and finds by itself how many videos fit."""

import pytest
import torch
from noise import tiny_recipe, write_noise
from test_engine import figures, run
from torch import nn

from adafocus.data.draws import Draws
from adafocus.methods.adafocus import STAGES

BATCH = 5


@pytest.fixture
def folder(tmp_path):
    return write_noise(tmp_path, {"train": 10, "val": 4})


def plain_recipe(family):
    """Without dropout, whose masks are each part's own, one epoch, by plain gradients."""
    recipe = tiny_recipe(family)
    changed = {
        name: recipe.stages[name].model_copy(
            update={"dropout": 0.0, "epochs": 1, "optimizer": "sgd"}
        )
        for name in STAGES
    }
    return recipe.model_copy(update={"stages": recipe.stages.model_copy(update=changed)})


def steady(stage):
    """The stage with batch norms that do not learn, as each part has statistics of its own."""

    class Steady(STAGES[stage]):
        def train_mode(self):
            super().train_mode()
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    return Steady


@pytest.mark.parametrize("family", ["gru", "tsm"])
@pytest.mark.parametrize("stage", STAGES)
def test_parts_give_the_weights_of_the_whole_batch(folder, tmp_path, family, stage):
    recipe = plain_recipe(family)
    ends = [
        run(
            recipe,
            steady(stage),
            folder,
            tmp_path / f"{size}.pt",
            batch_size=BATCH,
            micro_batch=size,
        )
        for size in ("auto", 2)
    ]
    (whole, rows), (parts, rows_of_parts) = ends
    for key, weight in whole.items():
        torch.testing.assert_close(parts[key], weight, rtol=1e-4, atol=1e-5)
    # Rounding moves the accuracy of weights that have hardly learnt.
    for ours, theirs in zip(figures(rows_of_parts), figures(rows), strict=True):
        learnt = {name: value for name, value in theirs.items() if not name.startswith("val_")}
        assert {name: ours[name] for name in learnt} == pytest.approx(learnt, rel=1e-3, abs=1e-5)


def crowded(stage, room):
    """A stage whose device has room for so many videos at a time."""
    sizes = []

    def see(rows):
        sizes.append(rows)
        if rows > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    class Crowded(STAGES[stage]):
        def prepare(self, batch, in_parts):
            def on_parts(batch, work):
                return in_parts(batch, lambda part: (see(len(part.rows)), work(part))[1])

            return super().prepare(batch, on_parts)

        def loss(self, videos):
            see(len((videos.rollout if stage == "stage2" else videos)[0]))
            return super().loss(videos)

    return Crowded, sizes


@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_a_full_memory_halves_the_part_and_goes_on(folder, tmp_path, stage, capsys):
    recipe = plain_recipe("gru")
    expected, _ = run(recipe, stage, folder, tmp_path / "a.pt", batch_size=BATCH, micro_batch=2)
    small, sizes = crowded(stage, room=2)
    weights, _ = run(recipe, small, folder, tmp_path / "b.pt", batch_size=BATCH)
    # Whole, then two at a time in even parts, and so from then on; the rollout of stage 2 first.
    assert sizes[:5] == [5, 1, 2, 2, 1]
    assert "going on with 2" in capsys.readouterr().out
    for key, weight in expected.items():
        torch.testing.assert_close(weights[key], weight, rtol=1e-4, atol=1e-5)
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    assert state["progress"]["micro_batch"] == 2


def test_a_run_that_goes_on_begins_with_what_fitted(folder, tmp_path):
    recipe = tiny_recipe("gru")
    small, sizes = crowded("stage3", room=2)
    run(recipe, small, folder, tmp_path / "r.pt", batch_size=BATCH, until=1)
    again, sizes = crowded("stage3", room=2)
    run(recipe, again, folder, tmp_path / "r.pt", batch_size=BATCH)
    assert sizes and max(sizes) == 2


def test_no_room_for_one_video_is_one_line(folder, tmp_path):
    none, _ = crowded("stage3", room=0)
    with pytest.raises(ValueError, match=r"memory is full \(CUDA out of memory\).*micro_batch"):
        run(tiny_recipe("gru"), none, folder, tmp_path / "r.pt", batch_size=BATCH)


def test_processes_and_parts_draw_what_the_whole_batch_draws():
    whole = Draws(seed=3, epoch=2, batch=1, videos=6, rows=slice(0, 6))
    for draw in (lambda draws: draws.exponential((4,)), lambda draws: draws.normal((4,))):
        expected = draw(whole)
        own = Draws(3, 2, 1, 6, slice(2, 6))
        assert torch.equal(draw(own), expected[2:])
        assert torch.equal(draw(own.part(slice(1, 3))), expected[3:5])
        for other in (
            whole._replace(seed=4),
            whole._replace(epoch=3),
            whole._replace(batch=2),
        ):
            assert not torch.equal(draw(other), expected)
    assert not torch.equal(whole.exponential((4,)).log(), whole.normal((4,)))


def test_parts_that_cannot_become_smaller_are_an_error_not_a_loop(folder, tmp_path):
    """A batch norm over videos needs two, so that three are one part."""
    none, sizes = crowded("stage2", room=2)
    with pytest.raises(ValueError, match="memory is full"):
        run(tiny_recipe("tsm"), none, folder, tmp_path / "r.pt", batch_size=BATCH)
    assert sizes == [5, 2, 3]


def test_a_validation_that_does_not_fit_goes_on_in_parts(folder, tmp_path):
    seen = []

    class Crowded(STAGES["stage3"]):
        def predict(self, batch):
            seen.append(len(batch.rows))
            if seen[-1] > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return super().predict(batch)

    recipe = plain_recipe("gru")
    _, rows = run(recipe, "stage3", folder, tmp_path / "a.pt", batch_size=BATCH)
    _, in_parts = run(recipe, Crowded, folder, tmp_path / "b.pt", batch_size=BATCH)
    assert seen == [4, 2, 1, 1, 1, 1]
    assert in_parts[0]["val_mAP"] == pytest.approx(rows[0]["val_mAP"])
