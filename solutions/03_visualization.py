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
# **A trained network can be asked what it looks for: the first layer answers with its weights, every other layer with the
# images that excite it, and those you can search for or make.**
#
# When you are done, you can
#
# - read the filters of a first layer, and say why the same picture of a deeper layer means little;
# - take the activations out of any layer of a network, and leave the network as you found it;
# - make the image that excites a unit most, step by step, and choose how much to smooth it;
# - compute which pixels a unit sees, and check it against the gradient;
# - find the patches of real images that a unit likes best, and tell what these pictures prove and what they don't.
#
# It takes about 100 minutes on a laptop, exercises included; all cells together run for about one. You should have done
# lecture 2, *batch normalization*, or know what `.eval()` is for.

# %% role="setup"
import copy
from collections import OrderedDict

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import coursekit.notebook
from autograder import check, hint, progress
from coursekit import figures
from coursekit.data import photographs, small_images
from coursekit.models import pretrained, small_classifier

course = coursekit.notebook.start("03_visualization")
predict = coursekit.notebook.predict

# %% [markdown]
# The network of this notebook has been trained for you, on CIFAR-10, and comes with the course. It is small: one 7×7
# convolution, six 3×3 convolutions, three max pools, an average over the map and a linear layer for ten classes. Each
# convolution is followed by batch normalization and a ReLU. Here is what it makes of three photographs, made as small as
# the images it has learned from.

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
print(f"{sum(p.numel() for p in net.parameters()):,} parameters in", *[name for name, _ in net.named_children()])

# %% [markdown]
# It knows the cat, takes a motorcycle for its nearest relative among the ten classes, and is quite sure about the moon,
# which is none of them. *What it looked at* the probabilities do not say. That is what this lecture is about.
#
# ## A filter is a template
#
# At each pixel $p$, a convolution takes the neighborhood $x_p$ of that pixel, multiplies it by the weights $w$, entry by
# entry, and adds up. Written as vectors, this is an inner product:
#
# $$y[p] = \langle w, x_p \rangle + b = \lVert w \rVert\, \lVert x_p \rVert \cos \theta_p + b$$
#
# Among all neighborhoods *of equal norm*, the one that points in the direction of $w$ gives the largest response: a
# picture of the filter itself. A filter is a template, and a convolution asks everywhere: how much of this is here?
#
# ### By hand
#
# The template $w = (-1, 2, -1)$ looks for a bright dot between dark ones. Five neighborhoods of the same norm $\sqrt 6$:
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
predict(
    "The filter is the left eye of the cat, cut out of the photograph as it is (gray, values from 0 to 1). Where in this "
    "photograph is the response of the convolution largest?",
    ["At the eye it was cut from", "At the other eye", "At the brightest part of the picture"],
    answer="At the brightest part of the picture",
    because="All weights and all pixels are positive, so a bright neighborhood of any pattern gives a larger sum than a "
    "darker one of the right pattern. The norm wins over the angle.",
)

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
deviation = (respond(torch.ones_like(eye), gray**2) - respond(torch.ones_like(eye), gray) ** 2 / eye.numel()).sqrt()
responses = {
    "the eye as it is": respond(eye, gray),
    "the eye minus its mean": respond(centered, gray),
    "cosine with the eye": respond(centered, gray) / (deviation * centered.norm()),
}
for name, response in responses.items():
    print(f"{name:23} strongest at {strongest(response)}, cut out at {(top, left)}")
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
    axis.plot(column, row, "o", markersize=13, markerfacecolor="none", markeredgewidth=2.5, color=figures.COLORS["vermilion"])
    axis.set_title(name, fontsize=10)
axes[0].add_patch(plt.Rectangle((left, top), size, size, fill=False, color=figures.COLORS["vermilion"], linewidth=2))
for axis in axes:
    axis.set(xticks=[], yticks=[])
figures.show(
    fig,
    alt="A photograph of a cat with a frame around one eye, and three response maps to that eye as a filter, the "
    "strongest place circled. As it is: a blurred picture of the cat, strongest in a bright corner. Minus its mean, and as a cosine: strongest at the framed eye.",
)

# %% [markdown]
# Taking away the template's mean is enough here: then a flat neighborhood gives 0, however bright it is. Trained filters
# often do the same, their weights add up to nearly zero. Dividing by the norms as well leaves the cosine alone.
#
# Look at the last two numbers, too. A piece of blurred background is *more* like this eye, entry by entry, than the other
# eye is. One template of 21×21 pixels is a poor detector of eyes. A network of many small ones, one layer upon the other, is
# a better one, and the price is that you cannot read it off the weights any more. First, the layer where you can.
#
# ## The filters of the first layer
#
# The first layer's filters have as many channels as the image, so each is a small color picture. Its weights are not
# between 0 and 1, though: each filter is stretched to the full range on its own,
#
# $$\frac{w - \min w}{\max w - \min w}$$
#
# with the minimum and the maximum over *all* entries of that filter, the three colors included. A color of its own range
# for each channel would change the hue.
#
# By hand, a gray filter of 2×2: $w = \begin{pmatrix} -2 & 0 \\ 1 & 2 \end{pmatrix}$ has minimum $-2$ and range 4, and
# becomes $\begin{pmatrix} 0 & 0.5 \\ 0.75 & 1 \end{pmatrix}$. A weight of 0 is *not* black. Nor is it always the same
# gray: here it is 0.5, in a filter with weights from 0 to 4 it would be 0.

# %%
tiny = torch.tensor([[-2.0, 0.0], [1.0, 2.0]])
print((tiny - tiny.min()) / (tiny.max() - tiny.min()))

# %% [markdown]
# Your function arranges the filters row by row in one picture, with white lines of width `padding` around and between them.
# Two cases to think of: a constant filter has no range, and the last row may have gaps.


# %% exercise="filter_grid"
def filter_grid(weight: Tensor, columns: int = 8, padding: int = 1) -> Tensor:
    """The filters of a first layer as one picture, each stretched to the range from 0 to 1 on its own.

    weight: (K, C, h, w) with C = 3 or 1; one channel is repeated to gray; another C is refused with a ValueError.
    The picture is always `columns` filters wide, filled row by row. A constant filter is 0.5; lines of `padding` pixels
    around and between the filters, and missing filters, are 1.
    Returns (3, H, W) with H = rows · (h + padding) + padding, W = columns · (w + padding) + padding.
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
untrained = small_classifier(standardizer=copy.deepcopy(net.standardize), widths=(32, 64, 128, 192)).to(course.device).eval()
figures.show(
    figures.grid(
        [filter_grid(net.conv1.weight).cpu(), filter_grid(untrained.conv1.weight).cpu()],
        ["the first layer, trained", "the same layer, random"],
        columns=2,
        cell=4.4,
    ),
    alt="Left, 32 trained filters of 7×7 pixels: light and dark bars, edges in several directions, and blobs and borders of "
    "two colors. Right, 32 random filters: colored noise.",
)


def neighbor_correlation(weight: Tensor) -> float:
    """Correlation of each weight with its right neighbor, over all filters."""
    pairs = torch.stack([weight[..., :-1].flatten(), weight[..., 1:].flatten()])
    return torch.corrcoef(pairs)[0, 1].item()


def colorless(weight: Tensor) -> Tensor:
    """For each filter, the share of its squared weights that is the same in all three colors."""
    return weight.mean(1, keepdim=True).expand_as(weight).square().sum((1, 2, 3)) / weight.square().sum((1, 2, 3))


for name, weight in {"trained": net.conv1.weight.detach(), "random": untrained.conv1.weight.detach()}.items():
    norms = weight.flatten(1).norm(dim=1)
    print(
        f"{name:8} neighbors correlate by {neighbor_correlation(weight):5.2f}, {int((colorless(weight) > 0.8).sum()):2} of 32 "
        f"nearly gray, the longest filter is {norms.max() / norms.min():.1f} times as long as the shortest"
    )

# %% [markdown]
# What to see in a first layer:
#
# - **Gray bars and edges** in several directions, for where the brightness changes; **color blobs and color edges**, larger
#   and rounder, for what color it is. The network was not told to keep the two apart.
# - **Smoothness.** Neighboring weights are alike, in the random filters they are not. Noisy filters in a trained network
#   are a symptom: too short a training, too high a learning rate, too little data.
# - What the picture **hides**: each filter was stretched by itself, so a weak one looks as strong as any other. Print the norms
#   when that matters.
#
# Nearly every network trained on photographs shows the same families: AlexNet (64 filters of 11×11 in torchvision's version),
# ResNet-18 and ResNet-101 and DenseNet-121 (64 filters of 7×7 each). Look for yourself, if you are online: set
# `DOWNLOAD = True`. The four files have about 480 MB together; nothing else in this notebook needs them.

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
        alt="First-layer filters of AlexNet, ResNet-18, ResNet-101 and DenseNet-121: oriented bars and gratings in gray, and "
        "blobs and edges in color.",
    )
else:
    print("Nothing was downloaded. The filters of this course's network are above.")

# %% [markdown]
# ## Why deeper weights say little
#
# The second convolution has 64 filters, each of 32 channels of 3×3 weights: 2048 tiny pictures, and none of them is a picture
# of something in the image. A filter there weighs *channels* of the first layer against each other, and the order of these
# channels is an accident. Give the channels other numbers, in both layers alike, and the network computes the same:
#
# $$W_2\, \mathrm{ReLU}(W_1 x) = (W_2 P^\top)\, \mathrm{ReLU}(P W_1 x) \quad\text{for every permutation } P$$
#
# The sizes are an accident as well: a ReLU lets a positive factor through, so channel $k$ may be made $a$ times as large in
# the first layer if the second multiplies it by $1/a$.
#
# By hand: two hidden units $h = (\max(0, x),\ \max(0, -x))$ and the output $y = 3 h_1 + 1 h_2$. With the units exchanged,
# $h = (\max(0, -x), \max(0, x))$ and the weights $(1, 3)$: the same $y$. With the first unit made ten times as large: weights
# $(0.3, 1)$. Three sets of weights, and one function.

# %%
predict(
    "We shuffle the 32 channels of the first layer and multiply each by a random factor, and undo both in the weights of the "
    "second layer. How far do the ten logits of the network move?",
    ["Not at all, but for rounding", "A little: the class stays the same", "Much: nearly all weights have changed"],
    answer="Not at all, but for rounding",
    because="It is the same function, written with other numbers. Whatever you read off the deeper weights has to survive this.",
)

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
print(f"largest change of a logit: {(before - after).abs().max():.1e}, of logits up to {before.abs().max():.1f}")
print(f"correlation of the first filter of conv2_1 with its twin: {alike:.2f}")
figures.show(
    figures.grid(
        [filter_grid(one[:, None]).cpu(), filter_grid(other[:, None]).cpu()],
        ["one filter of conv2_1: 32 channels", "the same filter in the shuffled twin"],
        columns=2,
        cell=4.0,
    ),
    alt="Two grids of 32 gray tiles of 3×3 pixels: one filter of the second convolution, and the same filter of the shuffled "
    "network. The tiles look alike in kind and stand in other places; neither grid shows anything one could name.",
)

# %% [markdown]
# The claim is **exact**: the same function, and a picture that has nothing to do with the first one. To break it, leave one
# line out of the twin, for example the one for `bn1.bias`, and look at the first number.
#
# The first layer is spared, since the channels of an *image* are given: they have an order, a scale and a meaning. For every
# other layer, ask what its units *respond to*. Three ways follow: look at the activations of one image, make an image that
# excites a unit, search many images for patches that do.
