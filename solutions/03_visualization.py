# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Visualization
#
# **A trained network can be asked what it looks for: the first layer answers with its weights, every other layer with
# the images that excite it, and those you can search for or make.**
#
# When you are done, you can
#
# - read the filters of a first layer, and say why the same picture of a deeper layer means little;
# - take the activations out of any layer of a network, and leave the network as you found it;
# - make the image that excites a unit most, step by step, and choose how much to smooth it;
# - compute which pixels a unit sees, and check it against the gradient;
# - find the patches of real images that a unit likes best, and tell what these pictures prove and what they don't.
#
# It takes about 180 minutes on a laptop, exercises included; all cells together run for about one. You should have done
# lecture 2, *batch normalization*, or know what `.eval()` is for.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("03_visualization")
predict = coursekit.notebook.predict

import copy
from collections import OrderedDict

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import photographs, small_images
from coursekit.models import pretrained, small_classifier

# %% [markdown]
# The network of this notebook has been trained for you, on CIFAR-10, and comes with the course. It is small: one 7×7
# convolution, six 3×3 convolutions, three max pools, an average over the map and a linear layer for ten classes. Each
# convolution is followed by batch normalization and a ReLU. Here is what it makes of three photographs, made as small
# as the images it has learned from.

# %%
torch.set_num_threads(1)  # for a network as small as this, sharing the work out takes longer than doing it

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
net = pretrained("cifar10").to(course.device)


def photograph(name: str, height: int) -> Tensor:
    """A photograph (3, height, W) from 0 to 1, its sides in proportion."""
    image = photographs.load(name)[None].float() / 255
    size = (height, round(height * image.shape[3] / image.shape[2]))
    return F.interpolate(image, size=size, mode="bilinear", antialias=True)[0].to(course.device)


def middle(image: Tensor) -> Tensor:
    """The square in the middle of an image (3, H, W) that is wider than high."""
    start = (image.shape[2] - image.shape[1]) // 2
    return image[:, :, start : start + image.shape[1]]


names = ("cat", "motorcycle", "moon")
small = torch.stack([middle(photograph(name, 32)) for name in names])
with torch.no_grad():
    certain = net(small).softmax(1).cpu()
titles = [f"{CLASSES[p.argmax()]}, {p.max():.0%}" for p in certain]
figures.show(
    figures.grid(small, titles, columns=3, cell=1.6),
    alt="A cat, a motorcycle and a piece of the moon's surface, each 32×32 pixels. Above them the class that the network "
    f"gives: {'; '.join(titles)}.",
)
print(
    f"{sum(p.numel() for p in net.parameters()):,} parameters in", *[name for name, _ in net.named_children()]
)

# %% [markdown]
# It knows the cat, takes a motorcycle for its nearest relative among the ten classes, and is quite sure about the moon,
# which is none of them. *What it looked at* the probabilities do not say. That is what this lecture is about.
#
# ## A filter is a template
#
# At each pixel $p$, a convolution takes the neighborhood $x_p$ of that pixel, multiplies it by the weights $w$, entry
# by entry, and adds up. Written as vectors, this is an inner product:
#
# $$y[p] = \langle w, x_p \rangle + b = \lVert w \rVert\, \lVert x_p \rVert \cos \theta_p + b$$
#
# Among all neighborhoods *of equal norm*, the one that points in the direction of $w$ gives the largest response: a
# picture of the filter itself. A filter is a template, and a convolution asks everywhere: how much of this is here?
#
# ### By hand
#
# The template $w = (-1, 2, -1)$ looks for a bright dot between dark ones. Five neighborhoods of the same norm
# $\sqrt 6$:
#
# | neighborhood | response | |
# |---|---|---|
# | $(-1, 2, -1)$ | $1 + 4 + 1 = 6$ | the template itself |
# | $(2, 1, 1)$ | $-2 + 2 - 1 = -1$ | |
# | $(2, 1, -1)$ | $-2 + 2 + 1 = 1$ | |
# | $(\sqrt2, \sqrt2, \sqrt2)$ | $0$ | flat: the weights add up to 0 |
# | $(1, -2, 1)$ | $-6$ | the negative of the template |

# %%
w = torch.tensor([-1.0, 2.0, -1.0])
for x_p in ([-1.0, 2.0, -1.0], [2.0, 1.0, 1.0], [2.0, 1.0, -1.0], [2**0.5] * 3, [1.0, -2.0, 1.0]):
    print([round(v, 2) for v in x_p], " response", round((w @ torch.tensor(x_p)).item(), 2))
others = F.normalize(torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0))) * 6**0.5
print(f"best of 100 000 random neighborhoods of this norm: {(others @ w).max():.3f}")

# %% [markdown]
# In an image, neighborhoods do *not* have equal norms. Let us take a template that is easy to recognize, one eye of the
# cat, cut from the photograph in gray, and use it as the filter of a convolution. Where will the response be largest?

# %%
predict("eye_as_filter")

# %%
gray = photograph("cat", 150).mean(0).cpu()  # (150, 226)
top, left, size = 46, 77, 21
eye = gray[top : top + size, left : left + size]


def respond(template: Tensor, image: Tensor) -> Tensor:
    """Response of one filter (h, w) at each place of an image (H, W) where it fits."""
    return F.conv2d(image[None, None], template[None, None])[0, 0]


def strongest(response: Tensor) -> tuple[int, int]:
    row, column = divmod(int(response.argmax()), response.shape[1])
    return row, column


centered = eye - eye.mean()
deviation = (
    respond(torch.ones_like(eye), gray**2) - respond(torch.ones_like(eye), gray) ** 2 / eye.numel()
).sqrt()
responses = {
    "the eye as it is": respond(eye, gray),
    "the eye minus its mean": respond(centered, gray),
    "cosine with the eye": respond(centered, gray) / (deviation * centered.norm()),
}
for name, response in responses.items():
    print(
        f"{name:23} strongest at {strongest(response)}, cut out at {(top, left)} (row, column of the top left pixel)"
    )
cosine = responses["cosine with the eye"].clone()
print(f"cosine there {cosine.max():.3f}")
cosine[top - size : top + size, left - size : left + size] = -1
print(f"the best place elsewhere: {strongest(cosine)}, cosine {cosine.max():.3f}")
print(f"at the other eye: cosine {cosine[50:64, 140:165].max():.3f}")

fig, axes = plt.subplots(1, 4, figsize=(10, 2.4), layout="constrained")
axes[0].imshow(gray)
axes[0].set_title("the template, framed", fontsize=10)
for axis, (name, response) in zip(axes[1:], responses.items(), strict=True):
    axis.imshow(response)
    row, column = strongest(response)
    axis.plot(
        column,
        row,
        "o",
        markersize=13,
        markerfacecolor="none",
        markeredgewidth=2.5,
        color=figures.COLORS["vermilion"],
    )
    axis.set_title(name, fontsize=10)
axes[0].add_patch(
    plt.Rectangle((left, top), size, size, fill=False, color=figures.COLORS["vermilion"], linewidth=2)
)
for axis in axes:
    axis.set(xticks=[], yticks=[])
figures.show(
    fig,
    alt="A photograph of a cat with a frame around one eye, and three response maps to that eye as a filter, the "
    "strongest place circled. As it is: a blurred picture of the cat, strongest in a bright corner. Minus its "
    "mean, and as a cosine: strongest at the framed eye.",
)

# %% [markdown]
# Taking away the template's mean is enough here: then a flat neighborhood gives 0, however bright it is. Most trained
# filters come to the same by themselves, as you will see. Take the neighborhood's mean away too, and divide by both
# norms: nothing but the cosine is left.
#
# Look at the last two numbers, too. A piece of the head's rim, fur beside bright background, is *more* like this eye,
# entry by entry, than the other eye is. One template of 21×21 pixels is a poor detector of eyes. A network of many
# small ones, one layer upon the other, is a better one, and the price is that you cannot read it off the weights any
# more. First, the layer where you can.
#
# ## The filters of the first layer
#
# The first layer's filters have as many channels as the image, so each is a small color picture. Its weights are not
# between 0 and 1, though: each filter is stretched to the full range on its own,
#
# $$\frac{w - \min w}{\max w - \min w}$$
#
# with the minimum and the maximum over *all* entries of that filter, the three colors included. A color of its own
# range for each channel would change the hue.
#
# By hand, a gray filter of 2×2: $w = \begin{pmatrix} -2 & 0 \\ 1 & 2 \end{pmatrix}$ has minimum $-2$ and range 4, and
# becomes $\begin{pmatrix} 0 & 0.5 \\ 0.75 & 1 \end{pmatrix}$. A weight of 0 is *not* black. Nor is it always the same
# gray: here it is 0.5, in a filter with weights from 0 to 4 it would be 0.

# %%
tiny = torch.tensor([[-2.0, 0.0], [1.0, 2.0]])
print((tiny - tiny.min()) / (tiny.max() - tiny.min()))

# %% [markdown]
# Your function arranges the filters row by row in one picture, with white lines of width `padding` around and between
# them. Two cases to think of: a constant filter has no range, and the last row may have gaps.


# %% exercise="filter_grid"
def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    """The filters of a first layer as one picture, each stretched to the range from 0 to 1 on its own.

    weight: (K, C, h, w) with C = 3 or 1; one channel is repeated to gray; another C is refused with a
    ValueError. The picture is always `columns` filters wide, filled row by row. A constant filter is
    0.5; lines of `padding` pixels around and between the filters, and missing filters, are 1.
    Returns (3, H, W) in the dtype and on the device of the weights, without their graph, with
    H = rows · (h + padding) + padding, W = columns · (w + padding) + padding. The weights are not
    changed.
    """
    ### BEGIN SOLUTION
    K, C, h, w = weight.shape
    if C not in (1, 3):
        raise ValueError(f"weight must have 1 or 3 channels, got {C}")
    weight = weight.detach()
    rows = (K + columns - 1) // columns
    H, W = rows * (h + padding) + padding, columns * (w + padding) + padding
    picture = torch.ones(3, H, W, dtype=weight.dtype, device=weight.device)
    for index in range(K):
        tile = weight[index]
        span = tile.max() - tile.min()
        tile = (tile - tile.min()) / span if span > 0 else torch.full_like(tile, 0.5)
        row, column = index // columns, index % columns
        y, x = row * (h + padding) + padding, column * (w + padding) + padding
        picture[:, y : y + h, x : x + w] = tile
    return picture
    ### END SOLUTION


# %% [markdown]
# ### Trained and untrained
#
# The 32 filters of our network, and beside them those of the same network before any training: random numbers.

# %%
torch.manual_seed(0)
untrained = (
    small_classifier(standardizer=copy.deepcopy(net.standardize), widths=(32, 64, 128, 192))
    .to(course.device)
    .eval()
)
figures.show(
    figures.grid(
        [filter_grid(net.conv1.weight).cpu(), filter_grid(untrained.conv1.weight).cpu()],
        ["the first layer, trained", "the same layer, random"],
        columns=2,
        cell=4.4,
    ),
    alt="Left, 32 trained filters of 7×7 pixels: light and dark bars, edges in several directions, and blobs and "
    "borders of two colors. Right, 32 random filters: colored noise.",
)


def neighbor_correlation(weight: Tensor) -> float:
    """Correlation of each weight with its right neighbor, over all filters."""
    pairs = torch.stack([weight[..., :-1].flatten(), weight[..., 1:].flatten()])
    return torch.corrcoef(pairs)[0, 1].item()


def colorless(weight: Tensor) -> Tensor:
    """For each filter, the share of its squared weights that is the same in all three colors."""
    return weight.mean(1, keepdim=True).expand_as(weight).square().sum((1, 2, 3)) / weight.square().sum(
        (1, 2, 3)
    )


print(f"{'':32} {'trained':>8} {'random':>8}")
layers = [net.conv1.weight.detach().cpu(), untrained.conv1.weight.detach().cpu()]
norms = [weight.flatten(1).norm(dim=1) for weight in layers]
flat = [
    weight.flatten(1).sum(1).abs() / (147**0.5 * norm) for weight, norm in zip(layers, norms, strict=True)
]
rows = {
    "correlation of neighbors": [f"{neighbor_correlation(weight):.2f}" for weight in layers],
    "nearly gray": [f"{int((colorless(weight) > 0.8).sum())} of 32" for weight in layers],
    "cosine with flat below 0.01": [f"{int((cosines < 0.01).sum())} of 32" for cosines in flat],
    "longest over shortest filter": [f"{norm.max() / norm.min():.1f}" for norm in norms],
}
for name, (trained, random) in rows.items():
    print(f"{name:32} {trained:>8} {random:>8}")

# %% [markdown]
# What to see in a first layer:
#
# - **Gray bars and edges** in several directions, for where the brightness changes; **color blobs and color edges**,
#   larger and rounder, for what color it is. The network was not told to keep the two apart.
# - **Smoothness.** Neighboring weights are alike, in the random filters they are not. Noisy filters in a trained
#   network are a symptom: too short a training, too high a learning rate, too little data.
# - **No answer to flat gray.** Most trained filters are almost exactly orthogonal to a flat patch: their weights add
#   up to zero, like those of the eye without its mean. Nobody asked for that, either.
# - What the picture **hides**: each filter was stretched by itself, so a weak one looks as strong as any other. Print
#   the norms when that matters.
#
# Nearly every network trained on photographs shows the same families: AlexNet (64 filters of 11×11 in torchvision's
# version), ResNet-18 and ResNet-101 and DenseNet-121 (64 filters of 7×7 each). Look for yourself, if you are online:
# set `DOWNLOAD = True`. The four files have about 480 MB together; nothing else in this notebook needs them.

# %%
DOWNLOAD = False
MODELS = ("alexnet", "resnet18", "resnet101", "densenet121")

if DOWNLOAD:
    grids = []
    for name in MODELS:
        first = next(layer for layer in pretrained(name).modules() if isinstance(layer, nn.Conv2d))
        grids.append(filter_grid(first.weight, columns=16, padding=2))
    figures.show(
        figures.grid(grids, list(MODELS), columns=2, cell=4.6),
        alt="First-layer filters of AlexNet, ResNet-18, ResNet-101 and DenseNet-121: oriented bars and gratings in "
        "gray, and blobs and edges in color.",
    )
else:
    print("Nothing was downloaded. The filters of this course's network are above.")

# %% [markdown]
# ## Why deeper weights say little
#
# The second convolution has 64 filters, each of 32 channels of 3×3 weights: 2048 tiny pictures, and none of them is a
# picture of something in the image. A filter there weighs *channels* of the first layer against each other, and the
# order of these channels is an accident. Give the channels other numbers, in both layers alike, and the network
# computes the same:
#
# $$W_2\, \mathrm{ReLU}(W_1 x) = (W_2 P^\top)\, \mathrm{ReLU}(P W_1 x) \quad\text{for every permutation } P$$
#
# The sizes are an accident as well: a ReLU lets a positive factor through, so channel $k$ may be made $a$ times as
# large in the first layer if the second multiplies it by $1/a$.
#
# By hand: two hidden units $h = (\max(0, x),\ \max(0, -x))$ and the output $y = 3 h_1 + 1 h_2$. With the units
# exchanged, $h = (\max(0, -x), \max(0, x))$ and the weights $(1, 3)$: the same $y$. With the first unit made ten
# times as large: weights $(0.3, 1)$. Three sets of weights, and one function.

# %%
predict("shuffled_channels")

# %%
draw = torch.Generator().manual_seed(1)
order = torch.randperm(32, generator=draw).to(course.device)
factor = (0.5 + 3.5 * torch.rand(32, generator=draw)).to(course.device)

twin = copy.deepcopy(net)
with torch.no_grad():
    twin.conv1.weight.copy_(net.conv1.weight[order])
    for values, new in zip(net.bn1.buffers(), twin.bn1.buffers(), strict=True):
        new.copy_(values[order] if values.ndim else values)
    twin.bn1.weight.copy_(net.bn1.weight[order] * factor)
    twin.bn1.bias.copy_(net.bn1.bias[order] * factor)
    twin.conv2_1.weight.copy_(net.conv2_1.weight[:, order] / factor.view(1, -1, 1, 1))
    before, after = net(small), twin(small)

one, other = net.conv2_1.weight[0].detach(), twin.conv2_1.weight[0].detach()
alike = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
print(
    f"largest change of a logit: {(before - after).abs().max():.1e}, of logits up to {before.abs().max():.1f}"
)
print(f"correlation of the first filter of conv2_1 with its twin: {alike:.2f}")
figures.show(
    figures.grid(
        [filter_grid(one[:, None]).cpu(), filter_grid(other[:, None]).cpu()],
        ["one filter of conv2_1: 32 channels", "the same filter in the shuffled twin"],
        columns=2,
        cell=4.0,
    ),
    alt="Two grids of 32 gray tiles of 3×3 pixels: one filter of the second convolution, and the same filter of the "
    "shuffled network. The tiles look alike in kind and stand in other places; neither grid shows anything one "
    "could name.",
)

# %% [markdown]
# The claim is **exact**: the same function, and a picture that has nothing to do with the first one. To break it,
# leave one line out of the twin, for example the one for `bn1.bias`, and look at the first number.
#
# The first layer is spared, since the channels of an *image* are given: they have an order, a scale and a meaning.
# For every other layer, ask what its units *respond to*. Three ways follow: look at the activations of one image,
# make an image that excites a unit, search many images for patches that do.
#
# ## Activations
#
# The output of a unit, over all positions, is a map: its *activation*. To see it, something has to take it out while
# the network runs. PyTorch calls a function for you after a layer's forward pass, a **forward hook**:
#
# ```python
# handle = layer.register_forward_hook(lambda module, inputs, output: ...)
# model(x)
# handle.remove()
# ```
#
# Three things go wrong with hooks, and all three silently:
#
# - A hook that is not removed stays. Each run adds one more, and each keeps its tensors in memory.
# - Taking activations out runs the network. In training mode that moves the running averages of batch normalization,
#   and with gradients on it keeps the whole graph. Which mode is right only the caller knows, so your function does not
#   switch it; whoever calls it on a trained network says `.eval()` first.
# - The output you kept may be **overwritten**. `nn.ReLU(inplace=True)` writes its result into its input, and that is
#   the tensor you hold.
#
# By hand: a layer gives $(3, -2)$, an in-place ReLU follows. Its output is $(3, 0)$. The tensor kept from the layer
# before it is now $(3, 0)$ as well.

# %%
model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
kept = {}
handle = model[0].register_forward_hook(
    lambda module, inputs, output: kept.update(tensor=output, copy=output.clone())
)
model(torch.tensor([3.0, -2.0]))
handle.remove()
print("kept the tensor:", kept["tensor"].tolist(), "   kept a copy:", kept["copy"].tolist())

# %% [markdown]
# Your function takes any number of layers out of one run. The layers are named by their path, as
# `model.named_modules()` spells it, for example `"conv1"` here and `"layer1.0.conv2"` in a ResNet.


# %% exercise="capture_activations"
def capture_activations(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """The outputs of some layers of a network for the input x (N, C, H, W), by module path.

    The network runs once, without gradients, each of its modules in the mode it is in. A layer that is
    called twice gives its last output. Outputs are detached copies, of the dtype they have, which later
    in-place layers do not change. Hooks and modes are left as they were found, also where the network
    raises an error or a path is refused. An unknown path, also one that leads to no module, is refused
    with a ValueError; the layers asked for are layers that run.
    Returns a dict with one tensor for each of `layers`, for a convolution (N, K, h, w); none for [].
    """
    ### BEGIN SOLUTION
    modules = dict(model.named_modules())
    for path in layers:
        if path not in modules:
            raise ValueError(f"layers must be module paths of the network, got {path!r}")
    outputs, handles = {}, []
    try:
        for path in layers:

            def keep(module, inputs, output, path=path):
                outputs[path] = output.detach().clone()

            handles.append(modules[path].register_forward_hook(keep))
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return {path: outputs[path] for path in layers}
    ### END SOLUTION


# %% [markdown]
# ### The cat, layer by layer
#
# The network has no dense layer before its average, so it takes images of any size. We give it the cat at 128 rows,
# and look at the six channels of four layers that vary most, compared with their peak. Bright is active; each map is
# scaled by itself.

# %%
cat = photograph("cat", 128)[:, :, :192]
RELUS = ("relu1", "relu2_2", "relu3_2", "relu4_2")
acts = capture_activations(net, cat[None], list(RELUS))

fig, axes = plt.subplots(4, 7, figsize=(10.5, 4.5), layout="constrained")
for row, layer in zip(axes, RELUS, strict=True):
    maps = acts[layer][0].cpu()
    chosen = (maps.flatten(1).std(1) / maps.flatten(1).amax(1).clamp(min=1e-6)).topk(6).indices.sort().values
    row[0].imshow(cat.permute(1, 2, 0).cpu())
    row[0].set_ylabel(layer, fontsize=10)
    for axis, channel in zip(row[1:], chosen.tolist(), strict=True):
        axis.imshow(maps[channel])
        axis.set_title(f"channel {channel}", fontsize=8, pad=2)
for axis in axes.ravel():
    axis.set(xticks=[], yticks=[])
figures.show(
    fig,
    alt="The photograph of a cat beside six activation maps in each of four layers. First layer: sharp outlines and "
    "stripes of the cat. Second and third stage: fewer and coarser spots at edges, eyes and whiskers. Last "
    "stage: blobs of 16×24 cells, over the face or over the background.",
)
print(f"{'layer':8} {'map':>15} {'values':>10} {'zeros':>7}")
for layer in RELUS:
    K, h, w = acts[layer].shape[1:]
    print(f"{layer:8} {f'{K} × {h} × {w}':>15} {K * h * w:10,} {(acts[layer] == 0).float().mean():7.0%}")

# %% [markdown]
# From top to bottom, the maps become smaller and their number grows. In the first layer you can see the cat in nearly
# every map. In the deeper layers most cells are zero, and what is left stands for something that not every place of the
# image has. What it is, a single image does not tell: a channel that lights up at the eyes may like round things, dark
# things, or shiny ones.
#
# Your function runs the network in the mode it finds. Here that was eval mode. And if it had been training mode?

# %%
predict("moved_averages")

# %%
careless = copy.deepcopy(net).train()
for name in (
    "astronaut",
    "brick",
    "china",
    "coffee",
    "coins",
    "flower",
    "grass",
    "gravel",
    "photographer",
    "rocket",
):
    image = photograph(name, 64)[None]
    capture_activations(careless, image, ["relu1"])
    capture_activations(net, image, ["relu1"])
careless.eval()
with torch.no_grad():
    moved, untouched = careless(small).softmax(1).cpu(), net(small).softmax(1).cpu()
print(f"{'':11} {'before':>16} {'run in eval mode':>18} {'in training mode':>18}")
for index, name in enumerate(names):
    answers = [f"{p[index].max():.1%} {CLASSES[p[index].argmax()]}" for p in (certain, untouched, moved)]
    print(f"{name:11} {answers[0]:>16} {answers[1]:>18} {answers[2]:>18}")

# %% [markdown]
# ## The input a unit likes best
#
# Instead of searching for an image that excites a unit, we can *make* one. The network is differentiable in its input
# as it is in its weights. So hold the weights still, and climb (Erhan et al. 2009):
#
# $$x^* = \arg\max_x\; f(x) \qquad\qquad x \leftarrow x + \eta\, \frac{g}{\mathrm{rms}(g)},\quad g = \nabla_x f(x),
# \quad \mathrm{rms}(g) = \sqrt{\tfrac1n \textstyle\sum_i g_i^2}$$
#
# $f$ is the mean of a channel over its map, or one value of it. Gradients with respect to the input are tiny in some
# layers and large in others; dividing by their root mean square gives every step the same size $\eta$, whatever the
# layer.
#
# ### By hand
#
# The unit is linear, $f(x) = \langle w, x\rangle$ with $w = (3, 4)$. Then $g = w$ everywhere,
# $\mathrm{rms}(g) = \sqrt{(9 + 16)/2} = 3.54$, and each step with $\eta = 1$ adds $(0.85, 1.13)$. After ten steps
# from 0, $x = (8.5, 11.3)$: a multiple of $w$. For a linear unit the ascent finds its template, and it never ends:
# $f$ grows by the same amount with each step.
#
# Two things keep images from growing without bounds, and from filling with noise. Both are subtracted from $f$:
#
# $$f(x) \;-\; \lambda_2\, \frac1n \sum_i x_i^2 \;-\; \lambda_{\mathrm{tv}}\, \frac1n\, \mathrm{TV}(x)$$
#
# The first one punishes large values (Simonyan et al. 2014). The second one punishes differences between neighboring
# pixels, the **total variation** (Mahendran and Vedaldi 2015):
#
# $$\mathrm{TV}(x) = \sum_{n,c,i,j} \lvert x_{i+1,j} - x_{i,j} \rvert + \lvert x_{i,j+1} - x_{i,j} \rvert$$
#
# By hand, for $\begin{pmatrix} 1 & 4 \\ 2 & 2 \end{pmatrix}$: vertical differences $1$ and $2$, horizontal
# differences $3$ and $0$, together 6. There is nothing beyond the border, so a constant image has total variation 0.

# %%
w = torch.tensor([3.0, 4.0])
print(
    "rms(g) =", round(w.square().mean().sqrt().item(), 2), "   step:", (w / w.square().mean().sqrt()).tolist()
)
table = torch.tensor([[1.0, 4.0], [2.0, 2.0]])
print(
    "vertical:",
    (table[1:] - table[:-1]).abs().tolist()[0],
    "   horizontal:",
    (table[:, 1:] - table[:, :-1]).abs().flatten().tolist(),
)


# %% exercise="total_variation"
def total_variation(x: Tensor) -> Tensor:
    """The sum of the absolute differences of vertical and of horizontal neighbors.

    x: (N, C, H, W). Returns a scalar tensor.
    """
    ### BEGIN SOLUTION
    vertical = (x[..., 1:, :] - x[..., :-1, :]).abs().sum()
    horizontal = (x[..., 1:] - x[..., :-1]).abs().sum()
    return vertical + horizontal
    ### END SOLUTION


# %% [markdown]
# ### What it measures
#
# Three images with *exactly the same pixel values*, in other places: the cat, its pixels sorted by brightness, its
# pixels shuffled. Mean, variance and histogram cannot tell them apart. Total variation can.

# %%
tone = cat.mean(0).flatten()
arranged = {
    "sorted": tone.sort().values.view(cat.shape[1:]),
    "the cat": tone.view(cat.shape[1:]),
    "shuffled": tone[
        torch.randperm(len(tone), generator=torch.Generator().manual_seed(0)).to(tone.device)
    ].view(cat.shape[1:]),
}
figures.show(
    figures.grid(
        list(arranged.values()),
        [
            f"{name}: {total_variation(image[None, None]) / image.numel():.3f} per pixel"
            for name, image in arranged.items()
        ],
        columns=3,
        cell=2.8,
    ),
    alt="Three gray images with the same pixels: sorted from dark to bright, with a very small total variation; the "
    "cat, with a larger one; shuffled to noise, with one many times as large.",
)

# %% [markdown]
# Now the ascent itself. Some care is needed, since the network is not yours to keep: it runs in eval mode and gets
# its own modes back, its weights collect no gradients, and no hook stays behind. Where the gradient is zero there is
# nothing to divide by, so the image stays as it is.


# %% exercise="maximize_activation"
def maximize_activation(
    model: nn.Module,
    layer: str,
    channel: int,
    position: tuple[int, int] | None = None,
    shape: tuple[int, int, int, int] = (1, 3, 64, 64),
    steps: int = 64,
    step_size: float = 1.0,
    l2: float = 0.0,
    tv: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The image (N, C, H, W) that excites one channel of a layer, by gradient ascent from noise.

    Start: 0.1 · torch.randn(shape), drawn from the generator in float32 on the generator's device
    (the CPU if it is None), then moved to the dtype and device of the model's parameters; steps=0
    returns it.
    Objective: the mean of the channel over the layer's output (N, K, h, w), or (N, K) of a linear
    layer, or the mean over the N images of its value at position=(row, column), minus
    l2 · mean(x²), minus tv · total_variation(x) / x.numel(). What counts is the output as the layer
    gives it, before an in-place layer behind it writes over it.
    Step: x + step_size · g / rms(g), with one rms = √mean(g²) over all entries of g, the N images
    together. No step where all of g is zero; a gradient that is merely small is stepped along like any
    other, by a step of the same length.
    The network runs in eval mode. Its modes, hooks and parameters are left as they were found, and so
    are the parameters' gradients and which of them require one; modes and hooks also where the network
    raises an error. Each module has a mode of its own.
    """
    ### BEGIN SOLUTION
    parameter = next(model.parameters())
    device = "cpu" if generator is None else generator.device
    x = (0.1 * torch.randn(shape, generator=generator, device=device)).to(parameter)

    def gradient(image: Tensor) -> Tensor:
        image = image.detach().requires_grad_()
        outputs = []
        hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
        try:
            model(image)
        finally:
            hook.remove()
        unit = outputs[-1][:, channel]
        value = unit.mean() if position is None else unit[:, position[0], position[1]].mean()
        value = value - l2 * image.square().mean() - tv * total_variation(image) / image.numel()
        return torch.autograd.grad(value, image)[0]

    module = model.get_submodule(layer)
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            for _ in range(steps):
                g = gradient(x)
                rms = g.square().mean().sqrt()
                if rms > 0:
                    x = x + step_size * g / rms
    finally:
        for part, training in modes:
            part.training = training
    return x
    ### END SOLUTION


# %% [markdown]
# ### First, where we know the answer
#
# For one unit of the first layer, the best 7×7 image must be the filter itself. In our network a standardization
# stands before the first layer. We cut it off, so that $x = 0$ is the mean color of the training images, and 1 is one
# standard deviation: a good place to start from, and the right unit for the step size.

# %%
predict("cosine_after_64_steps")

# %%
body = net[1:]  # the network without its standardization; the layers keep their names
pixel_mean, pixel_std = net.standardize.mean.view(3, 1, 1), net.standardize.std.view(3, 1, 1)


def upto(layer: str) -> nn.Sequential:
    """The network from its first convolution to a layer: what comes later does not matter to it, and takes time."""
    return body[: [name for name, _ in body.named_children()].index(layer) + 1]


def pictured(x: Tensor) -> Tensor:
    """Standardized images (N, 3, H, W) as colors from 0 to 1."""
    return (x * pixel_std + pixel_mean).clamp(0, 1).cpu()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


found, cosines = [], []
for channel in range(32):
    x = maximize_activation(
        upto("conv1"), "conv1", channel, position=(3, 3), shape=(1, 3, 7, 7), generator=seeded()
    )
    cosines.append(
        F.cosine_similarity(x.flatten(), net.conv1.weight[channel].detach().flatten(), dim=0).item()
    )
    found.append(x[0])
print(f"cosine of the image found with the filter: from {min(cosines):.5f} to {max(cosines):.5f}")
figures.show(
    figures.grid(
        [filter_grid(net.conv1.weight).cpu(), filter_grid(torch.stack(found)).cpu()],
        ["32 filters: the weights", "32 images that maximize a unit"],
        columns=2,
        cell=4.0,
    ),
    alt="Two grids of 32 small images: the first layer's filters, and the images found by gradient ascent. They are "
    "the same.",
)

# %% [markdown]
# So the ascent extends the picture of the filters to layers that have no picture. Up there the unit is not linear,
# its gradient changes with the image, and *one* maximum is not *the* maximum: another start may lead to another
# picture.
#
# ### Step by step, and smoothed
#
# A unit of the last convolution, after its batch normalization and before the ReLU (behind a ReLU, an idle unit has
# no gradient to follow). For comparison, we need real images: those of CIFAR-10 where it lies on this machine,
# otherwise pieces of photographs.

# %%
val = small_images("val", per_class=course.scaled(100, fast=8))
if val.name == "cifar10":
    pool, origin = val.images / 255, val.labels
else:
    taken = "astronaut brick cat china coffee coins flower grass gravel moon motorcycle photographer rocket"
    pieces, origin = [], []
    for label, name in enumerate(taken.split()):
        for height in (128, 192)[: course.scaled(2, fast=1)]:
            cut = photograph(name, height).unfold(1, 64, 64).unfold(2, 64, 64).flatten(1, 2).transpose(0, 1)
            pieces.append(cut.cpu())
            origin += len(cut) * [label]
    pool, origin = torch.cat(pieces), torch.tensor(origin)
print(f"{len(pool)} real images of {tuple(pool.shape[2:])} pixels")


def excitation(layer: str, channel: int, images: Tensor) -> Tensor:
    """Mean of a channel for each of some standardized images (N, 3, H, W); (N,)."""
    parts = [capture_activations(upto(layer), part, [layer])[layer][:, channel] for part in images.split(64)]
    return torch.cat(parts).flatten(1).mean(1).cpu()


LAYER, CHANNEL = "bn4_2", 5
size = tuple(pool.shape[2:])
real = excitation(LAYER, CHANNEL, (pool.to(course.device) - pixel_mean) / pixel_std)

# %%
predict("best_image_or_ascent")

# %%
recipes = {"plain": {}, "l2 and tv": {"l2": 0.1, "tv": 10.0}}
frames, titles, climbs = [], [], {}
for name, recipe in recipes.items():
    climbs[name] = []
    recipe |= {"shape": (1, 3, *size), "step_size": 0.1}
    for steps in (0, 1, 4, 16, 64):
        x = maximize_activation(upto(LAYER), LAYER, CHANNEL, steps=steps, generator=seeded(), **recipe)
        climbs[name].append(excitation(LAYER, CHANNEL, x).item())
        frames.append(pictured(x)[0])
        titles.append(f"{name}, step {steps}: {climbs[name][-1]:.1f}")
best = int(real.argmax())
figures.show(
    figures.grid(
        [*frames[:5], pool[best], *frames[5:], torch.ones(3, *size)],
        [*titles[:5], f"best real image: {real[best]:.1f}", *titles[5:], ""],
        columns=6,
        cell=1.75,
    ),
    alt="Two filmstrips of gradient ascent, after 0, 1, 4, 16 and 64 steps, and the best real image. Plain: out of "
    "the gray noise come lines, then a crowded picture in glaring colors. With l2 and tv: the same lines, "
    "calmer, with flat areas between them.",
)
for name, values in climbs.items():
    print(f"{name:10}", "  ".join(f"{value:6.2f}" for value in values))

# %% [markdown]
# In the upper strip nothing holds the image back, and after 64 steps it excites the unit several times as much as any
# real image does. Its colors have left the range that a photograph can have; what you see is clipped. Below, the
# smooth version gives away a good part of the excitation, and one begins to see something: arches over pale shapes with
# dark dots, again and again, since the objective is the mean over the whole map.
#
# ### How much to smooth
#
# There is no right value. Below, $\lambda_2$ grows downwards and $\lambda_{\mathrm{tv}}$ from left to right. Change
# them.

# %%
STEPS = course.scaled(48, fast=2)
l2s, tvs = (0.0, 4.0), (0.0, 3.0, 10.0, 30.0)
made, titles = [], []
for l2 in l2s:
    for tv in tvs:
        x = maximize_activation(
            upto(LAYER),
            LAYER,
            CHANNEL,
            shape=(1, 3, 40, 40),
            steps=STEPS,
            step_size=0.1,
            l2=l2,
            tv=tv,
            generator=seeded(),
        )
        made.append(pictured(x)[0])
        titles.append(f"l2 = {l2:g}, tv = {tv:g}: {excitation(LAYER, CHANNEL, x).item():.1f}")
figures.show(
    figures.grid(made, titles, columns=4, cell=2.1),
    alt="Eight images that maximize the same unit. With neither penalty: glaring colors and fine stripes. l2 makes "
    "the image paler, with the same fine detail. More tv removes the fine detail and leaves smooth outlines, at "
    "last few of them.",
)

# %% [markdown]
# The two do different things. An $\ell_2$ penalty lowers the contrast and keeps the fine stripes. Total variation takes
# the stripes and keeps the large shapes. Both cost excitation, total variation more at the weights tried here. (The
# faint chessboard on the right belongs to neither: steps of a fixed size cannot come to rest, and jump to and fro
# across the kink of the absolute value.)
#
# Say what you see with care, though. A smooth image looks more *natural*; whether it shows more of what the unit does
# in real images is another question. The stripes were not noise to the network: it was excited by them.
#
# ### The image of a class
#
# Nothing stops us from asking for a class: layer `scores`, channel 3 is the logit of *cat*.

# %%
predict("an_image_of_a_cat")

# %%
images, titles = [], []
for label in (1, 3, 7, 8):
    x = maximize_activation(
        body,
        "scores",
        label,
        shape=(1, 3, 48, 48),
        steps=2 * STEPS,
        step_size=0.1,
        l2=0.3,
        tv=20.0,
        generator=seeded(),
    )
    with torch.no_grad():
        chance = net(pictured(x).to(course.device)).softmax(1)[0]
    images.append(pictured(x)[0])
    titles.append(f"{CLASSES[label]}: {CLASSES[chance.argmax()]}, {chance.max():.1%}")
figures.show(
    figures.grid(images, titles, columns=4, cell=2.1),
    alt="Four images that maximize the logits of automobile, cat, horse and ship. Tangles of soft colored shapes; "
    "here and there a part that fits the class. Above each, the class that the network gives, which is the one "
    "asked for.",
)

# %% [markdown]
# Perhaps you find a wheel in the first and an eye in the second. You would not have named the classes. The network is
# as good as certain of each, more certain than of the real cat above. Keep this for the next time somebody
# shows you 99.9 %: a large probability says that the logit is large, not that the image is of this kind.
#
# ## Shallow, intermediate, deep
#
# Now the same for units of four layers, from the first to the last. The units are chosen to differ from each other,
# not to be pretty; put other channels into `UNITS` and see. The weight of the total variation grows with the layer,
# since deeper units answer more strongly to each pixel. In the first layer we take the output of the ReLU: before it,
# the mean over the map is linear in the image, and what maximizes it is little more than a flat color.

# %%
UNITS = {
    "relu1": (0, 3, 8, 16, 21, 28),
    "bn2_2": (0, 8, 16, 40, 48, 56),
    "bn3_2": (16, 32, 64, 80, 96, 112),
    "bn4_2": (0, 5, 48, 72, 120, 144),
}
SMOOTH = {"relu1": 0.2, "bn2_2": 1.3, "bn3_2": 2.5, "bn4_2": 8.0}


def favorite(layer: str, channel: int, size: int = 40, **options) -> Tensor:
    """The image (3, size, size) that excites a channel most, as colors."""
    options = {"steps": STEPS, "step_size": 0.1, "l2": 0.2, "tv": SMOOTH[layer]} | options
    x = maximize_activation(
        upto(layer), layer, channel, shape=(1, 3, size, size), generator=seeded(), **options
    )
    return pictured(x)[0]


favorites = {
    (layer, channel): favorite(layer, channel) for layer, channels in UNITS.items() for channel in channels
}
figures.show(
    figures.grid(
        list(favorites.values()),
        [f"{layer}, {channel}" for layer, channel in favorites],
        columns=6,
        cell=1.55,
    ),
    alt="Images that maximize six units in each of four layers. First layer: stripes of one direction, or bands of "
    "two colors. Second stage: wavy lines and stripes in two colors. Third stage: textures of rounded scales, "
    "grids, dots and fur-like strokes. Last stage: larger curved shapes, in which parts such as eyes, ears or "
    "wheels can be guessed.",
)

# %% [markdown]
# - **Shallow**: stripes and borders between two colors. Each is a first-layer filter, repeated wherever it fits.
# - **Intermediate**: bent lines, then textures, such as scales, grids, strokes like fur.
# - **Deep**: pieces of larger shapes, less regular, different from place to place.
#
# This is the hierarchy of patterns that the papers report for much larger networks (Zeiler and Fergus
# 2014, Yosinski et al. 2015, Olah et al. 2017). Each layer combines what the one before it has found: stripes in
# several directions make a grid, grids and arcs make an eye.
#
# Or do the patterns come from the ascent, and from the smoothing? The control is the same network with *random*
# weights: same layers, same fields, same steps, only far weaker penalties, since its units answer weakly.

# %%
control, titles = [], []
for tv in (0.0, 0.02):
    for channel in UNITS["bn4_2"][:3]:
        x = maximize_activation(
            untrained[1:-3], "bn4_2", channel, shape=(1, 3, 40, 40), steps=STEPS, step_size=0.1, l2=tv / 10, tv=tv,
            generator=seeded(),
        )  # fmt: skip
        control.append(pictured(x)[0])
        titles.append(f"random, {channel}, tv = {tv:g}")
figures.show(
    figures.grid(control, titles, columns=6, cell=1.55),
    alt="Images that maximize three units of the last convolution of an untrained network. Without total variation: "
    "colored noise. With it: smoothed noise, of more contrast towards the middle. No lines, no textures, no shapes.",
)

# %% [markdown]
# Noise, and smoothed noise. The patterns come from the training.
#
# How strong is the claim *here*? That trained units like patterns, and that these become larger and less regular with
# depth, is plain to see. The names, "eye" and "fur", are ours. The pictures do not prove them, and the next sections
# offer two checks: which pixels the unit can see at all, and which real images it answers to.
#
# Look at other units, too, and change the penalties and the step:
# `figures.show(figures.grid([favorite("bn3_2", 7, tv=5.0)]), alt="")` in a cell of your own shows one such image, and
# `steps=4` how it begins.
#
# ## Receptive fields
#
# A unit cannot answer to what it does not see. Its **receptive field** is the part of the input that it is connected
# to. Along one axis, three numbers describe it, and each layer with kernel $k$, stride $s$, padding $p$ and dilation
# $d$ changes them:
#
# | | what it is | at the input | a layer makes of it |
# |---|---|---|---|
# | size | pixels that a unit sees | 1 | $\text{size} + d\,(k - 1)\cdot\text{jump}$ |
# | start | center of the first unit's field, in pixels | 0 | $\text{start} + \bigl(\tfrac{d\,(k - 1)}{2} - p\bigr)\cdot\text{jump}$ |
# | jump | pixels between neighboring units | 1 | $\text{jump}\cdot s$ |
#
# The jump comes last: the first two rows need the jump *before* this layer, since its kernel steps over units of its
# own input. The center of pixel 0 is 0, so fields of even size have their centers between two pixels.
#
# ### By hand
#
# The first layers of our network: convolution 7×7 with padding 3; pool 2×2 with stride 2; convolution 3×3 with
# padding 1.
#
# | layer | size | jump | start |
# |---|---|---|---|
# | input | 1 | 1 | 0 |
# | 7×7, padding 3 | $1 + 6 \cdot 1 = 7$ | 1 | $0 + (3 - 3) \cdot 1 = 0$ |
# | pool 2, stride 2 | $7 + 1 \cdot 1 = 8$ | 2 | $0 + \frac12 \cdot 1 = 0.5$ |
# | 3×3, padding 1 | $8 + 2 \cdot 2 = 12$ | 2 | $0.5 + (1 - 1) \cdot 2 = 0.5$ |
#
# Unit $i$ of the last one has its center at $0.5 + 2i$ and sees 12 pixels: unit 0 from pixel $-5$ to pixel $6$. Five of
# these lie beyond the image, in the padding.

# %%
size, jump, start = 1, 1, 0.0
for kernel, stride, pad in ((7, 1, 3), (2, 2, 0), (3, 1, 1)):
    size, start, jump = size + (kernel - 1) * jump, start + ((kernel - 1) / 2 - pad) * jump, jump * stride
    print(f"kernel {kernel}: size {size}, jump {jump}, start {start}")


# %% exercise="receptive_field"
def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    """What one unit sees through a chain of layers, along one axis.

    layers: (kernel, stride, padding, dilation) of each layer, first to last; a stride may be larger
    than its kernel.
    Returns (size, jump, start): the pixels from the first to the last one that a unit sees, and the
    pixels between neighboring units, both integers; and the center of the first unit's field in
    pixels, where the center of pixel 0 is 0. No layers: (1, 1, 0.0).
    """
    ### BEGIN SOLUTION
    first, last, jump = 0.0, 0.0, 1  # centers of the first and last pixel that unit 0 sees
    for kernel, stride, padding, dilation in layers:
        first -= padding * jump
        last += (dilation * (kernel - 1) - padding) * jump
        jump *= stride
    return int(last - first) + 1, jump, (first + last) / 2
    ### END SOLUTION


# %% [markdown]
# ### Against the gradient
#
# The formula knows only kernels, strides and padding. There is a second way to find out what a unit sees: take the
# gradient of its output with respect to the image, and look where it is not zero.

# %%
predict("field_of_the_last_convolution")


# %%
def chain(layer: str) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, padding, dilation) of all layers of the network up to one."""
    found = []
    for part in upto(layer):
        if isinstance(part, nn.Conv2d):
            found.append((part.kernel_size[0], part.stride[0], part.padding[0], part.dilation[0]))
        elif isinstance(part, nn.MaxPool2d):
            found.append((part.kernel_size, part.stride, part.padding, part.dilation))
    return found


def box_of(layer: str, row: int, column: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of what the unit at (row, column) sees, not clipped; bottom and right exclusive."""
    size, jump, start = receptive_field(chain(layer))
    top, left = (int(start + place * jump - (size - 1) / 2) for place in (row, column))
    return top, left, top + size, left + size


def seen(layer: str, row: int, column: int, side: int = 144) -> Tensor:
    """Mean absolute gradient (side, side) of one position of a layer, all channels, in the pixels of noise images."""
    x = torch.randn(8, 3, side, side, generator=seeded()).to(course.device).requires_grad_()
    out = upto(layer)(x)
    mixed = out[..., row, column] * torch.randn(out.shape[:2], generator=seeded()).to(out)
    (gradient,) = torch.autograd.grad(mixed.sum(), x)
    return gradient.abs().mean((0, 1)).cpu()


CONVOLUTIONS = ("bn1", "bn2_1", "bn2_2", "bn3_1", "bn3_2", "bn4_1", "bn4_2")
print(
    f"{'layer':7} {'size':>5} {'jump':>5} {'start':>6}   {'box of unit (8, 8), by the formula':36} by the gradient"
)
for layer in CONVOLUTIONS:
    size, jump, start = receptive_field(chain(layer))
    reached = seen(layer, 8, 8).nonzero()
    measured = (*reached.amin(0).tolist(), *(reached.amax(0) + 1).tolist())
    box = tuple(max(0, min(144, edge)) for edge in box_of(layer, 8, 8))
    print(f"{layer:7} {size:5} {jump:5} {start:6.1f}   {box!s:36} {measured}")

# %% [markdown]
# Both boxes agree, to the pixel. Give `receptive_field` a wrong padding, and they don't.
#
# So the last units see 70 pixels, more than twice the width of the images they were trained on. Seeing is not weighing,
# however. Here is how much each pixel counts.

# %%
maps, titles = [], []
for layer in ("bn2_1", "bn2_2", "bn3_2", "bn4_2"):
    top, left, bottom, right = box_of(layer, 8, 8)
    gradient = seen(layer, 8, 8)[max(top, 0) : bottom, max(left, 0) : right]
    quarter = len(gradient) // 4
    inner = gradient[quarter : len(gradient) - quarter, quarter : len(gradient) - quarter]
    maps.append(gradient / gradient.max())
    titles.append(
        f"{layer}: {len(gradient)} pixels,\nmiddle half {inner.square().sum() / gradient.square().sum():.0%}"
    )
figures.show(
    figures.grid(maps, titles, columns=4, cell=2.1),
    alt="Strength of the gradient inside the receptive fields of four layers: a bright, grainy spot around the "
    "middle of each, which fades to black well before the rim.",
)

# %% [markdown]
# The middle half of the rows and columns is a quarter of the area, and holds more than four fifths of the squared
# gradient. There are more ways from the middle of a field to the unit than from its rim. Luo et al. (2016) call what
# counts the *effective* receptive field.
#
# ### A unit's favorite, in its own field
#
# Back to the ascent, now with `position`: *one* unit, no mean over a map. It can change only the pixels it sees.
# Everything outside its field has no gradient, and without penalties it must stay the noise it was, digit by digit.
# The boxes printed below test this. The pictures are made with penalties, which have gradients everywhere and smooth
# the outside away.

# %%
single, titles = [], []
for layer, tv in {"bn2_2": 12.0, "bn3_2": 16.0, "bn4_2": 32.0}.items():
    top, left, bottom, right = box_of(layer, 4, 4)  # the first unit whose field lies inside the image
    side = 8 * -(-bottom // 8)
    for channel in UNITS[layer][1:3]:
        options = {"shape": (1, 3, side, side), "position": (4, 4), "step_size": 0.05}
        noise = maximize_activation(upto(layer), layer, channel, steps=0, generator=seeded(), **options)
        x = maximize_activation(upto(layer), layer, channel, steps=8, generator=seeded(), **options)
        moved = (x != noise).any(1)[0].nonzero()
        measured = (*moved.amin(0).tolist(), *(moved.amax(0) + 1).tolist())
        print(f"{layer}, {channel:2}: sees {(top, left, bottom, right)}, changed {measured}")
        x = maximize_activation(
            upto(layer), layer, channel, steps=STEPS, l2=1.0, tv=tv, generator=seeded(), **options
        )
        single.append(pictured(x)[0, :, : bottom + 1, : right + 1])
        titles.append(f"{layer}, {channel}: {bottom - top} pixels")
figures.show(
    figures.grid(single, titles, columns=6, cell=1.55),
    alt="Images that maximize a single unit, two in each of three layers, in images of the size of its field. "
    "Second stage: blobs of two colors. Third stage: an arch, a shape like a snout. Last stage: small shapes in "
    "the middle of much gray; the first has two dark dots like eyes.",
)

# %% [markdown]
# The printed boxes agree, to the pixel. And in the pictures you see the effective field again: the last layer's units
# may use 70×70 pixels, and care for about the 35 in the middle.
#
# ## The patches that excite a unit most
#
# A made image shows what a unit *could* like. Real images show what it *does* like. Run many images through the
# network, find where the unit is strongest, and cut out what it saw there (Zeiler and Fergus 2014). You have all you
# need: the activations, and the field that leads back from a cell to pixels.
#
# For the unit at row $r$ and column $c$ of the map, with a field of (size, jump, start),
#
# $$\text{top} = \text{start} + r\cdot\text{jump} - \frac{\text{size} - 1}{2}, \qquad \text{bottom} = \text{top} + \text{size},$$
#
# left and right likewise with $c$. The box is half-open: `image[:, top:bottom, left:right]` cuts it out. Then it is
# clipped to the image.
#
# ### By hand
#
# Three images of 16×16 pixels, the field from above, size 12, jump 2, start 0.5. One channel of their maps (2×2 here,
# to be short):
#
# $$\begin{pmatrix} 1 & 5 \\ 5 & 0\end{pmatrix} \qquad \begin{pmatrix} 0 & 0 \\ 0 & 2\end{pmatrix} \qquad
# \begin{pmatrix} 0 & 0 \\ 7 & 0\end{pmatrix}$$
#
# - The best unit of each image: 5 at $(0, 1)$, the first of two equal ones; 2 at $(1, 1)$; 7 at $(1, 0)$.
# - The two best images are 2 (the third) and 0, in this order. Each image counts once, however many strong units it
#   has: otherwise all patches would show the same thing, shifted by a pixel.
# - Image 2, unit $(1, 0)$: top $= 0.5 + 2 - 5.5 = -3$, bottom 9, left $= 0.5 - 5.5 = -5$, right 7. Clipped:
#   $(0, 0, 9, 7)$.
# - Image 0, unit $(0, 1)$: top $-5$, bottom 7, left $-3$, right 9. Clipped: $(0, 0, 7, 9)$.

# %%
for n, row, column in ((2, 1, 0), (0, 0, 1)):
    top, left = (int(0.5 + place * 2 - (12 - 1) / 2) for place in (row, column))
    print(f"image {n}: not clipped {(top, left, top + 12, left + 12)}, clipped", end=" ")
    print(tuple(min(max(edge, 0), 16) for edge in (top, left, top + 12, left + 12)))


# %% exercise="top_patches"
def top_patches(
    activations: Tensor, channel: int, k: int, field: tuple[int, int, float], image_size: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    """The patches that excite one channel most, at most one of each image, the strongest first.

    activations: (N, K, h, w), of N images. field: (size, jump, start), as receptive_field gives it, for
    both axes.
    image_size: (H, W) of the images, in pixels.
    Returns (n, top, left, bottom, right) for the k images (all of them if there are fewer) with the
    highest activations of that channel: the field of the image's best unit, the first in row order
    among equals; images of the same activation in any order. Python integers; clipped to the image;
    bottom and right exclusive.
    """
    ### BEGIN SOLUTION
    size, jump, start = field
    height, width = image_size
    found = []
    for n, unit in enumerate(activations[:, channel]):
        place = int(unit.argmax())
        row, column = place // unit.shape[1], place % unit.shape[1]
        top = round(start - (size - 1) / 2) + row * jump
        left = round(start - (size - 1) / 2) + column * jump
        rows = [min(max(edge, 0), height) for edge in (top, top + size)]
        columns = [min(max(edge, 0), width) for edge in (left, left + size)]
        found.append((unit.max().item(), (n, rows[0], columns[0], rows[1], columns[1])))
    found.sort(key=lambda pair: -pair[0])
    return [patch for _, patch in found[:k]]
    ### END SOLUTION


# %% [markdown]
# ### Made and found, side by side

# %%
predict("ascent_beside_patches")

# %%
SHOWN = {"relu1": (0, 28), "bn2_2": (8, 56), "bn3_2": (16, 112), "bn4_2": (0, 5)}
runs = [capture_activations(net, part.to(course.device), list(SHOWN)) for part in pool.split(64)]
pictures, titles = [], []
for layer, channels in SHOWN.items():
    activations = torch.cat(
        [run[layer][:, list(channels)].cpu() for run in runs]
    )  # only the channels to be shown
    field = receptive_field(chain(layer))
    for index, channel in enumerate(channels):
        strongest_eight = activations[:, index].amax((1, 2)).topk(8).values.tolist()
        print(
            f"{layer + ',':8}{channel:4}:  activations",
            " ".join(f"{value:5.2f}" for value in strongest_eight),
        )
        pictures.append(favorites[layer, channel])
        titles.append(f"{layer}, {channel}")
        for n, top, left, bottom, right in top_patches(activations, index, 8, field, tuple(pool.shape[2:])):
            patch = pool[n, :, top:bottom, left:right]
            canvas = torch.full(
                (3, *[max(patch.shape[1:])] * 2), 0.85
            )  # clipped patches keep their proportions
            y = canvas.shape[1] - patch.shape[1] if top == 0 else 0
            x = canvas.shape[2] - patch.shape[2] if left == 0 else 0
            canvas[:, y : y + patch.shape[1], x : x + patch.shape[2]] = patch
            pictures.append(canvas)
            titles.append("")
figures.show(
    figures.grid(pictures, titles, columns=9, cell=1.05),
    alt="For two units in each of four layers: on the left the image made by ascent, to its right the eight patches "
    "that excite the unit most. First layer: edges of the direction of the stripes. Second stage: outlines and "
    "stripes, some in fitting colors. Third stage: similar textures. Last stage: whole pieces of images; what they share "
    "is harder to say.",
)

# %% [markdown]
# Read it row by row: the made image on the left, the found ones beside it. Gray fills up patches that the border of an
# image has cut to a strip. Each photograph is in the collection at two sizes, so some patches come in pairs.
#
# In the first rows both say the same. Towards the bottom, made and found drift apart, and the collection begins to
# matter. In the images of CIFAR-10, the eight favorites of unit 0 of `bn4_2` are eight cats, and those of unit 5 are
# cats and dogs; now the arches above and the dots in their middle look like ears and eyes. Among our few photographs,
# unit 0 begins with a cat's forehead and has to go on with petals, coins and gravel; unit 5 has a crater, a rocket,
# petals and a tripod. The list always has eight entries, however little the unit cares. **Look at the activations,
# too,** not only at the order: they are printed above the pictures.
#
# ### What a number can say
#
# Can one measure that deeper units stand for more? Take the ten strongest images of a unit and count how many are of
# the same class. For this the images need classes, so it takes CIFAR-10. With it the next cell prints, as the average
# over all units of a layer:
#
# | | `relu1` | `relu2_2` | `relu3_2` | `relu4_2` |
# |---|---|---|---|---|
# | trained | 34 % | 34 % | 54 % | 79 % |
# | the same network, random weights | 32 % | 33 % | 31 % | 31 % |
#
# Ten images drawn at random give 28 %. So in the trained network, and only there, units become selective for the
# classes with depth: a **strong** result. Without CIFAR-10, the "class" is the photograph that a piece was cut from.
# Then the numbers do *not* rise, and the random network is as good as the trained one: pieces of one photograph share
# their colors and their grain, which any filter tells apart. A measure that a random network passes measures nothing
# about training.

# %%
POOLS = ("relu1", "relu2_2", "relu3_2", "relu4_2")


def agreement(model: nn.Module) -> list[float]:
    """For each layer, the share of a unit's ten strongest images that are of the same kind, averaged over units."""
    strongest = {layer: [] for layer in POOLS}
    for part in pool.split(64):
        for layer, maps in capture_activations(model, part.to(course.device), list(POOLS)).items():
            strongest[layer].append(maps.amax((2, 3)).cpu())
    shares = []
    for layer in POOLS:
        kinds = origin[torch.cat(strongest[layer]).topk(10, 0).indices]  # (10, units)
        shares.append(F.one_hot(kinds).sum(0).amax(1).float().mean().item() / 10)
    return shares


by_chance = [origin[torch.randperm(len(origin))[:10]].bincount().max().item() / 10 for _ in range(1000)]
print(
    f"{val.name if val.name == 'cifar10' else 'photographs':20}", "".join(f"{layer:>10}" for layer in POOLS)
)
for name, model in {"trained": net, "random weights": untrained}.items():
    print(f"{name:20}", "".join(f"{share:10.0%}" for share in agreement(model)))
print(f"{'ten at random':20}{sum(by_chance) / 1000:11.0%}")

# %% [markdown]
# ## Which pixels count
#
# So far we asked about units, for all images. The other question is about one image: which of its pixels made the
# network say *cat*? Two answers are in use.
#
# - **Saliency** (Simonyan et al. 2014): the gradient of the logit with respect to the pixels, its largest absolute
#   value over the colors. One backward pass.
# - **Occlusion** (Zeiler and Fergus 2014): cover a square with the mean color and see by how much the logit falls; do
#   so at every place. One forward pass for each.
#
# By hand, for a linear logit $f(x) = 3 x_1 - 2 x_2$ at $x = (0, 5)$: the gradient is $(3, -2)$ and calls $x_1$ the
# more important one. Covering with 0 changes nothing for $x_1$ and raises $f$ by 10 for $x_2$. The first asks what a
# *small change* would do, the second what the value that is *there* has done.

# %%
x = torch.tensor([0.0, 5.0])
weights = torch.tensor([3.0, -2.0])
print("gradient", weights.tolist(), "   fall of the logit when covered", (weights * x).tolist())


# %%
def saliency(model: nn.Module, image: Tensor, label: int) -> Tensor:
    """Largest absolute gradient over the colors, (H, W)."""
    x = image[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, label], x)
    return gradient[0].abs().amax(0).cpu()


@torch.no_grad()
def occlusion(model: nn.Module, image: Tensor, label: int, square: int = 8, step: int = 2) -> Tensor:
    """By how much the logit falls, on average over the squares that cover a pixel, (H, W)."""
    fall, count = torch.zeros(2, *image.shape[1:])
    places = [(r, c) for r in range(0, 33 - square, step) for c in range(0, 33 - square, step)]
    covered = image.repeat(len(places), 1, 1, 1)
    for one, (r, c) in zip(covered, places, strict=True):
        one[:, r : r + square, c : c + square] = pixel_mean
    logits = torch.cat([model(part)[:, label] for part in covered.split(64)])
    for drop, (r, c) in zip((model(image[None])[0, label] - logits).tolist(), places, strict=True):
        fall[r : r + square, c : c + square] += drop
        count[r : r + square, c : c + square] += 1
    return fall / count


pictures, titles = [], []
for index, label in ((0, 3), (1, 1), (2, 0)):
    hidden, slope = occlusion(net, small[index], label), saliency(net, small[index], label)
    control = saliency(untrained, small[index], label)
    agree = torch.corrcoef(torch.stack([slope.flatten(), hidden.flatten()]))[0, 1]
    print(f"{names[index]:11} correlation of saliency and occlusion, pixel by pixel: {agree:5.2f}")
    pictures += [
        small[index],
        slope / slope.max(),
        control / control.max(),
        0.5 + hidden / (2 * hidden.abs().max()),
    ]
    titles += [
        f"{names[index]}: {CLASSES[label]}",
        "saliency",
        "saliency, random weights",
        f"occlusion, ±{hidden.abs().max():.1f}",
    ]
figures.show(
    figures.grid(pictures, titles, columns=4, cell=1.7),
    alt="For the cat, the motorcycle and the moon: the image, its saliency map, the saliency map of an untrained "
    "network, and its occlusion map. Saliency is grainy, and strong along contours. Occlusion is smooth: bright "
    "where covering lowers the logit, dark where it raises it.",
)

# %% [markdown]
# How to read the last column: middle gray is no change. Where it is bright, covering lowers the logit; where it is
# dark, covering raises it; white and black are the number above the map.
#
# For the cat, saliency is brightest on the larger eye, occlusion between that eye and the nose. Both find that the
# "airplane" on the moon is a few craters and rocks. Otherwise they have little in common: for the cat and the
# motorcycle, the correlation is about zero. That does not make one of them wrong. As in the example by hand, they
# answer different questions, and whoever shows such a map has to say which.
#
# The third column is the check that Adebayo et al. (2018) recommend: the same picture from a network with *random*
# weights. If it looks as convincing as the trained one, the method shows the image and not what was learned. Here
# they differ: random weights give noise all over, trained ones gather on a few places. Other methods of their study
# failed this check.
#
# ## How far to trust a picture
#
# - A made image shows what drives a unit to its extreme. Between extreme and everyday lies all that the unit does
#   most of the time.
# - Found patches depend on the collection; the strongest eight of many thousand say little about the rest.
# - Whether the network *needs* a unit, no picture of it tells. That takes taking it away: replace its map by its mean,
#   measure again, and do the same with other units, to compare.
# - Both are shown for one unit at a time. Szegedy et al. (2014) found that random *mixtures* of units have top images
#   that look as meaningful as those of single units. It need not be the units that carry the meaning.
# - People agree with pictures too easily. In an experiment by Borowski et al. (2021), natural images helped people to
#   predict a unit's answers better than made ones did.
#
# So a picture is a good *question*. The answer is a measurement: on images chosen beforehand, with a control.

# %% [markdown] written="what_a_picture_proves" points=3
# ### Written question: what a picture proves
#
# A network recognizes traffic signs in videos taken from a car. In a report about it you read: "Unit 17 of layer
# `conv4` is our stop-sign detector. The nine video frames that excite it most all show a stop sign, and gradient
# ascent makes an image with red, round shapes. Without this unit the network could not recognize stop signs." All
# nine frames are from the same minute of the same drive. `conv4` has a receptive field of 40 pixels; the stop signs
# in the frames are about 90 pixels wide.
#
# 1. Give two reasons why the nine frames do not show that the unit detects stop signs.
# 2. What do the receptive field and the image made by ascent say about the claim, and what can they not say?
# 3. Design a measurement for "detects", and another one for "could not recognize without it". Say what would be
#    compared with what, and which result would refute the claim.
#
# ### BEGIN SOLUTION
# 1. *(1 point, half for each of two)* Frames of one minute are nearly the same image: this is one example and not
#    nine (take at most one patch of each drive, as `top_patches` takes one of each image). Only the strongest answers
#    are shown; one does not know how often the unit answers elsewhere, to red lights, to other signs, or stays silent
#    at stop signs. What else the nine frames have in common (the street, the light, a red car) may be the cause.
#    Frames, not patches: the field was not cut out, so one does not see what the unit saw.
# 2. *(1 point)* The unit sees 40 pixels, less than half of such a sign, so it cannot have seen the whole; it may
#    answer to a piece, such as a red and white border or letters. The red, round shapes fit that, and would fit other
#    round red things as well. The ascent shows what drives the unit to an extreme, far beyond what real images reach;
#    it does not say what the unit does on ordinary frames, and depends on start, penalties and steps.
# 3. *(1 point, half for each)* Detects: on labeled frames from drives not used before, compare the distribution of
#    the unit's activation on stop signs with that on other signs and on no signs (a share of right decisions at a
#    threshold, precision and recall), and with the other units of the layer; refuted if other things excite it as
#    much, or many units do as well. Could not without it: set the channel to zero (or to its mean) and compare the
#    accuracy on stop signs before and after, with other channels set to zero one at a time as the control; refuted if
#    the accuracy hardly changes, or changes as much for other units or for all signs alike.
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | First-layer filters nearly all gray | one range for all filters instead of one for each |
# | Filters in rainbow colors | each color channel stretched on its own |
# | Activations of a layer before a ReLU are never negative | the kept tensor was overwritten in place: keep a copy |
# | Memory grows with every run | hooks not removed, or graphs kept: no `detach` |
# | The network answers differently after you looked at it | it ran in training mode, and its running averages moved |
# | The ascent does not move at all | the unit is idle behind a ReLU: take the layer before it, or another start |
# | The excitation falls with each step | the step goes downhill |
# | Penalties fill the made image with glaring noise, more than there is without them | they were added instead of subtracted |
# | The made image differs from run to run | noise not drawn from the generator, or dropout in training mode |
# | Training goes wrong after the ascent | its backward pass left gradients in the parameters |
# | Patches beside what the unit likes | padding left out of `start`, or the jump multiplied before it was used |
# | Eight patches, all the same | several units of one image instead of the best of each |
#
# ## Summary
#
# - A filter is a template: among inputs of equal norm it likes itself best. First-layer filters can be read as
#   pictures.
# - Deeper weights cannot: channels have no natural order or scale. Shuffled and rescaled, they are the same function.
# - Activations come out of a network through hooks: copied, detached, and the hook removed. The mode is the caller's
#   to set, as a rule eval.
# - Gradient ascent makes the input that maximizes a unit. For the first layer that *is* the filter. An $\ell_2$ penalty
#   lowers contrast, total variation removes fine detail.
# - From shallow to deep: stripes and colors, textures, parts.
# - Receptive fields follow from kernels, strides, paddings and dilations alone: size, jump, start. What counts is
#   mostly their middle.
# - Found patches and made images complement each other. Neither proves what a unit means.
#
# ## Where the papers differ from us
#
# - **Krizhevsky, Sutskever and Hinton (2012)** have 96 filters of 11×11 with stride 4, trained on two GPUs in two
#   groups: one group came out gray, the other colored.
# - **Zeiler and Fergus (2014)** project activations back to pixels with a second network, unpooling by switches
#   (lecture 5), and show these projections beside the top nine patches. We show only the patches.
# - **Erhan et al. (2009)** keep the norm of the image fixed; **Simonyan et al. (2014)** use an $\ell_2$ penalty and
#   class logits. Dividing the gradient by its root mean square is a habit of later code.
# - **Mahendran and Vedaldi (2015)** raise the differences to a power and take both directions together,
#   $(d_x^2 + d_y^2)^{\beta/2}$. Ours is the sum of absolute values: a diagonal edge costs more than an upright one of
#   the same length.
# - **Yosinski et al. (2015)** and **Olah et al. (2017)** add blurring, random shifts and rotations, other color
#   spaces. Their pictures are clearer; more of the clearness is theirs, and not the network's.
# - **Araujo, Norris and Sim (2019)** compute fields as we do, for networks with several paths as well.
# - **Simonyan et al.** take saliency from the logit, as we do. Many programs take it from the probability, whose
#   gradient mixes in what speaks for the other classes, and vanishes where the network is certain.
#
# ## Next
#
# In lecture 4, *convolutionalize*, the network of this notebook answers for every place of a large image at once.
# Receptive fields will say which place an answer belongs to.

# %%
progress()
