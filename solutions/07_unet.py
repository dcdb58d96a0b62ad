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
# **A few dozen images are enough to tell touching cells apart, if the network keeps its early maps for the way up, the images
# are bent into new ones, and the loss looks hard at the lines between the cells.**
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
# It takes about 120 minutes on a laptop, exercises included; all cells together run for less than two. You should have done
# lecture 6, *fcn*: skips, class weights and training on whole images come from there.

# %% role="setup"
import math

import matplotlib.pyplot as plt
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import coursekit.notebook
from autograder import check, hint, progress
from coursekit import figures
from coursekit.data import Item
from coursekit.data.cells import Cells
from coursekit.data.isbi2012 import isbi2012
from coursekit.data.nuclei import nuclei
from coursekit.fcn import SkipFCN
from coursekit.metrics import connected_components, instance_scores, rand_error
from coursekit.training import drawn_from, fit, one_cycle, quarter_turns

course = coursekit.notebook.start("07_unet")
predict = coursekit.notebook.predict

# %% [markdown]
# ## Cells that touch
#
# A biologist counts cells, measures them, follows them through a film. For that, a map of "cell" and "not cell" is not
# enough: each cell has to be a piece of its own. U-Net (Ronneberger, Fischer and Brox 2015) was made for this task and won
# two competitions with it. It does not predict instances. It predicts two classes, so well along the borders that the
# **connected components** of the class "cell" are the cells.
#
# This notebook works with three kinds of images. Generated cells always exist. Electron microscopy of neural tissue (ISBI
# 2012, the data of the paper) and photographs of cell nuclei (Data Science Bowl 2018) are used where they lie on your machine;
# elsewhere, generated cells take their places, in the same cells of this notebook. One switch decides.

# %%
SOURCE = "here"  # "download" fetches the two real data sets (30 MB are kept), "generated" does without them


def pictures(name: str, split: str, count: int) -> tuple[list[Item], str]:
    """Images (1, H, W) from 0 to 1 with instances (H, W), of "tissue" or "nuclei", and what they are in words."""
    read, kept = {"tissue": (isbi2012, "neural tissue, ISBI 2012"), "nuclei": (nuclei, "nuclei, DSB 2018")}[name]
    try:
        if SOURCE == "generated":
            raise RuntimeError("Generated cells were asked for.")
        data = read(split, download=SOURCE == "download")
        items = [data[i] for i in range(min(count, len(data)))]
    except RuntimeError as reason:  # not on this machine
        if SOURCE == "download":
            print(f"{reason} Going on with generated cells.")
        kept = "generated cells"
        seed = 2 * (name == "nuclei") + (split == "val")
        items = [dict(item) for item in Cells(count, 256, seed=seed)]
    for item in items:
        gray = item["image"].float().mean(0, keepdim=True) / 255
        item["image"] = 1 - gray if name == "nuclei" and gray.median() > 0.5 and len(item["image"]) == 3 else gray
    return items, kept


tissue, tissue_words = pictures("tissue", "train", course.scaled(18, fast=4))
grown, grown_words = pictures("nuclei", "train", course.scaled(24, fast=3))
generated = [dict(item, image=item["image"] / 255) for item in Cells(4, 256, seed=5)]


def colored(item: Item, alpha: float = 0.45) -> Tensor:
    """The image with each instance in one of six colors, (3, H, W)."""
    ids = item["instances"]
    return figures.overlay_labels(item["image"], torch.where(ids > 0, 1 + ids % 6, 0), alpha=alpha)


def corner(item: Item, size: int = 256) -> Item:
    return {name: item[name][..., :size, :size] for name in ("image", "instances")}


shown = {
    "generated cells": generated[0],
    f"tissue: {tissue_words}": corner(tissue[0]),
    f"nuclei: {grown_words}": corner(grown[0]),
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
# Take the *true* labels of the generated cells and paint over nothing but the lines between touching cells. That is the
# best a network could do that finds all cells and no line.
#
# We score as in lecture 4: a predicted instance is right if its intersection over union with a true one exceeds 0.5, and
#
# $$F_1 = \frac{2 \cdot \text{right}}{\text{predicted} + \text{true}}.$$
#
# By hand: 10 true cells; in the prediction, two pairs of them have grown together, so that it has 6 single cells and 2
# double ones. A double one overlaps each of its halves by about 0.5, not more. So $F_1 = 2 \cdot 6 / (8 + 10) = 0.67$: four cells
# of ten are gone, for two lines.

# %%
predict(
    "You paint over the lines between touching cells, everything else stays perfect. What happens to the share of right "
    "pixels and to F1?",
    [
        "Pixels 95 % or more, F1 below 0.5",
        "Pixels 95 % or more, F1 about 0.9",
        "Both fall to about 0.7",
    ],
    answer="Pixels 95 % or more, F1 below 0.5",
    because="The lines are few pixels, and each of them holds two cells apart.",
)

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
# Remember the two numbers. Whatever looks at pixels alone, be it a metric or a loss, hardly notices the difference between the two
# pictures.
#
# ## A path down and a path up
#
# A U-Net has two paths. The **contracting path** is a classifier's: two 3×3 convolutions, a 2×2 max pool, and again, four times. Each
# level doubles the channels and halves the map: it learns *what* there is. The **expanding path** goes back up as many
# levels: a 2×2 transposed convolution with stride 2 doubles the map and halves the channels, and two more 3×3 convolutions
# follow. At each level the map of the contracting path is put beside the enlarged one: there is *where*.
#
# All convolutions are **valid**: no padding. Each 3×3 convolution costs one pixel on every side, so each pair of them makes the side 4
# pixels smaller:
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
# An image of 572×572 gives a map of its central 388×388 pixels. Now try 573: 569 is odd. Pooling would drop a row, and
# from there on nothing lies where we think it lies. So such a size is not legal, and so is one that leaves no pixel.
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

    A size that some pooling does not divide evenly, or that leaves no pixel, is refused with a ValueError.
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
# Legal sizes come in steps of $2^{\text{depth}}$, the total stride. The loss is the same for all of them: 184 pixels for the
# network of the paper, 92 on each side. These 92 pixels are its **context**: it needs to see them and has nothing to say about
# them. A network with padding would answer for them too, from zeros that are not in any image.
#
# ## Crop and concatenate
#
# At each level, two maps meet. The skip, from the way down, is larger: at the top of the paper's network it has 568 pixels a side and meets
# a map of 392. Both are centered on the same image, so the skip is cropped to its center:
#
# $$\text{top} = \Bigl\lfloor \frac{H - h}{2} \Bigr\rfloor, \qquad \text{joined} = \bigl[\,\text{skip}[\text{top} : \text{top} + h]\,;\ \text{up}\,\bigr]$$
#
# By hand, one row: the skip is $(1, 2, 3, 4, 5, 6, 7)$, the upsampled map $(10, 20, 30, 40)$. Of the 3 surplus pixels, $\lfloor 3/2 \rfloor = 1$
# goes on the left and 2 on the right: $(2, 3, 4, 5)$. Joined, there are two channels, the skip first:
# $\bigl((2, 3, 4, 5), (10, 20, 30, 40)\bigr)$.

# %%
skip_row, up_row = torch.arange(1.0, 8.0), torch.tensor([10.0, 20.0, 30.0, 40.0])
left = (len(skip_row) - len(up_row)) // 2
print(torch.stack([skip_row[left : left + len(up_row)], up_row]).tolist())

# %% [markdown]
# An FCN *adds* the scores of its skips; here, channels stand side by side and the next convolutions decide what to make of
# them. If the upsampled map is larger than the skip, something went wrong before: refuse it with a `ValueError`.


# %% exercise="crop_and_concat"
def crop_and_concat(skip: Tensor, up: Tensor) -> Tensor:
    """Crop skip (N, C, H, W) to the center that up (N, C', h, w) covers, and join them, the skip's channels first.

    An odd difference crops the extra row or column at the bottom or right; an up larger than skip is refused with a
    ValueError. Returns (N, C + C', h, w).
    """
    ### BEGIN SOLUTION
    for axis in (2, 3):
        surplus = skip.shape[axis] - up.shape[axis]
        if surplus < 0:
            raise ValueError(f"up must not be larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}")
        skip = skip.narrow(axis, surplus // 2, up.shape[axis])
    return torch.cat((skip, up), 1)
    ### END SOLUTION


# %% [markdown]
# ### Does it lie where it should?
#
# A test with a picture whose place we know. One level of a U-Net, with averages in place of learned weights: the skip has lost 2 pixels on
# each side, the map that went down and up again has lost more. Cropped to the center, the two show the same thing at the same
# pixel. Cropped at the top left, they do not.

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
# The building block: convolution, ReLU, convolution, ReLU. With 18 of the network's 23 convolutions inside such blocks, how large their weights are
# at the start decides how large the numbers are at the end. The paper asks for a standard deviation of
#
# $$\sqrt{2 / \text{fan in}}, \qquad \text{fan in} = \text{numbers that one output is made of} = k \cdot k \cdot C_{\text{in}}.$$
#
# Why that: a sum of $n$ products with weights of variance $2/n$ has twice the mean square of its inputs, and the ReLU after it sets
# half of that to zero. So the mean square stays as it was.
#
# By hand: a 3×3 convolution of 64 channels has a fan in of $9 \cdot 64 = 576$ and needs weights of
# $\sqrt{2/576} = 0.059$. PyTorch's own start is $\sqrt{1/(3 \cdot 576)} = 0.024$, smaller by a factor of
# $\sqrt 6$, whatever the fan in.

# %%
print(f"paper: {math.sqrt(2 / 576):.3f}, PyTorch: {nn.Conv2d(64, 64, 3).weight.std().item():.3f}")


# %% exercise="DoubleConv"
class DoubleConv(nn.Module):
    """Two 3×3 convolutions without padding, each followed by a ReLU; both have out_channels channels.

    Weights are drawn with standard deviation √(2 / fan in), biases are 0.
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
# Nine blocks in a row, as many as a U-Net has, on noise. After each, we take the root of the mean square. The other curves have
# the same weights, scaled.

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
# With PyTorch's start, nothing of the image would reach the top; its biases, which are not zero, would drown it. Batch normalization (lecture
# 2) would repair that as well. U-Net is from the same year and has none: a good start is all it needs.
#
# ## The whole network
#
# Now put the parts together. With `base` channels $b$ and depth $d$:
#
# - down, for each level $l = 0, \dots, d - 1$: a double convolution to $b\,2^l$ channels; keep the map; max pool by 2;
# - bottom: a double convolution to $b\,2^d$ channels;
# - up, for each level $l = d - 1, \dots, 0$: a transposed convolution, 2×2 with stride 2, to $b\,2^l$ channels; the skip in front of it;
#   a double convolution from $2 b\,2^l$ to $b\,2^l$ channels;
# - top: a 1×1 convolution to the classes. No softmax; that belongs to the loss.
#
# Counting the convolutions by hand, $d = 4$: $4 \cdot 2$ down, 2 at the bottom, $4 \cdot (1 + 2)$ up and 1 on top: **23**, as
# the paper says. Give the transposed convolutions and the top their $\sqrt{2/\text{fan in}}$ as well. Careful: a transposed convolution
# of 2×2 with stride 2 makes each output from one position alone, so its fan in is $C_{\text{in}}$.


# %% exercise="UNet"
class UNet(nn.Module):
    """The U-Net: (N, in_channels, H, W) to logits (N, num_classes, H', W'), sizes as unet_output_size gives them.

    base: channels of the first level, doubled at each level down. depth: number of poolings.
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
# On PyTorch's *meta* device, tensors have shapes and no numbers. There the network of the paper costs nothing, and we can look at every
# map in it.

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
print(f"parameters on the way up: U-Net {sum(sizes[turn:]):,}, FCN-8s {sum(p.numel() for p in scores_up.parameters()):,}")

# %% [markdown]
# Here is the difference to an FCN, in numbers. The FCN of lecture 6 makes *scores* of its coarse features at once, two channels for two classes, and
# everything on the way up is adding and enlarging scores: a few thousand parameters. The U-Net keeps *features* on the way up, 512,
# 256, 128, 64 channels of them, and joins them with those of the skip before anything is decided. The way up is as deep as the way down and costs
# more than half of all multiplications. What is a cell and what a line is decided at full resolution, with all the context in reach.
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
# A convolution moves with its image: shift the image, and the map is shifted likewise. Max pooling breaks that, since its windows stand still.
# What about a U-Net?

# %%
predict(
    "A U-Net of depth 2. The image is shifted by 1 pixel, or by 4. Is its map shifted, with the same numbers?",
    ["By 4 yes, by 1 no", "In both cases", "In neither"],
    answer="By 4 yes, by 1 no",
    because="The second pooling has a stride of 4 pixels of the image. A shift by 4 brings all windows back onto the same pixels; a shift by 1 "
    "makes other pairs of pixels compete.",
)

# %%
torch.manual_seed(0)
untrained = UNet(1, 2, base=8, depth=2).double()
scene = generated[0]["image"][None].double()
with torch.no_grad():
    still = untrained(scene[..., :188, :188])
    for shift in range(1, 9):
        moved = untrained(scene[..., :188, shift : 188 + shift])
        difference = (moved[..., :-shift] - still[..., shift:]).abs().max()
        print(f"shifted by {shift}: largest difference {difference:.1e}, of logits up to {still.abs().max():.1f}")
