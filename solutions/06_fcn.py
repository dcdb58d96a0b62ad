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
# # Training fully convolutional networks
#
# **A network that answers for every pixel can be trained on every pixel at once: the gradient of a whole image is the
# gradient of the batch of all its patches, at a small part of the price.**
#
# When you are done, you can
#
# - train a segmentation network on patches, and say what is resampled and what is computed in vain;
# - show that whole images give the same gradient, and what a random mask and class weights change about it;
# - put coarse and fine scores together as FCN-32s, FCN-16s and FCN-8s do, and say what each skip repairs;
# - score a segmentation by pixel accuracy, mean accuracy, mean IU and frequency-weighted IU, on paper too;
# - train a network that segments images it has never seen.
#
# It takes about 180 minutes on a laptop, exercises included; all cells together run for less than two. You should have
# done lecture 5, *upsampling*: the transposed convolution with its bilinear kernel is the last layer of everything here.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("06_fcn")
predict = coursekit.notebook.predict

import copy
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import here
from coursekit.data.camvid import camvid
from coursekit.data.scenes import Scenes
from coursekit.fcn import FCN
from coursekit.models import Backbone, SmallBackbone, pretrained
from coursekit.training import Descent, Task, Watch, drawn_from, fit, one_cycle, quarter_turns
from coursekit.upsampling import bilinear_kernel

# %% [markdown]
# ## Images with a label for every pixel
#
# The data are small **scenes**: objects of five classes, drawn over each other on a textured ground. A class is told by
# its shape and its texture, never by its color. Pixels within a pixel of an outline are **void**, label 255: nobody can
# say to which side they belong, so nobody is asked. Where the environment variable `COURSEKIT_DATA` names a folder with
# **CamVid** in it, frames of driving through Cambridge take their place, a quarter as high and as wide as they came.
# All cells below are the same for both.

# %%
REAL = here("camvid")
VOID = 255


class Maps(Dataset):
    """Images and their label maps in memory: items {"image": (3, H, W) uint8, "labels": (H, W) int64}."""

    def __init__(self, data: Dataset, count: int, shrink: int = 1):
        items = [data[i] for i in range(min(count, len(data)))]
        images = torch.stack([item["image"] for item in items])
        self.images = F.avg_pool2d(images.float(), shrink).round().byte()
        self.labels = torch.stack([item["labels"] for item in items])[
            :, shrink // 2 :: shrink, shrink // 2 :: shrink
        ]
        self.classes = data.classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "labels": self.labels[index]}


if REAL:
    train = Maps(camvid("train"), course.scaled(120, fast=8), shrink=4)
    val = Maps(camvid("val"), course.scaled(60, fast=4), shrink=4)
    THIN = ("pole", "sign", "pedestrian", "bicyclist")
else:
    train = Maps(Scenes(400, 96), course.scaled(300, fast=8))
    val = Maps(Scenes(60, 96, seed=1, split="val"), course.scaled(60, fast=4))
    THIN = ("bar", "ring")
classes = train.classes
L = len(classes)


def painted(labels: Tensor) -> Tensor:
    """A label map (H, W) in color, (3, H, W)."""
    return figures.overlay_labels(
        torch.zeros(1, *labels.shape), labels, alpha=1.0, background=None if REAL else 0
    )


shown = [0, 1, 2, 3]
figures.show(
    figures.grid(
        [train.images[i] for i in shown] + [painted(train.labels[i]) for i in shown], columns=4, cell=2.0
    ),
    alt="Four training images in a row, and under each its label map in color; gray hatching marks void pixels.",
)
print(
    f"{len(train)} images of {tuple(train.images.shape[2:])} to train, {len(val)} to test; classes: {', '.join(classes)}"
)

# %% [markdown]
# ## Training on patches
#
# The oldest way to train such a network needs nothing new: cut patches out of the images, let a classifier learn the label of
# the **center pixel** of each, and run it at every pixel afterwards. It was how networks segmented brain scans and street
# scenes before 2014.
#
# It has one real advantage. Labels in images are as unbalanced as the world: there is much more road than there are signs. Patches
# can be **resampled**: take as many of each class as you like.
#
# For a patch of size $n$ whose top left pixel is $(t, l)$, the center is $(t + \lfloor n/2 \rfloor,\; l + \lfloor n/2 \rfloor)$.
#
# ### By hand
#
# An image of 5×6 pixels and patches of size 3. A patch fits for $t = 0, 1, 2$ and $l = 0, 1, 2, 3$. The legal centers are
# rows 1 to 3 and columns 1 to 4: twelve of the thirty pixels. A class that lives in the outermost rows alone can never be drawn.
#
# With size 4 there is no middle. The center is at row $t + 2$: legal rows are 2 and 3, legal columns 2, 3 and 4.

# %%
for size in (3, 4):
    legal = torch.zeros(5, 6, dtype=torch.long)
    legal[size // 2 : size // 2 + 5 - size + 1, size // 2 : size // 2 + 6 - size + 1] = 1
    print(f"legal centers for patches of size {size}:\n{legal}")

# %% [markdown]
# Your function draws `per_class` patches of every class that has a legal center, **with replacement**: a class with two legal
# pixels is drawn as often as one with two thousand. Void is no class. All chance comes from the `generator`, so that a
# training can be repeated.


# %% exercise="sample_patches"
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches and the labels of their centers, every class equally often.

    image: (C, H, W), labels: (H, W) integers, 255 = void; size: 1 or more, even or odd. The center of a
    patch is its pixel (size // 2, size // 2); patches lie fully inside, void elsewhere in them does not
    matter. Each class with a legal center is drawn per_class times, with replacement, in any order,
    also if it has fewer centers; void never.
    Returns patches (P, C, size, size), float32 where the image is uint8, and targets (P,) int64; P = 0
    where no class has a legal center.
    """
    ### BEGIN SOLUTION
    image = image if image.is_floating_point() else image.float()
    before = size // 2
    after = size - 1 - before
    height, width = labels.shape
    inside = torch.zeros_like(labels, dtype=torch.bool)
    inside[before : height - after, before : width - after] = True
    patches, targets = [image.new_zeros(0, len(image), size, size)], []
    for label in labels[inside].unique().tolist():
        if label == VOID:
            continue
        centers = (inside & (labels == label)).nonzero()
        drawn = torch.randint(len(centers), (per_class,), generator=generator)
        for row, column in (centers[drawn] - before).tolist():
            patches.append(image[None, :, row : row + size, column : column + size])
            targets.append(label)
    return torch.cat(patches), torch.tensor(targets, dtype=torch.int64)
    ### END SOLUTION


# %% [markdown]
# ### What resampling does
#
# Of each class, the share of all pixels, and its share among the patches that your function draws.

# %%
draw = torch.Generator().manual_seed(0)
counts = torch.zeros(L)
for image, labels in zip(train.images[:100], train.labels[:100], strict=False):
    counts += sample_patches(image, labels, 25, 2, draw)[1].bincount(minlength=L)
pixels = train.labels[train.labels != VOID].bincount(minlength=L)

figure, axis = plt.subplots(figsize=(7, 2.8))
for offset, (name, amount) in enumerate({"of the pixels": pixels, "of the patches": counts}.items()):
    axis.bar(
        torch.arange(L) + 0.4 * offset - 0.2,
        amount / amount.sum(),
        0.38,
        label=name,
        color=figures.color(offset),
    )
axis.set_xticks(range(L), classes, rotation=30, ha="right")
axis.set_ylabel("share")
axis.legend()
figures.show(
    figure,
    alt="Bars for each class: one or a few classes fill most of the pixels, while the shares among the patches are close to "
    "each other.",
)
some, targets = sample_patches(train.images[0], train.labels[0], 25, 3, draw)
figures.show(
    figures.grid(some / 255, [classes[t] for t in targets.tolist()], columns=9, cell=0.95),
    alt="Small patches of one image with the class of their center pixel written above each, three of every class in it.",
)

# %% [markdown]
# The bars of the patches are nearly even; classes that are in few images stay rarer. The small images show the disadvantage of
# resampling, too: the network will see the world as if signs were as common as road, and will expect signs
# everywhere. Probabilities that are right for the resampled world are wrong for the real one.
#
# ### What is computed in vain
#
# Neighboring patches overlap. With patches of size 25, an inner pixel is in $25^2 = 625$ of them, and the first layer computes
# almost the same numbers 625 times. So what does training on patches buy that whole images could not have?
#
# ## Whole images at once
#
# Run the network on the whole image and it gives a map of scores $z$, one vector for each pixel, each of which gets a loss of
# its own. The loss of the image is their mean, over the pixels that count:
#
# $$E \;=\; \frac{\sum_p w_{y_p}\, M_p\, \ell_p}{\sum_p w_{y_p}\, M_p}, \qquad
# \ell_p = -\log \operatorname{softmax}(z_p)_{y_p}.$$
#
# $y_p$ is the true class of pixel $p$; pixels that are void are left out of both sums. $w_c$ is a weight for class $c$, and
# $M_p$ a mask: which pixels count, or how much. Both are 1 unless somebody gives them. Note what stands below: the weights that
# were *used*, not the number of pixels. So the loss does not shrink when a mask takes pixels away.
#
# ### By hand
#
# Two classes and a row of three pixels, the last of them void. Scores $(2, 0)$, $(0, 0)$, $(5, 1)$, true classes $0, 1$, void.
#
# - $\ell_1 = -\log\frac{e^2}{e^2 + 1} = 0.127$ and $\ell_2 = \log 2 = 0.693$. The third does not count: $E = 0.410$.
# - With weights $w = (1, 3)$: $E = (1 \cdot 0.127 + 3 \cdot 0.693) / (1 + 3) = 0.552$.
# - With the mask $(1, 0, 1)$ alone: $E = 0.127$. With the mask $(0, 0, 1)$ nothing is left, and $E = 0$ by agreement.

# %%
scores = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 1.0]]).T[None, :, None]  # (1, 2, 1, 3)
truth = torch.tensor([[[0, 1, VOID]]])
each = -scores.log_softmax(1)[0, :, 0].T
print("the two losses:", round(each[0, 0].item(), 3), round(each[1, 1].item(), 3))
print("their weighted mean:", round((1 * each[0, 0].item() + 3 * each[1, 1].item()) / 4, 3))

# %% [markdown]
# Three things go wrong easily. Void is often 255, which is no class to look up; it may also be any other integer. Scores may be large,
# and $\log\bigl(e^{1000}/\dots\bigr)$ must not overflow: let `log_softmax` do it. And where nothing counts, $0/0$ must become a 0
# *with a zero gradient*, or one empty crop turns all weights of the network into NaN.


# %% exercise="pixel_cross_entropy"
def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Σ w·M·ℓ / Σ w·M over the valid pixels, a scalar.

    logits: (N, L, H, W), target: (N, H, W) integers of any dtype, ignore_index where void: any integer,
    also a negative one or that of a class. class_weights: (L,) or None; mask: (N, H, W), bool or float,
    or None. 0, with a zero gradient, where Σ w·M = 0.
    """
    ### BEGIN SOLUTION
    counts = target != ignore_index
    target = target.where(counts, torch.zeros_like(target)).long()
    losses = -logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    weights = counts.to(logits.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(logits.dtype)[target]
    if mask is not None:
        weights = weights * mask.to(logits.dtype)
    total = weights.sum()
    return (weights * losses).sum() / (total if total > 0 else 1)
    ### END SOLUTION


# %% [markdown]
# ### An image, or its patches
#
# A small network without padding, with a field of 15 pixels. On a patch of 15×15 it gives one vector of scores; on an image, a map
# of them. Below, the same loss twice: for the **whole image**, and for the **batch of all its patches**, each with the
# label of its center. In double precision, so that rounding hides nothing.

# %%
predict("patches_or_image")


# %%
def field_15(norm: bool = False) -> nn.Sequential:
    """A network with a field of 15 pixels and stride 1, in double precision."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(inputs, outputs, 5), nn.ReLU()]
        if norm:
            layers.insert(-1, nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, nn.Conv2d(8, L, 3)).double()


def gradient(net: nn.Module, image: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """The gradient of the loss in one vector, over all parameters."""
    found = torch.autograd.grad(pixel_cross_entropy(net(image), labels, mask=mask), list(net.parameters()))
    return torch.cat([g.flatten() for g in found])


image = train.images[0, :, :48, :48].double()[None] / 255
net = field_15()
size = image.shape[2] - net(image).shape[2] + 1
center = size // 2
labels = train.labels[:1, center : center + 48 - size + 1, center : center + 48 - size + 1]
patches = (
    image.unfold(2, size, 1).unfold(3, size, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
)  # (P, 3, size, size)


def compare(net: nn.Module) -> tuple[float, float]:
    """The largest difference between the two gradients, and the largest number in them."""
    whole, pieces = gradient(net, image, labels), gradient(net, patches, labels.reshape(-1, 1, 1))
    return (whole - pieces).abs().max().item(), whole.abs().max().item()


print(f"field {size}, image {tuple(image.shape[2:])}, {len(patches)} patches")
print("largest difference: {:.1e}, in a gradient with numbers up to {:.2f}".format(*compare(net)))
print(f"with batch normalization in training mode: {compare(field_15(norm=True))[0]:.1e}")


def seconds(function, repeats: int = 3) -> float:
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


whole, pieces = (
    seconds(lambda: gradient(net, image, labels)),
    seconds(lambda: gradient(net, patches, labels.reshape(-1, 1, 1)), repeats=1),
)
print(
    f"whole image {1000 * whole:.0f} ms, all patches {1000 * pieces:.0f} ms: {pieces / whole:.0f} times as long"
)

# %% [markdown]
# The difference is rounding. Training on whole images *is* training on patches, namely on batches of all patches of an
# image. Batch normalization breaks it: its statistics count a pixel once in the image, and once for every patch that it
# is in. (Padding would not, for the pixels whose patch lies inside the image: their patch holds all that they see.)
#
# ### Random masks
#
# So the only freedom that patches still have is *which* of them are in the batch. Patches drawn at random from many images are
# little alike; all patches of one image are very much alike. If that matters, it can be had cheaper: compute the whole
# image, and let a random **mask** decide which pixels count.
#
# How much of the gradient survives? Below, the cosine of the angle between the gradient of the whole image and that of a
# random part of its pixels, in the same network, which is untrained.

# %%
full = gradient(net, image, labels)
draw = torch.Generator().manual_seed(1)
for share in (0.5, 0.1, 0.01):
    cosines = []
    for _ in range(10):
        mask = torch.rand(labels.shape, generator=draw) < share
        cosines.append(F.cosine_similarity(gradient(net, image, labels, mask), full, dim=0).item())
    print(
        f"{share:4.0%} of the pixels: cosine {sum(cosines) / 10:.3f} on average, {min(cosines):.3f} at worst"
    )

# %% [markdown]
# Half of the pixels give nearly the same direction as all of them: neighbors say the same thing. The pixels that were
# masked out cost as much as the others, and would have taught next to nothing more. It fits what Long, Shelhamer and
# Darrell found, measured in seconds and over a whole training: no gain in sampling. A batch of *different images* is
# worth more than any choice of pixels in one.
#
# ## Class weights
#
# What resampling did for rare classes, weights in the loss do without it. One recipe is **median frequency balancing**. For
# each class,
#
# $$\text{freq}(c) = \frac{\text{pixels of } c}{\text{valid pixels of the images that contain } c}, \qquad
# w_c = \frac{\operatorname{median}(\text{freq})}{\text{freq}(c)}.$$
#
# A class of middling frequency has weight 1, one that is half as frequent weight 2. Counting only images that contain the class
# makes a difference between a class that is *small* where it appears and one that appears *seldom*.
#
# ### By hand
#
# Two maps of four pixels and three classes: $(0, 0, 0, 1)$ and $(0, 0, 2, \text{void})$.
#
# - freq(0) $= 5/7$: five of the seven valid pixels. freq(1) $= 1/4$: only the first map contains it. freq(2) $= 1/3$.
# - The median of $1/4, 1/3, 5/7$ is $1/3$. The weights are $7/15 = 0.47$, $4/3 = 1.33$ and $1$.
#
# With an even number of classes the median is the mean of the middle two. A class that no map contains has weight 0, and has no
# say in the median.

# %%
frequencies = torch.tensor([5 / 7, 1 / 4, 1 / 3])
print("weights by hand:", [round(w, 2) for w in (frequencies.quantile(0.5) / frequencies).tolist()])


# %% exercise="median_frequency_weights"
def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Class weights median(freq) / freq(c).

    label_maps: a list of maps (H, W) of any sizes, or one tensor (N, H, W); integers, ignore_index
    where void.
    Returns (L,) float32; 0 for a class that no map contains, and so zeros where all is void.
    """
    ### BEGIN SOLUTION
    pixels, valid = (
        torch.zeros(num_classes, dtype=torch.float64),
        torch.zeros(num_classes, dtype=torch.float64),
    )
    for labels in label_maps:
        known = labels[labels != ignore_index].long()
        count = known.bincount(minlength=num_classes)
        pixels += count
        valid += torch.where(count > 0, len(known), 0)
    weights = torch.zeros(num_classes, dtype=torch.float64)
    present = pixels > 0
    frequency = pixels[present] / valid[present]
    if len(frequency):
        ordered = frequency.sort().values
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        weights[present] = middle / frequency
    return weights.float()
    ### END SOLUTION


# %% [markdown]
# ### Without weights, and with them
#
# A very small network with stride 8, trained for a moment without weights and with them.

# %%
predict("with_weights")

# %%
weights = median_frequency_weights(train.labels, L)
rarest = weights.argsort(descending=True)[:3].tolist()


def small_net() -> nn.Sequential:
    """Three layers of stride 2, scores, and bilinear interpolation by 8."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((3, 24, 5), (24, 48, 3), (48, 64, 3)):
        layers += [
            nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    up = nn.Upsample(train.labels.shape[1:], mode="bilinear")
    return nn.Sequential(*layers, nn.Conv2d(64, L, 1), up).to(course.device)


@torch.no_grad()
def predicted(net: nn.Module, images: Tensor) -> Tensor:
    """The class of every pixel, (N, H, W), of images (N, 3, H, W) in uint8."""
    net.eval()
    return torch.cat([net(part.to(course.device) / 255).argmax(1).cpu() for part in images.split(20)])


right, said = {}, {}
for name, w in (("all alike", None), ("median frequency", weights.to(course.device))):
    net = small_net()
    history = fit(
        net, train, steps=course.scaled(60, fast=2), batch_size=16,
        descent=Descent(torch.optim.AdamW(net.parameters(), lr=5e-3), one_cycle()),
        task=Task(
            "labels", lambda logits, labels, w=w: pixel_cross_entropy(logits, labels, w),
            augment=None if REAL else quarter_turns,
        ),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    said[name] = predicted(net, val.images)
    hit = (said[name] == val.labels)[val.labels != VOID]
    of_class = val.labels[val.labels != VOID]
    right[name] = [hit.float().mean().item()] + [hit[of_class == c].float().mean().item() for c in rarest]
print(f"{'weights':18}{'all pixels':>12}" + "".join(f"{classes[c]:>12}" for c in rarest))
for name, row in right.items():
    print(f"{name:18}" + "".join(f"{value:12.1%}" for value in row))

# %% [markdown]
# Neither row is *the* better one. It depends on what a missed sign costs, and on how the result is scored, which is the subject of
# the section after the next.
#
# ## Coarse scores, finer scores: the skips
#
# A network with a stride of 32 knows well *what* is in a place, and badly *where* it ends. Its earlier layers know better
# where, and worse what. **FCN-32s** asks only the last layer and enlarges its scores 32 times. **FCN-16s** enlarges them 2
# times, adds scores made from the layer with stride 16, and enlarges the sum 16 times. **FCN-8s** does so once more.
#
# $$s_{16} = \text{score}_{16}(x_{16}) + \text{up}_2(\text{score}_{32}(x_{32})), \qquad
# s_8 = \text{score}_8(x_8) + \text{up}_2(s_{16}), \qquad z = \text{up}_8(s_8)$$
#
# - $\text{score}_s$ is a 1×1 convolution to $L$ channels. It starts at **zero**, weights and biases: a new skip changes nothing until it has
#   learned to.
# - $\text{up}_f$ is a transposed convolution from $L$ to $L$ channels, without bias, with the kernel of
#   `bilinear_kernel(L, f)`, which has $2f$ rows and columns for an even $f$, stride $f$ and padding
#   $\lceil (f - 1)/2 \rceil$, which is $\lfloor f/2 \rfloor$. It starts as bilinear interpolation and goes on learning.
#
# In the code, a layer bears the stride of the map that it reads. So how much `up_32` enlarges depends on the variant:
#
# | variant | `up_32` | `up_16` | `up_8` |
# |---|---|---|---|
# | 32s | × 32 | | |
# | 16s | × 2 | × 16 | |
# | 8s | × 2 | × 2 | × 8 |
#
# ### Sizes by hand
#
# An image of 50×70 pixels. Features of stride $s$ have $\lceil \text{size} / s \rceil$ cells: $2 \times 3$ at 32, $4 \times 5$ at
# 16, $7 \times 9$ at 8.
#
# - Enlarging 2×3 by 2 gives 4×6. The finer map has 4×5: the last column hangs over and is **cropped**, at the right.
# - The sum, 4×5, enlarged by 2 is 8×10, cropped to 7×9. Enlarged by 8 it is 56×72, cropped to 50×70.
#
# Cells and pixels both begin at the top left, so only the bottom and the right may hang over. To crop around the middle would shift
# every cell by half of what hangs over.

# %%
height, width = 50, 70
for stride in (32, 16, 8):
    print(f"stride {stride:2}: {-(-height // stride)}×{-(-width // stride)} cells")


# %% exercise="SkipFCN"
class SkipFCN(nn.Module):
    """The head of FCN-32s, FCN-16s or FCN-8s.

    num_classes: L; channels: (c8, c16, c32), those of the features; variant: "32s", "16s" or "8s".
    Layers: score_32, score_16, score_8 (1×1 convolutions with bias, all zero) and up_32, up_16, up_8
    (transposed convolutions without bias, bilinear at first, each with a weight of its own): up_s
    enlarges the sum at stride s. Only those that the variant needs, as attributes of these names.
    forward(features, size): features {stride: (N, c, ⌈H / stride⌉, ⌈W / stride⌉)}, size (H, W). Returns
    logits (N, L, H, W).
    """

    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        ### BEGIN SOLUTION
        super().__init__()
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        for stride in self.strides:
            score = nn.Conv2d(channels[(8, 16, 32).index(stride)], num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            factor = stride if stride == self.strides[-1] else 2
            kernel = bilinear_kernel(num_classes, factor)
            up = nn.ConvTranspose2d(
                num_classes, num_classes, kernel.shape[-1], stride=factor, padding=factor // 2, bias=False
            )
            with torch.no_grad():
                up.weight.copy_(kernel)
            setattr(self, f"score_{stride}", score)
            setattr(self, f"up_{stride}", up)
        ### END SOLUTION

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Features of each stride to logits (N, L, *size)."""
        ### BEGIN SOLUTION
        coarser = None
        for stride in self.strides:
            scores = getattr(self, f"score_{stride}")(features[stride])
            if coarser is not None:
                scores = scores + coarser[..., : scores.shape[2], : scores.shape[3]]
            coarser = getattr(self, f"up_{stride}")(scores)
        return coarser[..., : size[0], : size[1]]
        ### END SOLUTION


# %% [markdown]
# ### One cell of each stride
#
# What does a single cell say to the image? We set one score to 1, at one stride, and look at what arrives. The features have a
# single channel whose score is the channel itself.

# %%
reach = []
for stride in (32, 16, 8):
    head = SkipFCN(1, (1, 1, 1), "8s")
    features = {s: torch.zeros(1, 1, 96 // s, 96 // s) for s in (8, 16, 32)}
    features[stride][0, 0, 48 // stride, 48 // stride] = 1
    with torch.no_grad():
        for s in (8, 16, 32):
            getattr(head, f"score_{s}").weight.fill_(1)
        reach.append(head(features, (96, 96))[0, 0])
figures.show(
    figures.grid(reach, ["a cell of stride 32", "of stride 16", "of stride 8"], columns=3, cell=2.2),
    alt="Three bright spots on black: a large soft one for stride 32, one of half its width for 16, and a small one for 8.",
)

# %% [markdown]
# Each spot reaches over its own cell into the neighbors, so that neighboring cells blend into each other. The sum of a few such spots is all
# that FCN-32s can draw: on the way from one cell to the next its answer changes at most once between any two classes.
#
# ## How a segmentation is scored
#
# Everything is counted first. The **confusion matrix** has a row for each true class and a column for each predicted one; entry
# $n_{ij}$ is the number of pixels of class $i$ that were taken for class $j$. Void pixels of the truth are not counted. With
# $t_i = \sum_j n_{ij}$, the pixels of class $i$,
#
# $$\text{pixel accuracy} = \frac{\sum_i n_{ii}}{\sum_i t_i}, \qquad
# \text{mean accuracy} = \operatorname*{mean}_i \frac{n_{ii}}{t_i},$$
#
# $$\text{IU}_i = \frac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}}, \qquad
# \text{mean IU} = \operatorname*{mean}_i \text{IU}_i, \qquad
# \text{frequency-weighted IU} = \frac{\sum_i t_i\, \text{IU}_i}{\sum_i t_i}.$$
#
# IU is **intersection over union**, often written IoU: the pixels that are class $i$ in both maps, over those that are in either.
#
# ### By hand
#
# Truth $(0, 0, 0, 1, 1, \text{void})$, prediction $(0, 0, 1, 1, 0, 1)$. The matrix is
# $\begin{pmatrix} 2 & 1 \\ 1 & 1 \end{pmatrix}$; the last pixel does not count.
#
# - Pixel accuracy $3/5$. Accuracy of the classes $2/3$ and $1/2$, mean $7/12 = 0.583$.
# - $\text{IU}_0 = 2 / (3 + 3 - 2) = 1/2$ and $\text{IU}_1 = 1 / (2 + 2 - 1) = 1/3$. Mean IU $5/12 = 0.417$, frequency-weighted
#   $(3 \cdot 1/2 + 2 \cdot 1/3)/5 = 0.433$.

# %%
matrix = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
iu = matrix.diagonal() / (matrix.sum(1) + matrix.sum(0) - matrix.diagonal())
print(f"IU {iu.tolist()}, mean {iu.mean():.3f}, weighted {(matrix.sum(1) * iu).sum() / matrix.sum():.3f}")

# %% [markdown]
# First the matrix. A loop over the pixels would take minutes; one `bincount` of pairs takes milliseconds.


# %% exercise="confusion_matrix"
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """How many pixels of each class were taken for each class.

    prediction, target: integers of the same shape, any shape; where target is ignore_index, which may
    be the number of a class too, the pixel does not count, whatever was predicted there.
    Returns (L, L) int64: rows = truth, columns = prediction.
    """
    ### BEGIN SOLUTION
    known = target != ignore_index
    pairs = target[known].long() * num_classes + prediction[known].long()
    return pairs.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)
    ### END SOLUTION


# %% [markdown]
# Then the scores. Two special cases decide whether they can be compared: a class that is in neither map has no IU (it is NaN, and left out of the
# mean), while a class that was predicted though it is not there has IU 0. The latter has no accuracy, since it has no pixel that could be
# right.


# %% exercise="segmentation_scores"
def segmentation_scores(matrix: Tensor) -> dict:
    """The scores of a confusion matrix (L, L), rows = truth.

    Returns floats "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", and "iou"
    (L,). A class absent from truth and prediction is NaN in "iou" and left out of the means; one that
    is only predicted has "iou" 0 and is left out of "mean_accuracy".
    """
    ### BEGIN SOLUTION
    matrix = matrix.double()
    right = matrix.diagonal()
    true, said = matrix.sum(1), matrix.sum(0)
    iou = right / (true + said - right)  # 0 / 0 is NaN where the class is nowhere
    accuracy = (right / true)[true > 0]
    return {
        "pixel_accuracy": float(right.sum() / true.sum()),
        "mean_accuracy": float(accuracy.mean()),
        "mean_iou": float(iou[~iou.isnan()].mean()),
        "frequency_weighted_iou": float((true * iou)[true > 0].sum() / true.sum()),
        "iou": iou,
    }
    ### END SOLUTION


# %% [markdown]
# ### One word for every pixel
#
# A "network" that calls every pixel by the most common class, scored four ways, beside the two small networks from above.

# %%
predict("one_answer_for_all")

# %%
NAMES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
print(f"{'':26}" + "".join(f"{name.replace('frequency_', ''):>16}" for name in NAMES))


def report(title: str, guess: Tensor) -> None:
    """Print one line of scores."""
    found = segmentation_scores(confusion_matrix(guess, val.labels, L))
    print(f"{title:26}" + "".join(f"{found[name]:16.3f}" for name in NAMES))


report(f"always {classes[pixels.argmax()]}", torch.full_like(val.labels, pixels.argmax().item()))
for name, guess in said.items():
    report(f"weights: {name}", guess)

# %% [markdown]
# A pixel accuracy means little until you know what the most common class alone would give.
#
# ## What each skip repairs
#
# Now the three variants. They share one backbone, a head of each kind sits on it, and all are trained together by the sum of their losses. So
# whatever differs below is due to the skips. The class weights are the square roots of yours: a compromise, so that thin things are
# not forgotten in so short a training.
#
# The heads that are trained are the course's own. Their layers have the names of yours and give the same numbers, but enlarge in a form
# that is quicker on a CPU, which would spend most of its time there. What they have learned moves into **your** `SkipFCN` afterwards.


# %%
VARIANTS, CHANNELS = ("32s", "16s", "8s"), (64, 96, 128)


class ThreeHeads(nn.Module):
    """FCN-32s, 16s and 8s on the same features: images (N, 3, H, W) to logits (N, 3, L, H, W)."""

    def __init__(self):
        super().__init__()
        self.backbone = SmallBackbone(CHANNELS)
        self.heads = nn.ModuleList(FCN(L, variant, channels=CHANNELS).head for variant in VARIANTS)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return torch.stack([head(features, tuple(images.shape[2:])) for head in self.heads], 1)


def mirrored(batch: dict[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
    """Half of the batches left for right: streets are not upside down."""
    return {k: v.flip(-1) for k, v in batch.items()} if torch.rand((), generator=generator) < 0.5 else batch


mild = weights.sqrt().to(course.device)
torch.manual_seed(0)
three = ThreeHeads().to(course.device, memory_format=torch.channels_last)  # quicker on two cores
history = fit(
    three, train, steps=course.scaled(150, fast=2), batch_size=12,
    descent=Descent(torch.optim.AdamW(three.parameters(), lr=6e-3, weight_decay=0.05), one_cycle()),
    task=Task(
        "labels", lambda logits, labels: sum(pixel_cross_entropy(part, labels, mild) for part in logits.unbind(1)),
        augment=mirrored if REAL else quarter_turns,
    ),
    generator=torch.Generator().manual_seed(0), watch=Watch(live=True),
)  # fmt: skip
three.eval()
some = val.images[:20].to(course.device) / 255
with torch.no_grad():
    theirs = three(some)
    for index, variant in enumerate(VARIANTS):
        yours = SkipFCN(L, CHANNELS, variant).to(course.device)
        yours.load_state_dict(three.heads[index].state_dict())
        three.heads[index] = yours
    apart = (three(some) - theirs).abs().max()
print(
    f"the same weights in your heads: largest difference {apart:.0e}, in scores up to {theirs.abs().max():.0f}"
)

# %% [markdown]
# Mean IU says how good a map is, not where it is wrong. So we also count the wrong pixels of an image **near an outline**, within three
# pixels of another class or of void, and **inside** an object or the ground; and the IU of thin things.

# %%
predict("where_skips_repair")

# %%
with torch.no_grad():
    maps = [three(part.to(course.device) / 255).argmax(2).cpu() for part in val.images.split(20)]
guesses = dict(zip(("FCN-32s", "FCN-16s", "FCN-8s"), torch.cat(maps).unbind(1), strict=True))
level = val.labels.float()[:, None]
near = (F.max_pool2d(level, 7, 1, 3) != -F.max_pool2d(-level, 7, 1, 3))[:, 0]
known = val.labels != VOID

print(f"{'':26}" + "".join(f"{name.replace('frequency_', ''):>16}" for name in NAMES))
for name, guess in guesses.items():
    report(name, guess)
print(f"\nwrong pixels of an image: {'near outlines':>16}{'inside':>10}   IU of {', '.join(THIN)}")
for name, guess in guesses.items():
    wrong = (guess != val.labels) & known
    iou = segmentation_scores(confusion_matrix(guess, val.labels, L))["iou"]
    thin = torch.stack([iou[classes.index(c)] for c in THIN]).nanmean()
    print(
        f"{name:26}{(wrong & near).sum() / len(val):15.0f}{(wrong & ~near).sum() / len(val):10.0f}{thin:11.3f}"
    )

# %%
pictures, titles = [], []
for index in (0, len(val) // 3, 2 * len(val) // 3):  # neighboring frames of a video look alike
    pictures += [val.images[index], painted(val.labels[index])]
    pictures += [painted(guess[index]) for guess in guesses.values()]
    errors = (guesses["FCN-8s"][index] != val.labels[index]) & known[index]
    pictures.append(figures.overlay_labels(val.images[index], errors.long(), alpha=0.75))
    titles += ["image", "truth", *guesses, "8s: errors"] if index == 0 else 6 * [""]
figures.show(
    figures.grid(pictures, titles, columns=6, cell=1.45),
    alt="Rows of an image, its true labels, and the maps of FCN-32s, 16s and 8s: round blobs first, then shapes whose outlines come "
    "closer to the truth with each skip. The last column marks the errors that remain: thin lines along outlines, and some whole regions.",
)

# %% [markdown]
# Near outlines, each skip takes wrong pixels away. Inside, the finer one need not: it sees smaller pieces, and may find a
# small thing where none is. Mean IU gains by both, since small and thin things are few pixels and whole classes. Things
# much thinner than a cell of stride 8 stay beyond all three: in the frames of CamVid, at a quarter of their size, a pole
# is one pixel wide. What the deepest features take for the wrong thing, no skip knows better. The original network
# gained much from 32s to 16s, little from 16s to 8s, and a further skip no longer paid.
#
# ## Transfer from a classifier
#
# An image with a label for every pixel takes minutes to draw; one with a single label takes seconds. The FCN paper therefore starts from
# a **classifier**, makes it convolutional as you did in lecture 4, and trains on. Theirs had seen a million photographs. Ours is the classifier of
# lectures 3 and 4, which has seen 50,000 small ones of animals and vehicles, one label each. Its convolutions become the features of
# stride 8; two more stages and the skips follow. Only a few images then come with all their pixels.

# %% [markdown]
# Two networks of one shape, the same few images in the same order: one starts from those convolutions, one from random numbers.

# %%
few = course.scaled(10, fast=4)
WIDTHS = (192, 192, 192)
learned = Backbone(WIDTHS, pretrained("cifar10"))
torch.manual_seed(0)
from_nothing = copy.deepcopy(learned)
for module in from_nothing.modules():
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


def segmenter_from(backbone: nn.Module, first: int = 0) -> nn.Module:
    """An FCN-8s on a copy of this backbone, trained on the few whole images from number `first` on."""
    torch.manual_seed(first)
    net = FCN(L, "8s", copy.deepcopy(backbone), WIDTHS).to(course.device)
    fit(
        net, Subset(train, range(first, first + few)), steps=course.scaled(45, fast=2), batch_size=4,
        descent=Descent(torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05), one_cycle()),
        task=Task("labels", pixel_cross_entropy, augment=mirrored if REAL else quarter_turns),
        generator=torch.Generator().manual_seed(first),
    )  # fmt: skip
    return net


for name, backbone in (("random numbers", from_nothing), ("the classifier", learned)):
    guess = predicted(segmenter_from(backbone), val.images)
    found = segmentation_scores(confusion_matrix(guess, val.labels, L))
    print(f"{few} images, starting from {name:16} mean IU {found['mean_iou']:.3f}")

# %% [markdown]
# Neither is good after so few images and steps, but the one with a past is ahead, though it never saw a scene like these: edges, textures and
# color blobs serve any image. `segmenter_from(backbone, 10)` tries it on other images. The paper reports that training from scratch was not feasible.
#
# ## Train it
#
# The last exercise has no formula. Write a function that is given a data set of scenes and a generator, and returns a trained
# network. It is graded by **mean IU on scenes that are generated after your network exists**; points grow with it, and
# about 25 seconds of training on two cores are enough for all of them. The check trains once, and so takes that long.
# Everything you need is on this page: a backbone, three skips, a loss.
#
# `FCN(L, "8s", SmallBackbone(channels), channels)` puts the course's own backbone and skips together, and works even where your
# `SkipFCN` does not yet. `fit` is the training loop that this notebook has used; you may as well write your own (it then
# has to divide the bytes by 255, as `fit` does). Draw weights, order and augmentation from the `generator`, so that the
# same generator gives the same network: `with drawn_from(generator):` does it for layers that are made inside.


# %% exercise="train_fcn"
def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    """A network that segments scenes it has never seen.

    dataset: map-style, with .classes (L of them) and items {"image": (3, H, W) uint8, "labels": (H, W),
    255 = void}.
    Returns a network in eval mode from images (N, 3, H, W), 0 to 1, H and W divisible by 32, to logits
    (N, L, H, W).
    """
    ### BEGIN SOLUTION
    device = "cuda" if torch.cuda.is_available() else "cpu"
    items = [dataset[i] for i in range(len(dataset))]
    data = {name: torch.stack([item[name] for item in items]).to(device) for name in ("image", "labels")}
    channels, steps, rate = (64, 96, 128), 12 * len(items) // 16, 6e-3  # 12 times through the data
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(channels), channels)
    net = net.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < 16:
            order = torch.randperm(len(items), generator=generator)
        rows, order = order[:16].to(device), order[16:]
        batch = quarter_turns({name: values[rows] for name, values in data.items()}, generator)
        loss = pixel_cross_entropy(net(batch["image"] / 255), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.cpu().eval()
    ### END SOLUTION


# %% [markdown]
# ### Scenes nobody has seen
#
# A convolutional network has no fixed size. Here your function trains on scenes of 64×64 pixels, which is quicker, and
# is shown two kinds of images of 128×256: eight new scenes side by side, and half of a scene that is drawn four times
# as large, objects and all.

# %%
predict("larger_scenes")

# %%
segmenter = train_fcn(Scenes(course.scaled(340, fast=8), 64), torch.Generator().manual_seed(0))
count = course.scaled(12, fast=1)
small, large = Scenes(8 * count, 64, seed=8, split="test"), Scenes(count, 256, seed=8, split="test")


def side_by_side(first: int, name: str) -> Tensor:
    """Eight small scenes from number `first` on, in two rows: "image" (3, 128, 256) or "labels" (128, 256)."""
    items = [small[first + k][name] for k in range(8)]
    return torch.cat([torch.cat(items[:4], -1), torch.cat(items[4:], -1)], -2)


wide = {
    "eight scenes of 64×64": [
        {name: side_by_side(8 * k, name) for name in ("image", "labels")} for k in range(count)
    ],
    "half a scene of 256×256": [{name: v[..., :128, :] for name, v in item.items()} for item in large],
}
pictures, titles = [], []
for kind, items in wide.items():
    with torch.no_grad():
        maps = [segmenter(item["image"][None] / 255).argmax(1)[0] for item in items]
    scores = segmentation_scores(
        sum(confusion_matrix(guess, item["labels"], 6) for guess, item in zip(maps, items, strict=True))
    )
    print(
        f"{count} times {kind:24} pixel accuracy {scores['pixel_accuracy']:.3f}, mean IU {scores['mean_iou']:.3f}"
    )
    k = 3 % count
    shown = (items[k]["labels"], maps[k])
    pictures += [
        items[k]["image"],
        *(figures.overlay_labels(torch.zeros(1, 128, 256), m, alpha=1.0) for m in shown),
    ]
    titles += [kind, "truth", "your network"]
figures.show(
    figures.grid(pictures, titles, columns=3, cell=2.9),
    alt="Two rows of image, truth and the network's labels. Above, eight small scenes: most discs and many boxes are found, "
    "few other objects. Below, half of a large scene: of its discs and boxes only parts are found, some as the wrong class.",
)

# %% [markdown]
# In six runs (two trainings, three sets of images) the small scenes had a mean IU of 0.28 to 0.31, the large ones of 0.21 to
# 0.25. So a network that is to find an object from near and from far has to see it so in training: scaling images at
# random is as common as mirroring them.

# %% [markdown] written="patches_or_images" points=3
# ### Written question: patches or images
#
# A group trains a network on aerial photographs in which 1 % of the pixels are buildings. They train on patches around
# randomly chosen pixels, half of them buildings, and use the network fully convolutionally on whole photographs. It marks
# far too many buildings. (One point for each answer; two or three sentences are enough.)
#
# 1. Explain why, in terms of what the network was taught about how common buildings are.
# 2. They switch to whole photographs and a class weight for buildings. Which weight, if that of the rest is 1, teaches
#    the network the same balance as before? Will it mark fewer buildings than the network trained on patches, and why or
#    why not?
# 3. They report a pixel accuracy of 98.7 %. Which two numbers would you ask for before you believe in the
#    network, and why?
#
# ### BEGIN SOLUTION
# 1. *(1 point)* The network minimizes cross entropy on patches of which half are buildings, so it learns the probabilities of that world: a prior of
#    one half. On photographs the prior is 1 %. Wherever a place is ambiguous, the odds for "building" are 99 times too high.
# 2. *(1 point)* Weight 99 for buildings: then both classes have the same total weight. The expected gradient is the same
#    as before, so the result has the same bias and marks as many; it is only cheaper to compute. (Good answers add that
#    the pixels of one photograph are more alike than random patches, or that a smaller weight would repair the bias.)
# 3. *(1 point)* The accuracy of "no building anywhere" (99 % here, more than theirs), since a pixel accuracy says nothing
#    beside it, and the IU of the class building, or mean IU, which counts the rare class. Also accepted: precision and
#    recall for buildings, or the confusion matrix.
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | The loss is NaN after a few steps | an image without a pixel that counts: 0/0, or log of a softmax that became 0 |
# | The loss is smaller with a mask | divided by the number of pixels instead of by the weights used |
# | An index error on the labels | void (255) was looked up as a class |
# | Maps are shifted by a few pixels | cropped around the middle, or the transposed convolution has no padding |
# | Classes bleed into each other after upsampling | the bilinear kernel connects all pairs of classes |
# | FCN-8s is no better than FCN-32s | features of different strides mixed up, or the skips never trained: their scores still are zero |
# | 85 % of the pixels are right, and the maps are useless | pixel accuracy, with one class almost everywhere |
# | Mean IU is NaN | a class that is nowhere was not left out |
#
# ## Summary
#
# - The gradient of an image is the gradient of the batch of all its patches. Patches cost many times as much, and buy the freedom to choose.
# - Most of that freedom comes cheaper: random masks for which pixels count, class weights for how much. Neighboring pixels teach nearly the same.
# - Loss and weights are normalized by what was used: $\sum wM\ell / \sum wM$.
# - Coarse scores say what, fine ones where. Skips add them, start at zero and as bilinear interpolation, and repair outlines.
# - Count a confusion matrix, then score it. Mean IU treats classes alike; pixel accuracy treats pixels alike.
#
# ## Where the papers differ from us
#
# - **Long, Shelhamer and Darrell (2015)** start from VGG-16, train the skips one after the other from the coarser network, and pad the image by 100
#   pixels, which moves the crop inside. Their network fixes the last enlargement to bilinear; ours learns. They found class weights
#   unnecessary on PASCAL VOC, where three quarters of the pixels are background.
# - **Ciresan et al. (2012)** and **Farabet et al. (2013)** trained on patches, with the classes balanced.
# - **Eigen and Fergus (2015)** introduced median frequency balancing; **SegNet** uses it on CamVid, as we do here.
# - Our comparison trains three heads on one backbone. Trained apart, each backbone would adapt to its own head.
#
# ## Next
#
# In lecture 7, *unet*, the way up becomes as deep as the way down, skips are concatenated instead of summed, and weights in the loss pull touching cells
# apart.

# %%
progress()
