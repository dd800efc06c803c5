import pytest
import torch
from torchvision.models import mobilenet_v2, resnet50

from adafocus.model.backbones import Normalize, ShiftedConv2d, backbone, pool, temporal_shift
from adafocus.recipe import BackboneRecipe


def test_temporal_shift_by_hand():
    # One video of 3 frames, 8 channels of one pixel: frame t holds the values 10·t + channel.
    maps = torch.arange(3)[:, None] * 10.0 + torch.arange(8)
    shifted = temporal_shift(maps.view(3, 8, 1, 1), segments=3).view(3, 8)
    assert shifted[:, 0].tolist() == [10, 20, 0]  # from the next frame
    assert shifted[:, 1].tolist() == [0, 1, 11]  # from the one before
    assert torch.equal(shifted[:, 2:], maps[:, 2:])


def test_temporal_shift_keeps_videos_apart():
    first, second = torch.randn(2, 4, 16, 2, 2)
    together = temporal_shift(torch.cat((first, second)), segments=4)
    assert torch.equal(together[:4], temporal_shift(first, 4))
    assert torch.equal(together[4:], temporal_shift(second, 4))


@pytest.mark.parametrize(
    ("recipe", "reference", "channels"),
    [
        (BackboneRecipe(name="mobilenet_v2"), mobilenet_v2, 1280),
        (BackboneRecipe(name="resnet", depth=50), resnet50, 2048),
    ],
)
def test_full_backbones_are_torchvisions(recipe, reference, channels):
    ours, theirs = backbone(recipe, classes=7), reference(num_classes=7).eval()
    state = {k.removeprefix("features."): v for k, v in theirs.state_dict().items()}
    head = [k for k in state if k.startswith(("classifier.", "fc."))]
    ours.head.load_state_dict({k.split(".")[-1]: state.pop(k) for k in head})
    ours.trunk.load_state_dict(state)
    frames = torch.randn(2, 1, 3, 64, 64)
    with torch.inference_mode():
        maps = ours.eval()(frames)
        assert maps.shape == (2, 1, channels, 2, 2)
        assert torch.allclose(ours.classify(pool(maps))[:, 0], theirs(frames[:, 0]), atol=1e-5)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet"])
def test_output_stride_keeps_the_map_fine(name, stride):
    recipe = BackboneRecipe(
        name=name, depth=10 if name == "resnet" else None, width=0.25, output_stride=stride
    )
    size = 72  # a multiple of 8 only: maps are rounded up
    maps = backbone(recipe, classes=2).eval()(torch.zeros(1, 2, 3, size, size))
    assert maps.shape[-2:] == (-(-size // stride),) * 2


def test_width_slims_the_whole_resnet():
    slim = backbone(BackboneRecipe(name="resnet", depth=10, width=0.25), classes=2)
    assert slim.trunk.conv1.out_channels == 16
    assert [slim.trunk.get_submodule(f"layer{i}.0.conv1").out_channels for i in (1, 2, 3, 4)] == [
        *(16, 32, 64, 128)
    ]
    assert slim.channels == 128


def test_shift_stands_before_the_first_convolution_of_each_residual_branch():
    focuser = backbone(BackboneRecipe(name="resnet", depth=50), classes=2, segments=12)
    shifted = {n for n, m in focuser.trunk.named_modules() if isinstance(m, ShiftedConv2d)}
    assert shifted == {
        f"layer{layer}.{block}.conv1"
        for layer, blocks in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True)
        for block in range(blocks)
    }
    glancer = backbone(BackboneRecipe(name="mobilenet_v2"), classes=2, segments=8)
    shifted = {n for n, m in glancer.trunk.named_modules() if isinstance(m, ShiftedConv2d)}
    assert shifted == {f"{i}.conv.0.0" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)}
    # Names of weights are those of the unshifted network, so that its weights load.
    plain = backbone(BackboneRecipe(name="mobilenet_v2"), classes=2)
    assert plain.state_dict().keys() == glancer.state_dict().keys()


def test_normalize():
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1).expand(2, 3, 4, 5)
    out = Normalize()(frames)
    assert out.dtype == torch.float32 and out.shape == frames.shape
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert out[1, :, 2, 3].tolist() == pytest.approx(expected, abs=1e-6)


def test_frames_of_another_kind_are_named():
    with pytest.raises(TypeError, match="frames are torch.int64: give uint8, or floats"):
        Normalize()(torch.zeros(1, 1, 3, 2, 2, dtype=torch.int64))
