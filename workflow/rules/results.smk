"""Which results this call asks for, and which are there already."""


def check_name(experiment):
    """Raises where an experiment's name, which is a target, is that of a rule."""
    with one_line_errors():
        if experiment in names_of_rules():
            raise RecipeError(
                f"config/recipes/{experiment}.yaml: name: {experiment} is a rule of the workflow;"
                " give the experiment another name"
            )


def names_of_seeds(phase):
    """The results of a model with each of the seeds that the configuration lists."""
    phases = (replace(phase, seed=seed) for seed in settings.seeds_in_names)
    return [f"results/{one.name}.json" for one in phases]


def results_of(experiment):
    """The results that an experiment's name stands for: of the finished models of its patch sizes,
    with each seed."""
    recipe = recipes[experiment]
    stage = recipe.last.name
    sizes = settings.datasets.get(experiment, recipe.patch_sizes)
    phases = [Phase(experiment, stage, size) for size in sizes]
    return [path for phase in phases for path in names_of_seeds(phase)]


def over_seeds(paths):
    """The files of several seeds together, where there are several."""
    phases = [Phase.parse(Path(path).stem) for path in paths if settings.seeds]
    names = dict.fromkeys(replace(phase, seed=None).name for phase in phases)
    return [f"results/{name}.seeds.json" for name in names]


def results_of_seeds(wildcards):
    """For `input`: the results of which a file of several seeds tells."""
    recipe = recipe_of(wildcards)
    with one_line_errors():
        if not settings.seeds:
            raise RecipeError(
                "config/config.yaml: seeds: is not there; give those that are to be put together,"
                " such as seeds: [0, 1, 2], and leave seed out"
            )
    return names_of_seeds(phase_of(wildcards, spec_of(recipe, wildcards.stage).name))


def results_asked_for():
    """Results that the targets of this call of snakemake name or stand for."""
    found = set()
    for target in {os.path.normpath(one) for one in targets_asked_for()} or {"all"}:
        path = Path(target)
        if target in chains:
            found.update(chains[target])
        elif path.parent == Path("results") and path.suffix == ".json":
            phase = Phase.parse(path.stem.removesuffix(".seeds"))
            if phase and phase.patch_size:
                seeds = path.stem.endswith(".seeds")
                found.update(names_of_seeds(phase) if seeds else [target])
    return sorted(found)


def results_made_before():
    """Other results on disk, which this call leaves as they are, and when they were made."""
    others = {str(path) for path in results_in(Path("results"))} - set(results_asked_for())
    return {path: os.stat(path).st_mtime for path in sorted(others)}


def shown_of_recipes():
    """What the summary shows of the recipes of now, by data set."""
    paths = (*results_asked_for(), *results_made_before())
    experiments = {Phase.parse(Path(path).stem).experiment for path in paths}
    return {
        name: recipe_text(recipes[name], ("title", "metric", "published", "peers"))
        for name in sorted(experiments & recipes.keys())
    }


# Results that the targets `all` and `{dataset}` stand for.
chains = {name: results_of(name) for name in recipes}
chains["all"] = [path for name in settings.datasets for path in chains[name]]
