"""Recipes that extend others, and the phases of training that they share."""

from pathlib import Path

import pytest
import yaml

from adafocus.recipe import (
    Phase,
    RecipeError,
    differences,
    load_recipe,
    load_recipes,
    parse_recipe,
)

RECIPES = Path(__file__).parents[2] / "config" / "recipes"


@pytest.fixture
def folder(tmp_path):
    for name in ("demo", "actnet"):
        (tmp_path / f"{name}.yaml").write_text((RECIPES / f"{name}.yaml").read_text())
    return tmp_path


def write(folder, name, extends="demo", **entries):
    values = {"name": name, "title": name.title(), "extends": extends, **entries}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def trained(folder, experiment, *stages, patch_size=28, suffix="", given=()):
    """Names of the checkpoints that are made for stages of an experiment."""
    recipes = load_recipes(folder)
    phases = [
        Phase(experiment, stage, patch_size if "stage" in stage else None, suffix)
        for stage in stages
    ]
    return [phase.owner(recipes, given).name for phase in phases]


ALL = ("glancer", "focuser", "stage1", "stage2", "stage3")


def test_what_is_given_goes_over_what_is_inherited(folder):
    recipe = load_recipe(
        write(
            folder,
            "actnet-x",
            "actnet",
            patch_sizes=[96],
            model={"glancer": {"pretrained": None}, "policy": {"grid": 5}},
            stages={"stage1": {"learning_rates": {"focuser": 0.1}, "dropout": None}},
        )
    )
    actnet = load_recipe(folder / "actnet.yaml")
    assert (recipe.name, recipe.title, recipe.extends) == ("actnet-x", "Actnet-X", ("actnet",))
    assert (recipe.dataset, actnet.dataset) == ("actnet", "actnet")
    assert actnet.published and actnet.peers and not recipe.published and not recipe.peers
    assert recipe.patch_sizes == (96,), "lists replace"
    assert actnet.model.glancer.pretrained == "imagenet" and actnet.stages.stage1.dropout == 0.8
    assert recipe.model.glancer.pretrained is None and recipe.stages.stage1.dropout is None
    assert recipe.model.policy == actnet.model.policy.model_copy(update={"grid": 5})
    rates = {"focuser": 0.1, "classifier": actnet.stages.stage1.learning_rates["classifier"]}
    assert recipe.stages.stage1.learning_rates == rates, "mappings merge at every depth"
    assert recipe.stages.stage3 == actnet.stages.stage3


def test_a_chain_of_recipes(folder, tmp_path):
    write(folder, "first", stages={"stage2": {"gamma": 0.9}})
    second = write(folder, "second", "first", stages={"stage3": {"epochs": 1}})
    recipe = load_recipe(second)
    assert (recipe.extends, recipe.dataset) == (("first", "demo"), "demo")
    assert (recipe.stages.stage2.gamma, recipe.stages.stage3.epochs) == (0.9, 1)
    assert parse_recipe(recipe.to_dict(), source="plain") == recipe
    (tmp_path / "elsewhere").mkdir()
    assert load_recipe(recipe.write(tmp_path / "elsewhere")) == recipe, "complete as it is"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"extends": "dmo"}, ["extends: 'dmo' has no recipe", "allowed: actnet, demo"]),
        ({"extends": "../x"}, ["extends: '../x' has no recipe"]),
        ({"extends": {"demo": 1}}, ["extends: {'demo': 1} has no recipe"]),
        ({"extends": "mine"}, ["extends", "circle: mine -> mine"]),
        ({"extends": "other"}, ["extends", "circle: mine -> other -> mine"]),
        ({"extends": ["demo"]}, ["classes", "required"]),
        ({"frames": {"height": 32}}, ["frames", "demo", "shares"]),
        ({"source": {"seed": 3}}, ["source", "demo", "shares"]),
        ({"stages": {"stage2": {"gamm": 1}}}, ["stages.stage2", "'gamm'", "gamma"]),
        ({"stages": {"stage2": {"epochs": None}}}, ["stages.stage2.epochs", "required"]),
        ({"title": None}, ["title", "required"]),
    ],
)
def test_a_wrong_extension_is_one_line(folder, entries, expected):
    path = write(folder, "mine", **entries)
    write(folder, "other", "mine")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    message = str(error.value)
    assert message.startswith((f"{path}: ", f"{folder / 'other.yaml'}: "))
    assert "\n" not in message
    assert all(part in message for part in expected), message


def test_another_split_shares_videos_and_no_training(folder, tmp_path):
    other = {"title": "Second", "annotations": {"train": "other.txt"}, "videos": {"val": 700}}
    (folder / "second.yaml").write_text(
        yaml.safe_dump({"name": "second", "split_of": "demo", **other})
    )
    extending = write(folder, "second-x", "second", stages={"stage3": {"epochs": 1}})
    demo, recipe, more = (
        load_recipe(folder / f"{name}.yaml") for name in ("demo", "second", "second-x")
    )
    assert (recipe.extends, recipe.dataset, recipe.videos_of) == ((), "second", "demo")
    assert (more.dataset, more.videos_of, demo.videos_of) == ("second", "demo", "demo")
    annotations, videos = {"train": "other.txt"}, {"val": 700}
    assert recipe.annotations == demo.annotations.model_copy(update=annotations)
    assert recipe.videos == demo.videos.model_copy(update=videos)
    assert recipe.stages == demo.stages
    assert trained(folder, "second", *ALL)[-1] == "second_28_stage3"
    assert trained(folder, "second-x", *ALL)[-2:] == ["second_28_stage2", "second-x_28_stage3"]
    # Complete as it is: a job reads it where no other recipe is.
    (tmp_path / "elsewhere").mkdir()
    assert load_recipe(recipe.write(tmp_path / "elsewhere")) == recipe
    (folder / "second.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(folder / "second.yaml") == recipe
    (folder / "demo.yaml").unlink()
    extending.unlink()
    with pytest.raises(RecipeError, match=r"second\.yaml: split_of: 'demo' has no recipe"):
        load_recipes(folder)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"split_of": "dmo"}, ["split_of: 'dmo' has no recipe", "allowed: actnet, demo"]),
        ({"split_of": "mine"}, ["split_of", "circle: mine -> mine"]),
        ({"split_of": "demo", "frames": {"height": 32}}, ["frames", "demo", "shares"]),
        ({"split_of": "demo", "extends": "demo"}, ["split_of", "demo", "shares"]),
    ],
)
def test_a_wrong_split_is_one_line(folder, entries, expected):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "title": "Mine", **entries}))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(part in message for part in expected), message


def test_an_error_in_an_ancestor_names_its_file(folder):
    first = write(folder, "first", stages={"stage2": {"epochs": 0}})
    with pytest.raises(RecipeError) as error:
        load_recipe(write(folder, "second", "first"))
    assert str(error.value).startswith(f"{first}: stages.stage2.epochs: ")


def test_a_list_of_unknown_ancestors(folder):
    values = load_recipe(folder / "demo.yaml").to_dict() | {"name": "mine", "extends": ["dmo"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match=r"mine\.yaml: extends: 'dmo' has no recipe"):
        load_recipes(folder)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("stages.stage2.gamma=0.9", lambda recipe: recipe.stages.stage2.gamma == 0.9),
        (
            "stages.stage2.update_epochs=null",
            lambda recipe: recipe.stages.stage2.update_epochs == 1,
        ),
        ("model.glancer={width: 0.125}", lambda recipe: recipe.model.glancer.width == 0.125),
        ("augmentation.scales=[1, 0.5]", lambda recipe: recipe.augmentation.scales == (1, 0.5)),
        ("title=Digits", lambda recipe: recipe.title == "Digits"),
    ],
)
def test_any_entry_can_be_set(folder, setting, found):
    demo = load_recipe(folder / "demo.yaml")
    changed = load_recipe(folder / "demo.yaml", [setting, "stages.stage3.epochs=1"])
    assert found(changed) and not found(demo)
    assert changed.stages.stage3.epochs == 1
    assert (changed.name, changed.model.focuser) == ("demo", demo.model.focuser)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("stages.stage2.epochs", "give an entry and its value"),
        ("=1", "give an entry and its value"),
        ("stages.stage2.gama=1", "stages.stage2: unknown key 'gama'; allowed: epochs"),
        ("stages.stage2.epochs=ten", "stages.stage2.epochs: Input should be a valid integer"),
        ("stages.stage2.epochs=[", "while parsing"),
        ("stages.stage2=3", "stages.stage2: "),
        ("name=other", "stays as"),
        ("frames.height=32", "frames: differs from that of demo"),
    ],
)
def test_a_wrong_setting_is_one_line(folder, setting, expected):
    with pytest.raises(RecipeError) as error:
        load_recipe(folder / "demo.yaml", [setting])
    message = str(error.value)
    assert message.startswith(f"--set {setting}: ") and "\n" not in message
    assert expected in message


# --- what is shared ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "own"),
    [
        ({}, ()),
        ({"stages": {"stage2": {"gamma": 0.9}}}, ("stage2", "stage3")),
        ({"stages": {"stage2": {"gamma": 0.2, "clip": 0.2}}}, ()),
        ({"stages": {"stage3": {"epochs": 9}}}, ("stage3",)),
        ({"stages": {"focuser": {"epochs": 9}}}, ("focuser", "stage1", "stage2", "stage3")),
        ({"stages": {"glancer": {"epochs": 9}}}, ("glancer", "stage1", "stage2", "stage3")),
        ({"model": {"policy": {"hidden": 64}}}, ("stage2", "stage3")),
        ({"model": {"classifier": {"hidden": 64}}}, ("stage1", "stage2", "stage3")),
        ({"model": {"focuser": {"width": 0.25}}}, ("focuser", "stage1", "stage2", "stage3")),
        ({"model": {"focuser": {"pretrained": "w.pt"}}}, ("focuser", *ALL[2:])),
        ({"augmentation": {"flip": True}}, ALL),
        ({"metric": "mAP"}, ALL),
    ],
)
def test_phases_with_equal_parameters_and_predecessors_are_shared(folder, entries, own):
    write(folder, "mine", **entries)
    names = trained(folder, "demo", *ALL)
    expected = [
        name.replace("demo_", "mine_") if stage in own else name
        for stage, name in zip(ALL, names, strict=True)
    ]
    assert trained(folder, "mine", *ALL) == expected


def test_of_several_ancestors_the_furthest_one_is_shared(folder):
    write(folder, "first", stages={"stage1": {"epochs": 9}})
    write(folder, "second", "first", stages={"stage3": {"epochs": 9}})
    write(folder, "third", "second", stages={"stage1": {"epochs": 6}})
    shared = ["demo_focuser_stage0", "first_28_stage1", "first_28_stage2", "second_28_stage3"]
    assert trained(folder, "second", *ALL[1:]) == shared
    shared = ["demo_focuser_stage0", "demo_28_stage1", "demo_28_stage2", "third_28_stage3"]
    assert trained(folder, "third", *ALL[1:]) == shared, "as demo again up to stage 2"


def test_models_that_the_ancestor_does_not_have_are_not_shared(folder):
    write(folder, "mine", patch_sizes=[24, 28], skip_costs=[0.01, 0.03])
    assert trained(folder, "mine", "stage1", patch_size=24) == ["mine_24_stage1"]
    assert trained(folder, "mine", "stage3", suffix="_skip0.01") == ["demo_28_skip0.01_stage3"]
    skipping = trained(folder, "mine", "stage2", "stage3", suffix="_skip0.03")
    assert skipping == ["mine_28_skip0.03_stage2", "mine_28_skip0.03_stage3"]
    (before,) = Phase("mine", "stage2", 28, "_skip0.03").before
    assert before.owner(load_recipes(folder)) == Phase("demo", "stage2", 28)


def test_a_checkpoint_that_is_given_is_not_shared(folder):
    write(folder, "mine")
    given = {"mine_28_stage1"}
    assert trained(folder, "mine", *ALL[1:], given=given) == [
        "demo_focuser_stage0",
        "mine_28_stage1",
        "mine_28_stage2",
        "mine_28_stage3",
    ]
    assert trained(folder, "mine", *ALL[2:], given={"demo_28_stage1"}) == trained(
        folder, "demo", *ALL[2:]
    ), "one that is given for the ancestor is"


def test_variants_differ_key_by_key(folder):
    write(folder, "first", stages={"stage2": {"gamma": 0.9}}, skip_costs=[])
    write(folder, "second", "first", model={"policy": {"hidden": 64}}, patch_sizes=[20])
    recipes = {name: load_recipes(folder)[name] for name in ("demo", "first", "second")}
    recipes["demo"] = recipes["demo"].skipping(0.01)
    assert differences(recipes) == {
        "model.policy.hidden": {"demo": "128", "first": "128", "second": "64"},
        "stages.stage2.gamma": {"demo": "0.2", "first": "0.9", "second": "0.9"},
    }


def test_a_result_of_a_shared_checkpoint_is_called_after_its_experiment(folder):
    demo = load_recipe(folder / "demo.yaml")
    called = demo.called("mine")
    assert (called.name, called.extends, called.dataset) == ("mine", ("demo",), "demo")
    assert demo.called("demo") == demo.called(None) == demo
    assert called.called("demo").dataset == called.called("demo").name == "demo"
