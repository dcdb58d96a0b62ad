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
# # Upsampling
#
# **A network that pools knows what is in an image and has forgotten where: this lecture gets the pixels back, by
# computing what was skipped, by remembering where it stood, or by a convolution run the other way round.**
#
# When you are done, you can
#
# - make a coarse heatmap dense without training anything, in two ways, and show that they give the same numbers;
# - say what a network gains and what it pays when it does not pool at all;
# - enlarge a map by nearest neighbor, bed of nails, max unpooling and transposed convolution, forward and backward;
# - compute the output of a transposed convolution on paper, and its size;
# - start an upsampling layer as bilinear interpolation, and see where checkerboards come from.
#
# It takes about 170 minutes on a laptop, exercises included; all cells together run for about one. You should have done
# lecture 4, *convolutionalize*: it made a classifier fully convolutional, and its maps came out coarse.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("05_upsampling")
predict = coursekit.notebook.predict

import copy
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import SmallImages, photographs, textures
from coursekit.metrics import accuracy
from coursekit.training import Task, Watch, fit

# %% [markdown]
# ## Coarse heatmaps
#
# Every pooling layer halves a map. A fully convolutional network with three of them has a **stride** of 8: neighboring
# cells of its heatmap look at windows that are 8 pixels apart. The window itself, the **receptive field**, is larger.
# Along one axis, without padding,
#
# $$\text{cells} = \Bigl\lfloor \frac{\text{pixels} - \text{field}}{\text{stride}} \Bigr\rfloor + 1.$$
#
# By hand, for the network of this notebook: field 24, stride 8, an image of 144×216. That makes
# $\lfloor 120/8 \rfloor + 1 = 16$ rows and $\lfloor 192/8 \rfloor + 1 = 25$ columns: 400 answers for 31 104 pixels.
#
# The network tells six textures apart. It learns on small gray patches, each with mean 0 and standard deviation 1, so
# that neither color nor brightness gives the class away: it has to look at the pattern.

# %%
torch.set_num_threads(1)  # for networks as small as these, sharing the work out takes longer than doing it

NAMES = ("brick", "foliage", "galaxies", "grass", "gravel", "moon")


def standardize(images: Tensor) -> Tensor:
    """Images (…, 3, H, W) to gray ones (…, 1, H, W), each of mean 0 and standard deviation 1."""
    gray = images.float().mean(-3, keepdim=True).to(course.device)
    return (gray - gray.mean((-1, -2), keepdim=True)) / gray.std((-1, -2), keepdim=True)


def patches(split: str, per_class: int) -> SmallImages:
    every = textures.textures(split, per_class)
    places = {every.classes.index(name): label for label, name in enumerate(NAMES)}
    keep = [i for i, label in enumerate(every.labels.tolist()) if label in places]
    labels = torch.tensor([places[label] for label in every.labels[keep].tolist()])
    return SmallImages("textures", NAMES, every.images[keep], labels)


def block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU()]


def train_on_patches(net: nn.Sequential, steps: int) -> nn.Sequential:
    """Train a fully convolutional network by the average of its map; returns it in eval mode."""
    whole = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(course.device)
    task, watch, draw = Task(transform=standardize), Watch(live=True), torch.Generator().manual_seed(0)
    for share, lr in ((0.75, 0.05), (0.25, 0.005)):
        count = max(1, int(share * steps))
        fit(whole, train, steps=count, batch_size=32, lr=lr, task=task, generator=draw, watch=watch)
    print(f"accuracy on new patches: {accuracy(whole, val, transform=standardize):.1%}")
    return net.eval()


train, val = patches("train", course.scaled(150, fast=10)), patches("val", course.scaled(60, fast=5))
torch.manual_seed(0)
net = train_on_patches(
    nn.Sequential(
        *block(1, 16, 5), nn.MaxPool2d(2),
        *block(16, 32, 3), nn.MaxPool2d(2),
        *block(32, 48, 3), nn.MaxPool2d(2),
        nn.Conv2d(48, len(NAMES), 1),
    ),
    steps=course.scaled(240, fast=4),
)  # fmt: skip

# %% [markdown]
# Now an image to segment: six squares with a disc in each, all cut from regions of the photographs that the network has
# not seen. We built it, so the true label of every pixel is known.


# %%
def region(name: str, shift: int = 0) -> Tensor:
    """A 72×72 piece of a texture's validation region, (72, 72)."""
    photograph, boxes = textures.REGIONS[name]
    top, left, _, right = boxes["val"][0]
    left += min(shift, right - left - 72)
    return standardize(photographs.load(photograph)[:, top : top + 72, left : left + 72])[0]


rows, columns = torch.meshgrid(torch.arange(72.0), torch.arange(72.0), indexing="ij")
disc = ((rows - 35.5) ** 2 + (columns - 35.5) ** 2 < 22**2).to(course.device)
image, labels = torch.zeros(144, 216), torch.zeros(144, 216, dtype=torch.long)
for tile, name in enumerate(NAMES):
    inside = (tile + 4) % 6 if tile < 3 else (tile + 2) % 6
    part = (slice(72 * (tile // 3), 72 * (tile // 3) + 72), slice(72 * (tile % 3), 72 * (tile % 3) + 72))
    image[part] = torch.where(disc, region(NAMES[inside], 72), region(name)).cpu()
    labels[part] = torch.where(disc, inside, tile).cpu()
x = image[None, None].to(course.device)
with torch.no_grad():
    coarse = net(x).cpu()  # logits (1, 6, 16, 25)


def painted(classes: Tensor) -> Tensor:
    """A label map (H, W) in color, (3, H, W)."""
    return figures.overlay_labels(torch.zeros(1, *classes.shape), classes, alpha=1.0, background=None)


figures.show(
    figures.grid(
        [((image + 2.5) / 5).clamp(0, 1).expand(3, -1, -1), painted(labels), painted(coarse[0].argmax(0))],
        ["the image", "the truth, one color a texture", "the network: 16×25 cells"],
        columns=3,
        cell=3.1,
    ),
    alt="Left, a gray image of six textured squares with a disc of another texture in each. Middle, its true labels as "
    "six colors. Right, the network's heatmap: the squares and discs can be made out, in coarse blocks.",
)

# %% [markdown]
# Each cell gives its answer for a window of 24×24 pixels. To compare it with the truth, we have to say *which pixels* it
# speaks for. The window of cell $(i, j)$ begins at pixel $(8i, 8j)$, so its center lies at $(8i + 11.5,\ 8j + 11.5)$, and
# the cell speaks for the 8×8 pixels around it.
#
# Below, `score` compares a prediction with the truth over the pixels that are window centers of a *dense* map: 121×193
# of them. All methods of this notebook are scored on the same pixels.

# %%
DENSE = (144 - 24 + 1, 216 - 24 + 1)
truth = labels[12 : 12 + DENSE[0], 12 : 12 + DENSE[1]]


def score(logits: Tensor) -> float:
    """Share of right pixels; logits (1, L, 121, 193)."""
    return (logits[0].argmax(0).cpu() == truth).float().mean().item()


as_blocks = torch.kron(coarse, torch.ones(8, 8))[..., 4 : 4 + DENSE[0], 4 : 4 + DENSE[1]]
print(f"coarse map, each cell painted as an 8×8 block: {score(as_blocks):.1%} of the pixels are right")

# %% [markdown]
# ## Shift and stitch
#
# The network *could* answer for every pixel. It only has to be asked: move the image by one pixel and each window moves
# by one pixel, too. With stride $s$ there are $s^2$ different shifts before the windows fall onto each other again.
#
# $$\text{out}[\,r + s\,i,\; c + s\,j\,] \;=\; \text{net}\bigl(\text{image}[\,r{:},\; c{:}\,]\bigr)[\,i,\,j\,]
# \qquad r, c = 0, \dots, s - 1$$
#
# The maps are interlaced, like the two halves of a deck of cards. Without padding in the network, the result has
# $H - \text{field} + 1$ rows: one answer for every window there is.
#
# ### Six numbers by hand
#
# The image is a row: $(3, 1, 4, 1, 5, 9)$. The network takes the maximum of two neighbors with stride 2: field 2.
#
# - Unshifted, the pairs are $(3,1), (4,1), (5,9)$: the map is $(3, 4, 9)$.
# - Shifted by one, the pairs are $(1,4), (1,5)$, and the 9 is left over: the map is $(4, 5)$. It is *shorter*.
# - Stitched: $(3, 4, 4, 5, 9)$, five numbers, $6 - 2 + 1$. It is the maximum of every pair of neighbors.

# %%
row = torch.tensor([[3.0, 1.0, 4.0, 1.0, 5.0, 9.0]])
print("unshifted:      ", F.max_pool1d(row, 2).tolist()[0])
print("shifted by one: ", F.max_pool1d(row[:, 1:], 2).tolist()[0])
print("every pair:     ", F.max_pool1d(row, 2, stride=1).tolist()[0])

# %% [markdown]
# Your function does it in two dimensions, for any network. Mind the sizes: maps of later shifts may be one row or
# one column smaller. And mind the mode: the network is to answer as in inference, but it is not yours to keep. Each of its
# layers has a mode of its own, and somebody may have frozen one.


# %% exercise="shift_and_stitch"
def shift_and_stitch(net: nn.Module, image: Tensor, factor: int) -> Tensor:
    """A dense map out of a network of stride factor: its maps of all shifts, interlaced.

    image: (N, C, H, W). The network gives maps (N, L, h, w); it runs in eval mode without gradients,
    and each of its layers is left in the mode it had. The map of image[..., r:, c:] fills
    out[..., r::factor, c::factor]. Returns (N, L, H', W') in the dtype of the maps, H' and W' at least
    factor; for a network without padding H' = H - field + 1. factor may be 1.
    """
    ### BEGIN SOLUTION
    training = [module for module in net.modules() if module.training]
    net.eval()
    with torch.no_grad():
        maps = [[net(image[..., r:, c:]) for c in range(factor)] for r in range(factor)]
    for module in training:
        module.training = True
    height = sum(across[0].shape[2] for across in maps)
    width = sum(part.shape[3] for part in maps[0])
    out = maps[0][0].new_zeros(*maps[0][0].shape[:2], height, width)
    for r, across in enumerate(maps):
        for c, part in enumerate(across):
            out[..., r::factor, c::factor] = part
    return out
    ### END SOLUTION


# %% [markdown]
# ### Watch the stitches
#
# The same network, the same weights. With the first shift, one pixel of each 8×8 block is known; we paint the whole block
# with it. Each further shift adds one pixel to each block. After 64, none is guessed any more.

# %%
predict("asked_at_every_pixel")

# %%
dense = shift_and_stitch(net, x, 8).cpu()
stages, titles = [], []
for known in (1, 2, 4, 8):
    step = 8 // known  # only every step-th shift in each direction has been made
    seen = dense[..., ::step, ::step].repeat_interleave(step, 2).repeat_interleave(step, 3)
    seen = seen[..., : DENSE[0], : DENSE[1]]
    stages.append(painted(seen[0].argmax(0)))
    titles.append(f"{known**2} of 64 shifts")
figures.show(
    figures.grid(stages, titles, columns=4, cell=2.4),
    alt="Four label maps of the same image, from 1, 4, 16 and all 64 shifts: the blocks shrink until single pixels remain. "
    "The outlines become finer, but stay ragged and off the true circles.",
)
print(f"painted in blocks {score(as_blocks):.1%}, stitched {score(dense):.1%}")

# %% [markdown]
# The stitched map is as good as this network gets, pixel by pixel, and it took 64 passes. Its outlines are still wrong by
# some pixels. Keep that in mind: **density is not precision**.
#
# ## Its à trous twin
#
# Sixty-four passes compute most things many times: the first convolution sees almost the same image each time. There is
# a way to compute everything once. Remove the stride of a layer, and its map becomes dense: where cell $i$ stood, stands
# now cell $s\,i$, and between them stand the cells of the other shifts. The *next* layer must not mix them up. It combines
# cells that belong to the same shift, and these are now $s$ apart. So its kernel is spread: **dilation** $s$, a kernel
# with holes (French *trous*).
#
# $$\text{every stride becomes 1;}\qquad \text{dilation of a layer} \leftarrow \text{its dilation} \times
# \text{product of all strides removed \emph{before} it}$$
#
# ### By hand
#
# Again $(3, 1, 4, 1, 5, 9)$ and the maximum of pairs with stride 2. A second layer adds two neighboring cells.
#
# - Coarse: $(3, 4, 9)$, sums $(7, 13)$. Shifted: $(4, 5)$, sum $(9)$. Stitched: $(7, 9, 13)$.
# - À trous: the dense maxima $(3, 4, 4, 5, 9)$, then sums of cells *two* apart: $3 + 4,\ 4 + 5,\ 4 + 9 = (7, 9, 13)$. The same.
# - Dilation forgotten: $3 + 4,\ 4 + 4,\ 4 + 5,\ 5 + 9 = (7, 8, 9, 14)$. Nonsense, in a plausible size.

# %%
maxima = F.max_pool1d(row, 2, stride=1)
add = torch.ones(1, 1, 2)
print("à trous:           ", F.conv1d(maxima, add, dilation=2).tolist()[0])
print("dilation forgotten:", F.conv1d(maxima, add).tolist()[0])

# %% [markdown]
# Now for whole networks, made of convolutions, max pools and layers that treat every position alike. A size, stride,
# dilation or padding may be one number or a pair, of rows and of columns. An average pool has no dilation in PyTorch, and
# the border of a padded pool would lie between the pixels: refuse both with a `ValueError`. A padded convolution gets its
# padding multiplied like its dilation: what had none keeps none.


# %% exercise="atrous"
def atrous(net: nn.Sequential) -> nn.Sequential:
    """The dense twin of a network from (N, C, H, W) to (N, L, h, w): all strides 1, later layers dilated.

    The dilation of every convolution and max pool is multiplied by the strides removed before it, rows
    and columns each by their own, and so is a convolution's padding. Average pools, adaptive ones too,
    and padded max pools are refused with a ValueError. The original is left as it was, each layer's
    mode too; weights and running statistics are copied in their dtype.
    """

    ### BEGIN SOLUTION
    def both(value: int | tuple[int, int]) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else value

    def times(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        return one[0] * other[0], one[1] * other[1]

    removed, layers = (1, 1), []
    for original in net:
        layer = copy.deepcopy(original)
        pooling = isinstance(layer, nn.MaxPool2d)
        if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or (
            pooling and layer.padding not in (0, (0, 0))
        ):
            raise ValueError(f"net must have max pools without padding and no average pools, got {layer}")
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            stride = both(layer.stride)
            layer.stride, layer.dilation = (1, 1), times(removed, both(layer.dilation))
            if not pooling:
                layer.padding = times(removed, layer.padding)
            removed = times(removed, stride)
        layers.append(layer)
    return nn.Sequential(*layers)
    ### END SOLUTION


# %% [markdown]
# ### The same numbers, computed once

# %%
predict("passes_or_dilated")


# %%
@torch.no_grad()
def seconds(function, repeats: int = 3) -> float:
    """The shortest of some runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        if course.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


holes = atrous(net)
forgetful = atrous(net)  # the same, then its dilations taken out again
for layer in forgetful:
    if hasattr(layer, "dilation"):
        layer.dilation = (1, 1)
with torch.no_grad():
    dense_twin, plain = holes(x).cpu(), forgetful(x).cpu()

print("dilations of the convolutions:", [m.dilation[0] for m in holes if isinstance(m, nn.Conv2d)])
print("dilations of the max pools:   ", [m.dilation for m in holes if isinstance(m, nn.MaxPool2d)])
print(
    f"largest difference to shift-and-stitch: {(dense - dense_twin).abs().max():.1e}, of logits up to {dense.abs().max():.0f}"
)
fair = plain[..., : DENSE[0], : DENSE[1]]
print(
    f"without dilation: a map of {tuple(plain.shape[2:])}, accuracy {score(fair):.1%} instead of {score(dense_twin):.1%}"
)
stitching, dilated = seconds(lambda: shift_and_stitch(net, x, 8)), seconds(lambda: holes(x))
one_pass = seconds(lambda: net(x))
print(
    f"coarse {1000 * one_pass:.0f} ms, shift-and-stitch {1000 * stitching:.0f} ms, à trous {1000 * dilated:.0f} ms"
)
print(
    f"shift-and-stitch takes {stitching / dilated:.0f} times as long as its twin, and the twin {dilated / one_pass:.0f} times as long as one coarse pass"
)

# %% [markdown]
# The difference is rounding: the two *are* the same function. Break it, if you like: set one dilation that is larger
# than 1 back to 1. The field shrinks, so the map comes out larger, and it can't be subtracted from the stitched one any
# more. (The last layer is the exception: a kernel of one pixel has no room for holes.)
#
# The equality needs a network without padding. A padded border lies beside another pixel on each shift, so there
# the two differ, at the borders only.
#
# ## Convolutions only
#
# If pooling costs so much trouble, why pool? Build the network from stride-1 convolutions, and its map is dense from the
# start. The price is the receptive field. Each layer adds (kernel − 1) × dilation × (product of all strides before it):
#
# $$\text{field} = 1 + \sum_{\text{layers } l} (k_l - 1)\; d_l \prod_{m < l} s_m$$
#
# By hand, with 3×3 kernels: $n$ layers of stride 1 have a field of $2n + 1$; it grows *linearly*. If each layer is
# followed by a stride of 2, the additions are $2, 4, 8, \dots$: it grows *exponentially*. The same happens with dilations
# $1, 2, 4, \dots$ and no stride at all.

# %%
Plan = list[tuple[int, int, int, bool]]  # kernel, stride, dilation, and whether it is a convolution


def field_and_cost(plan: Plan) -> tuple[int, int, float]:
    """Field, stride, and multiplications for each pixel of the image, if every layer has 32 channels."""
    field, jump, cost = 1, 1, 0.0
    for kernel, stride, dilation, convolution in plan:
        field += (kernel - 1) * dilation * jump
        jump *= stride
        cost += 32 * 32 * kernel**2 / jump**2 if convolution else 0
    return field, jump, cost


def pooled(depth: int) -> Plan:
    return depth * [(3, 1, 1, True), (2, 2, 1, False)]


plans: dict[str, Plan] = {
    "4 convolutions, a max pool after each": pooled(4),
    "4 convolutions, nothing else": 4 * [(3, 1, 1, True)],
    "4 convolutions, dilations 1, 2, 4, 8": [(3, 1, 2**i, True) for i in range(4)],
    "23 convolutions, nothing else": 23 * [(3, 1, 1, True)],
}
print(f"{'':40} {'field':>6} {'stride':>7} {'multiplications per pixel':>26}")
for name, plan in plans.items():
    field, jump, cost = field_and_cost(plan)
    print(f"{name:40} {field:6} {jump:7} {cost:26,.0f}")

depths = range(1, 7)
figures.show(
    figures.curves(
        {
            "pool after each": (depths, [field_and_cost(pooled(n))[0] for n in depths]),
            "dilations 1, 2, 4, …": (
                depths,
                [field_and_cost([(3, 1, 2**i, True) for i in range(n)])[0] for n in depths],
            ),
            "3×3, stride 1": (depths, [field_and_cost(n * [(3, 1, 1, True)])[0] for n in depths]),
        },
        "convolutions of 3×3",
        "receptive field, pixels",
        size=(5.8, 2.9),
    ),
    alt="Receptive field against the number of 3×3 convolutions, from 1 to 6. With a pool after each it grows "
    "exponentially to 190 pixels, with doubling dilations to 127; with plain convolutions it is a nearly flat line that "
    "reaches 13.",
)

# %% [markdown]
# Read the table from the bottom. To see as far as the pooled network without pooling or holes takes 23 layers at
# full resolution: about seventeen times as many multiplications, and each of those maps has to be kept for the backward
# pass. Dilation buys most of the field back, but its maps are full size as well. Pooling is how a network affords to
# look far.
#
# A field is only what a unit *can* see. What it does see is the gradient of its output with respect to the input.
# Here it is for one unit, with all weights equal: averages of averages, the plainest network there is.


# %%
def footprint(layers: list[nn.Module]) -> Tensor:
    """Gradient of a middle output of a network of plain averages, and 64×64 pixels of the input around it."""
    model = nn.Sequential(*layers)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1 / 9)
    pixels = torch.zeros(1, 1, 128, 128, requires_grad=True)
    out = model(pixels)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    reached = pixels.grad[0, 0].nonzero()
    top, left = ((reached.amin(0) + reached.amax(0) + 1) // 2 - 32).tolist()
    return pixels.grad[0, 0, top : top + 64, left : left + 64]


def average(dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(1, 1, 3, dilation=dilation, padding=dilation, bias=False)


prints = {
    "4 convolutions": footprint([average() for _ in range(4)]),
    "dilations 1, 2, 4, 8": footprint([average(2**i) for i in range(4)]),
    "a pool after each": footprint([m for _ in range(4) for m in (average(), nn.AvgPool2d(2))]),
}
figures.show(
    figures.grid(
        [(g / g.max()).sqrt() for g in prints.values()],
        [f"{name}: {int(g.any(0).sum())} pixels wide" for name, g in prints.items()],
        columns=3,
        cell=2.4,
    ),
    alt="Three gradients in 64×64 pixels of the input. Four plain convolutions: a small bright spot, 9 pixels wide. Dilated "
    "ones: a hill with a fine lattice, 31 wide. With pooling: a smooth hill, 46 wide.",
)

# %% [markdown]
# Two things to note. All three fade towards their rims: the field that counts is smaller than the field on paper. And the
# dilated network does not use all pixels equally, its holes leave a lattice. You will meet a relative of it at the end, under
# *checkerboards*.

# %% [markdown]
# ## What against where
#
# Now train the other extreme on the same patches: no pooling, and a field of only 5 pixels. Then look at how often the
# networks are right, depending on how far a pixel is from the nearest border between two textures.

# %%
torch.manual_seed(0)
narrow = train_on_patches(
    nn.Sequential(*block(1, 16, 3), *block(16, 24, 3), *block(24, 32, 1), nn.Conv2d(32, len(NAMES), 1)),
    steps=course.scaled(120, fast=4),
)
with torch.no_grad():
    sharp = narrow(x).cpu()[
        ..., 10 : 10 + DENSE[0], 10 : 10 + DENSE[1]
    ]  # field 5: cell (0, 0) is pixel (2, 2)

# %%
predict("fields_of_24_and_5")

# %%
flat = torch.nn.functional.pad(labels[None, None].float(), (1, 1, 1, 1), mode="replicate")
changes = F.max_pool2d(flat, 3, 1) != -F.max_pool2d(-flat, 3, 1)
distance = torch.from_numpy(ndimage.distance_transform_edt(~changes[0, 0].numpy()))
distance = distance[12 : 12 + DENSE[0], 12 : 12 + DENSE[1]]
edges = (0, 2, 4, 6, 8, 11, 14, 18, 24)
middle = [(low + high) / 2 for low, high in pairwise(edges)]


def by_distance(logits: Tensor) -> list[float]:
    right = (logits[0].argmax(0) == truth).float()
    bins = [(distance >= low) & (distance < high) for low, high in pairwise(edges)]
    return [right[inside].mean().item() for inside in bins]


figures.show(
    figures.curves(
        {
            "field 24, dense": (middle, by_distance(dense)),
            "field 24, in blocks": (middle, by_distance(as_blocks)),
            "field 5, dense": (middle, by_distance(sharp)),
        },
        "distance to the nearest border, pixels",
        "share of right pixels",
        limits=(0, 1),
        size=(6.2, 3.0),
    ),
    alt="Share of right pixels against the distance to the nearest border. Field 24, dense: from one half at the border to "
    "nearly all at 12 pixels. In blocks: close to it, lower around 7 pixels. Field 5: clearly lower everywhere, with a smaller "
    "rise.",
)
figures.show(
    figures.grid(
        [painted(truth), painted(dense[0].argmax(0)), painted(sharp[0].argmax(0))],
        ["truth", f"field 24: {score(dense):.0%}", f"field 5: {score(sharp):.0%}"],
        columns=3,
        cell=3.1,
    ),
    alt="Truth; the label map of field 24, smooth regions with outlines that are off; the label map of field 5, noise with "
    "thin lines of the picture in it.",
)

# %% [markdown]
# This is the dilemma of the lecture. To know **what** something is, a unit has to look at much of the image, and then it
# no longer knows **where** the border runs. A small window knows where and not what.
#
# Did you notice that the narrow network had nearly as many *patches* right as the wide one? There, the answers of all its
# windows in 32×32 pixels are averaged, and an average over many small windows is a large window again. It knows what, once
# more, and no longer where.
#
# How strong is the claim here? That the wide window fails near borders, within about half its width, is **strong**. That
# the small window is *better* there is **not** shown: in our runs it stayed behind even at the border, since with six
# textures the "what" is hard. It only loses less on the way. The way out is to have both: coarse maps that say what, and
# something that brings the where back. That is what the rest of this lecture is for, and lectures 6 and 7 connect the two.
#
# ## Nearest neighbor and bed of nails
#
# From here on upsampling is a *layer*: it takes a map $(N, C, H, W)$ and gives a larger one, and gradients flow back
# through it. Two rules that need no numbers to be learned:
#
# $$\text{nearest neighbor:}\quad y[i, j] = x\bigl[\lfloor i/f \rfloor, \lfloor j/f \rfloor\bigr]
# \qquad\qquad
# \text{bed of nails:}\quad y[i, j] = \begin{cases} x[i/f,\, j/f] & f \text{ divides } i \text{ and } j\\ 0 &
# \text{otherwise}\end{cases}$$
#
# By hand, for the row $(7, 2)$ and factor 3: nearest neighbor gives $(7, 7, 7, 2, 2, 2)$, the bed of nails
# $(7, 0, 0, 2, 0, 0)$. Both have $3 \cdot 2$ entries: the last value owns a whole block, too.

# %%
pair = torch.tensor([7.0, 2.0])
print("nearest:", F.interpolate(pair[None, None], scale_factor=3)[0, 0].tolist())
print("nails:  ", torch.kron(pair, torch.tensor([1.0, 0.0, 0.0])).tolist())


# %% exercise="nearest_upsample"
def nearest_upsample(x: Tensor, factor: int) -> Tensor:
    """Repeat every value of x (N, C, H, W) factor × factor times.

    Returns (N, C, factor·H, factor·W), in the dtype of x. Gradients flow back to x.
    x may lie in memory in any order.
    """
    ### BEGIN SOLUTION
    N, C, H, W = x.shape
    return x[:, :, :, None, :, None].expand(N, C, H, factor, W, factor).reshape(N, C, factor * H, factor * W)
    ### END SOLUTION


# %% exercise="bed_of_nails"
def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    """Put every value of x (N, C, H, W) at the top left of a block of factor × factor pixels, else zeros.

    Returns (N, C, factor·H, factor·W), in the dtype of x. Gradients flow back to x.
    x may lie in memory in any order.
    """
    ### BEGIN SOLUTION
    N, C, H, W = x.shape
    y = x.new_zeros(N, C, factor * H, factor * W)
    y[:, :, ::factor, ::factor] = x
    return y
    ### END SOLUTION


# %% [markdown]
# ### What they do to a gradient
#
# The two are also what subsampling and summing look like from behind. Take the gradient of each: nearest neighbor *sums*
# over a block, the bed of nails *picks* one pixel of it. And so, the other way round: the gradient of `x[..., ::2, ::2]`
# is a bed of nails, and the gradient of a sum over blocks is nearest neighbor.

# %%
signal = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
for name, upsample in {"nearest neighbor": nearest_upsample, "bed of nails": bed_of_nails}.items():
    small = torch.zeros(1, 1, 2, 2, requires_grad=True)
    upsample(small, 2).backward(signal)
    print(
        f"{name:17} sends {[round(v) for v in signal.flatten().tolist()]} back as {small.grad.flatten().tolist()}"
    )

# %% [markdown]
# ## Max unpooling
#
# Max pooling keeps a value and forgets its place. It need not: while pooling, note for each maximum *where* it stood, as
# one number, $\text{row} \cdot W + \text{column}$ in the map that went in. These are the **switches** (Zeiler and Fergus
# 2014). Unpooling puts each value back at its switch, among zeros.
#
# $$p^* = \operatorname*{arg\,max}_{p \in \text{window}} x[p], \qquad y = x[p^*], \qquad
# \text{unpooled}[p^*] = y, \text{ zero elsewhere}$$
#
# ### By hand
#
# | | | | | |
# |---|---|---|---|---|
# | 1 | 5 | 2 | 0 | 9 |
# | 3 | 5 | 7 | 1 | 9 |
#
# Two rows, five columns, $k = 2$. The fifth column fills no window and is dropped, both its nines.
#
# - First window $(1, 5 / 3, 5)$: the maximum 5 stands there twice. The first in row order wins: row 0, column 1, switch
#   $0 \cdot 5 + 1 = 1$.
# - Second window $(2, 0 / 7, 1)$: 7, at row 1, column 2: switch $1 \cdot 5 + 2 = 7$. The width is 5, of the map as it came.
# - Unpooled to 2×5: 5 at place 1, 7 at place 7, zeros elsewhere. The size has to be told: 2×4 would pool to the same.

# %%
table = torch.tensor([[[[1.0, 5.0, 2.0, 0.0, 9.0], [3.0, 5.0, 7.0, 1.0, 9.0]]]])
values, switches = F.max_pool2d(table, 2, return_indices=True)
print("values  ", values.flatten().tolist())
print("switches", switches.flatten().tolist())
print(F.max_unpool2d(values, switches, 2, output_size=(2, 5))[0, 0])


# %% exercise="max_pool_with_switches"
def max_pool_with_switches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The maximum of every k × k window of x (N, C, H, W), and where it stood.

    Windows do not overlap; rows and columns that fill none are dropped. Of equal values the first in
    row order wins.
    Returns y (N, C, H // k, W // k), in the dtype of x, and switches, int64 of the same shape:
    row · W + column in x. Gradients flow from y back to x. x may lie in memory in any order.
    """
    ### BEGIN SOLUTION
    N, C, H, W = x.shape
    h, w = H // k, W // k
    windows = x[..., : h * k, : w * k].reshape(N, C, h, k, w, k).permute(0, 1, 2, 4, 3, 5).flatten(4)
    best = windows.argmax(4, keepdim=True)
    y = windows.gather(4, best)[..., 0]
    rows = torch.arange(h, device=x.device)[:, None] * k + best[..., 0] // k
    columns = torch.arange(w, device=x.device) * k + best[..., 0] % k
    return y, rows * W + columns
    ### END SOLUTION


# %% exercise="max_unpool"
def max_unpool(y: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    """Put pooled values back where they stood, among zeros.

    y, switches: (N, C, h, w), a switch being row · W + column. size: (H, W).
    Returns (N, C, H, W), in the dtype of y. Gradients flow back to y. y and switches may lie in memory
    in any order.
    """
    ### BEGIN SOLUTION
    N, C = y.shape[:2]
    H, W = size
    maps = y.new_zeros(N, C, H * W)
    return maps.scatter(2, switches.flatten(2), y.flatten(2)).view(N, C, H, W)
    ### END SOLUTION


# %% [markdown]
# ### What the switches are worth
#
# The edges of a photograph, max-pooled by 4: one number in sixteen is left. Three ways back.

# %%
man = photographs.load("photographer")[:, 50:306:2, 120:440:2].float().mean(0)[None, None] / 255
edge = (man[..., 1:, 1:] - man[..., :-1, 1:]).abs() + (man[..., 1:, 1:] - man[..., 1:, :-1]).abs()
edge = edge[..., :124, :156]
y, where = max_pool_with_switches(edge, 4)
back = {
    "nearest neighbor": nearest_upsample(y, 4),
    "bed of nails": bed_of_nails(y, 4),
    "max unpooling": max_unpool(y, where, (124, 156)),
}
figures.show(
    figures.grid(
        [(3 * m[0, 0]).clamp(0, 1) for m in (edge, *back.values())], ["edges", *back], columns=2, cell=3.9
    ),
    alt="Edges of a man with a camera on a tripod, and three maps made from their maxima over 4×4 windows: nearest neighbor, "
    "in blocks; bed of nails, a regular grid of dots; max unpooling, dots that follow the outlines.",
)
standing = torch.stack([where // 156, where % 156])
corner = torch.stack([where // 156 // 4 * 4, where % 156 // 4 * 4])
print(
    f"distance of a nail from where its value stood: {(standing - corner).float().norm(dim=0).mean():.2f} pixels on average"
)
for name, restored in back.items():
    alike = F.cosine_similarity(restored.flatten(), edge.flatten(), dim=0)
    print(f"{name:17} cosine with the edges: {alike:.2f}")

# %% [markdown]
# The last two rows of numbers are the fair comparison: both maps hold the same values among the same number of zeros. In
# place they agree with the edges nearly three times as well as two pixels beside it. Nearest neighbor scores highest,
# since it leaves no gaps. But look at the pictures: all sixteen pixels are as strong as the strongest was, and no outline is left;
# unpooling has gaps and every dot *exactly in place*. $y$ says what, the switches say where. A decoder with unpooling (Noh et al. 2015; SegNet)
# gets its where for one integer per cell, with no weights to learn; the convolutions behind it fill the gaps.
#
# ## Transposed convolution, first in one dimension
#
# All upsampling so far was fixed. A **transposed convolution** learns its rule. The idea in a sentence: a convolution
# *reads* a window and writes one number; its transpose reads one number and *writes* a window, the kernel times
# that number. Where windows overlap, what they write is added up.
#
# $$y[\,s\,j + i\,] \mathrel{+}= f[i]\; x[j], \qquad i = 0, \dots, k - 1$$
#
# ### Two numbers by hand
#
# $f = (1, 2, 3)$ and $x = (4, 5)$.
#
# | stride 1 | | | | | stride 2 | | | | | |
# |---|---|---|---|---|---|---|---|---|---|---|
# | $4f$ | 4 | 8 | 12 | | $4f$ | 4 | 8 | 12 | | |
# | $5f$ | | 5 | 10 | 15 | $5f$ | | | 5 | 10 | 15 |
# | $y$ | **4** | **13** | **22** | **15** | $y$ | **4** | **8** | **17** | **10** | **15** |
#
# As a matrix, $y = Mx$, each input has its own **column**, a copy of $f$:
#
# $$M_{s=1} = \begin{pmatrix} 1 & 0\\ 2 & 1\\ 3 & 2\\ 0 & 3 \end{pmatrix} \qquad
# M_{s=2} = \begin{pmatrix} 1 & 0\\ 2 & 0\\ 3 & 1\\ 0 & 2\\ 0 & 3 \end{pmatrix}$$
#
# From column to column the copy slides down by the stride. The last of `length` copies begins at row
# $s(\text{length} - 1)$, so there are $s(\text{length} - 1) + k$ rows.

# %%
f, v = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])
for stride in (1, 2):
    print(f"stride {stride}:", F.conv_transpose1d(v[None, None], f[None, None], stride=stride)[0, 0].tolist())


# %% exercise="transposed_conv_matrix"
def transposed_conv_matrix(kernel: Tensor, length: int, stride: int = 1) -> Tensor:
    """The matrix M for which M @ x is the transposed convolution of x (length,) with kernel (K,).

    Returns M (rows, length) with rows = stride · (length − 1) + K, in the dtype of kernel.
    """
    ### BEGIN SOLUTION
    k = kernel.shape[0]
    columns = []
    for j in range(length):
        above, below = kernel.new_zeros(stride * j), kernel.new_zeros(stride * (length - 1 - j))
        columns.append(torch.cat([above, kernel, below]))
    assert columns[0].shape[0] == stride * (length - 1) + k
    return torch.stack(columns, dim=1)
    ### END SOLUTION


# %% [markdown]
# ### The matrix, and its transpose


# %%
def write_numbers(axis, table: Tensor, brightest: float) -> None:
    """Draw a matrix as colored cells with their numbers."""
    axis.imshow(table, cmap="Blues", vmin=0, vmax=brightest)
    for i, line in enumerate(table.tolist()):
        for j, value in enumerate(line):
            gray = "#999999" if value == 0 else "#000000"
            text = f"{value:.1f}".removesuffix(".0")
            axis.text(j, i, text, ha="center", va="center", fontsize=9, color=gray)
    axis.axis("off")


fig, axes = plt.subplots(1, 3, figsize=(8, 3.6), layout="constrained")
for axis, stride in zip(axes, (1, 2, 3), strict=True):
    matrix = transposed_conv_matrix(f, 4, stride)
    write_numbers(axis, matrix, 5)
    axis.set(title=f"stride {stride}: {len(matrix)}×4")
figures.show(
    fig,
    alt="Three matrices with the kernel 1, 2, 3 in each of four columns. Stride 1: each copy begins one row below the one "
    "before, 6 rows. Stride 2: two rows below, 9 rows. Stride 3: three rows below, so that copies no longer overlap, 12 rows.",
)

# %% [markdown]
# Read the matrix for stride 2 along its *rows*: the first row gives $1 \cdot x_0$, the third $3 x_0 + 1 x_1$. Even and odd
# outputs are made from different parts of the kernel. Remember that for the checkerboards.
#
# Now transpose it. The rows of $M^\top$ are copies of $f$ that move by the stride: that is a convolution, as networks
# compute it. So the transposed convolution is what its name says, and it is also the *backward pass* of the convolution:
# if $y = M^\top v$, a gradient $g$ in $y$ becomes $M g$ in $v$.

# %%
predict("there_and_back")

# %%
matrix = transposed_conv_matrix(f, 4, stride=2)
v = torch.randn(9, generator=torch.Generator().manual_seed(0), requires_grad=True)
convolved = F.conv1d(v[None, None], f[None, None], stride=2)[0, 0]
g = torch.tensor([1.0, -2.0, 0.5, 3.0])
(backward,) = torch.autograd.grad(convolved, v, g)
print(
    f"Mᵀ v against the convolution:            largest difference {(matrix.T @ v - convolved).abs().max():.1e}"
)
print(
    f"M g against the convolution's gradient:  largest difference {(matrix @ g - backward).abs().max():.1e}"
)
print(
    f"M Mᵀ v against v itself:                 largest difference {(matrix @ convolved - v).abs().max():.1e}"
)
print("MᵀM =", (matrix.T @ matrix).tolist())

# %% [markdown]
# That is why "deconvolution", as older papers call it, is a misleading name: a deconvolution would undo a convolution.
#
# ## Two dimensions
#
# Nothing new, but for the channels: each value $x[n, c, i, j]$ lays down its kernel `weight[c]`, with one layer for each
# output channel, at row $s\,i$, column $s\,j$. The weight's axes are **(in, out, height, width)**: the other way round than
# in a convolution, because it *is* the weight of a convolution from the output to the input.
#
# ### By hand
#
# One channel. Stride 1, three rows; stride 2, four rows, and with a 2×2 kernel the copies just touch:
#
# $$x = \begin{pmatrix} 1 & 2\\ 3 & 4 \end{pmatrix}, \quad w = \begin{pmatrix} 1 & 2\\ 0 & 1 \end{pmatrix}: \qquad
# y_{s=1} = \begin{pmatrix} 1 & 4 & 4\\ 3 & 11 & 10\\ 0 & 3 & 4 \end{pmatrix} \qquad
# y_{s=2} = \begin{pmatrix} 1 & 2 & 2 & 4\\ 0 & 1 & 0 & 2\\ 3 & 6 & 4 & 8\\ 0 & 3 & 0 & 4 \end{pmatrix}$$
#
# The 11 in the middle: $1 \cdot 1$ from the first copy's corner, $2 \cdot 0$, $3 \cdot 2$, and $4 \cdot 1$. A quick test for
# any such calculation: all entries of $y$ sum to $\sum x \cdot \sum w = 10 \cdot 4 = 40$.

# %%
four, kernel = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[1.0, 2.0], [0.0, 1.0]]]])
for stride in (1, 2):
    y = F.conv_transpose2d(four, kernel, stride=stride)[0, 0]
    print(f"stride {stride}: {y.tolist()}, sum {y.sum():.0f}")

# %% [markdown]
# ### How large is it?
#
# $$H_{\text{out}} = s\,(H - 1) + k - 2p + a$$
#
# `padding` $p$ *cuts off* $p$ rows at each side: it is the padding of the convolution that is being transposed. And
# `output_padding` $a$? With stride 2, several sizes shrink to the same one. A 3×3 convolution with $p = 1$ makes 4 rows of
# 7 *and* of 8: $\lfloor (7 + 2 - 3)/2 \rfloor + 1 = \lfloor (8 + 2 - 3)/2 \rfloor + 1 = 4$. On the way back, somebody has
# to say which: from 4 rows, $2 \cdot 3 + 3 - 2 = 7$, or 8 with $a = 1$. The extra row is not filled with zeros here:
# it is one that would otherwise have been cut off. There are $s$ candidates, so $a$ has to be smaller than $s$. It may
# be larger than $p$, and then $a - p$ rows come back that nobody cut off: no copy of the kernel reaches them, so they
# hold the bias alone.

# %%
for rows in (7, 8):
    print(
        f"{rows} rows, convolved with k = 3, s = 2, p = 1: {F.conv1d(torch.ones(1, 1, rows), torch.ones(1, 1, 3), stride=2, padding=1).shape[2]} rows"
    )
for a in (0, 1):
    y = F.conv_transpose1d(torch.ones(1, 1, 4), torch.ones(1, 1, 3), stride=2, padding=1, output_padding=a)
    print(f"4 rows of ones, transposed, output_padding {a}: {y.shape[2]} rows, {y[0, 0].tolist()}")


# %% exercise="conv_transpose2d"
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Tensor:
    """Transposed convolution: every value of x (N, C, H, W) lays down a copy of the kernel, overlaps add up.

    weight: (C, K, kh, kw), for K output channels. bias: (K,) or None. padding rows and columns are cut
    off at each side. With output_padding, so many more remain at the bottom and right; those that no
    copy reaches hold the bias alone. It is refused (ValueError) if it is not below stride.
    Returns (N, K, stride·(H−1) + kh − 2·padding + output_padding, likewise for W), in the dtype of x.
    Gradients flow back to x, weight and bias. They may lie in memory in any order.
    """
    ### BEGIN SOLUTION
    if output_padding >= stride:
        raise ValueError(f"output_padding must be below the stride, {stride}, got {output_padding}")
    N, _, H, W = x.shape
    _, K, kh, kw = weight.shape
    height, width = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = x.new_zeros(N, K, height + output_padding, width + output_padding)
    for r in range(kh):
        for c in range(kw):
            tap = torch.einsum("nihw,io->nohw", x, weight[:, :, r, c])
            y[:, :, r : r + stride * (H - 1) + 1 : stride, c : c + stride * (W - 1) + 1 : stride] += tap
    y = y[..., padding : height - padding + output_padding, padding : width - padding + output_padding]
    return y if bias is None else y + bias[:, None, None]
    ### END SOLUTION


# %% [markdown]
# ### Zero insertion plus convolution
#
# There is a second way to see it. The outputs are *read* instead of written: spread $x$ out with $s - 1$ zeros between its
# values, add a border of $k - 1$ zeros, and convolve with the kernel turned by 180°. That is your bed of nails, without its
# last zeros, followed by `F.conv2d`. Is it really the same?

# %%
predict("kernel_not_turned")


# %%
def by_zero_insertion(x: Tensor, weight: Tensor, stride: int, turn: bool = True) -> Tensor:
    k = weight.shape[2]
    H, W = x.shape[2:]
    spread = bed_of_nails(x, stride)[..., : stride * (H - 1) + 1, : stride * (W - 1) + 1]
    spread = F.pad(spread, (k - 1, k - 1, k - 1, k - 1))
    swapped = weight.transpose(0, 1)
    return F.conv2d(spread, swapped.flip(2, 3) if turn else swapped)


draw = torch.Generator().manual_seed(0)
maps = torch.randn(2, 3, 5, 7, generator=draw, dtype=torch.float64)
weight = torch.randn(3, 4, 3, 3, generator=draw, dtype=torch.float64)
for stride in (1, 2, 3):
    mine = conv_transpose2d(maps, weight, stride=stride)
    layer = F.conv_transpose2d(maps, weight, stride=stride)
    inserted, unturned = (by_zero_insertion(maps, weight, stride, turn) for turn in (True, False))
    print(
        f"stride {stride}: yours {tuple(mine.shape[2:])}, largest difference to PyTorch {(mine - layer).abs().max():.0e}, "
        f"to zero insertion {(mine - inserted).abs().max():.0e}, kernel not turned {(mine - unturned).abs().max():.1f}"
    )

# %% [markdown]
# As a way to compute, zero insertion is wasteful: with stride 2, three of four numbers that are multiplied are zeros, and
# with stride 8, 63 of 64. As a way to think it is the best there is. It says that **every upsampling of this lecture is
# zero insertion plus a convolution**, and they differ in the kernel: a block of ones is nearest neighbor, a single one is
# the bed of nails. (Max unpooling is the exception. Where it puts its values depends on the image.)

# %%
image_like = torch.randn(1, 1, 5, 6, generator=draw)
ones = torch.ones(1, 1, 3, 3)
nail = torch.zeros(1, 1, 3, 3)
nail[..., 0, 0] = 1
for name, kernel, same in (("block of ones", ones, nearest_upsample), ("single one", nail, bed_of_nails)):
    difference = (conv_transpose2d(image_like, kernel, stride=3) - same(image_like, 3)).abs().max()
    print(
        f"transposed convolution with a {name:13} against {same.__name__:17}: largest difference {difference:.0e}"
    )

# %% [markdown]
# ## Bilinear initialization
#
# A learned upsampling has to start somewhere. Random weights turn a good heatmap into noise; better to start from
# a rule that works, and let training improve it. Long, Shelhamer and Darrell (2015) start from bilinear interpolation: along
# each axis the kernel is a ramp up and down,
#
# $$k = 2f - (f \bmod 2), \qquad \text{ramp}[i] = 1 - \frac{\bigl|\,i - \tfrac{k - 1}{2}\,\bigr|}{f}, \qquad
# \text{kernel}[i, j] = \text{ramp}[i]\;\text{ramp}[j],$$
#
# used with stride $f$ and padding $\lceil (f - 1)/2 \rceil$. Each channel is interpolated on its own, so of the $C \times C$
# kernels only those on the diagonal are not zero.
#
# ### By hand
#
# Factor 2: $k = 4$, the middle is at 1.5, $\text{ramp} = (\tfrac14, \tfrac34, \tfrac34, \tfrac14)$. The row $(4, 8)$:
#
# | | | | | | | |
# |---|---|---|---|---|---|---|
# | 4 · ramp | 1 | 3 | 3 | 1 | | |
# | 8 · ramp | | | 2 | 6 | 6 | 2 |
# | sum | 1 | **3** | **5** | **7** | **6** | 2 |
#
# With padding 1 the bold numbers remain. 5 and 7 lie a quarter and three quarters of the way from 4 to 8: two output
# pixels fit between the centers of two input pixels, neither of them *on* a center. At the border 3 and 6 are too small,
# since beyond it there is nothing to add. Factor 3: $k = 5$, $\text{ramp} = (\tfrac13, \tfrac23, 1, \tfrac23, \tfrac13)$,
# and now every third pixel is on a center.

# %%
ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
print(F.conv_transpose1d(torch.tensor([[[4.0, 8.0]]]), ramp[None, None], stride=2, padding=1)[0, 0].tolist())
print(
    "F.interpolate, which repeats the border:",
    F.interpolate(torch.tensor([[[4.0, 8.0]]]), scale_factor=2, mode="linear")[0, 0].tolist(),
)


# %% exercise="bilinear_kernel"
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    """Weights of a transposed convolution of stride factor that interpolates bilinearly.

    Returns float32 weights (C, C, k, k), C = channels and k = 2·factor − factor mod 2: the product of
    two ramps on the diagonal, zeros elsewhere.
    """
    ### BEGIN SOLUTION
    k = 2 * factor - factor % 2
    offset = (torch.arange(k) - (k - 1) / 2).abs()
    ramp = (factor - offset) / factor
    weight = torch.zeros(channels, channels, k, k)
    for c in range(channels):
        weight[c, c] = ramp[:, None] * ramp[None, :]
    return weight
    ### END SOLUTION


# %% [markdown]
# ### Does it interpolate?
#
# The test for bilinear interpolation: a constant image stays constant, a slope stays a slope. Away from the border,
# that is: two of the errors below leave out `factor` pixels at each side, and the last column shows what happens there.

# %%
slope = (torch.arange(6.0)[:, None] + 2 * torch.arange(8.0))[None, None]
print(f"{'factor':>6} {'size':>9} {'error of a constant':>21} {'of a slope':>12} {'at the border':>15}")
for factor in (2, 3, 4, 5):
    padding = -(-(factor - 1) // 2)
    kernel = bilinear_kernel(1, factor)
    flat, tilted = (
        conv_transpose2d(m, kernel, stride=factor, padding=padding) for m in (torch.ones_like(slope), slope)
    )
    # the center of output pixel i lies at this place of the input
    at = [(torch.arange(float(n)) + 0.5) / factor - 0.5 for n in tilted.shape[2:]]
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    wrong = (tilted - (at[0][:, None] + 2 * at[1])).abs()
    print(
        f"{factor:6} {flat.shape[2]:4}×{flat.shape[3]:<4} {(flat - 1)[inner].abs().max():21.0e} {wrong[inner].max():12.0e} {(flat - 1).abs().max():15.2f}"
    )

# %% [markdown]
# ### Side by side
#
# Every operator of this lecture on one 3×3 grid, enlarged by 2. Max unpooling needs switches; here they are those of a
# random 6×6 map. The transposed convolution in the last picture has a random 3×3 kernel.

# %%
grid = torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0], [7.0, 8.0, 9.0]])[None, None]
_, somewhere = max_pool_with_switches(torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(4)), 2)
learned = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(1))
operators = {
    "input": grid,
    "nearest neighbor": nearest_upsample(grid, 2),
    "bed of nails": bed_of_nails(grid, 2),
    "max unpooling": max_unpool(grid, somewhere, (6, 6)),
    "transposed, bilinear": conv_transpose2d(grid, bilinear_kernel(1, 2), stride=2, padding=1),
    "transposed, random 3×3": conv_transpose2d(grid, learned, stride=2, padding=1, output_padding=1),
}
fig, axes = plt.subplots(2, 3, figsize=(8.2, 5.7), layout="constrained")
for axis, (name, result) in zip(axes.flat, operators.items(), strict=True):
    write_numbers(axis, result[0, 0], 20)
    axis.set(title=name)
figures.show(
    fig,
    alt="The 3×3 grid of numbers 1 to 9 and five 6×6 results with their numbers. Nearest neighbor: blocks of 2×2. Bed of "
    "nails: each number top left in its block, zeros around. Max unpooling: each number somewhere in its block. Bilinear: "
    "smooth, smaller at the border. Random kernel: rows and columns alternate between large and small.",
)

# %% [markdown]
# In a later version, a demo stands beside this picture: there you edit the grid and the kernel, and point at an output to see
# the inputs behind it. The library's names for the five are `nn.Upsample(scale_factor=2)`, nothing (write it yourself),
# `nn.MaxUnpool2d(2)`, and `nn.ConvTranspose2d` twice, with different weights.
#
# ### The heatmap, once more
#
# Back to the six textures. The coarse map has 16×25 cells. Bilinear upsampling of its logits makes pixels of them, for next to
# nothing. The stitched map cost 64 passes of the network, the dilated one about as much as seven of them.

# %%
predict("bilinear_or_dense")

# %%
smooth = conv_transpose2d(coarse, bilinear_kernel(len(NAMES), 8), stride=8, padding=4)
smooth = smooth[..., 4 : 4 + DENSE[0], 4 : 4 + DENSE[1]]
enlarged = nearest_upsample(coarse, 8)[..., 4 : 4 + DENSE[0], 4 : 4 + DENSE[1]]
versions = {"nearest neighbor": enlarged, "bilinear": smooth, "dense": dense}
figures.show(
    figures.grid(
        [painted(truth), *(painted(m[0].argmax(0)) for m in versions.values())],
        ["truth", *(f"{name}: {score(m):.1%}" for name, m in versions.items())],
        columns=4,
        cell=2.6,
    ),
    alt="Label maps: truth; the coarse map by nearest neighbor, in blocks; by bilinear interpolation, with smooth "
    "outlines; and the dense map, with ragged outlines. The accuracies stand above them.",
)
only_bilinear = seconds(lambda: F.interpolate(coarse, scale_factor=8, mode="bilinear"))
print(
    f"the library's bilinear upsampling takes {1000 * only_bilinear:.1f} ms, a coarse pass {1000 * one_pass:.0f} ms,"
)
print(f"à trous {1000 * dilated:.0f} ms, shift-and-stitch {1000 * stitching:.0f} ms")

# %% [markdown]
# That is an honest disappointment for the dense methods, and it is what Long et al. report, too: they tried shift-and-stitch,
# and learned upsampling was the better bargain. What is missing at the borders cannot be had by asking the same
# units more often. It needs units that still know where, from earlier layers: the skips of lecture 6.
#
# ### Does the start matter?
#
# Gray photographs, averaged down by 2; one transposed convolution with a 4×4 kernel, 16 weights, is to bring the pixels
# back. We train it from the bilinear kernel and from random weights, on the same batches.

# %%
pieces = [
    photographs.load(name).float().mean(0) / 255 for name in ("astronaut", "coffee", "china", "motorcycle")
]
crops = torch.stack(
    [p[r : r + 64, c : c + 64] for p in pieces for r in range(0, 320, 64) for c in range(0, 384, 64)]
)
crops = crops[:, None]
held_out = crops[::5]
crops = crops[[i for i in range(len(crops)) if i % 5]]


def inside(enlarge, images: Tensor) -> Tensor:
    """Mean squared error of enlarging the halved images, without a border of four pixels."""
    return (enlarge(F.avg_pool2d(images, 2)) - images)[..., 4:-4, 4:-4].square().mean()


def learn_to_enlarge(
    start: Tensor, padding: int, output_padding: int = 0
) -> tuple[nn.ConvTranspose2d, list[float]]:
    layer = nn.ConvTranspose2d(
        1, 1, start.shape[2], stride=2, padding=padding, output_padding=output_padding, bias=False
    )
    with torch.no_grad():
        layer.weight.copy_(start)
    steps = course.scaled(600, fast=5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    draw, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        if step % 5 == 0:
            with torch.no_grad():
                losses.append(inside(layer, held_out).item())
        loss = inside(layer, crops[torch.randint(len(crops), (16,), generator=draw)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layer, losses


noise = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
from_bilinear, curve_bilinear = learn_to_enlarge(bilinear_kernel(1, 2), 1)
from_noise, curve_noise = learn_to_enlarge(noise, 1)
with torch.no_grad():
    fixed = inside(lambda m: conv_transpose2d(m, bilinear_kernel(1, 2), stride=2, padding=1), held_out).item()
    blocks = inside(lambda m: nearest_upsample(m, 2), held_out).item()
steps = range(0, 5 * len(curve_noise), 5)
fig = figures.curves(
    {
        "from bilinear": (steps, curve_bilinear),
        "from random weights": (steps, curve_noise),
        "bilinear, not trained": (steps, len(steps) * [fixed]),
        "nearest neighbor": (steps, len(steps) * [blocks]),
    },
    "step",
    "squared error, new crops",
    log=True,
    size=(6.4, 3.2),
)
figures.show(
    fig,
    alt="Squared error on new crops against the training step, logarithmic. From bilinear weights it starts at the error of "
    "fixed bilinear interpolation and falls a little below. From random weights it starts ten times higher, needs more than a "
    "hundred steps to pass nearest neighbor and some hundred more to arrive at the same end.",
)
print(
    f"error: nearest {blocks:.5f}, bilinear {fixed:.5f}, learned from it {curve_bilinear[-1]:.5f}, from random weights {curve_noise[-1]:.5f}"
)

# %% [markdown]
# Both end at the same place, since a problem of squares with 16 weights has one best answer, a few percent better than
# plain bilinear interpolation. But the bilinear start is nearly there from the first step on. In a segmentation network, where everything below has to learn *through* the upsampling, that
# head start is worth more; and some implementations keep the bilinear weights fixed altogether.
#
# ## Checkerboards
#
# Enlarged pictures from networks often show a fine checkerboard. You have seen its cause in the matrix for stride 2: even
# and odd outputs are made from different taps of the kernel, and not from equally many. Along one axis, output $o$ is
# reached by the taps $i$ with $i \equiv o \pmod s$:
#
# $$\text{number of taps} = \lceil (k - (o \bmod s))/s \rceil$$
#
# By hand, stride 2. $k = 3$: even outputs get taps 0 and 2, odd outputs tap 1 alone. In two dimensions
# that makes 4, 2, 2 or 1 products per pixel. $k = 4$: two taps each, four products for every pixel.

# %%
predict("ones_on_ones")

# %%
sizes = (2, 3, 4, 5)
counts = [conv_transpose2d(torch.ones(1, 1, 7, 7), torch.ones(1, 1, k, k), stride=2)[0, 0] for k in sizes]
counts = [m[k - 1 : k + 7, k - 1 : k + 7] for k, m in zip(sizes, counts, strict=True)]
fig, axes = plt.subplots(1, 4, figsize=(9, 2.7), layout="constrained")
for axis, k, m in zip(axes, sizes, counts, strict=True):
    write_numbers(axis, m, 15)
    axis.set(title=f"k = {k}, stride 2")
figures.show(
    fig,
    alt="How many products reach each output pixel, for kernels of 2, 3, 4 and 5 at stride 2. Sizes 2 and 4: the same number "
    "everywhere, 1 and 4. Sizes 3 and 5: a checkerboard of 1, 2 and 4, and of 4, 6 and 9.",
)

# %% [markdown]
# A kernel whose size the stride divides is the usual advice (Odena, Dumoulin and Olah 2016), together with a second one: enlarge by
# nearest neighbor first, then convolve. How far does either go? We enlarge a *constant* image with random
# positive kernels, as an untrained layer would, and measure how much the result varies: it ought not to at all.

# %%
constant = torch.ones(1, 1, 8, 8)
draw = torch.Generator().manual_seed(0)


def unevenness(y: Tensor) -> float:
    y = y[..., 4:-4, 4:-4]
    return (y.std() / y.mean()).item()


def mean_unevenness(enlarge, k: int) -> float:
    return sum(unevenness(enlarge(torch.rand(1, 1, k, k, generator=draw))) for _ in range(200)) / 200


rules = {
    "transposed, k = 3, stride 2": (lambda w: conv_transpose2d(constant, w, stride=2), 3),
    "transposed, k = 4, stride 2": (lambda w: conv_transpose2d(constant, w, stride=2), 4),
    "transposed, k = 6, stride 2": (lambda w: conv_transpose2d(constant, w, stride=2), 6),
    "nearest neighbor, then 3×3": (lambda w: F.conv2d(nearest_upsample(constant, 2), w), 3),
}
for name, (rule, k) in rules.items():
    print(f"{name:29} varies by {mean_unevenness(rule, k):.1%} of its mean")
print(
    f"{'transposed, bilinear':29} varies by {unevenness(conv_transpose2d(constant, bilinear_kernel(1, 2), stride=2, padding=1)):.1%}"
)

photo = photographs.load("cat")[:, 70:134, 130:210].float().mean(0)[None, None] / 255
shown = {"the photograph": photo}
for name, k in (("k = 3", 3), ("k = 4", 4)):
    w = torch.rand(1, 1, k, k, generator=torch.Generator().manual_seed(2))
    shown[f"transposed, {name}"] = conv_transpose2d(photo, w * 4 / w.sum(), stride=2)
w = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(2))
shown["nearest, then 3×3"] = F.conv2d(nearest_upsample(photo, 2), w / w.sum())
figures.show(
    figures.grid([m[0, 0] for m in shown.values()], list(shown), columns=4, cell=2.5),
    alt="A cat's eye, and three enlargements with random kernels: transposed with k = 3, covered by a strong grid; with k = 4, "
    "a weaker grid; nearest neighbor and a convolution, without any grid.",
)

# %% [markdown]
# So the advice holds, and only partly. A size that the stride divides makes the *number* of products uniform: the
# unevenness falls by more than half. It does not make the *weights* so, and a random 4×4 kernel still draws a grid. Only
# nearest neighbor followed by a convolution, and the bilinear kernel, leave a constant image constant.
#
# Training can repair the weights, where the loss sees the pattern. Look at the layers we trained above, and at one with
# $k = 3$:

# %%
odd_noise = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 8 / 9
from_three, _ = learn_to_enlarge(odd_noise, 1, 1)
with torch.no_grad():
    for name, layer, before in (
        ("k = 4, from bilinear", from_bilinear, bilinear_kernel(1, 2)),
        ("k = 4, from random weights", from_noise, noise),
        ("k = 3, from random weights", from_three, odd_noise),
    ):
        start = unevenness(conv_transpose2d(constant, before, stride=2, padding=1))
        print(
            f"{name:28} unevenness before training {abs(start):8.1%}, after {unevenness(layer(constant)):6.1%}, error {inside(layer, held_out):.5f}"
        )

# %% [markdown]
# After training, all three are uniform, $k = 3$ too: the loss punished the grid directly. But its error stays higher, at
# about what fixed bilinear interpolation reaches: with one tap for the even outputs and two for the odd ones (padding 1
# has moved them by one), being uniform leaves it little to choose. In a large network, whose loss looks at the pixels less
# directly, the pattern often survives.
#
# One more place to look: the *gradient* of a strided convolution is a transposed convolution. A 3×3 convolution with
# stride 2 sends back a checkerboard, however smooth the forward pass looks.

# %%
pixels = torch.zeros(1, 1, 15, 15, requires_grad=True)
F.conv2d(pixels, torch.ones(1, 1, 3, 3), stride=2).sum().backward()
print("gradient of a strided 3×3 convolution, a piece of it:")
print(pixels.grad[0, 0, 4:8, 4:10])

# %% [markdown] written="dense_by_three_roads" points=3
# ### Written question: dense by three roads
#
# A fully convolutional classifier for aerial photographs has a stride of 16 and a receptive field of 196 pixels. On images
# of 1000×1000 pixels, somebody wants a label for every pixel. Three proposals are on the table:
#
# - **A**: shift-and-stitch with the network as it is;
# - **B**: one transposed convolution with stride 16 on top, started from the bilinear kernel, and some training;
# - **C**: the same layers with all strides set to 1, trained from scratch.
#
# 1. How many passes through the network does A need, and what does its à trous twin do instead? Do the two give the same
#    labels?
# 2. All parked cars are about 10 pixels wide. Which of A and B can be expected to outline them sharply? Give the reason
#    in terms of *what* and *where*.
# 3. What goes wrong in C if nothing but the strides is changed? Name one repair and its price.
#
# ### BEGIN SOLUTION
# 1. *(1 point)* $16^2 = 256$ passes, on images shifted by 0 to 15 pixels in both directions. The twin removes the strides and
#    dilates every later layer by the strides removed before it; one pass, with maps of full resolution. Without padding in the
#    network both give the same numbers, and so the same labels (with padding they differ near the image's border).
# 2. *(1 point)* Neither. A is dense, but each answer comes from 196×196 pixels, in which a car is a detail: it knows what is
#    around, and cannot say where it ends. B interpolates the same coarse answers; a learned kernel may sharpen a little, but it
#    sees only cells that are 16 pixels apart, more than the width of a car. The where has to come from earlier layers with
#    smaller strides (skips), or from switches.
# 3. *(1 point)* The receptive field collapses: without the strides each layer adds only (k − 1) pixels, so the network no longer
#    sees enough to know what it looks at. (Also acceptable: weights of a trained network would be meaningless without the
#    dilation.) Repairs, with their prices: dilated convolutions, with full-size maps in memory; many more layers, with
#    multiplications and memory at full resolution; strides and an upsampling path with skips, with more layers to train.
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | The label map is shifted by half a field | a cell was placed at the first pixel of its window instead of at its center |
# | Stitched maps do not fit by a row | later shifts are shorter; add up the sizes you have |
# | The dilated network gives nonsense in a plausible size | dilation of the max pools forgotten, or taken from the last stride instead of from the product |
# | "Input type (double) and bias type (float) should be the same" | a layer built anew is float32, whatever the network is, and its weights are random ones: copy them |
# | Unpooling puts values into wrong places in odd-sized maps | the switch was divided by the cut width, or the size was guessed as $k \cdot h$ |
# | Output of a transposed convolution a row too small for the skip | output_padding 0 where a convolution with odd $k$ and stride 2 came from an even size |
# | The map is empty where padding is 0 | `y[..., p:-p]` with $p = 0$ is `y[..., 0:0]`; cut to an end that you computed |
# | "element 0 of tensors does not require grad" | the upsampling cut the graph: `detach`, `.data`, numpy or `.tolist()` |
# | All right on symmetric kernels, wrong on others | the kernel is turned where it should not be, or not turned after zero insertion |
# | Upsampled scores bleed into other classes | the bilinear kernel fills all pairs of channels instead of the diagonal |
# | Borders of upsampled maps too dark | zeros beyond the border; crop, or pad the input |
# | A fine grid in all outputs | the stride does not divide the kernel size |
#
# ## Summary
#
# - A fully convolutional network of stride $s$ gives one answer in $s^2$. Shift-and-stitch computes the others, à trous computes
#   the same in one pass: strides 1, later layers dilated.
# - Density is not precision. A wide window knows what, a small one knows where; without pooling or dilation the window
#   stays small.
# - Nearest neighbor repeats, the bed of nails inserts zeros, max unpooling puts values back where they stood.
# - A transposed convolution writes a copy of the kernel for every input; size $s(H - 1) + k - 2p + a$. It is zero
#   insertion plus convolution with the turned kernel, and it is the gradient of a convolution. It is not its inverse.
# - Start it from the bilinear kernel; let the stride divide the kernel size, or enlarge first and convolve afterwards.
#
# ## Where the papers differ from us
#
# - **Long, Shelhamer and Darrell (2015)** shift the image right and down; we skip rows and columns instead, which needs no
#   padding. They describe shift-and-stitch and its twin, and then decide for learned upsampling.
# - **Sermanet et al. (2014)** shift only at the last pooling layer, in their detector. **Chen et al. (2015)** use holes to get
#   down to a stride of 8, and upsample the rest bilinearly. We went all the way to stride 1, on a small image.
# - **Zeiler and Fergus (2014)** use unpooling to look into a classifier; **Noh, Hong and Han (2015)** and **SegNet** use it to
#   segment, with windows of 2.
# - **Bilinear weights.** The published FCN code uses the kernel of this lecture. `F.interpolate(align_corners=False)` agrees
#   with it away from the border, and repeats the border where the transposed convolution sees zeros.
# - **Odena, Dumoulin and Olah (2016)** found checkerboards in images made by generative networks. That enlarging first helps is
#   their advice; that a kernel size divisible by the stride is not enough, they say, too.
#
# ## Next
#
# In lecture 6, *fcn*, a transposed convolution with your bilinear kernel sits on top of a classifier, and skips bring back the
# where from earlier layers.

# %%
progress()
