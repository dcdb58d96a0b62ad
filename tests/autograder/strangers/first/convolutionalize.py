# %% wrong linear_to_conv: it believes that nn.Conv2d flips its kernel, as a convolution in mathematics does, and flips the weights along rows and columns, so windows larger than 1×1 give wrong scores
def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    h, w = kernel_size
    if in_channels * h * w != linear.in_features:
        raise ValueError(f"{in_channels}·{h}·{w} is not {linear.in_features}")
    conv = nn.Conv2d(in_channels, linear.out_features, (h, w), bias=linear.bias is not None)
    conv = conv.to(device=linear.weight.device, dtype=linear.weight.dtype)
    with torch.no_grad():
        kernels = linear.weight.view(linear.out_features, in_channels, h, w)
        # a convolution mirrors its kernel, so mirror it first
        conv.weight.copy_(kernels.flip(dims=(2, 3)))
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


# %% right linear_to_conv: skip_init without random numbers, then every parameter by its name, reshaped
import math


def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    window = (in_channels, *kernel_size)
    if min(window) < 1 or math.prod(window) != linear.in_features:
        raise ValueError(f"a window of {window} does not fit {linear.in_features} inputs")
    conv = nn.utils.skip_init(
        nn.Conv2d,
        in_channels,
        linear.out_features,
        tuple(kernel_size),
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            parameter.copy_(getattr(linear, name).reshape(parameter.shape))
    return conv


# %% wrong convolutionalize: it walks through each Sequential with named_children, which lists an object once only, so a ReLU that stands at two places of a Sequential is missing at its second place
def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    weight = next(cnn.parameters())
    probe = torch.zeros(1, *input_size, dtype=weight.dtype, device=weight.device)

    def convert(layer, x):
        if isinstance(layer, nn.Sequential):
            twin = nn.Sequential()
            for name, child in layer.named_children():
                new, x = convert(child, x)
                twin.add_module(name, new)
            twin.training = layer.training
            return twin, x
        if isinstance(layer, nn.Flatten):
            twin = nn.Identity()
        elif isinstance(layer, nn.Linear):
            _, c, h, w = x.shape
            twin = nn.Conv2d(c, layer.out_features, (h, w), bias=layer.bias is not None)
            twin = twin.to(dtype=layer.weight.dtype, device=layer.weight.device)
            with torch.no_grad():
                twin.weight.copy_(layer.weight.view(layer.out_features, c, h, w))
                if layer.bias is not None:
                    twin.bias.copy_(layer.bias)
        elif isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
            twin = nn.AvgPool2d(tuple(x.shape[2:]), stride=1)
        else:
            twin = copy.deepcopy(layer)
        twin.training = layer.training
        with torch.no_grad():
            x = copy.deepcopy(twin).eval()(x)
        return twin, x

    fcn, _ = convert(cnn, probe)
    for parameter in fcn.parameters():
        parameter.requires_grad_(True)
    return fcn


# %% right convolutionalize: singledispatch on the layer's type, each case returns the new layer and the probe behind it
from collections import OrderedDict
from functools import singledispatch


def _placed(twin: nn.Module, layer: nn.Module, probe: Tensor) -> tuple[nn.Module, Tensor]:
    twin.training = layer.training  # of this module alone; a deep copy has those of its children already
    return twin, copy.deepcopy(twin).eval().forward(probe)


@singledispatch
def _rebuilt(layer, probe):
    return _placed(copy.deepcopy(layer), layer, probe)


@_rebuilt.register(nn.Sequential)
def _rebuilt_sequential(layer, probe):
    if type(layer).forward is not nn.Sequential.forward:  # a block with a mind of its own
        return _placed(copy.deepcopy(layer), layer, probe)
    parts = OrderedDict()
    for name, child in zip(layer._modules, layer):
        parts[name], probe = _rebuilt(child, probe)
    twin = nn.Sequential(parts)
    twin.training = layer.training
    return twin, probe


@_rebuilt.register(nn.Flatten)
def _rebuilt_flatten(layer, probe):
    return _placed(nn.Identity(), layer, probe)


@_rebuilt.register(nn.AdaptiveAvgPool2d)
def _rebuilt_pool(layer, probe):
    if layer.output_size in (1, (1, 1), [1, 1]):
        return _placed(nn.AvgPool2d(tuple(probe.shape[-2:]), stride=1), layer, probe)
    return _placed(copy.deepcopy(layer), layer, probe)


@_rebuilt.register(nn.Linear)
def _rebuilt_linear(layer, probe):
    _, channels, *window = probe.shape  # after the first dense layer the window is 1×1 of itself
    conv = nn.Conv2d(
        channels,
        layer.out_features,
        tuple(window),
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        for ours, theirs in ((conv.weight, layer.weight), (conv.bias, layer.bias)):
            if theirs is not None:
                ours.copy_(theirs.reshape(ours.shape))
    return _placed(conv, layer, probe)


def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    like = next(cnn.parameters(), torch.empty(0))
    with torch.no_grad():
        fcn, _ = _rebuilt(cnn, torch.zeros((1, *input_size), dtype=like.dtype, device=like.device))
    return fcn.requires_grad_(True)


# %% wrong class_heatmaps: flags are put back with m.train(), which also switches everything inside m, so a layer that was frozen in eval mode inside a training network ends up in training mode
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    was_training = {m: m.training for m in fcn.modules()}
    fcn.eval()
    try:
        with torch.no_grad():
            scores = fcn(images.clone())
    finally:
        for m, was in was_training.items():
            if was:
                m.train()
    return F.softmax(scores, dim=1)


# %% right class_heatmaps: a decorator that keeps the modes, no_grad as a decorator and nn.Softmax2d
from functools import wraps


def undisturbed(function):
    @wraps(function)
    def run(fcn, images):
        modes = tuple((module, module.training) for module in fcn.modules())
        try:
            fcn.eval()
            return function(fcn, images)
        finally:
            for module, mode in modes:
                module.training = mode

    return run


@undisturbed
@torch.no_grad()
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    return nn.Softmax2d()(fcn(images.clone()))


# %% wrong sliding_window: squeeze() takes the batch axis off the scores and, with a single class, the class axis too, so a classifier with one class fails with an error in permute
def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    _, height, width = image.shape
    flags = {m: m.training for m in cnn.modules()}
    cnn.eval()
    try:
        with torch.no_grad():
            rows = []
            for top in range(0, height - window + 1, stride):
                cells = []
                for left in range(0, width - window + 1, stride):
                    crop = image[:, top : top + window, left : left + window].clone()
                    cells.append(cnn(crop.unsqueeze(0)).squeeze())
                rows.append(torch.stack(cells))
    finally:
        for m, flag in flags.items():
            m.training = flag
    return torch.stack(rows).permute(2, 0, 1)


# %% right sliding_window: unfold cuts a band of windows at a time, a generator hands the bands over, a context manager keeps the modes
from contextlib import contextmanager


@contextmanager
def _resting(network):
    memory = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.no_grad():
            yield network
    finally:
        for module, flag in memory:
            module.training = flag


def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    def bands():
        for top in range(0, image.shape[1] - window + 1, stride):
            band = image[:, top : top + window].unfold(2, window, stride)  # (C, window, w, window)
            yield band.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)

    with _resting(cnn) as judge:
        return torch.stack([judge(crops).T for crops in bands()], dim=1)


# %% wrong cell_to_box: it rounds the center to a pixel and then goes size // 2 back, so fields of an even size, whose center lies between two pixels, often begin one pixel too early
def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    size_y, jump_y, start_y = field_y
    size_x, jump_x, start_x = field_x
    center_y = round(start_y + row * jump_y)
    center_x = round(start_x + col * jump_x)
    top = center_y - size_y // 2
    left = center_x - size_x // 2
    return top, left, top + size_y, left + size_x


# %% right cell_to_box: exact fractions, one helper for both axes, the edges put in order by zip
from fractions import Fraction


def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    def edges(index: int, size: int, jump: int, start: float) -> tuple[int, int]:
        center = Fraction(float(start)) + int(index) * int(jump)
        first = round(center - Fraction(int(size) - 1, 2))
        return first, first + int(size)

    (top, left), (bottom, right) = zip(edges(row, *field_y), edges(col, *field_x))
    return top, left, bottom, right


# %% wrong instances_to_targets: "semantic" is a copy of the map in which one number after the other is replaced by its class, compared with the copy itself, so pixels whose class equals a later object's number are replaced again
def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    ids = [number for number in instances.unique().tolist() if number != 0]
    semantic = instances.clone().long()
    boxes = torch.zeros(len(ids), 5, dtype=torch.int64, device=instances.device)
    masks = torch.zeros(len(ids), *instances.shape, dtype=torch.bool, device=instances.device)
    for m, number in enumerate(ids):
        masks[m] = instances == number
        semantic[semantic == number] = classes[number]
        y, x = torch.where(masks[m])
        boxes[m, 0] = x.min()
        boxes[m, 1] = y.min()
        boxes[m, 2] = x.max() - x.min() + 1
        boxes[m, 3] = y.max() - y.min() + 1
        boxes[m, 4] = classes[number]
    return {
        "labels": {classes[number] for number in ids},
        "semantic": semantic,
        "boxes": boxes,
        "masks": masks,
    }


# %% right instances_to_targets: no loop over pixels or objects: unique with inverse as a lookup, masks by broadcasting, box edges by filled ranges
def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    numbers, place = instances.to(torch.int64).unique(return_inverse=True)
    meaning = torch.tensor(
        [int(classes[number]) if number else 0 for number in numbers.tolist()],
        dtype=torch.int64,
        device=instances.device,
    )
    objects = numbers.nonzero().flatten()  # where in numbers the objects stand
    masks = place[None] == objects[:, None, None]

    def edges(hit: Tensor) -> tuple[Tensor, Tensor]:
        """First index and length of the True part of each row."""
        index = torch.arange(hit.shape[1], device=hit.device).expand_as(hit)
        first = index.masked_fill(~hit, hit.shape[1]).amin(dim=1)
        last = index.masked_fill(~hit, -1).amax(dim=1)
        return first, last - first + 1

    x, width = edges(masks.any(dim=1))
    y, height = edges(masks.any(dim=2))
    return {
        "labels": set(meaning[objects].tolist()),
        "semantic": meaning[place],
        "boxes": torch.stack([x, y, width, height, meaning[objects]], dim=1),
        "masks": masks,
    }
