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
# # U-Net
#
# **A few dozen images are enough to tell touching cells apart, if the network keeps its early maps for the way up,
# the images are bent into new ones, and the loss looks hard at the lines between the cells.**
#
# When you are done, you can
#
# - compute the size of a U-Net's map from the size of its image, and say which sizes are legal;
# - build the network of the paper from four small parts, and say what separates it from an FCN;
# - segment an image of any size tile by tile, with the same numbers as in one piece;
# - bend an image and its labels by the same random field;
# - compute the weight map of the loss, and show what its border term does to touching cells;
# - train a U-Net in less than half a minute, and get instances out of it.
#
# It takes about 210 minutes on a laptop, exercises included; all cells together run for less than two. You should
# have done lecture 6, *fcn*: skips, class weights and training on whole images come from there.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("07_unet")
predict = coursekit.notebook.predict

import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import Item
from coursekit.data.cells import Cells
from coursekit.data.isbi2012 import isbi2012
from coursekit.data.nuclei import nuclei
from coursekit.fcn import SkipFCN
from coursekit.metrics import connected_components, instance_scores, match_instances, rand_error
from coursekit.training import Descent, Task, Watch, drawn_from, fit, one_cycle, quarter_turns

# %% [markdown]
# ## Cells that touch
#
# A biologist counts cells, measures them, follows them through a film. For that, a map of "cell" and "not cell" is
# not enough: each cell has to be a piece of its own. U-Net (Ronneberger, Fischer and Brox 2015) was made for this
# task and won the cell tracking challenge of its year. It does not predict instances. It predicts two classes, so
# well along the borders that the **connected components** of the class "cell" are the cells.
#
# This notebook works with three kinds of images. Generated cells always exist. Electron microscopy of neural tissue
# (ISBI 2012, the data of the paper) and photographs of cell nuclei (Data Science Bowl 2018) are used where they lie
# on your machine; elsewhere, generated cells take their places, in the same cells of this notebook. One switch
# decides.

# %%
SOURCE = "here"  # "download" fetches the two real data sets (30 MB are kept), "generated" does without them


def pictures(name: str, split: str, count: int) -> tuple[list[Item], str]:
    """Images (1, H, W) from 0 to 1 with instances (H, W), of "tissue" or "nuclei", and what they are in words."""
    read = isbi2012 if name == "tissue" else nuclei
    words = "neural tissue (ISBI 2012)" if name == "tissue" else "nuclei (DSB 2018)"
    try:
        if SOURCE == "generated":
            raise RuntimeError("Generated cells were asked for.")
        data = read(split, download=SOURCE == "download")
        items = [data[i] for i in range(min(count, len(data)))]
    except RuntimeError as reason:  # not on this machine
        if SOURCE == "download":
            print(f"{reason} Going on with generated cells.")
        words = f"cells in place of {name}"
        seed = 2 * (name == "nuclei") + (split == "val")
        items = [dict(item) for item in Cells(count, 256, seed=seed)]
    for item in items:
        gray = item["image"].float().mean(0, keepdim=True) / 255
        if len(item["image"]) == 3:  # nuclei: dark on light or light on dark, and often faint
            gray = 1 - gray if gray.median() > 0.5 else gray
            gray = ((gray - gray.min()) / (gray.quantile(0.995) - gray.min())).clamp(0, 1)
        item["image"] = gray
    return items, words


tissue, tissue_words = pictures("tissue", "train", course.scaled(18, fast=4))
stained, nuclei_words = pictures("nuclei", "train", course.scaled(24, fast=3))
generated = [dict(item, image=item["image"] / 255) for item in Cells(4, 256, seed=5)]


def colored(item: Item, alpha: float = 0.45) -> Tensor:
    """The image with each instance in one of six colors, (3, H, W)."""
    ids = item["instances"]
    return figures.overlay_labels(item["image"], torch.where(ids > 0, 1 + ids % 6, 0), alpha=alpha)


def corner(item: Item, size: int = 256) -> Item:
    return {name: item[name][..., :size, :size] for name in ("image", "instances")}


shown = {
    "generated cells": generated[0],
    tissue_words: corner(tissue[0]),
    nuclei_words: max(stained, key=lambda item: item["instances"].max()),
}
figures.show(
    figures.grid(
        [*(item["image"] for item in shown.values()), *(colored(item) for item in shown.values())],
        [*shown, *(f"{int(item['instances'].unique().numel()) - 1} instances" for item in shown.values())],
        columns=3,
        cell=3.0,
    ),
    alt="Three gray images of 256×256 pixels in the first row: generated cells in clusters, neural tissue, and nuclei, or "
    "generated cells in place of the latter two. Below, the same images with each instance in a color of its own.",
)

# %% [markdown]
# ### How much a thin line matters
#
# Take the *true* labels of the generated cells and paint over nothing but the lines between touching cells. That is
# the best a network could do that finds all cells and no line.
#
# We score instances: a predicted instance is right if its intersection over union with a true one exceeds 0.5, and
#
# $$F_1 = \frac{2 \cdot \text{right}}{\text{predicted} + \text{true}}.$$
#
# By hand: 10 true cells of one size; in the prediction, two pairs of them have grown together, so that it has 6
# single cells and 2 double ones. A double one has an intersection over union of 0.5 with either half, and that is not
# more than 0.5. So $F_1 = 2 \cdot 6 / (8 + 10) = 0.67$: four cells of ten are gone, for two lines.

# %%
predict("lines_painted_over")

# %%
kernel = torch.ones(1, 1, 3, 3)
masks = torch.stack([item["instances"] for item in generated]) > 0
grow = F.conv2d(masks[:, None].float(), kernel, padding=1) > 0
closed = F.conv2d(1 - grow.float(), kernel, padding=1)[:, 0] == 0  # grown by a pixel, and shrunk again
closed |= masks
truth = torch.stack([item["instances"] for item in generated])
for name, mask in (("the true mask", masks), ("lines painted over", closed)):
    pieces = torch.stack([connected_components(m) for m in mask])
    scores = instance_scores(pieces, truth)
    print(f"{name:19} right pixels {(mask == masks).float().mean():.1%}, F1 {scores['f1']:.2f}")
figures.show(
    figures.grid(
        [
            colored({"image": generated[0]["image"], "instances": connected_components(m[0])})
            for m in (masks, closed)
        ],
        ["components of the true mask", "lines painted over"],
        columns=2,
        cell=3.2,
    ),
    alt="Left, every cell in a color of its own. Right, after the thin lines were painted over, whole clusters have one color.",
)

# %% [markdown]
# Remember the two numbers. Whatever looks at pixels alone, be it a metric or a loss, hardly notices the difference
# between the two pictures.
#
# ## A path down and a path up
#
# A U-Net has two paths. The **contracting path** is a classifier's: two 3×3 convolutions, a 2×2 max pool, and again,
# four times. Each level doubles the channels and halves the map: it learns *what* there is. The **expanding path**
# goes back up as many levels: a 2×2 transposed convolution with stride 2 doubles the map and halves the channels, and
# two more 3×3 convolutions follow. At each level the map of the contracting path is put beside the enlarged one:
# there is *where*.
#
# All convolutions are **valid**: no padding. Each 3×3 convolution costs one pixel at every border, so each pair of
# them makes height and width 4 pixels smaller:
#
# $$\text{down: } s \leftarrow \frac{s - 4}{2} \qquad \text{bottom: } s \leftarrow s - 4 \qquad \text{up: } s \leftarrow 2 s - 4$$
#
# By hand, for the network of the paper, with four poolings:
#
# | | after two convolutions | after pooling or upsampling |
# |---|---|---|
# | down | 572 − 4 = 568 | 284 |
# | | 280 | 140 |
# | | 136 | 68 |
# | | 64 | 32 |
# | bottom | 28 | 56 |
# | up | 52 | 104 |
# | | 100 | 200 |
# | | 196 | 392 |
# | | **388** | |
#
# An image of 572×572 gives a map of its central 388×388 pixels. Now try 573: 569 is odd. Pooling would drop a row,
# and from there on nothing lies where we think it lies. So such a size is not legal, and neither is one that leaves
# no pixel.
#
# The same from code, one level only, with layers that do nothing but take up room:

# %%
level = nn.Sequential(
    nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.MaxPool2d(2),  # down
    nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 2, stride=2),  # bottom, and up
    nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3),
)  # fmt: skip
for side in (28, 29, 30):
    print(f"{side}×{side} gives {level(torch.zeros(1, 1, side, side)).shape[-1]} pixels a side")

# %% [markdown]
# Note the size of 29: the layers do not complain, and give as many pixels as for 28. Your function is to complain.


# %% exercise="unet_output_size"
def unet_output_size(size: int, depth: int = 4) -> int:
    """The side of the map that a U-Net makes of an image of side `size`; depth is the number of poolings.

    A size that some pooling does not divide evenly, or that leaves no pixel, is refused with a
    ValueError; the smallest that leaves one is legal.
    """
    ### BEGIN SOLUTION
    sides = [size]
    for _ in range(depth):
        if sides[-1] % 2 or sides[-1] < 6:
            raise ValueError(f"size must be divided evenly by {depth} poolings, got {size}")
        sides.append((sides[-1] - 4) // 2)
    out = sides[-1] - 4
    out = 2**depth * out - 4 * (2**depth - 1)  # `depth` times: doubled, then 4 less
    if out < 1:
        raise ValueError(f"size must leave a pixel after {depth} poolings, got {size}")
    return out
    ### END SOLUTION


# %% [markdown]
# ### Which sizes are legal
#
# The function answers a practical question: to which size do I crop or pad my images?

# %%
for depth in (1, 2, 3, 4):
    legal = {}
    for size in range(1, 800):
        try:
            legal[size] = unet_output_size(size, depth)
        except ValueError:
            continue
    first = list(legal.items())[:4]
    lost = {size - out for size, out in legal.items()}
    near = [size for size in legal if size <= 512][-1]
    print(
        f"depth {depth}: " + ", ".join(f"{size}→{out}" for size, out in first) + ", …; "
        f"lost in all {lost}; largest up to 512: {near}→{legal[near]}"
    )

# %% [markdown]
# Legal sizes come in steps of $2^{\text{depth}}$, the total stride. The loss is the same for all of them: 184 pixels
# for the network of the paper, 92 on each side. These 92 pixels are its **context**: it needs to see them and has
# nothing to say about them. A network with padding would answer for them too, from zeros that are not in any image.
#
# ## Crop and concatenate
#
# At each level, two maps meet. The skip, from the way down, is larger: at the top of the paper's network it has 568
# pixels a side and meets a map of 392. Both are centered on the same image, so the skip is cropped to its center:
#
# $$\text{top} = \Bigl\lfloor \frac{H - h}{2} \Bigr\rfloor, \qquad \text{joined} = \bigl[\,\text{skip}[\text{top} : \text{top} + h]\,;\ \text{up}\,\bigr]$$
#
# By hand, one row: the skip is $(1, 2, 3, 4, 5, 6, 7)$, the upsampled map $(10, 20, 30, 40)$. Of the 3 surplus
# pixels, $\lfloor 3/2 \rfloor = 1$ goes on the left and 2 on the right: $(2, 3, 4, 5)$. Joined, there are two
# channels, the skip first: $\bigl((2, 3, 4, 5), (10, 20, 30, 40)\bigr)$.

# %%
skip_row, up_row = torch.arange(1.0, 8.0), torch.tensor([10.0, 20.0, 30.0, 40.0])
left = (len(skip_row) - len(up_row)) // 2
print(torch.stack([skip_row[left : left + len(up_row)], up_row]).tolist())

# %% [markdown]
# An FCN *adds* the scores of its skips; here, channels stand side by side and the next convolutions decide what to
# make of them. If the upsampled map is larger than the skip, something went wrong before: refuse it with a
# `ValueError`.


# %% exercise="crop_and_concat"
def crop_and_concat(skip: Tensor, up: Tensor) -> Tensor:
    """Crop skip (N, C, H, W) to the center that up (N, C', h, w) covers; join them, skip's channels first.

    An odd difference crops the extra row or column at the bottom or right; an up larger than skip along
    either side is refused with a ValueError, one as large is not. Returns (N, C + C', h, w).
    """
    ### BEGIN SOLUTION
    for axis in (2, 3):
        surplus = skip.shape[axis] - up.shape[axis]
        if surplus < 0:
            raise ValueError(
                f"up must not be larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}"
            )
        skip = skip.narrow(axis, surplus // 2, up.shape[axis])
    return torch.cat((skip, up), 1)
    ### END SOLUTION


# %% [markdown]
# ### Does it lie where it should?
#
# A test with a picture whose place we know. One level of a U-Net, with averages in place of learned weights: the skip
# has lost 2 pixels on each side, the map that went down and up again has lost more. Cropped to the center, the two
# show the same thing at the same pixel. Cropped at the top left, they do not.

# %%
disc = generated[1]["image"][None, :, 40:132, 40:132]
average = torch.ones(1, 1, 3, 3) / 9


def two_averages(x: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, average), average)


early = two_averages(disc)  # 88 pixels
late = torch.kron(two_averages(F.max_pool2d(early, 2)), torch.ones(2, 2))  # 44, 40, enlarged to 80
joined = crop_and_concat(early, late)[0]
beside = torch.cat([early[:, :, :80, :80], late], 1)[0]


def agreement(two: Tensor) -> float:
    return torch.corrcoef(two.flatten(1))[0, 1].item()


figures.show(
    figures.grid(
        [(two[0] - two[1]).abs() * 4 for two in (joined, beside)],
        [
            f"center: correlation {agreement(joined):.2f}",
            f"top left: correlation {agreement(beside):.2f}",
        ],
        columns=2,
        cell=2.7,
    ),
    alt="Difference between the skip and the map that went down and up. Cropped at the center, it is faint. Cropped at the top left, "
    "bright double outlines of the cells appear.",
)

# %% [markdown]
# ## Two convolutions, and how they start
#
# The building block: convolution, ReLU, convolution, ReLU. Most convolutions of the network are inside such
# blocks, and how large their weights are at the start decides how large the numbers are at the end. The paper asks for a
# standard deviation of
#
# $$\sqrt{2 / \text{fan in}}, \qquad \text{fan in} = \text{numbers that one output is made of} = k \cdot k \cdot C_{\text{in}}.$$
#
# Why that: a sum of $n$ products with independent weights of mean 0 and variance $2/n$ has twice the mean square of
# its inputs. It is as often negative as positive, so the ReLU after it sets half of that to zero. The mean square
# stays as it was.
#
# By hand: a 3×3 convolution of 64 channels has a fan in of $9 \cdot 64 = 576$ and needs weights of
# $\sqrt{2/576} = 0.059$. PyTorch's own start is $\sqrt{1/(3 \cdot 576)} = 0.024$, smaller by a factor of $\sqrt 6$,
# whatever the fan in.

# %%
print(f"paper: {math.sqrt(2 / 576):.3f}, PyTorch: {nn.Conv2d(64, 64, 3).weight.std().item():.3f}")


# %% exercise="DoubleConv"
class DoubleConv(nn.Module):
    """Two 3×3 convolutions without padding, each followed by a ReLU; both have out_channels channels.

    Nothing else: no batch normalization, no dropout. Weights are drawn with standard deviation
    √(2 / fan in), biases are 0.
    (N, in_channels, H, W) to (N, out_channels, H - 4, W - 4).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        ### BEGIN SOLUTION
        first = nn.Conv2d(in_channels, out_channels, kernel_size=3)
        second = nn.Conv2d(out_channels, out_channels, kernel_size=3)
        for convolution in (first, second):
            fan_in = convolution.weight[0].numel()
            nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / fan_in))
            nn.init.zeros_(convolution.bias)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return self.layers(x)
        ### END SOLUTION


# %% [markdown]
# ### Eighteen convolutions deep
#
# Nine blocks in a row, as many as a U-Net has, on noise. After each, we take the root of the mean square. The other
# curves have the same weights, scaled.

# %%
torch.manual_seed(0)
blocks = [DoubleConv(1 if i == 0 else 32, 32).to(course.device) for i in range(9)]
series = {}
for name, factor in (("√(2 / fan in)", 1.0), ("PyTorch's default: 0.41 of it", 6**-0.5), ("1.5 of it", 1.5)):
    numbers, sizes = torch.randn(4, 1, 60, 60, device=course.device), []
    with torch.no_grad():
        for two in blocks:
            # Without biases, scaling both convolutions by a factor scales the block by its square.
            numbers = two(numbers) * factor**2
            sizes.append(numbers.square().mean().sqrt().item())
    series[name] = (range(1, 10), sizes)
figures.show(
    figures.curves(series, "block", "root of the mean square", log=True, size=(6.2, 3.0)),
    alt="Size of the numbers after each of nine blocks, logarithmic. With the paper's weights it stays near one; with PyTorch's default it "
    "falls to below a millionth; with weights 1.5 times as large it rises to about a thousand.",
)

# %% [markdown]
# With PyTorch's start, nothing of the image would reach the top; its biases, which are not zero, would drown it.
# Batch normalization (lecture 2) would repair that as well. U-Net is from the same year and has none: a good start is
# all it needs.
#
# ## The whole network
#
# Now put the parts together. With `base` channels $b$ and depth $d$:
#
# - down, for each level $l = 0, \dots, d - 1$: a double convolution to $b\,2^l$ channels; keep the map; max pool by
#   2;
# - bottom: a double convolution to $b\,2^d$ channels;
# - up, for each level $l = d - 1, \dots, 0$: a transposed convolution, 2×2 with stride 2, to $b\,2^l$ channels; the
#   skip in front of it; a double convolution from $2 b\,2^l$ to $b\,2^l$ channels;
# - top: a 1×1 convolution to the classes. No softmax; that belongs to the loss.
#
# Counting the convolutions by hand, $d = 4$: $4 \cdot 2$ down, 2 at the bottom, $4 \cdot (1 + 2)$ up and 1 on top:
# **23**, as the paper says, and 18 of them in double convolutions. The transposed convolutions and the top start best
# with $\sqrt{2/\text{fan in}}$, too; the check leaves that to you. Careful: a transposed convolution of 2×2 with stride
# 2 makes each output from one position alone, so its fan in is $C_{\text{in}}$.
# (`kaiming_normal_` counts $4\,C_{\text{out}}$ there: give `normal_` a deviation of your own.)


# %% exercise="UNet"
class UNet(nn.Module):
    """The U-Net: (N, in_channels, H, W) to logits (N, num_classes, H', W') of unet_output_size.

    base: channels of the first level, doubled at each level down. depth: number of poolings, 1 or more.
    All convolutions have biases, and no other layer has parameters. Two calls have nothing to do with
    each other.
    """

    def __init__(self, in_channels: int, num_classes: int, base: int = 64, depth: int = 4) -> None:
        super().__init__()
        ### BEGIN SOLUTION
        self.down, self.enlarge, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = in_channels
        for level in range(depth + 1):  # the last one is the bottom
            self.down.append(DoubleConv(width, base << level))
            width = base << level
        while width > base:
            self.enlarge.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
            self.up.append(DoubleConv(width, width // 2))
            width //= 2
        self.classes = nn.Conv2d(base, num_classes, kernel_size=1)
        for layer in (*self.enlarge, self.classes):
            fan_in = layer.in_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_in))
            nn.init.zeros_(layer.bias)
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        maps = [self.down[0](x)]
        for convolve in self.down[1:]:
            maps.append(convolve(F.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for enlarge, convolve in zip(self.enlarge, self.up, strict=True):
            x = convolve(crop_and_concat(maps.pop(), enlarge(x)))
        return self.classes(x)
        ### END SOLUTION


# %% [markdown]
# ### The network of the paper, without a computation
#
# On PyTorch's *meta* device, tensors have shapes and no numbers. There the network of the paper costs nothing, and we
# can look at every map in it.

# %%
with torch.device("meta"):
    paper, paper_image = UNet(1, 2), torch.empty(1, 1, 572, 572)
seen: list[tuple[str, tuple[int, ...], int, int]] = []  # kind, map, parameters, multiplications


def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    transposed = isinstance(layer, nn.ConvTranspose2d)
    kind = f"{'transposed ' * transposed}{layer.kernel_size[0]}×{layer.kernel_size[1]}"
    positions = (inputs[0] if transposed else output)[0, 0].numel()
    parameters = sum(p.numel() for p in layer.parameters())
    seen.append((kind, tuple(output.shape[1:]), parameters, layer.weight.numel() * positions))


for layer in paper.modules():
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        layer.register_forward_hook(note)
paper(paper_image)
for kind, shape, _, cost in seen:
    print(f"{kind:14} {shape[0]:5} × {shape[1]} × {shape[2]:<4} {cost / 1e9:6.2f} billion multiplications")
turn = [kind for kind, *_ in seen].index("transposed 2×2")
sizes, costs = [row[2] for row in seen], [row[3] for row in seen]
print(
    f"{len(seen)} convolutions, {sum(sizes) / 1e6:.1f} million parameters, {sum(costs) / 1e9:.0f} billion multiplications, "
    f"{sum(costs[turn:]) / sum(costs):.0%} of them on the way up"
)
scores_up = SkipFCN(2, (256, 512, 1024), "8s")
print(
    f"parameters on the way up: U-Net {sum(sizes[turn:]):,}, FCN-8s {sum(p.numel() for p in scores_up.parameters()):,}"
)

# %% [markdown]
# Here is the difference to an FCN, in numbers. The FCN of lecture 6 makes *scores* of its coarse features at once,
# two channels for two classes, and everything on the way up is adding and enlarging scores: a few thousand
# parameters. The U-Net keeps *features* on the way up, 512, 256, 128, 64 channels of them, and joins them with those
# of the skip before anything is decided. The way up is as deep as the way down and costs more than half of all
# multiplications. What is a cell and what a line is decided at full resolution, with all the context in reach.
#
# | | FCN-8s | U-Net |
# |---|---|---|
# | way up | enlarge and add scores | enlarge and convolve features |
# | skip | a 1×1 score, summed | all channels, concatenated |
# | starts from | a trained classifier | random weights |
# | border | padded | valid, the map is smaller |
#
# ### A test by moving
#
# A convolution moves with its image: shift the image, and the map is shifted likewise. Max pooling breaks that, since
# its windows stand still. What about a U-Net?

# %%
predict("shifted_image")

# %%
torch.manual_seed(0)
untrained = UNet(1, 2, base=8, depth=2).double()
scene = generated[0]["image"][None].double()
with torch.no_grad():
    still = untrained(scene[..., :188, :188])
    for shift in range(1, 9):
        moved = untrained(scene[..., :188, shift : 188 + shift])
        difference = (moved[..., :-shift] - still[..., shift:]).abs().max()
        print(
            f"shifted by {shift}: largest difference {difference:.1e}, of logits up to {still.abs().max():.1f}"
        )

# %% [markdown]
# Break it, if you like: give the 3×3 convolutions a padding of 1, and a shift by 4 changes numbers near the border,
# too.
#
# ## Overlap-tile
#
# Images of a microscope have thousands of pixels a side, and no legal size. The way out: predict a **tile** at a
# time, each from a window that holds the tile and its context. The windows overlap, the tiles do not. With valid
# convolutions the context is exactly what the network loses on each side:
#
# $$\text{context} = \frac{s - \text{map}(s)}{2} = 6 \cdot 2^{\text{depth}} - 4 \qquad (8,\ 20,\ 44,\ 92 \text{ for depths 1 to 4})$$
#
# At the image's border the context is missing. It is made up by mirroring the image, without repeating the edge
# pixel.
#
# By hand: the row $(1, 2, 3, 4)$ with a context of 2 becomes $(3, 2 \mid 1, 2, 3, 4 \mid 3, 2)$. With a context of 5
# the mirror image is used up after 3 pixels, and mirrored again:
# $(2, 3, 4, 3, 2 \mid 1, 2, 3, 4 \mid 3, 2, 1, 2, 3)$. Tiles of 3 pixels: the first covers $1, 2, 3$, the second $4$
# and two pixels beyond the border, which are thrown away.

# %%
for context in (2, 5):
    print(f"context {context}:", np.pad([1, 2, 3, 4], context, mode="reflect").tolist())

# %% [markdown]
# The function takes any network that maps a window of tile + 2·context to its central tile. The network answers as in
# inference, without gradients. Leave each of its layers in the mode you found it in: some may be frozen, others not.


# %% exercise="overlap_tile"
def overlap_tile(net: nn.Module, image: Tensor, tile: int, context: int, num_classes: int) -> Tensor:
    """Segment an image (C, H, W) tile by tile; returns scores (num_classes, H, W).

    net maps (1, C, s, s) with s = tile + 2·context to the scores (1, num_classes, tile, tile) of the
    central tile. Tiles lie side by side from the top left: every pixel is predicted once. The border is
    mirrored without repeating the edge pixel, again and again where the context is as large as the
    image or larger. H and W are at least 2, also where the tile is larger; the context may be 0. The
    network runs in eval mode without gradients, and each of its layers keeps the training flag that it
    had.
    Scores have the dtype of the image; integers become float32 and are not scaled.
    """
    ### BEGIN SOLUTION
    H, W = image.shape[1:]

    def places(length: int) -> Tensor:
        """Where to read: from the first pixel of the first window to the last one of the last."""
        covered = math.ceil(length / tile) * tile
        place = torch.arange(-context, covered + context, device=image.device) % (2 * length - 2)
        return torch.minimum(place, 2 * length - 2 - place)

    mirrored = image[:, places(H)][:, :, places(W)]
    mirrored = mirrored if mirrored.is_floating_point() else mirrored.float()
    side, rows = tile + 2 * context, []
    flags = {layer: layer.training for layer in net.modules()}
    net.eval()
    with torch.no_grad():
        for top in range(0, H, tile):
            windows = [mirrored[None, :, top : top + side, left : left + side] for left in range(0, W, tile)]
            rows.append(torch.cat([net(window)[0] for window in windows], dim=2))
    for layer, flag in flags.items():
        layer.training = flag
    return torch.cat(rows, dim=1)[:num_classes, :H, :W]
    ### END SOLUTION


# %% [markdown]
# ### One window, and what the network is shown

# %%
context, tile = 92, 100
scene = generated[0]["image"]
bordered = torch.from_numpy(np.pad(scene[0].numpy(), context, mode="reflect"))
fig, axis = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
axis.imshow(bordered, extent=(-92, 348, 348, -92), alpha=0.55)
axis.imshow(scene[0], extent=(0, 256, 256, 0))
for top, left, size, hue, words in (
    (0, 0, 256, "black", "image"),
    (-92, 8, 284, "blue", "window: 284×284"),
    (0, 100, 100, "orange", "tile: 100×100"),
):
    axis.add_patch(
        plt.Rectangle((left, top), size, size, fill=False, lw=2.5, ec=figures.COLORS[hue], label=words)
    )
axis.legend(loc="lower left", frameon=True)
axis.set(xlim=(-92, 348), ylim=(348, -92))
axis.grid(False)
figures.show(
    fig,
    alt="An image of cells, continued beyond its border by its mirror image. A window of 284 pixels reaches over the upper border into "
    "the mirrored part; its central tile of 100 pixels lies inside the image.",
)

# %% [markdown]
# ### The same numbers?
#
# Tiles ought to be a matter of memory, not of the result: each pixel is predicted from the same context as in one
# pass over the whole mirrored image. We test that with three untrained networks, an image of 252 pixels and tiles of
# 84.

# %%
predict("depths_and_tiles")

# %%
image = scene[:, :252, :252].double()
for depth in (1, 2, 3):
    torch.manual_seed(0)
    net = UNet(1, 2, base=4, depth=depth).double().eval()
    context = 6 * 2**depth - 4
    with torch.no_grad():
        whole = net(F.pad(image[None], [context] * 4, mode="reflect"))[0]
    tiled = overlap_tile(net, image, 84, context, 2)
    print(
        f"depth {depth}: context {context:2}, 84 mod {2**depth} = {84 % 2**depth}, "
        f"largest difference {(tiled - whole).abs().max():.1e}, of logits up to {whole.abs().max():.1f}"
    )

# %% [markdown]
# So the rule is: *the tile has to be divisible by the total stride*. Now look at the paper's own network: its map has
# 388 pixels, $388 = 24 \cdot 16 + 4$. Work back from the map to the input, and every legal map turns out to be 4 more
# than a multiple of the total stride: at depths 1 and 2 that is a multiple itself, from depth 3 on it never is. The
# paper's tiles do not give the numbers of one pass. That is no disaster, since all answers come from full context;
# they are only not the same answers. Who wants the same ones keeps fewer pixels of each map than it has: of 84 at depth
# 3 the middle 80, of the paper's 388 the middle 384. Then all windows are pooled alike, as in one pass that begins
# where the first window begins.


# %%
class Middle(nn.Module):
    """A network whose map loses some pixels on every side."""

    def __init__(self, net: nn.Module, less: int):
        super().__init__()
        self.net, self.less = net, less

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[..., self.less : -self.less, self.less : -self.less]


before = context + 2
tiled = overlap_tile(Middle(net, 2), image, 80, before, 2)
bordered = F.pad(image[None], [before, before + 4] * 2, mode="reflect")  # 348 pixels: a legal size
with torch.no_grad():
    whole = net(bordered)[0, :, 2:254, 2:254]
print(f"depth 3, of each map of 84 the middle 80: largest difference {(tiled - whole).abs().max():.1e}")

# %% [markdown]
# What valid convolutions spare us is another thing. We give the same network of depth 2 a padding of 1 in each 3×3
# convolution, so that it keeps the size, and let it predict tiles without context.

# %%
torch.manual_seed(0)
valid = UNet(1, 2, base=8, depth=2).eval()
padded = copy.deepcopy(valid)
for layer in padded.modules():
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
        layer.padding = (1, 1)
image = scene[:, :252, :252]
with torch.no_grad():
    apart = {
        "valid, context 20": overlap_tile(valid, image, 84, 20, 2)
        - valid(F.pad(image[None], [20] * 4, mode="reflect"))[0],
        "padded, no context": overlap_tile(padded, image, 84, 0, 2) - padded(image[None])[0],
    }
    spread = padded(image[None])[0].std()
figures.show(
    figures.grid([d.abs().amax(0) / spread for d in apart.values()], list(apart), columns=2, cell=3.0),
    alt="Difference between tiled and whole prediction. Valid convolutions with context: black everywhere. Padded ones without "
    "context: bright seams along the borders of the nine tiles.",
)

# %% [markdown]
# On each side of a border between tiles the seam is about as wide as the context. A padded network has them at its image borders, too, where nobody looks; tiles
# bring them into the middle.
#
# ## Elastic deformations
#
# Thirty annotated slices, that is all the paper had for training on neural tissue. New images can be made of old ones
# where we know what does not change the labels. Tissue is soft: bend it, and it is still tissue. The recipe: put a
# coarse lattice over the image, 3×3 points, and move each point by a random vector:
#
# $$\Delta_{ab} \sim \mathcal N(0, \sigma^2), \qquad \Delta(y, x) = \text{bicubic interpolation of } \Delta_{ab}, \qquad
# \text{new}(y, x) = \text{old}\bigl((y, x) + \Delta(y, x)\bigr)$$
#
# Each pixel of the new image *looks up* where it comes from; so no pixel stays empty. Between the pixels of the old
# image one interpolates bilinearly. Labels must not be interpolated: between cell 1 and cell 3 there is no cell 2.
# They take the nearest pixel. And both need the *same* displacements.
#
# By hand, a row of three pixels $(3, 1, 4)$ with labels $(7, 0, 9)$, all displaced by $+0.4$:
#
# - pixel 0 reads at 0.4: $0.6 \cdot 3 + 0.4 \cdot 1 = 2.2$; pixel 1 reads at 1.4: $0.6 \cdot 1 + 0.4 \cdot 4 = 2.2$;
# - pixel 2 reads at 2.4, beyond the border: the mirror stands on the last pixel, so it reads at 1.6:
#   $0.4 \cdot 1 + 0.6 \cdot 4 = 2.8$;
# - the nearest pixels are 0, 1 and 2: the labels stay $(7, 0, 9)$. A displacement of $+0.6$ would make them
#   $(0, 9, 0)$: the last one reads at $2.6$, mirrored $1.4$.

# %%
three = torch.tensor([3.0, 1.0, 4.0])[None, None, None]
for displacement in (0.4, 0.6):
    x_place = torch.arange(3.0) + displacement - 1  # -1 and 1 are the first and the last pixel
    where = torch.stack([x_place, torch.zeros(3)], dim=-1)[None, None]
    look_up = {"padding_mode": "reflection", "align_corners": True}
    values = F.grid_sample(three, where, **look_up)
    ids = F.grid_sample(torch.tensor([7.0, 0.0, 9.0])[None, None, None], where, mode="nearest", **look_up)
    print(
        f"displaced by {displacement}: image {[round(v, 1) for v in values.flatten().tolist()]}, labels {ids.flatten().tolist()}"
    )

# %% [markdown]
# Draw the displacements of rows and columns from `generator`, in whatever order you like: judged is how they are
# distributed, not which ones come.


# %% exercise="elastic_deformation"
def elastic_deformation(
    image: Tensor,
    labels: Tensor,
    grid: int = 3,
    sigma: float = 10.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Bend an image (C, H, W) and its labels (H, W) by one random field.

    Displacements N(0, sigma²) in pixels, (row, column) × grid × grid, on a lattice whose corners are
    the image's corners; bicubic between them, with the kernel of F.interpolate. Rows and columns are
    displaced alike, whatever the image's sides. The image is read bilinearly, labels take the nearest
    pixel; beyond the border both are mirrored, the edge pixel not repeated. Shapes and dtypes are kept
    (integer images become float32), and what was handed in is not changed.
    """
    ### BEGIN SOLUTION
    H, W = labels.shape
    pixels = image if image.is_floating_point() else image.float()
    device = "cpu" if generator is None else generator.device
    points = sigma * torch.randn(2, grid, grid, generator=generator, device=device)
    points = points.to(pixels.device, torch.promote_types(pixels.dtype, torch.float32))
    field = F.interpolate(points[None], size=(H, W), mode="bicubic", align_corners=True)[0]
    # From pixels to grid_sample's places: -1 is the middle of the first pixel, 1 the middle of the last.
    y = (torch.arange(H, device=field.device)[:, None] + field[0]) * (2 / max(H - 1, 1)) - 1
    x = (torch.arange(W, device=field.device) + field[1]) * (2 / max(W - 1, 1)) - 1
    places = torch.stack([x, y], dim=-1)[None]

    def read(values: Tensor, mode: str) -> Tensor:
        return F.grid_sample(
            values[None], places.to(values), mode, padding_mode="reflection", align_corners=True
        )[0]

    bent = read(pixels.to(field.dtype), "bilinear").to(pixels.dtype)
    return bent, read(labels[None].double(), "nearest")[0].to(labels.dtype)
    ### END SOLUTION


# %% [markdown]
# ### How far can tissue be bent?
#
# The same random numbers with a growing $\sigma$. Lines are drawn onto the image, so that you can see the field.

# %%
item = corner(tissue[1])
ruled = item["image"].clone()
ruled[:, ::32], ruled[:, :, ::32] = 1, 1
bent = {}
for sigma in (0.0, 5.0, 10.0, 30.0):
    draw = torch.Generator().manual_seed(3)
    pixels, ids = elastic_deformation(ruled, item["instances"], sigma=sigma, generator=draw)
    bent[f"σ = {sigma:g}"] = {"image": pixels, "instances": ids}
    assert set(ids.unique().tolist()) <= set(item["instances"].unique().tolist())
figures.show(
    figures.grid([colored(b, alpha=0.35) for b in bent.values()], list(bent), columns=4, cell=2.5),
    alt="A piece of tissue with its instances in color and a square grid drawn on it, bent with growing strength. With σ = 5 and 10 the lines are gently "
    "curved; with σ = 30 cells are stretched and squeezed.",
)

# %% [markdown]
# With 10 pixels, the paper's choice, it could still be tissue; with 30 it could not. What you allow here, the network
# will believe.
#
# And the labels? We bend the mask of the cells once as labels, and once as an image that is then cut at 0.5. With the
# same field, the two agree but for rounding. With two fields, the network would be trained on wrong borders.

# %%
mask = (item["instances"] > 0).long()


def bent_mask(seed: int) -> tuple[Tensor, Tensor]:
    pixels, ids = elastic_deformation(mask[None].float(), mask, generator=torch.Generator().manual_seed(seed))
    return pixels[0] > 0.5, ids == 1


first, second = bent_mask(0), bent_mask(1)
print(f"one field:  {(first[0] == first[1]).float().mean():.1%} of the pixels agree")
print(f"two fields: {(first[0] == second[1]).float().mean():.1%}")

# %% [markdown]
# The paper calls elastic deformations the key to training with few images. We do not test that here; below we use
# mirroring and quarter turns alone, which cost nothing. At the end there is a place where you can try it.
#
# ## The weight map
#
# Back to the thin lines. A loss that averages over pixels hardly counts them. U-Net gives each pixel a weight:
#
# $$w(p) = w_c(p) + w_0 \cdot \exp\!\left(-\frac{(d_1(p) + d_2(p))^2}{2 \sigma^2}\right), \qquad w_0 = 10,\ \sigma = 5$$
#
# $d_1$ is the distance to the nearest cell, $d_2$ to the second nearest. The second term is large only where *two*
# cells are close: on the lines between them. $w_c$ balances the classes: background and cells get half of the total
# weight each, so $w_c = \frac{HW/2}{\text{pixels of the class}}$.
#
# By hand. Two cells with a gap of $g$ background pixels in a row. The first pixel of the gap has $d_1 = 1$ and
# $d_2 = g$, the next one 2 and $g - 1$: the sum is $g + 1$ *everywhere in the gap*.
#
# | gap $g$ | $d_1 + d_2$ | border term |
# |---|---|---|
# | 1 | 2 | $10\,e^{-4/50} = 9.23$ |
# | 5 | 6 | $10\,e^{-36/50} = 4.87$ |
# | 10 | 11 | $10\,e^{-121/50} = 0.89$ |
# | 20 | 21 | $10\,e^{-441/50} = 0.001$ |
#
# And $w_c$: if cells cover 60 % of an image, background gets $0.5/0.4 = 1.25$ and cells get $0.5/0.6 = 0.83$.

# %%
for gap in (1, 5, 10, 20):
    line = torch.tensor([1, 1, *gap * [0], 2, 2])
    d = [ndimage.distance_transform_edt(line != cell) for cell in (1, 2)]  # 0 where the argument is False
    terms = 10 * np.exp(-((d[0] + d[1]) ** 2) / 50)[2:-2]
    print(f"gap {gap:2}: from {terms.min():.3f} to {terms.max():.3f}")

# %% [markdown]
# By its formula the paper adds the border term on cells, too. Ours is zero there: a cell pixel near a neighbor is
# still a cell pixel. Cells are told apart by their ids. With fewer than two cells there is no second nearest one, and
# only $w_c$ is left.


# %% exercise="unet_weight_map"
def unet_weight_map(
    instances: Tensor, w0: float = 10.0, sigma: float = 5.0, class_weights: tuple[float, float] | None = None
) -> Tensor:
    """Weight of every pixel of instances (H, W), 0 = background: w_c, on background plus the border term.

    class_weights: (background, cell); None balances them, each class that is there summing to half of
    H·W.
    d1, d2: Euclidean distances to the nearest pixel of the nearest and of the second nearest cell.
    Pixels of one id, whatever its number, are one cell, in one piece or not. With fewer than two cells
    there is no border term. Returns (H, W) float32, also where there is no cell or nothing else.
    """
    ### BEGIN SOLUTION
    cell = instances != 0
    if class_weights is None:
        covered = int(cell.sum())
        shares = (cell.numel() - covered, covered)
        class_weights = tuple(cell.numel() / 2 / share if share else 0.0 for share in shares)
    weights = torch.where(cell, class_weights[1], class_weights[0]).float()
    ids = instances[cell].unique().tolist()
    if len(ids) < 2:
        return weights
    numbers = instances.cpu().numpy()
    d1 = d2 = np.full(numbers.shape, np.inf)
    for i in ids:
        d = ndimage.distance_transform_edt(numbers != i)
        d1, d2 = np.minimum(d1, d), np.minimum(d2, np.maximum(d1, d))
    border = torch.from_numpy(w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)))
    return weights + border.to(weights) * ~cell
    ### END SOLUTION


# %% [markdown]
# ### Where the loss looks
#
# The weight map of generated cells, of tissue and of nuclei. One more step is needed for the nuclei: some touch
# without a pixel between them (generated cells have their line from the start). Then there is no background to learn
# the line from. We carve one, as the paper did: a pixel that has a pixel of a higher id beside it becomes background.


# %%
def carved(instances: Tensor) -> Tensor:
    """Instances with a line of background between those that touch, (H, W)."""
    highest = torch.from_numpy(ndimage.maximum_filter(instances.numpy(), 3))
    return torch.where((instances > 0) & (highest > instances), 0, instances)


crowded = max(stained, key=lambda item: int(item["instances"].max()))
before, after = (
    int(connected_components(m).max()) for m in (crowded["instances"], carved(crowded["instances"]))
)
print(
    f"{nuclei_words}: {int(crowded['instances'].max())} instances; in pieces {before}, after carving {after}"
    + ("" if after > before else " (none of them touch)")
)
maps = {
    "generated cells": (generated[0]["image"][0], generated[0]["instances"]),
    tissue_words: (corner(tissue[0])["image"][0], corner(tissue[0])["instances"]),
    nuclei_words: (crowded["image"][0], carved(crowded["instances"])),
}
fig, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for (name, (gray, ids)), (upper, lower) in zip(maps.items(), axes.T, strict=True):
    weights = unet_weight_map(ids)
    upper.imshow(gray, vmin=0, vmax=1)
    heat = lower.imshow(weights, vmin=0, vmax=11, cmap="magma")
    upper.set_title(name)
    line = weights > 3
    print(
        f"{name:25} weights above 3: {line.float().mean():.1%} of the pixels, {weights[line].sum() / weights.sum():.0%} of the weight"
    )
for axis in axes.flat:
    axis.axis("off")
fig.colorbar(heat, ax=axes[1], label="weight", shrink=0.8)
figures.show(
    fig,
    alt="Three images and below each its weight map. Cells and wide background are dark; the lines between close cells glow, the brighter the "
    "closer the cells are.",
)

# %% [markdown]
# $\sigma$ says how wide a gap may be to count, $w_0$ how much it counts. For one pair of neighbors, drawn as a
# section through the gap:

# %%
gaps = list(range(1, 26))


def in_gap(gap: int, sigma: float) -> float:
    pair = torch.zeros(3, gap + 4, dtype=torch.long)
    pair[:, :2], pair[:, -2:] = 1, 2
    return unet_weight_map(pair, sigma=sigma, class_weights=(1.0, 1.0))[1, 2 + gap // 2].item()


figures.show(
    figures.curves(
        {f"σ = {sigma:g}": (gaps, [in_gap(gap, sigma) for gap in gaps]) for sigma in (2.0, 5.0, 10.0)},
        "width of the gap, pixels",
        "weight in its middle",
        size=(5.6, 2.8),
    ),
    alt="Weight in the middle of a gap against its width, for σ of 2, 5 and 10. Each curve starts between ten and eleven or, for σ = 2, at seven, and falls to "
    "one: after about 6, 15 and beyond 25 pixels.",
)

# %% [markdown]
# ## Touching cells, with and without it
#
# Now the experiment. Two small U-Nets of 8 channels and depth 2 learn from the same 100 images in the same order,
# from the same start. One loss has the border term, the other has only the class weights ($w_0 = 0$). The loss is the
# weighted cross entropy over the pixels of the map, with labels and weights cropped to its center:
#
# $$\text{loss} = \frac{1}{\text{pixels}} \sum_p w(p) \cdot \ell(p)$$


# %%
def with_weights(items: list[Item], w0: float) -> list[Item]:
    """What a U-Net is trained on: image, labels 0 and 1, and the weight of each pixel."""
    return [
        {
            "image": item["image"],
            "labels": (item["instances"] > 0).long(),
            "weights": unet_weight_map(item["instances"], w0=w0),
        }
        for item in items
    ]


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return (weights * F.cross_entropy(logits, labels, reduction="none")).mean()


def learn(items: list[Item], w0: float, steps: int) -> nn.Module:
    torch.manual_seed(0)
    net = UNet(1, 2, base=8, depth=2).to(course.device)
    fit(
        net,
        with_weights(items, w0),
        steps=steps,
        batch_size=4,
        descent=Descent(torch.optim.Adam(net.parameters(), lr=0.01), one_cycle()),
        task=Task(("labels", "weights"), weighted_loss, augment=quarter_turns),
        generator=torch.Generator().manual_seed(0),
        watch=Watch(live=True),
    )
    return net.eval()


small = [dict(item, image=item["image"] / 255) for item in Cells(course.scaled(100, fast=6), 128, seed=10)]
with_border = learn(small, 10.0, steps=course.scaled(180, fast=3))

# %%
without = learn(small, 0.0, steps=course.scaled(180, fast=3))

# %% [markdown]
# The two losses at the end do not tell which network is better: without the border term there is less to pay for.

# %%
predict("with_the_border_term")

# %%
new = [dict(item, image=item["image"] / 255) for item in Cells(course.scaled(6, fast=2), 252, seed=99)]


def instances_of(net: nn.Module, image: Tensor) -> Tensor:
    """The cells that a U-Net sees in an image (1, H, W), in windows of 252 pixels: components of its class 1, (H, W)."""
    image = image.to(course.device)
    with torch.no_grad():
        tile = net(image.new_zeros(1, 1, 252, 252)).shape[-1]
    scores = overlap_tile(net, image, tile, (252 - tile) // 2, 2)
    return connected_components(scores.argmax(0).cpu() == 1)


def report(name: str, net: nn.Module) -> list[Tensor]:
    found = [instances_of(net, item["image"]) for item in new]
    real = torch.stack([item["instances"] for item in new])
    scores = instance_scores(torch.stack(found), real)
    pixels = ((torch.stack(found) > 0) == (real > 0)).float().mean()
    pieces = sum(int(ids.max()) for ids in found) / sum(int(item["instances"].max()) for item in new)
    print(f"{name:20} right pixels {pixels:.1%}, pieces per true cell {pieces:.2f}, F1 {scores['f1']:.2f}")
    return found


found_with, found_without = report("with border term", with_border), report("without", without)
figures.show(
    figures.grid(
        [
            colored(new[0]),
            *(
                colored({"image": new[0]["image"], "instances": ids[0]})
                for ids in (found_with, found_without)
            ),
        ],
        ["truth", "with border term", "without"],
        columns=3,
        cell=3.0,
    ),
    alt="New cells. Left the true instances, each in its color. Middle, trained with the border term: most cells are pieces of their own. Right, trained "
    "without: large clusters have one color.",
)

# %% [markdown]
# The gap in F1 is **strong**, and where it comes from can be seen in the picture: without the border term most cells
# have grown together. Which of the two has more *pixels* right is **not** settled: we have seen either, depending on
# how long they were trained. And be careful how far the gap in F1 reaches. The lines between these cells are one or
# two pixels wide and faint by design. Weights are a choice of *which mistakes are worse*: the network with the border
# term cuts some whole cells into pieces. Where borders are wide and dark, as the membranes in tissue are, class
# weights alone may do.
#
# ## Training
#
# Now yours. `train_unet` gets the data set itself, integers from 0 to 255 in its images, and instances. It returns a
# network that takes images from 0 to 1. It is trained on 100 images of 128×128, and judged by F1 on images made
# afterwards. The time is yours to spend, but 30 seconds should do. `fit`, `one_cycle`, `quarter_turns` and
# `drawn_from` of `coursekit.training` are there to be used; a loop of your own is as good. `fit` scales images of bytes to
# 0 … 1 and crops targets to the middle where the map is smaller. `with drawn_from(generator):` lets weights that a
# new layer draws follow your generator, so that the same generator gives the same network.


# %% exercise="train_unet"
def train_unet(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    """A network that tells cells apart which it has never seen.

    dataset: map-style, items {"image": (1, H, W) uint8, "instances": (H, W)}. Returns a network in eval
    mode from images (N, 1, H, W), 0 to 1, to logits (N, 2, H', W') of background and cell, sizes as
    unet_output_size gives them.
    """
    ### BEGIN SOLUTION
    device = "cuda" if torch.cuda.is_available() else "cpu"
    items = [dataset[i] for i in range(len(dataset))]
    for item in items:
        item["inside"] = (item["instances"] != 0).long()
        item["matters"] = unet_weight_map(item["instances"])

    def loss(logits: Tensor, inside: Tensor, matters: Tensor) -> Tensor:
        each = F.cross_entropy(logits, inside, reduction="none")
        return (matters * each).sum() / matters.sum()

    with drawn_from(generator):
        net = UNet(1, 2, base=16, depth=2).to(device)
    fit(
        net,
        items,
        epochs=10,
        batch_size=4,
        descent=Descent(torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-3), one_cycle()),
        task=Task(("inside", "matters"), loss, augment=quarter_turns),
        generator=generator,
        watch=Watch(live=True),
    )
    return net.cpu().eval()
    ### END SOLUTION


# %% [markdown]
# ### Instances out of it
#
# The check has just trained your network on generated cells. Now let the same function learn from something else:
# slices of neural tissue, where they lie on your machine, and generated cells elsewhere. It gets pieces of 128×128
# pixels, and no setting changes. Your `overlap_tile` then segments a whole image that it has not seen. Pieces smaller
# than 30 pixels are dropped: they are no cells.

# %%
squares = [
    {
        "image": (255 * item["image"][..., top : top + 128, left : left + 128]).to(torch.uint8),
        "instances": item["instances"][..., top : top + 128, left : left + 128],
    }
    for item in tissue
    for top in range(0, item["instances"].shape[0], 128)
    for left in range(0, item["instances"].shape[1], 128)
]
squares = squares[:: max(1, len(squares) // 64)][: course.scaled(64, fast=6)]
yours = train_unet(squares, torch.Generator().manual_seed(0)).to(course.device)


# %% [markdown]
# F1 counts instances. For tissue, with cells of all sizes, one more number is common: the **Rand error** looks at
# pairs of pixels of true cells: which of them lie in one cell, and which in one piece of the prediction. It is 1 minus the
# F score of these two sets of pairs, so 0 is perfect and 1 is the worst. The last picture shows the outcome cell by cell.


# %%
def outcome(found: Tensor, truth: Tensor) -> Tensor:
    """2 on predicted pieces that match a cell, 5 on those that match none, 6 on the rest of missed cells, (H, W)."""
    pairs = match_instances(found, truth)
    right = torch.isin(found, pairs[:, 0]) & (found > 0)
    missed = (truth > 0) & ~torch.isin(truth, pairs[:, 1])
    return torch.where(right, 2, torch.where(found > 0, 5, torch.where(missed, 6, 0)))


unseen = pictures("tissue", "val", 1)[0][0]
found = instances_of(yours, unseen["image"])
large = torch.bincount(found.flatten()) >= 30
large[0] = False
found = torch.where(large[found], found, 0)
real = connected_components(unseen["instances"] > 0)
scores = instance_scores(found, real)
print(
    f"{tissue_words}, {found.shape[0]}×{found.shape[1]}: {int(real.max())} true pieces, {int(large.sum())} found; "
    f"right pixels {((found > 0) == (real > 0)).float().mean():.1%}, F1 {scores['f1']:.2f}, Rand error {rand_error(found, real):.2f}"
)
figures.show(
    figures.grid(
        [
            unseen["image"],
            colored({"image": unseen["image"], "instances": real}),
            colored({"image": unseen["image"], "instances": found}),
            figures.overlay_labels(unseen["image"], outcome(found, real), alpha=0.55),
        ],
        [tissue_words, "truth", "your instances", "green right, purple no match, yellow missed"],
        columns=2,
        cell=4.2,
    ),
    alt="A whole image of tissue, or of generated cells in its place; its true instances in color; those of your network; and the "
    "outcome. Most pieces are green, found and right; some purple ones hold two cells or half of one, and some cells are missed.",
)

# %% [markdown]
# A few seconds of training are far from the state of the competition: the paper's network trained for ten hours on a
# GPU, with elastic deformations. Try two things, if you have minutes to spend: `w0=0` in the weights of your
# function, and `elastic_deformation` on each square before it is trained on.
#
# We tried the first on ISBI 2012. After 160 steps of a network of 8 channels, the border term did **not** help: Rand
# error 0.55 with it and 0.49 without. After 1200 steps of a deeper one, two runs gave 0.34 and 0.51 with it, and 0.57
# and 0.61 without: it helped, by no more than those two runs differ. Here the evidence is **weak**: membranes are wide,
# about a fifth of all pixels, and the class weights make them count already. On the generated cells above, the border
# term decided everything. A trick is worth what the data make of it.

# %% [markdown] written="a_new_microscope" points=3
# ### Written question: a new microscope
#
# A laboratory has 12 annotated photographs of 2000×1500 pixels. The cells in them touch; the annotators gave each its
# own id and left no pixel between neighbors. A colleague trains a U-Net of depth 4 with valid convolutions, with
# class weights and without a border term, and reports: 98 % of the pixels are right. But the count of cells, by
# connected components, is 30 % too low.
#
# 1. Which two things in the *labels and the loss* have to change before anybody touches the network? Say what each of
#    them does to the pixel between two neighbors.
# 2. The photographs do not fit into the GPU. Windows of 572 pixels do. How large are tile and context, how many
#    windows does one photograph take at least, and what happens to tiles at the border of the photograph?
# 3. Why can 98 % of right pixels and 30 % missing cells go together? Name the number you would report instead.
#
# ### BEGIN SOLUTION
# 1. *(1 point)* The labels need a line of background between touching cells (carving); as it is, the target of every
#    pixel between neighbors is "cell", and a perfect network merges them. And the loss needs the border term: the
#    line is so thin that painting it over costs next to nothing; its weight of about 10 makes that expensive.
# 2. *(1 point)* The tile is 388 pixels, the context $(572 - 388)/2 = 92$.
#    $\lceil 2000/388 \rceil \cdot \lceil 1500/388 \rceil = 6 \cdot 4 = 24$ windows. At the border the context is made
#    up by mirroring, and the parts of the last tiles that lie beyond the photograph are thrown away.
# 3. *(1 point)* The lines are a few percent of the pixels, and each missing one merges two cells, so almost all
#    pixels may be right while many cells are gone. F1 of the instances at an intersection over union of 0.5 (or
#    precision and recall of instances, or the Rand error).
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | Shapes do not fit at a concatenation | a size that is not legal, or a skip that was not cropped |
# | Labels and logits differ in size | labels and weights have to be cropped to the center of the map |
# | The map is shifted by some pixels | skips or labels were cropped at the top left |
# | The loss explodes or never moves from the start | weights started too large or too small; fan in of the transposed convolutions |
# | Seams in a tiled prediction | padding instead of context, or context too small |
# | New labels appear after bending | labels were interpolated |
# | Good training, bad borders | image and labels were bent by two different fields |
# | Cells grow together | no border term, or no line of background in the labels |
# | The weight map glows around every cell, also around single ones | $d_1$ and $d_2$ both measured to the same cell |
# | The map of one cell alone is infinite or NaN | there is no second nearest cell |
#
# ## Summary
#
# - Two paths: down for what, up for where; at each level the early map is cropped to its center and put beside the
#   late one.
# - Valid convolutions: 572 → 388. Every answer has its full context; legal sizes come in steps of the total stride.
# - Against an FCN: features instead of scores on the way up, concatenated instead of summed, with more than half of
#   all multiplications there.
# - Overlap-tile: windows overlap, tiles do not, the border is mirrored. Equal to one pass if the tile is divisible by
#   the total stride.
# - Elastic deformations: one smooth field for image and labels, bilinear for the one, nearest for the other.
# - The weight map makes few pixels count that decide about cells. Connected components do the rest.
#
# ## Where the paper differs from us
#
# - **Size.** The network of Ronneberger, Fischer and Brox (2015) has 64 channels, depth 4 and 31 million parameters;
#   those we train have 8 or 16 channels and depth 2. It uses dropout at the end of the way down; ours does not.
# - **Training.** One large window a step, momentum 0.99, about ten hours on a GPU; ours takes four small images a
#   step, Adam, and seconds.
# - **Weights.** The paper adds the border term to all pixels by its formula; ours leaves it out on cells. The paper
#   measures to the cells' borders, we to their nearest pixels. Its labels had gaps carved by morphological operations, as we do with nuclei.
# - **Deformations.** Where the 3×3 lattice lies on the image, the paper does not say; that its corners are the
#   image's corners is our reading.
# - **Tiles.** The paper mirrors the border as we do. That its tile size is not a multiple of 16 goes unmentioned.
# - Today many U-Nets are padded, for convenience. Their maps are as large as the image, and their answers at its
#   border rest on zeros.
#
# ## Next
#
# This was the last lecture. You have the parts of most segmentation networks in use: normalization, fully
# convolutional maps, upsampling, skips, and losses that look where it matters.

# %%
progress()
