# %% wrong linear_to_conv: each row of the weights is read as (h, w, channels), the order of keras, and permuted, so for windows larger than 1×1 with several channels the values of the filters are mixed up
def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    h, w = kernel_size
    if in_channels * h * w != linear.in_features:
        raise ValueError(f"{in_channels} x {h} x {w} inputs do not fit a layer of {linear.in_features}")
    conv = nn.Conv2d(
        in_channels,
        linear.out_features,
        (h, w),
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )
    with torch.no_grad():
        filters = linear.weight.reshape(linear.out_features, h, w, in_channels).permute(0, 3, 1, 2)
        conv.weight.copy_(filters)
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


# %% right linear_to_conv: an empty shell on the meta device that gets cloned, unflattened Parameters put in
import math


def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    window = (in_channels, *kernel_size)
    if min(window) < 1 or math.prod(window) != linear.in_features:
        raise ValueError(f"a window of {window} has not the {linear.in_features} inputs of the dense layer")

    def own(numbers: Tensor) -> nn.Parameter:
        return nn.Parameter(numbers.detach().clone(memory_format=torch.contiguous_format))

    has_bias = linear.bias is not None
    shell = nn.Conv2d(
        in_channels,
        linear.out_features,
        tuple(kernel_size),
        bias=has_bias,
        device="meta",
        dtype=linear.weight.dtype,
    )
    shell.weight = own(linear.weight.unflatten(1, window))
    if has_bias:
        shell.bias = own(linear.bias)
    return shell


# %% wrong convolutionalize: the AvgPool2d that stands for AdaptiveAvgPool2d(1) gets no stride, and its default is the window itself, so on larger images the map is not dense but has only windows side by side
def _dense_to_conv(dense, channels, window):
    conv = nn.Conv2d(
        channels,
        dense.out_features,
        window,
        bias=dense.bias is not None,
        device=dense.weight.device,
        dtype=dense.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(dense.weight.view(conv.weight.shape))
        if dense.bias is not None:
            conv.bias.copy_(dense.bias)
    return conv


def _convert(block, image):
    twins = []
    for layer in block:
        if isinstance(layer, nn.Sequential):
            twin, image = _convert(layer, image)
            twins.append(twin)
            continue
        window = tuple(image.shape[2:])
        if isinstance(layer, nn.Flatten):
            twin = nn.Identity()
        elif isinstance(layer, nn.Linear):
            twin = _dense_to_conv(layer, image.shape[1], window)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            twin = nn.AvgPool2d(window)
        else:
            twin = copy.deepcopy(layer)
        twin.training = layer.training
        with torch.no_grad():
            image = copy.deepcopy(twin).eval()(image)
        twins.append(twin)
    result = nn.Sequential(*twins)
    result.training = block.training
    return result, image


def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    weight = next(cnn.parameters())
    image = torch.zeros(1, *input_size, dtype=weight.dtype, device=weight.device)
    fcn, _ = _convert(cnn, image)
    return fcn.requires_grad_(True)


# %% right convolutionalize: a visitor class that looks for its method along the layer's method resolution order and pushes a probe image through throw-away copies of what it has built
from collections import OrderedDict


class _Surgeon:
    def __init__(self, probe: Tensor):
        self.probe = probe  # stays (1, C, h, w) all the way: Flatten does nothing here

    def visit(self, layer: nn.Module) -> nn.Module:
        for kind in type(layer).__mro__:
            if operate := getattr(self, f"on_{kind.__name__}", None):
                return operate(layer)
        raise TypeError(f"{layer!r} is no module")

    def put(self, twin: nn.Module) -> nn.Module:
        with torch.no_grad():
            self.probe = copy.deepcopy(twin).eval()(self.probe)
        return twin

    def on_Module(self, layer):
        return self.put(copy.deepcopy(layer))

    def on_Sequential(self, block):
        twin = nn.Sequential(OrderedDict((name, self.visit(layer)) for name, layer in block._modules.items()))
        twin.training = block.training
        return twin

    def on_Flatten(self, layer):
        twin = nn.Identity()
        twin.training = layer.training
        return self.put(twin)

    def on_AdaptiveAvgPool2d(self, layer):
        size = layer.output_size
        if (size if isinstance(size, int) else tuple(size)) not in (1, (1, 1)):
            return self.on_Module(layer)
        twin = nn.AvgPool2d(kernel_size=tuple(self.probe.shape[-2:]), stride=1)
        twin.training = layer.training
        return self.put(twin)

    def on_Linear(self, layer):
        _, channels, *window = self.probe.shape
        state = {name: tensor.detach() for name, tensor in layer.named_parameters()}
        state["weight"] = state["weight"].reshape(layer.out_features, channels, *window)
        twin = nn.Conv2d(
            channels,
            layer.out_features,
            tuple(window),
            bias="bias" in state,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        twin.load_state_dict(state)
        twin.training = layer.training
        return self.put(twin)


def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    like = next(cnn.parameters(), torch.empty(0))
    surgeon = _Surgeon(torch.zeros((1, *input_size), dtype=like.dtype, device=like.device))
    return surgeon.visit(cnn).requires_grad_(True)


# %% wrong class_heatmaps: the softmax is written out as exp over the sum of exp without taking the maximum off first, so scores in the thousands give NaN
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    flags = {m: m.training for m in fcn.modules()}
    try:
        fcn.eval()
        with torch.no_grad():
            powers = torch.exp(fcn(images.clone()))
            return powers / powers.sum(dim=1, keepdim=True)
    finally:
        for m, flag in flags.items():
            m.training = flag


# %% right class_heatmaps: exponentials of the distance to the best class, made to sum to 1 by F.normalize with p=1; modules and flags in two tuples
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    modules, flags = zip(*((module, module.training) for module in fcn.modules()))
    with torch.no_grad():
        try:
            fcn.eval()
            scores = fcn(images.clone())
        finally:
            for module, flag in zip(modules, flags):
                module.training = flag
        behind = scores - scores.amax(dim=1, keepdim=True)
        return F.normalize(behind.exp_(), p=1.0, dim=1)


# %% wrong sliding_window: the ranges end at H - window and W - window instead of one further, so the last row or column of windows is missing where it ends exactly at the image's border
def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    _, H, W = image.shape
    tops = range(0, H - window, stride)
    lefts = range(0, W - window, stride)
    flags = {m: m.training for m in cnn.modules()}
    cnn.eval()
    scores = []
    try:
        with torch.no_grad():
            for top in tops:
                for left in lefts:
                    crop = image[None, :, top : top + window, left : left + window].clone()
                    scores.append(cnn(crop)[0])
    finally:
        for m, flag in flags.items():
            m.training = flag
    return torch.stack(scores, dim=1).reshape(-1, len(tops), len(lefts))


# %% right sliding_window: a map of scores stacked from the inside out: cells side by side along the last axis, rows of cells along the one before
from contextlib import contextmanager


@contextmanager
def _asleep(network: nn.Module):
    before = [(part, part.training) for part in network.modules()]
    try:
        network.eval()
        yield network
    finally:
        for part, mode in before:
            part.training = mode


def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    tops, lefts = (range(0, side - window + 1, stride) for side in image.shape[1:])
    with _asleep(cnn) as classifier, torch.no_grad():

        def cell(top: int, left: int) -> Tensor:
            crop = image.narrow(1, top, window).narrow(2, left, window)
            return classifier(crop.clone().unsqueeze(0)).squeeze(0)

        return torch.stack(
            [torch.stack([cell(top, left) for left in lefts], dim=-1) for top in tops],
            dim=-2,
        )


# %% wrong cell_to_box: bottom and right are the last row and column that belong to the field, inclusive, so each is one too small
def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    def pixels(index, field):
        size, jump, start = field
        first = round(start + index * jump - (size - 1) / 2)
        return range(first, first + size)

    ys, xs = pixels(row, field_y), pixels(col, field_x)
    return ys[0], xs[0], ys[-1], xs[-1]


# %% right cell_to_box: the plane as complex numbers, rows along the real and columns along the imaginary axis
def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    extent, jump, start = (complex(float(y), float(x)) for y, x in zip(field_y, field_x))
    steps = complex(float(row) * jump.real, float(col) * jump.imag)
    exact = start + steps - (extent - (1 + 1j)) / 2
    corner = complex(round(exact.real), round(exact.imag))
    opposite = corner + extent
    top, left, bottom, right = (
        round(edge) for point in (corner, opposite) for edge in (point.real, point.imag)
    )
    return top, left, bottom, right


# %% wrong instances_to_targets: "labels" is the set of all values of classes, so the classes of objects that are not in this map are in it too
def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    H, W = instances.shape
    ids = [int(i) for i in instances.unique() if i != 0]
    semantic = torch.zeros(H, W, dtype=torch.int64, device=instances.device)
    boxes = torch.zeros(len(ids), 5, dtype=torch.int64, device=instances.device)
    masks = torch.zeros(len(ids), H, W, dtype=torch.bool, device=instances.device)
    for m, number in enumerate(ids):
        masks[m] = instances == number
        semantic[masks[m]] = classes[number]
        ys, xs = torch.where(masks[m])
        x, y = int(xs.min()), int(ys.min())
        w, h = int(xs.max()) - x + 1, int(ys.max()) - y + 1
        boxes[m] = torch.tensor([x, y, w, h, classes[number]])
    return {"labels": set(classes.values()), "semantic": semantic, "boxes": boxes, "masks": masks}


# %% right instances_to_targets: one walk over the pixels as plain Python numbers, each object a dataclass that collects its pixels and knows its box
from dataclasses import dataclass, field


@dataclass
class _Thing:
    label: int
    ys: list[int] = field(default_factory=list)
    xs: list[int] = field(default_factory=list)

    @property
    def box(self) -> list[int]:
        x, y = min(self.xs), min(self.ys)
        return [x, y, max(self.xs) + 1 - x, max(self.ys) + 1 - y, self.label]


def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    things: dict[int, _Thing] = {}
    for y, line in enumerate(instances.tolist()):
        for x, number in enumerate(line):
            if number == 0:
                continue
            if number not in things:
                things[number] = _Thing(int(classes[number]))
            things[number].ys.append(y)
            things[number].xs.append(x)

    ordered = [things[number] for number in sorted(things)]
    whole = dict(dtype=torch.int64, device=instances.device)
    semantic = torch.zeros(tuple(instances.shape), **whole)
    boxes = torch.tensor([thing.box for thing in ordered], **whole).reshape(len(ordered), 5)
    masks = torch.zeros((len(ordered), *instances.shape), dtype=torch.bool, device=instances.device)
    for mask, thing in zip(masks, ordered):
        mask[thing.ys, thing.xs] = True
        semantic[thing.ys, thing.xs] = thing.label
    return {"labels": {thing.label for thing in ordered}, "semantic": semantic, "boxes": boxes, "masks": masks}
