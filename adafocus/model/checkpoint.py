"""Checkpoints: weights with the recipe that made them, in one safetensors file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.models import get_model_weights

from adafocus import legacy
from adafocus.machine.files import atomic, kept, sha256
from adafocus.model.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, backbone
from adafocus.model.building import build
from adafocus.model.video_model import VideoModel
from adafocus.recipe import RecipeError, compatibility, parse_recipe

if TYPE_CHECKING:
    from adafocus.recipe import BackboneRecipe, Recipe, StageSpec

DIGESTS = {
    "mobilenet_v2-b0353104.pth": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    "resnet18-f37072fd.pth": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet50-0676ba61.pth": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
}
"""SHA-256 of weights files that torchvision publishes; of other ones a name tells eight digits."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line that names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        tensors: weights and buffers by their name in `AdaFocus`.
        recipe: the recipe that made it.
        stage: ``glancer``, ``focuser``, ``stage1``, ``stage2`` or ``stage3``.
        patch_size: in pixels; None for stage 0, whose backbones serve all patch sizes.
        class_names: name of each class, in the order of the logits.
        made_by: what trained it, see `adafocus.training.fingerprint.made_by`; empty where that is
            not known.
        formerly: SHA-256 of the file that revision 1 wrote of the same tensors, see
            `adafocus.legacy`.
    """

    tensors: dict[str, Tensor]
    recipe: Recipe
    stage: str
    patch_size: int | None
    class_names: tuple[str, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    formerly: str | None = None

    @property
    def spec(self) -> StageSpec:
        """What its stage is."""
        return self.recipe.spec(self.stage)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint aside and renames it, so that it appears whole or not at all.

    The same content makes the same bytes.
    """
    metadata = {
        "recipe": json.dumps(checkpoint.recipe.to_dict()),
        "stage": checkpoint.stage,
        "patch_size": json.dumps(checkpoint.patch_size),
        "class_names": json.dumps(checkpoint.class_names),
        "made_by": json.dumps(dict(checkpoint.made_by), sort_keys=True),
        # For other programs that read the file.
        "normalization": json.dumps({"mean": IMAGENET_MEAN, "std": IMAGENET_STD}),
    }
    if checkpoint.formerly is not None:
        metadata["formerly"] = checkpoint.formerly
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    metadata["digest"] = digest(tensors, metadata)
    with atomic(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode
        safetensors.torch.save_file(tensors, aside, metadata)
        aside.chmod(mode)  # safetensors lets nobody else read it
        _sort_header(aside)


def replace(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint in the place of the one that was there or was kept aside. Where that has
    the same tensors, its digest at revision 1 goes on being known, see `adafocus.legacy`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in checkpoint.tensors.items()}
    formerly = None
    for old in filter(Path.exists, (kept(path), path)):
        with suppress(CheckpointError):
            before = read(old)
            if formerly is None and digest(before.tensors) == digest(tensors):
                formerly = sha256(old) if legacy.is_old(old) else before.formerly
    write(path, dataclasses.replace(checkpoint, formerly=formerly))
    kept(path).unlink(missing_ok=True)


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises `CheckpointError` where the file is not one, or is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Those that were made before there were digests have none.
        if metadata.get("digest", "") not in ("", digest(tensors, metadata)):
            raise CheckpointError(
                f"{path}: damaged on disk, its SHA-256 is another; remove it, and the same command"
                " makes it again, or copy it anew"
            )
        return Checkpoint(
            tensors,
            parse_recipe(json.loads(metadata["recipe"]), source=f"{path}: recipe"),
            metadata["stage"],
            json.loads(metadata["patch_size"]),
            tuple(json.loads(metadata["class_names"])),
            json.loads(metadata.get("made_by", "{}")),
            metadata.get("formerly"),
        )
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, KeyError, json.JSONDecodeError, RecipeError, OSError) as error:
        raise CheckpointError(f"{path}: not an AdaFocus checkpoint ({error})") from None


def load(path: str | Path, train: bool = False) -> VideoModel:
    """The model of a checkpoint, but for those of stage 0, in eval mode on the CPU.

    A stage-1 model has no policy: its forward needs ``corners``.

    Args:
        path: the file, or a folder that holds no other checkpoint.
        train: whether it is to learn on; else it comes `frozen`, which is two to three times as
            fast.

    Raises:
        CheckpointError: where there is not one checkpoint, or it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("[!.]*.safetensors"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise CheckpointError(f"{path}: holds not one checkpoint but {names}; name the file")
        (path,) = files
    model = assemble(read(path), path).eval()
    return model if train else model.frozen()


def assemble(checkpoint: Checkpoint, path: Path) -> VideoModel:
    """The model of a checkpoint already read from ``path``."""
    if checkpoint.patch_size is None:
        raise CheckpointError(f"{path}: a stage-0 checkpoint is a {checkpoint.stage}, not a model")
    model = build(checkpoint.recipe, checkpoint.patch_size, with_policy=checkpoint.spec.has_policy)
    fill(model, {path: checkpoint}, checkpoint.spec.leaves)
    model.class_names = checkpoint.class_names
    return model


def fill(model: VideoModel, sources: Mapping[Path, Checkpoint], parts: Iterable[str]) -> None:
    """Loads ``parts`` of a model from the checkpoints that hold them.

    Raises:
        CheckpointError: naming the file and the keys that are missing, misshapen or unknown.
    """
    for part in parts:
        expected = {
            f"{part}.{key}": value for key, value in getattr(model, part).state_dict().items()
        }
        holders = [path for path, source in sources.items() if part in source.spec.leaves]
        if not holders:
            raise CheckpointError(
                f"{', '.join(map(str, sources)) or 'no checkpoint'}: holds no {part}"
            )
        path = holders[-1]
        given = {k: v for k, v in sources[path].tensors.items() if k.startswith(f"{part}.")}
        problems = [
            *(f"{key} is missing" for key in expected.keys() - given.keys()),
            *(f"{key} is unknown" for key in given.keys() - expected.keys()),
            *(
                f"{key} is {tuple(given[key].shape)}, not {tuple(expected[key].shape)}"
                for key in expected.keys() & given.keys()
                if given[key].shape != expected[key].shape
            ),
        ]
        if problems:
            raise CheckpointError(f"{path}: {list_some(problems)}")
        getattr(model, part).load_state_dict(
            {k.removeprefix(f"{part}."): v for k, v in given.items()}
        )


def list_some(problems: list[str]) -> str:
    """The first few of many problems, in one line."""
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return f"{'; '.join(sorted(problems)[:5])}{more}"


def check_fit(checkpoint: Checkpoint, path: Path, recipe: Recipe, patch_size: int | None) -> None:
    """Raises `CheckpointError` unless a checkpoint can begin a stage of this recipe."""
    for what, theirs, ours in (
        *compatibility(checkpoint.recipe, recipe, checkpoint.stage),
        ("patch size", checkpoint.patch_size or patch_size, patch_size),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"{path}: made for another {what} than the recipe's: {theirs}, not {ours}"
            )


def load_pretrained(network: Backbone, recipe: BackboneRecipe, key: str) -> None:
    """Fills a backbone's trunk with the weights that its recipe's ``pretrained`` names.

    Args:
        key: where the backbone stands in the recipe, for errors.

    Raises:
        CheckpointError: where the weights cannot be had or do not fit.
    """
    if recipe.pretrained is None:
        return
    advice = f"set {key}.pretrained to a torchvision weights file, or to null to train from scratch"
    name = recipe.name if recipe.depth is None else f"{recipe.name}{recipe.depth}"
    if recipe.pretrained == "imagenet":
        try:
            path = fetch_weights(get_model_weights(name).IMAGENET1K_V1.url)
        except (ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(
                f"{key}.pretrained: cannot get ImageNet weights of {name} ({error}); {advice}"
            ) from None
    else:
        path = Path(recipe.pretrained)
    state = _read_weights(path, key)
    state = {k.removeprefix("features."): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier."))}
    try:
        network.trunk.load_state_dict(state)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise CheckpointError(
            f"{key}.pretrained: {recipe.pretrained} does not fit {name} of width {recipe.width}"
            f" ({lines[:300]}); {advice}"
        ) from None


def cached_weights(url: str) -> Path:
    """Where torch keeps a file that torchvision publishes, whether it is there or not."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def fetch_weights(url: str) -> Path:
    """A file that torchvision publishes, in torch's cache, to which it is downloaded if need be.

    Its whole SHA-256 is looked at each time, as others may write to that folder.

    Raises:
        OSError: where it cannot be downloaded.
        RuntimeError: where the server sends another file.
        CheckpointError: where another file lies in its place.
    """
    path = cached_weights(url)
    # A name ends in how the digest begins.
    expected = DIGESTS.get(path.name, path.stem.rpartition("-")[2])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), expected, progress=False)
    found = sha256(path)
    if not found.startswith(expected):
        raise CheckpointError(
            f"{path}: not the file that torchvision publishes, perhaps half of it or a login page"
            f" (its SHA-256 is {found}, not {expected}): remove it, and"
            " the same command downloads it again, or put a copy of it there"
        )
    return path


def check_pretrained(recipe: Recipe, output: Path) -> None:
    """Makes sure that a recipe's pretrained backbones can be had, before hours go into its data.

    ImageNet weights are downloaded to torch's cache, where `load_pretrained` finds them again.

    Args:
        recipe: the data set's recipe.
        output: JSON to write, what each backbone's weights are.

    Raises:
        CheckpointError: where the weights cannot be had or do not fit.
    """
    found = {}
    for part in ("glancer", "focuser"):
        section = getattr(recipe.model, part)
        load_pretrained(backbone(section, recipe.classes), section, f"{recipe.name}: model.{part}")
        found[part] = section.model_dump(mode="json")
    with atomic(output) as aside:
        aside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 of tensors on the CPU, of their names, types, shapes and values, and of what a
    checkpoint says besides, but for the digest itself."""
    facts = {key: value for key, value in (metadata or {}).items() if key != "digest"}
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    found = hashlib.sha256(json.dumps([facts, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _sort_header(path: Path) -> None:
    """Sorts what safetensors has written in random order: a length of eight bytes, then as long a
    header of JSON."""
    length = Struct("<Q")
    with path.open("r+b") as file:
        (size,) = length.unpack(file.read(length.size))
        header = json.loads(file.read(size))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        file.seek(length.size)
        file.write(text.encode().ljust(size))


def _read_weights(path: Path, key: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{key}.pretrained: cannot read {path}: {reason}") from None
