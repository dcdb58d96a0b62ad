"""Networks: a small classifier, the backbones of an FCN, this course's own trained network and torchvision's."""

import copy
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from coursekit import _validate as validate
from coursekit.data._files import DataError
from coursekit.preprocessing import Standardizer

WEIGHTS = Path(__file__).parent / "weights"
COURSE = ("cifar10",)
TORCHVISION = ("alexnet", "vgg16", "resnet18", "resnet101", "densenet121")


def small_classifier(
    num_classes: int = 10,
    widths: Sequence[int] = (32, 64, 128, 256),
    in_channels: int = 3,
    standardizer: nn.Module | None = None,
) -> nn.Sequential:
    """A plain convolutional classifier whose first layer is wide enough to look at: 7×7.

    One convolution, then a stage of two 3×3 convolutions for each further width; each is followed by batch
    normalization and ReLU, each stage by 2×2 max pooling, the last one by an average over the map.

    Args:
        num_classes: logits L.
        widths: channels of the first layer and of each stage after it.
        in_channels: channels of the images.
        standardizer: put before the first layer, so that statistics travel with the weights.

    Returns:
        A network from (N, C, H, W), H and W at least 2 to the power of the number of stages, to (N, L). Its
        layers have names: `conv1`, `relu2_1`, `pool2`, …, `average`, `flatten`, `scores`.

    Raises:
        ValueError: a number below 1, or no width.
    """
    validate.whole("num_classes", num_classes, 1)
    validate.whole("in_channels", in_channels, 1)
    if not widths:
        raise validate.refuse("widths", "at least one number of channels", widths)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if standardizer is not None:
        layers["standardize"] = standardizer
    channels = in_channels
    for stage, width in enumerate(widths, start=1):
        validate.whole("widths", width, 1)
        names = ["1"] if stage == 1 else [f"{stage}_1", f"{stage}_2"]
        for name in names:
            size = 7 if stage == 1 else 3
            layers[f"conv{name}"] = nn.Conv2d(channels, width, size, padding=size // 2, bias=False)
            layers[f"bn{name}"] = nn.BatchNorm2d(width)
            layers[f"relu{name}"] = nn.ReLU(inplace=True)
            channels = width
        if stage < len(widths):
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["scores"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)


class _ThreeStrides(nn.Module):
    """Features of strides 8, 16 and 32, each made of the finer one."""

    def __init__(self, to_8: nn.Module, channels: tuple[int, int, int]) -> None:
        super().__init__()
        c8, c16, c32 = channels
        self.to_8 = to_8
        self.to_16 = _halving(c8, c16)
        self.to_32 = _halving(c16, c32)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        at_8 = self.to_8(images)
        at_16 = self.to_16(at_8)
        return {8: at_8, 16: at_16, 32: self.to_32(at_16)}


class Backbone(_ThreeStrides):
    """Features of three resolutions: strides 8, 16 and 32.

    Args:
        channels: (c8, c16, c32), channels of the three.
        classifier: a `small_classifier` of four stages whose convolutional layers are copied and give the
            features of stride 8; None starts from random weights. Its last width has to be c8.

    Returns, from `forward`: {8: (N, c8, …), 16: (N, c16, …), 32: (N, c32, …)} for images (N, C, H, W); each
    map has ceil(size / stride) cells a side.

    Raises:
        ValueError: `channels` are not three, or `classifier` does not have stride 8 and c8 channels.

    Source: Long, Shelhamer and Darrell 2015, section 4, with a smaller network.
    """

    def __init__(
        self, channels: tuple[int, int, int] = (128, 160, 192), classifier: nn.Sequential | None = None
    ) -> None:
        c8 = _three(channels)[0]
        if classifier is None:
            classifier = small_classifier(widths=(c8 // 4 or 1, c8 // 2 or 1, c8, c8))
        super().__init__(_features(classifier, c8), channels)


class SmallBackbone(_ThreeStrides):
    """`Backbone` for training from nothing within seconds: its first layers already halve the image.

    Args:
        channels: (c8, c16, c32), channels of the three features.
        in_channels: channels C of the images.

    Returns, from `forward`: {8: (N, c8, …), 16: (N, c16, …), 32: (N, c32, …)} for images (N, C, H, W); each
    map has ceil(size / stride) cells a side.

    Raises:
        ValueError: `channels` are not three, or a number is below 1.
    """

    def __init__(self, channels: tuple[int, int, int] = (64, 96, 128), in_channels: int = 3) -> None:
        c8 = _three(channels)[0]
        validate.whole("in_channels", in_channels, 1)
        first, second = c8 // 2 or 1, c8 * 3 // 4 or 1
        to_8 = nn.Sequential(
            *_convolution(in_channels, first, kernel=5, stride=2),
            *_convolution(first, second, stride=2),
            *_halving(second, c8),
        )
        super().__init__(to_8, channels)


def pretrained(name: str) -> nn.Module:
    """A trained network, in evaluation mode.

    Args:
        name: "cifar10", this course's own, which needs no network connection and maps images (N, 3, H, W)
            from 0 to 1 to the logits of CIFAR-10's ten classes; or one of torchvision's, trained on ImageNet,
            which torchvision downloads and checks: "alexnet", "vgg16", "resnet18", "resnet101", "densenet121".

    Raises:
        ValueError: another name.
        DataError: the weights cannot be had; the message names what to use instead.
    """
    if name in COURSE:
        return _course(name)
    if name not in TORCHVISION:
        raise validate.refuse("name", f"one of {', '.join((*COURSE, *TORCHVISION))}", repr(name))
    from torchvision.models import get_model

    try:
        return get_model(name, weights="DEFAULT").eval()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"The weights of {name} could not be downloaded ({error}). Without a network, "
            'pretrained("cifar10") is this course\'s own classifier.'
        ) from error


def save_pretrained(model: nn.Sequential, path: Path, **settings: object) -> None:
    """Write a `small_classifier` and how it was made to a safetensors file, in half precision.

    Args:
        model: the network.
        path: the file.
        settings: what `small_classifier` needs to build it again, and what is worth knowing of it; JSON.
    """
    from safetensors.torch import save_file

    state = {name: _half(value).contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, metadata={"settings": json.dumps(settings, ensure_ascii=False)})


def settings(name: str) -> dict:
    """How a network of this course was made, and what it reaches, as its file says.

    Raises:
        ValueError: no network of this course has this name.
        DataError: its file is missing.
    """
    if name not in COURSE:
        raise validate.refuse("name", f"one of {', '.join(COURSE)}", repr(name))
    from safetensors import safe_open

    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise DataError(
            f"{path} is missing; python -m benchmarks.results.pretrain makes it, in about an hour"
        )
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["settings"])


def _course(name: str) -> nn.Sequential:
    from safetensors.torch import load_file

    made = settings(name)
    model = small_classifier(len(made["classes"]), made["widths"], standardizer=Standardizer())
    state = load_file(WEIGHTS / f"{name}.safetensors")
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    )
    return model.eval()


def _half(value: Tensor) -> Tensor:
    # Weights of layers only: statistics and scales are few, and their rounding would show.
    return value.half() if value.is_floating_point() and value.ndim in (2, 4) else value


def _features(classifier: nn.Sequential, channels: int) -> nn.Sequential:
    """Copies of the convolutional layers of a classifier, with map sizes rounded up."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    stride, width = 1, 0
    for name, layer in classifier.named_children():
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            break
        layer = copy.deepcopy(layer)
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
            stride *= 2
        if isinstance(layer, nn.Conv2d):
            width = layer.out_channels
        layers[name] = layer
    if (stride, width) != (8, channels):
        expected = f"of stride 8 and {channels} channels"
        raise validate.refuse("classifier", expected, f"stride {stride} and {width} channels")
    return nn.Sequential(layers)


def _three(channels: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(channels) != 3:
        raise validate.refuse("channels", "(c8, c16, c32)", channels)
    for c in channels:
        validate.whole("channels", c, 1)
    return channels


def _halving(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(channels, out, stride=2), *_convolution(out, out))


def _convolution(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
