"""What checkpoints and results are called."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adafocus.recipe import (
    SPECS,
    AdaFocusRecipe,
    Phase,
    RecipeError,
    StageSpec,
    load_recipe,
    load_recipes,
    results_in,
)

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
ONE_GO = StageSpec("all", None, ("glancer", "focuser", "policy"), "training all at once")
NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True),
    # Those that look like names of other things.
    st.lists(
        st.sampled_from(
            ["x", "128", "glancer", "seed1", "skip0", "stage0", "stage3", "frames", "seeds", "-"]
        ),
        min_size=1,
        max_size=5,
    ).map(lambda parts: "x" + "_".join(parts)),
)


@pytest.fixture(autouse=True, scope="module")
def one_go():
    """A method that is trained in one go, beside those that there are."""
    with pytest.MonkeyPatch.context() as patch:
        specs = {name: spec for name, spec in SPECS.items() if spec.number is not None}
        patch.setattr("adafocus.recipe.phases.SPECS", specs | {"all": ONE_GO})
        yield


@st.composite
def phases(draw, names=NAMES):
    spec = draw(st.sampled_from([spec for spec in SPECS.values() if spec.number is not None]))
    spec = draw(st.sampled_from([spec, ONE_GO]))
    skips = spec.has_policy and spec.number is not None
    return Phase(
        draw(names),
        spec.name,
        draw(st.integers(1, 999)) if spec.of_patch_size else None,
        draw(st.sampled_from(["", "_skip0.02", "_skip1"])) if skips else "",
        draw(st.none() | st.integers(1, 99)),
    )


@given(phases())
def test_a_name_tells_its_phase_whatever_the_experiment_is_called(phase):
    assert Phase.parse(phase.name) == phase
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", phase.name)


@given(phases(), phases())
def test_two_phases_never_have_one_name(one, other):
    assert (one.name == other.name) == (one == other)


@given(st.from_regex(r"(x|128|_(glancer|seed1|skip0\.2|stage[0-4]|[0-9]{1,3}))*", fullmatch=True))
def test_what_is_read_from_a_name_gives_that_name_again(name):
    phase = Phase.parse(name)
    assert phase is None or phase.name == name


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("actnet_glancer_stage0", Phase("actnet", "glancer")),
        ("actnet_glancer_seed1_stage0", Phase("actnet", "glancer", seed=1)),
        ("actnet_128_stage1", Phase("actnet", "stage1", 128)),
        ("actnet_128_skip0.02_seed1_stage3", Phase("actnet", "stage3", 128, "_skip0.02", 1)),
        ("x_128_64_stage3", Phase("x_128", "stage3", 64)),
        ("actnet-uni_128", Phase("actnet-uni", "all", 128)),
        ("actnet-uni_128_seed12", Phase("actnet-uni", "all", 128, seed=12)),
        ("x_128_64", Phase("x_128", "all", 64)),
        ("x_stage3_64", Phase("x_stage3", "all", 64)),
        ("x_64_stage4", None),
        ("x_064_stage3", None),
        ("x_64_seed0_stage3", None),
        ("x_64_seed01", None),
        ("x_64_skip0.02_stage1", None),
        ("x_64_stage3_evaluation.run", None),
        ("x_64.seeds", None),
        ("summary", None),
    ],
)
def test_names_by_hand(name, phase):
    assert Phase.parse(name) == phase
    assert phase is None or phase.name == name


def test_logs_of_one_experiment_are_not_called_as_those_of_anothers_frames(tmp_path, monkeypatch):
    for name in ("x", "x_frames"):
        values = load_recipe(RECIPES / "demo.yaml").to_dict() | {"name": name}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    assert load_recipes(tmp_path).keys() == {"x", "x_frames"}, "its logs tell a stage"
    monkeypatch.setattr(AdaFocusRecipe, "last", ONE_GO)
    with pytest.raises(RecipeError) as error:
        load_recipes(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/x_frames.yaml: name: ends in _frames")
    assert "\n" not in str(error.value)


def test_every_kind_of_result_is_found(tmp_path):
    results = ["demo_28_stage1", "demo_28_skip0.02_stage3", "demo_28_seed1_stage3", "demo-uni_28"]
    results += ["demo-uni_28_seed2", "gone_28_stage3"]
    others = ["demo_28_stage3.seeds", "demo_28_stage3_evaluation.run", "demo_glancer_stage0", "x"]
    for name in (*results, *others):
        (tmp_path / f"{name}.json").write_text(json.dumps({}))
    (tmp_path / "demo_28_stage3.predictions.npz").touch()
    assert {path.stem for path in results_in(tmp_path)} == set(results)
