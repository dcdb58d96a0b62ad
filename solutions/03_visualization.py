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
top, left, size = 49, 84, 17
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
print(f"cosine there {cosine.max():.3f};", end=" ")
cosine[top - size : top + size, left - size : left + size] = -1
print(f"the best place elsewhere: {strongest(cosine)}, cosine {cosine.max():.3f}")

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
    alt="A photograph of a cat with a frame around one eye, and three response maps to that eye as a filter, the strongest "
    "place circled. As it is: a blurred picture of the cat, strongest in a bright part. Minus its mean: strongest at or near an eye. "
    "Cosine: a sharp peak at the eye.",
)
