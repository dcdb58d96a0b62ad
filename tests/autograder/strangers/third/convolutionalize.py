# %% wrong linear_to_conv: the convolution gets its window as its stride, too (as when an image is cut into patches), so on a larger map it answers only for windows side by side instead of one cell apart
def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    h, w = kernel_size
    if in_channels * h * w != linear.in_features:
        raise ValueError(f"{in_channels}·{h}·{w} inputs do not fit a layer with {linear.in_features}")
    conv = nn.Conv2d(
        in_channels,
        linear.out_features,
        kernel_size,
        stride=kernel_size,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    )
    with torch.no_grad():
        conv.weight.copy_(linear.weight.reshape(conv.weight.shape))
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


# %% right linear_to_conv: all numbers of the dense layer in one long vector, poured into the convolution by vector_to_parameters
from math import prod

from torch.nn.utils import vector_to_parameters


def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    window = (in_channels, *kernel_size)
    if min(window) < 1 or prod(window) != linear.in_features:
        raise ValueError(f"a window {window} has not the {linear.in_features} entries of the dense layer")
    numbers = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    poured = torch.cat([part.detach().reshape(-1) for part in numbers])  # a copy
    conv = nn.Conv2d(
        in_channels,
        linear.out_features,
        tuple(kernel_size),
        bias=len(numbers) == 2,
        device=poured.device,
        dtype=poured.dtype,
    )
    vector_to_parameters(poured, conv.parameters())  # weight first, then bias, as above
    return conv


# %% wrong convolutionalize: the zero image that finds out the sizes is sent through the new layers in the mode they are in, so each batch norm in training mode mixes the statistics of the zeros into its running statistics
def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    def convert(layer, probe):
        if isinstance(layer, nn.Sequential):
            twins = []
            for child in layer:
                twin, probe = convert(child, probe)
                twins.append(twin)
            network = nn.Sequential(*twins)
            network.training = layer.training
            return network, probe
        if isinstance(layer, nn.Flatten):
            twin = nn.Identity()
            twin.training = layer.training
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            twin = nn.AvgPool2d(tuple(probe.shape[-2:]), stride=1)
            twin.training = layer.training
        elif isinstance(layer, nn.Linear):
            _, channels, h, w = probe.shape
            twin = nn.Conv2d(channels, layer.out_features, (h, w), bias=layer.bias is not None)
            twin.to(device=layer.weight.device, dtype=layer.weight.dtype)
            with torch.no_grad():
                twin.weight.copy_(layer.weight.view(twin.weight.shape))
                if layer.bias is not None:
                    twin.bias.copy_(layer.bias)
            twin.training = layer.training
        else:
            twin = copy.deepcopy(layer)
        with torch.no_grad():
            probe = twin(probe)
        return twin, probe

    weight = next(cnn.parameters())
    network, _ = convert(cnn, torch.zeros(1, *input_size, dtype=weight.dtype, device=weight.device))
    return network


# %% right convolutionalize: a coroutine at work: it is sent one layer after the other, yields the twin and keeps the probe image to itself; names are kept
from collections import OrderedDict


def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    sample = next(cnn.parameters(), torch.zeros(()))

    def dense(linear: nn.Linear, channels: int, window: tuple[int, int]) -> nn.Conv2d:
        if channels * window[0] * window[1] != linear.in_features:
            raise ValueError(f"{linear} cannot follow a map of {channels} channels and size {window}")
        conv = nn.Conv2d(
            channels,
            linear.out_features,
            window,
            bias=linear.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        with torch.no_grad():
            conv.weight.copy_(linear.weight.reshape(conv.weight.shape))
            if linear.bias is not None:
                conv.bias.copy_(linear.bias)
        return conv

    def tailor():
        probe = torch.zeros(1, *input_size, dtype=sample.dtype, device=sample.device)
        twin = None
        while True:
            layer = yield twin
            channels, height, width = probe.shape[1:]
            match layer:
                case nn.Flatten():
                    twin = nn.Identity().train(layer.training)
                case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)):
                    twin = nn.AvgPool2d((height, width), stride=1).train(layer.training)
                case nn.Linear():
                    twin = dense(layer, channels, (height, width)).train(layer.training)
                case _:
                    twin = copy.deepcopy(layer)
            with torch.no_grad():
                # a throw-away copy, and forward itself, which calls no hooks
                probe = copy.deepcopy(twin).eval().forward(probe)

    def rebuilt(chain: nn.Sequential) -> nn.Sequential:
        twins = OrderedDict()
        for name, child in chain.named_modules(remove_duplicate=False):
            if name and "." not in name:  # the direct children, as often as they stand there
                twins[name] = rebuilt(child) if isinstance(child, nn.Sequential) else worker.send(child)
        network = nn.Sequential(twins)
        network.training = chain.training
        return network

    worker = tailor()
    next(worker)
    try:
        return rebuilt(cnn).requires_grad_(True)
    finally:
        worker.close()


# %% wrong class_heatmaps: fcn.training = False is believed to put the whole network into eval mode, but it sets one flag only: the layers inside stay in training mode, dropout drops and batch norm takes (and updates) batch statistics
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    was_training = fcn.training
    fcn.training = False
    try:
        with torch.no_grad():
            scores = fcn(images)
    finally:
        fcn.training = was_training
    return scores.softmax(dim=1)


# %% right class_heatmaps: each class's probability as one over the sum of its rivals' odds, only the awake modules are remembered
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    awake = [module for module in fcn.modules() if module.training]
    try:
        fcn.eval()
        with torch.set_grad_enabled(False):
            scores = fcn(images.clone())  # a copy, as a first layer may work in place
            odds_against = (  # inf for a hopeless class, whose probability is then 0
                torch.sum(torch.exp(scores - own.unsqueeze(1)), dim=1) for own in scores.unbind(1)
            )
            return torch.stack([odds.reciprocal() for odds in odds_against], dim=1)
    finally:
        for module in awake:
            module.training = True


# %% wrong sliding_window: the top left corners are spread evenly from 0 to H - window by linspace, so where the stride does not fit, cell (i, j) is not at (i·stride, j·stride) and the last windows reach the border
def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    _, H, W = image.shape
    h = (H - window) // stride + 1
    w = (W - window) // stride + 1
    tops = torch.linspace(0, H - window, h).round().int().tolist()
    lefts = torch.linspace(0, W - window, w).round().int().tolist()
    flags = {module: module.training for module in cnn.modules()}
    cnn.eval()
    try:
        with torch.no_grad():
            scores = [
                cnn(image[None, :, top : top + window, left : left + window].clone())[0]
                for top in tops
                for left in lefts
            ]
    finally:
        for module, flag in flags.items():
            module.training = flag
    return torch.stack(scores, dim=1).reshape(-1, h, w)


# %% right sliding_window: the crops are a Dataset, a DataLoader hands them over one by one
from torch.utils.data import DataLoader, Dataset


class Crops(Dataset):
    def __init__(self, image: Tensor, window: int, stride: int):
        self.image, self.window, self.stride = image, window, stride
        self.shape = tuple((side - window) // stride + 1 for side in image.shape[-2:])
        if min(self.shape) < 1:
            raise ValueError(f"no window of {window} pixels fits into {tuple(image.shape[-2:])}")

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def __getitem__(self, number: int) -> Tensor:
        row, column = divmod(number, self.shape[1])
        band = self.image.narrow(1, row * self.stride, self.window)
        return band.narrow(2, column * self.stride, self.window)


def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    crops = Crops(image, window, stride)
    # a generator of its own: the loader draws a seed, which shall not come from the global one
    loader = DataLoader(crops, batch_size=1, shuffle=False, generator=torch.Generator())
    modes = [(module, module.training) for module in cnn.modules()]
    try:
        cnn.eval()
        with torch.no_grad():
            scores = torch.cat([cnn(crop) for crop in loader])
    finally:
        for module, mode in modes:
            module.training = mode
    return scores.mT.reshape(scores.shape[1], *crops.shape)


# %% wrong cell_to_box: right is left plus the size of field_y, a copied line, instead of the size of field_x, so boxes have the wrong width where the two sizes differ
def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    size, jump, start = field_y
    top = int(round(start + row * jump - (size - 1) / 2))
    bottom = top + size
    size_x, jump_x, start_x = field_x
    left = int(round(start_x + col * jump_x - (size_x - 1) / 2))
    right = left + size
    return top, left, bottom, right


# %% right cell_to_box: an axis is a frozen dataclass that is indexed by a cell and gives a slice, counted in half pixels
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    size: int
    jump: int
    start: float

    def __getitem__(self, cell: int) -> slice:
        half_pixels = round(2 * float(self.start)) + 2 * int(cell) * int(self.jump) - (int(self.size) - 1)
        first = round(half_pixels / 2)
        return slice(first, first + int(self.size))


def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    rows, columns = Axis(*field_y)[row], Axis(*field_x)[col]
    return rows.start, columns.start, rows.stop, columns.stop


# %% wrong instances_to_targets: the objects come in the order of the dictionary classes instead of the ascending order of their numbers, so boxes and masks are in another order where the dictionary is not sorted
def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    ids = [number for number in classes if number != 0 and bool((instances == number).any())]
    semantic = torch.zeros(instances.shape, dtype=torch.int64, device=instances.device)
    boxes = torch.zeros(len(ids), 5, dtype=torch.int64, device=instances.device)
    masks = torch.zeros(len(ids), *instances.shape, dtype=torch.bool, device=instances.device)
    for m, number in enumerate(ids):
        masks[m] = instances == number
        semantic[masks[m]] = classes[number]
        ys, xs = torch.where(masks[m])
        x, y = int(xs.min()), int(ys.min())
        w, h = int(xs.max()) - x + 1, int(ys.max()) - y + 1
        boxes[m] = torch.tensor([x, y, w, h, classes[number]])
    return {"labels": {classes[number] for number in ids}, "semantic": semantic, "boxes": boxes, "masks": masks}


# %% right instances_to_targets: an object's shadows on both axes as Python integers, whose lowest and highest bit are the edges of its box
def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    pixels = instances.to(torch.int64)
    numbers = sorted(set(pixels.flatten().tolist()) - {0})
    labels = [int(classes[number]) for number in numbers]
    masks = pixels == torch.tensor(numbers, dtype=torch.int64, device=pixels.device).view(-1, 1, 1)

    def edges(shadow: Tensor) -> tuple[int, int]:
        """The first place of a row of truth values that is true, and how far it is from there past the last."""
        bits = sum(1 << place for place, dark in enumerate(shadow.tolist()) if dark)
        first = (bits & -bits).bit_length() - 1
        return first, bits.bit_length() - first

    semantic = torch.zeros_like(pixels)
    rows = []
    for mask, label in zip(masks, labels):
        semantic += label * mask
        (x, w), (y, h) = edges(mask.any(0)), edges(mask.any(1))
        rows.append((x, y, w, h, label))
    boxes = torch.tensor(rows, dtype=torch.int64, device=pixels.device).reshape(len(rows), 5)
    return {"labels": set(labels), "semantic": semantic, "boxes": boxes, "masks": masks}
