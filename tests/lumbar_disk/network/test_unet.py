import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lumbar_disk.network import UNet, loss, loss_with_reconstruction, untrained


def groups(net):
    return {
        name: module.num_groups for name, module in net.named_modules() if isinstance(module, nn.GroupNorm)
    }


def test_at_width_64_every_group_count_is_the_papers():
    with torch.device("meta"):
        net = UNet()
    found = groups(net)
    assert found.pop("stem.3") == 64
    for stage, channels in enumerate((128, 256, 512, 1024)):
        for block in range(2):
            assert found.pop(f"stages.{stage}.{block}.main.1") == channels // 4
            assert found.pop(f"stages.{stage}.{block}.join.0") == channels // 4
    assert (found.pop("contour.0"), found.pop("contour.4")) == (1, 1)
    down = ("expand.0", "expand.1", "merges.0", "ups.0", "merges.1", "ups.1", "merges.2", "ups.2", "merges.3")
    assert [found.pop(f"{name}.1") for name in down] == [1, 2, 4, 4, 8, 8, 16, 16, 32]
    assert found.pop("mask.0.1") == 32
    assert not found


# Kind, channels in and out, kernel, stride, padding, output padding, bias.
STEM = [("conv", 1, 32, 7, 2, 3, 0, True), ("conv", 32, 64, 5, 2, 2, 0, False)]
STAGES = [
    layer
    for c in (64, 128, 256, 512)
    for layer in (
        ("conv", c, 2 * c, 3, 2, 1, 0, False),
        ("conv", 2 * c, 2 * c, 1, 1, 0, 0, False),
        ("conv", c, 2 * c, 1, 1, 0, 0, False),  # the shortcut's
        ("conv", 2 * c, 2 * c, 3, 1, 1, 0, False),
        ("conv", 2 * c, 2 * c, 1, 1, 0, 0, False),
    )
]
CODE = [
    ("conv", 1024, 1024, 2, 1, 0, 0, False),
    ("linear", 1024, 1024, False),
    ("linear", 1024, 352, True),
    ("transposed", 1024, 512, 3, 2, 1, 1, False),
    ("transposed", 512, 512, 3, 2, 1, 1, False),
]
MERGES = [("conv", c, c // 4, 3, 1, 1, 0, False) for c in (1024, 512, 256, 128)]
UPS = [("transposed", c, c, 3, 2, 1, 1, False) for c in (256, 128, 64)]
MASK = [("transposed", 32, 32, 7, 2, 3, 1, False), ("transposed", 32, 1, 5, 2, 2, 1, True)]


def layers(net):
    """Every layer with a kernel or a matrix, in the order in which they stand."""
    found = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            found.append(("linear", module.in_features, module.out_features, module.bias is not None))
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kind = "conv" if isinstance(module, nn.Conv2d) else "transposed"
            sides = (module.kernel_size, module.stride, module.padding, module.output_padding)
            assert all(one[0] == one[1] for one in sides)
            numbers = (module.in_channels, module.out_channels, *(one[0] for one in sides))
            found.append((kind, *numbers, module.bias is not None))
    return found


def test_at_width_64_every_layer_is_the_papers():
    with torch.device("meta"):
        net = UNet()
    assert layers(net) == [*STEM, *STAGES, *CODE, *MERGES, *UPS, *MASK]


def test_at_width_64_parameters_work_and_maps_are_the_papers():
    names = ("stem", *(f"stages.{i}" for i in range(4)), "bottleneck", "expand.0", "expand.1")
    names = (*names, *(f"{part}.{i}" for i in range(3) for part in ("merges", "ups")), "merges.3", "mask.0")
    shapes = {}
    with torch.device("meta"):
        net = UNet()
        for name in names:
            net.get_submodule(name).register_forward_hook(
                lambda _module, _args, out, name=name: shapes.update({name: tuple(out.shape[1:3])})
            )
        with FlopCounterMode(display=False) as counter:
            output = net(torch.rand(1, 1, 128, 128))
    encoder = [(64, 32), (128, 16), (256, 8), (512, 4), (1024, 2), (1024, 1)]
    decoder = [(512, 2), (512, 4), (256, 4), (256, 8), (128, 8), (128, 16), (64, 16), (64, 32), (32, 32)]
    assert list(shapes.values()) == [*encoder, *decoder, (32, 64)]
    assert (output["contour"].shape, output["mask"].shape) == ((1, 176, 2), (1, 1, 128, 128))
    assert sum(parameter.numel() for parameter in net.parameters()) == 38_998_721
    assert round(counter.get_total_flops() / 1e9, 3) == 1.162


def test_the_encoders_map_comes_before_the_decoders():
    net = UNet(2, 64).eval()
    seen = []
    net.stages[2].register_forward_hook(lambda _module, _args, out: seen.append(out))
    net.merges[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    net(torch.rand(1, 1, 64, 64))
    assert torch.equal(seen[1][:, : seen[0].shape[1]], seen[0])


@pytest.mark.parametrize(("width", "size"), [(2, 64), (6, 128), (12, 128), (4, 192), (10, 64)])
def test_narrow_and_small_networks_answer_in_the_same_form(width, size):
    output = UNet(width, size)(torch.rand(3, 1, size, size))
    assert output["contour"].shape == (3, 176, 2)
    assert output["mask"].shape == (3, 1, size, size)
    assert (output["contour"].mean() - size / 2).abs() < 2


def test_every_parameter_receives_a_gradient():
    torch.manual_seed(0)
    net = UNet(8, 128)
    output = net(torch.rand(3, 1, 128, 128))
    (output["contour"].square().mean() + output["mask"].square().mean()).backward()
    idle = [name for name, parameter in net.named_parameters() if not parameter.grad.abs().max() > 1e-9]
    assert not idle


def test_examples_do_not_interact():
    torch.manual_seed(0)
    net, x = UNet(4, 64).eval(), torch.rand(3, 1, 64, 64)
    alone = net(x[1:2])
    together = net(x)
    for key in alone:
        torch.testing.assert_close(together[key][1:2], alone[key], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": 7}, "even number of channels.*got 7"),
        ({"width": 0}, "even number of channels.*got 0"),
        ({"size": 100}, "multiple of 64.*got 100"),
    ],
)
def test_impossible_networks_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        UNet(**kwargs)


def test_an_image_of_another_size_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"\(B, 1, 64, 64\); got \(1, 1, 128, 128\).*Crop to that size"):
        UNet(2, 64)(torch.rand(1, 1, 128, 128))


def test_the_third_output_is_the_image_and_the_heads_can_be_had_alone():
    net = untrained(4, 64, 0, reconstruction=True).eval()
    x = torch.rand(2, 1, 64, 64)
    whole = net(x)
    assert list(whole) == ["contour", "mask", "reconstruction", "image"]
    assert whole["reconstruction"].shape == x.shape
    assert 0 < whole["reconstruction"].min() < whole["reconstruction"].max() < 1
    assert torch.equal(whole["image"], x)
    for heads in (["contour"], ["mask"], ["reconstruction"]):
        part = net(x, heads=heads)
        assert torch.equal(part[heads[0]], whole[heads[0]])
    assert list(net(x, heads=["contour"])) == ["contour"]
    with pytest.raises(ValueError, match=r"has the heads contour, mask, reconstruction; got \['depth'\]"):
        net(x, heads=["depth"])
    target = {"contour": whole["contour"] + 1, "mask": torch.ones_like(x)}
    extra = loss_with_reconstruction(whole, target) - loss(whole, target)
    torch.testing.assert_close(extra, (whole["reconstruction"] - x).abs().mean((1, 2, 3)))
