"""Convolutionalization: a classifier with a fixed input size becomes a network for images of any size."""

import copy

import torch
from torch import Tensor, nn

from coursekit import _validate as validate
from coursekit.modes import evaluation_mode

# Between and after dense layers, only what treats every value alike means the same on a map.
ELEMENTWISE = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip


def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """The convolution that computes at every position what a dense layer computes from a flattened window.

    Args:
        linear: a layer with in_channels · h · w inputs, in channels-first flatten order.
        in_channels: channels of the map the convolution reads.
        kernel_size: (h, w) of the window that was flattened.

    Returns:
        A convolution with copies of the weights; without a bias where `linear` has none.

    Raises:
        ValueError: in_channels · h · w is not the number of inputs.

    Source: Long, Shelhamer and Darrell 2015, section 3.1 and figure 2.
    """
    if not isinstance(linear, nn.Linear):
        raise validate.refuse("linear", "an nn.Linear", type(linear).__name__)
    validate.whole("in_channels", in_channels, 1)
    if not isinstance(kernel_size, tuple | list) or len(kernel_size) != 2:
        raise validate.refuse("kernel_size", "a pair (h, w)", repr(kernel_size))
    h, w = (validate.whole("kernel_size", size, 1) for size in kernel_size)
    if in_channels * h * w != linear.in_features:
        expected = f"the {linear.in_features} inputs of linear, channels times window"
        raise validate.refuse("in_channels and kernel_size", expected, f"{in_channels}·{h}·{w}")

    # nn.Conv2d would draw weights that nobody needs, and move the global random state with them.
    conv = nn.utils.skip_init(
        nn.Conv2d, in_channels, linear.out_features, (h, w), bias=linear.bias is not None,
        device=linear.weight.device, dtype=linear.weight.dtype,
    )  # fmt: skip
    conv.weight = _copied(linear.weight, (linear.out_features, in_channels, h, w))
    if linear.bias is not None:
        conv.bias = _copied(linear.bias, (linear.out_features,))
    return conv.train(linear.training)


def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    """Turn a classifier into a fully convolutional network with the same weights.

    Dense layers become convolutions, the first with the window of the map it flattened. An adaptive average
    pool becomes a window average of stride 1, so that a larger image gives a dense map. Batch normalization
    between dense layers becomes its 2-D form. Names and nesting stay; `Flatten` becomes `Identity`.

    Args:
        cnn: features, Flatten, then dense layers with elementwise ones between them; Sequentials may nest.
        input_size: (C, H, W) of the images the classifier was made for.

    Returns:
        A network from (N, C, H', W') to (N, L, h, w); at `input_size` its output is (N, L, 1, 1) and equal to
        that of `cnn`. Weights are copies, and the training flags are those of `cnn`.

    Raises:
        ValueError: a layer has no convolutional counterpart, or the output at `input_size` is not
            (N, L, 1, 1).

    Source: Long, Shelhamer and Darrell 2015, section 3.1; Sermanet et al. 2014, section 3.5.
    """
    if not isinstance(cnn, nn.Sequential):
        raise validate.refuse("cnn", "an nn.Sequential", type(cnn).__name__)
    if len(input_size) != 3:
        raise validate.refuse("input_size", "(C, H, W)", input_size)
    channels, h, w = (validate.whole("input_size", size, 1) for size in input_size)
    like = next((p for p in cnn.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.zeros(2, channels, h, w, device=like.device, dtype=like.dtype)

    fcn, scores, window = _convert(cnn, x, (channels, h, w))
    if scores.ndim == 4:
        window = _sizes(scores)
    if window[1:] != (1, 1):
        expected = f"a classifier of (N, L) scores at input_size {tuple(input_size)}"
        raise validate.refuse("cnn", expected, f"a map of {window[1]}×{window[2]} cells")
    return fcn


def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    """The class probabilities of every cell of a fully convolutional network's map.

    Args:
        fcn: a network from (N, C, H, W) to scores (N, L, h, w); it runs in evaluation mode and without
            gradients, and its mode is left as it was.
        images: (N, C, H, W), of any size the network takes.

    Returns:
        (N, L, h, w): the softmax over the classes, cell by cell.

    Raises:
        ValueError: `images` is empty or of another rank, or the network's output is no map.

    Source: lecture, class heatmaps; Long, Shelhamer and Darrell 2015, section 3.1 and figure 2.
    """
    images = validate.as_float(validate.tensor("images", images, ["(N, C, H, W)"]))
    with evaluation_mode(_network("fcn", fcn)), torch.no_grad():
        # A copy, since a network may begin with an in-place layer.
        scores = fcn(images.clone())
    if not isinstance(scores, Tensor) or scores.ndim != 4:
        raise validate.refuse("fcn", "a network to maps (N, L, h, w)", validate.shape_of(scores))
    return scores.softmax(1)


# Crops classified at a time, so that memory does not grow with the image.
BATCH = 256


def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    """The wasteful way to a dense map: cut out every window and classify it on its own.

    Args:
        cnn: a classifier from (n, C, window, window) to scores (n, L); it runs in evaluation mode and without
            gradients, and its mode is left as it was.
        image: (C, H, W).
        window: side of a crop, in pixels.
        stride: step between neighboring crops, in pixels.

    Returns:
        Scores (L, h, w), h = ⌊(H − window) / stride⌋ + 1 and w likewise; cell (r, c) is the crop whose top
        left is (r · stride, c · stride).

    Raises:
        ValueError: the window is larger than the image, or the network's output is not (n, L).

    Source: lecture, sliding window; Sermanet et al. 2014, section 3.5.
    """
    image = validate.as_float(validate.tensor("image", image, ["(C, H, W)"]))
    validate.whole("window", window, 1)
    validate.whole("stride", stride, 1)
    if window > min(image.shape[1:]):
        raise validate.refuse("window", f"at most the image's {tuple(image.shape[1:])}", window)

    crops = image.unfold(1, window, stride).unfold(2, window, stride).movedim(0, 2)
    h, w = crops.shape[:2]
    scores = []
    with evaluation_mode(_network("cnn", cnn)), torch.no_grad():
        for cells in torch.arange(h * w, device=image.device).split(BATCH):
            batch = crops[cells // w, cells % w]
            y = cnn(batch)
            if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != len(batch):
                expected = f"a classifier from {tuple(batch.shape)} to scores ({len(batch)}, L)"
                raise validate.refuse("cnn", expected, validate.shape_of(y))
            scores.append(y)
    return torch.cat(scores).T.reshape(-1, h, w)


Field = tuple[int, int, float]


def cell_to_box(row: int, col: int, field_y: Field, field_x: Field) -> tuple[int, int, int, int]:
    """The pixels that one cell of a map can see: its receptive field.

    Args:
        row: row of the cell, from 0.
        col: column of the cell, from 0.
        field_y: (size, jump, start) along the rows, as `receptive_field` gives it: pixels seen, pixels
            between neighboring cells, and the center of cell 0, in pixels (the center of pixel 0 is 0).
        field_x: the same along the columns.

    Returns:
        (top, left, bottom, right) in pixels, bottom and right exclusive; not clipped, so with padding it may
        reach beyond the image.

    Raises:
        ValueError: a negative cell, or a field that does not begin at a pixel's edge.

    Source: lecture, from a cell back to the image; Long, Shelhamer and Darrell 2015, section 3.
    """
    top, bottom = _span("field_y", field_y, validate.whole("row", row, 0))
    left, right = _span("field_x", field_x, validate.whole("col", col, 0))
    return top, left, bottom, right


def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict[str, set[int] | Tensor]:
    """What each problem of the lecture asks for, read off one map of instances.

    Args:
        instances: id of the object at every pixel, (H, W) integers; 0 is background.
        classes: class label of each id, from 1; ids that are not in the map are passed over.

    Returns:
        `labels`, the set of classes (classification); `semantic`, the class of every pixel, (H, W), with 0
        for background (semantic segmentation); `boxes`, (M, 5) rows of x and y of the top left pixel, width,
        height, label (detection; localization where M = 1); `masks`, (M, H, W) bool (instance segmentation).
        The M objects stand in ascending order of their ids; maps and boxes are int64.

    Raises:
        ValueError: a negative id, one without a class, or a class below 1.

    Source: lecture, from classification to instance segmentation.
    """
    validate.integers("instances", instances, ["(H, W)"])
    ids = [int(i) for i in instances.unique() if i != 0]
    if ids and ids[0] < 0:
        raise validate.refuse("instances", "ids from 0", ids[0])
    unknown = [i for i in ids if i not in classes]
    if unknown:
        raise validate.refuse("classes", "a class for every id", f"none for {unknown[0]}")
    labels = [validate.whole("classes", classes[i], 1) for i in ids]

    masks = instances == torch.tensor(ids, dtype=torch.int64, device=instances.device)[:, None, None]
    semantic = torch.zeros_like(instances, dtype=torch.int64)
    boxes = torch.zeros(len(ids), 5, dtype=torch.int64, device=instances.device)
    for mask, box, label in zip(masks, boxes, labels, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        semantic[mask] = label
        box[:2] = torch.stack([x.min(), y.min()])
        box[2:4] = torch.stack([x.max() - x.min() + 1, y.max() - y.min() + 1])
        box[4] = label
    return {"labels": set(labels), "semantic": semantic, "boxes": boxes, "masks": masks}


def _network(argument: str, network: object) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise validate.refuse(argument, "an nn.Module", type(network).__name__)
    return network


def _span(argument: str, field: Field, cell: int) -> tuple[int, int]:
    """First pixel of a cell's field along one axis, and the one after its last."""
    if not isinstance(field, tuple | list) or len(field) != 3:
        raise validate.refuse(argument, "(size, jump, start)", repr(field))
    size, jump, start = field
    validate.whole(f"{argument} size", size, 1)
    validate.whole(f"{argument} jump", jump, 1)
    first = start + cell * jump - (size - 1) / 2
    if first != round(first):
        expected = f"a field of {size} pixels from one pixel's edge to another's"
        raise validate.refuse(argument, expected, field)
    return round(first), round(first) + size


Window = tuple[int, int, int]


def _convert(cnn: nn.Sequential, x: Tensor, window: Window) -> tuple[nn.Sequential, Tensor, Window]:
    """The convolutional twin of `cnn`; what `cnn` makes of `x`; and the (C, h, w) map that twin has there."""
    fcn = nn.Sequential()
    # Not named_children(), which lists a layer that stands at two places only once.
    for name, layer in cnn._modules.items():
        twin: nn.Module
        if isinstance(layer, nn.Sequential):
            twin, y, window = _convert(layer, x, window)
        else:
            with evaluation_mode(layer), torch.no_grad():
                y = layer(x)
            twin = _twin(layer, x, y, window)
            if y.ndim == 4:
                window = _sizes(y)
            elif isinstance(layer, nn.Linear):
                window = (layer.out_features, 1, 1)
            twin.training = layer.training
        fcn.add_module(name, twin)
        x = y
    fcn.training = cnn.training
    return fcn, x, window


def _twin(layer: nn.Module, x: Tensor, y: Tensor, window: Window) -> nn.Module:
    channels, h, w = window
    flat = x.ndim == 2
    if isinstance(layer, nn.AdaptiveAvgPool2d) and not flat:
        return _window_average(layer, x, y)
    if isinstance(layer, nn.Flatten) and y.shape == (len(x), x[0].numel()):
        return nn.Identity()
    if isinstance(layer, nn.Linear) and flat:
        return linear_to_conv(layer, channels, (h, w))
    if isinstance(layer, nn.BatchNorm1d) and flat and (h, w) == (1, 1):
        return _batchnorm_2d(layer)
    over_classes = isinstance(layer, nn.Softmax | nn.LogSoftmax) and layer.dim == 1
    if isinstance(layer, ELEMENTWISE) or over_classes:
        return copy.deepcopy(layer)
    on_maps = not isinstance(layer, nn.Linear | nn.AdaptiveMaxPool2d | nn.LayerNorm)
    if not flat and y.ndim == 4 and on_maps:
        return copy.deepcopy(layer)
    raise validate.refuse("cnn", "made of layers with a convolutional counterpart", repr(layer))


def _sizes(maps: Tensor) -> Window:
    _, channels, h, w = maps.shape
    return channels, h, w


def _window_average(pool: nn.AdaptiveAvgPool2d, x: Tensor, y: Tensor) -> nn.AvgPool2d:
    kernel, stride = [], []
    for cells, outputs in zip(x.shape[2:], y.shape[2:], strict=True):
        if cells % outputs:
            raise validate.refuse("cnn", f"one whose {cells} cells divide evenly for its pool", repr(pool))
        kernel.append(cells // outputs)
        # One window slides, so that maps stay dense; several have to keep their distance.
        stride.append(1 if outputs == 1 else cells // outputs)
    return nn.AvgPool2d((kernel[0], kernel[1]), (stride[0], stride[1]))


def _batchnorm_2d(bn: nn.BatchNorm1d) -> nn.BatchNorm2d:
    twin = nn.BatchNorm2d(bn.num_features, bn.eps, bn.momentum, False, bn.track_running_stats)
    twin.affine = bn.affine
    for name, parameter in bn.named_parameters():
        setattr(twin, name, _copied(parameter, parameter.shape))
    for name, buffer in bn.named_buffers():
        setattr(twin, name, buffer.clone())
    return twin


def _copied(parameter: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone().reshape(shape), requires_grad=parameter.requires_grad)
