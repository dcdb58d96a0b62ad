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
# # Batch normalization
#
# **Batch normalization rescales every channel by the statistics of the batch it happens to be in: deep networks become
# easy to train, and one image's answer comes to depend on its neighbors, until `.eval()` cuts it loose.**
#
# When you are done, you can
#
# - write batch normalization, forward and backward, for dense and for convolutional layers;
# - say what it does to a network's gradients, and check the claims made for it with a few lines of code;
# - find the bug of a forgotten `.eval()` by its symptoms;
# - remove batch normalization from a trained network without changing what the network computes;
# - tell batch, layer, instance and group normalization apart by the axes they average over.
#
# It takes about 150 minutes on a laptop, exercises included; all cells together run for about one. You should know
# convolutions in PyTorch and lecture 1, *preprocessing*: what it did to the input, we now do inside the network.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("02_batchnorm")
predict = coursekit.notebook.predict

import copy
import time
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import photographs, small_images
from coursekit.metrics import accuracy
from coursekit.training import Task, Validation, Watch, fit

# %% [markdown]
# The images are small, 32×32 pixels in ten classes: CIFAR-10 where it lies on this machine, otherwise patches cut from
# photographs. As in lecture 1, they are standardized with the mean and the standard deviation of the *training* set.

# %%
torch.set_num_threads(1)  # for networks as small as these, sharing the work out takes longer than doing it

train = small_images("train", per_class=course.scaled(100, fast=20))
val = small_images("val", per_class=course.scaled(50, fast=10))

pixels = train.images / 255
pixel_mean, pixel_std = (
    statistic.to(course.device) for statistic in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)))
)


def standardize(images: Tensor) -> Tensor:
    """uint8 images (N, 3, 32, 32) to floats of mean 0 and standard deviation 1 per channel."""
    images = images.to(course.device) / 255
    return (images - pixel_mean.view(1, 3, 1, 1)) / pixel_std.view(1, 3, 1, 1)


standardized = Task(transform=standardize)  # what networks are trained on here
mixed = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
first_of_each = [int((train.labels == label).nonzero()[0]) for label in range(10)]
figures.show(
    figures.grid(
        train.images[first_of_each], [train.classes[label] for label in range(10)], columns=10, cell=0.95
    ),
    alt=f"One image of each of the ten classes of {train.name}: {', '.join(train.classes)}.",
)
print(f"{train.name}: {len(train)} images to train on, {len(val)} to validate")

# %% [markdown]
# ## Why the input is not enough
#
# A layer does not know whether its input is an image or another layer's output. If standardized inputs help the first
# layer, standardized activations should help the second. Yet nothing keeps them standardized: each layer multiplies the
# size of what it is given by some factor, and the factors multiply.
#
# $$\text{after } d \text{ layers:}\qquad \operatorname{std}(h_d) \approx a^{\,d}\,\operatorname{std}(h_0)$$
#
# By hand, for 20 layers: with $a = 1$ nothing happens, with $a = 1/2$ one millionth is left, with $a = 2$ it is a
# million times too much. Half or double is not far off for a weight matrix somebody initialized without much thought.
# Gradients travel through the same matrices in the other direction and meet the same factors.

# %%
for a in (0.5, 0.9, 1.0, 1.1, 2.0):
    print(f"a = {a:3.1f}    after 20 layers: {a**20:12.6f}")

# %% [markdown]
# The initialization of He et al. (2015), standard deviation $\sqrt{2/\text{fan-in}}$ before a ReLU, makes $a = 1$ at
# the start of training. It promises nothing for the thousandth step. Batch normalization takes another way: it
# *measures* the size of each channel, at every step, and divides by it.
#
# ## Normalize, then scale and shift
#
# Take one channel, and all the $m$ values it has in this batch. For a dense layer with input `(N, C)` these are the $N$
# entries of a column. For a feature map `(N, C, H, W)`, they are the $N \cdot H \cdot W$ values of that channel, since
# a convolution uses the same filter at every pixel.
#
# $$\mu = \frac1m \sum_{i=1}^m x_i
# \qquad \sigma^2 = \frac1m \sum_{i=1}^m (x_i - \mu)^2
# \qquad \hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \varepsilon}}
# \qquad y_i = \gamma\,\hat x_i + \beta$$
#
# Two numbers are computed from the batch, $\mu$ and $\sigma^2$. Two are learned, $\gamma$ and $\beta$, one pair for
# each channel. The small $\varepsilon$ keeps a channel that is constant over the batch from dividing zero by zero.
#
# ### Four numbers by hand
#
# One channel, a batch of four: $x = (1,\ 7,\ 9,\ 15)$, with $\varepsilon = 0$.
#
# - $\mu = 32/4 = 8$, so the deviations are $-7,\ -1,\ 1,\ 7$.
# - $\sigma^2 = (49 + 1 + 1 + 49)/4 = 25$, so $\sigma = 5$. We divide by $m = 4$, not by $m - 1 = 3$: this is the biased
#   variance, and with it the four results have a variance of exactly 1.
# - $\hat x = (-1.4,\ -0.2,\ 0.2,\ 1.4)$.
# - With $\gamma = 2$ and $\beta = 1$: $y = (-1.8,\ 0.6,\ 1.4,\ 3.8)$.
#
# Why scale and shift what has just been normalized? Because mean 0 and variance 1 are not always what the next layer
# needs. With $\gamma = 5$ and $\beta = 8$ the network gets $x$ back: what normalization took away can be learned again,
# now as two parameters instead of as a side effect of thousands of weights.

# %%
x = torch.tensor([1.0, 7.0, 9.0, 15.0])
mean, var = x.mean(), x.var(correction=0)
x_hat = (x - mean) / var.sqrt()
print(f"mean {mean:.0f}, biased variance {var:.0f}, unbiased variance {x.var():.2f}")
print("x_hat            ", [round(v, 2) for v in x_hat.tolist()])
print("2 · x_hat + 1    ", [round(v, 2) for v in (2 * x_hat + 1).tolist()])
print("5 · x_hat + 8    ", [round(v, 2) for v in (5 * x_hat + 8).tolist()])

# %% [markdown]
# Your function does this for all channels at once, for both shapes of input. Mind the axes: whatever is not the channel
# is averaged over.


# %% exercise="batchnorm_forward"
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize every channel over the batch, then scale and shift it.

    x: (N, C) or (N, C, H, W), with any N. gamma, beta: (C,). eps, 0 or more, is added to the variance,
    inside the root. Returns y of the shape and dtype of x.
    """
    ### BEGIN SOLUTION
    axes = [0, 2, 3][: x.ndim - 1]
    shape = (1, -1, 1, 1)[: x.ndim]
    mean = x.mean(axes, keepdim=True)
    variance = x.var(axes, keepdim=True, correction=0)
    x_hat = (x - mean) / torch.sqrt(variance + eps)
    return x_hat * gamma.view(shape) + beta.view(shape)
    ### END SOLUTION


# %% [markdown]
# ### What it does to real activations
#
# Sixty-four images go through a random convolution with four filters. Left: the values of each channel, as they come.
# Right: after your function, with $\gamma = 1$ and $\beta = 0$. The shapes of the four histograms have not changed, a
# skewed channel is still skewed. Only their place and their width have: normalizing does not make anything Gaussian.

# %%
batch = standardize(train.images[mixed[:64]])
torch.manual_seed(3)
filters = nn.Conv2d(3, 4, 5).to(course.device)
with torch.no_grad():
    raw = filters(batch) * torch.tensor([0.3, 1.0, 2.0, 4.0], device=course.device).view(1, 4, 1, 1) + 1
    normalized = batchnorm_forward(raw, torch.ones(4).to(raw), torch.zeros(4).to(raw))

fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.8), layout="constrained")
for axis, values, title in zip(axes, (raw, normalized), ("before", "after"), strict=True):
    for channel in range(4):
        density, edges = torch.histogram(values[:, channel].cpu(), 80, range=(-6.0, 8.0), density=True)
        axis.plot(edges[:-1], density, color=figures.color(channel), label=f"channel {channel}")
    axis.set(title=title, xlabel="activation", ylabel="density")
axes[0].legend()
figures.show(
    fig,
    alt="Histograms of four channels, before and after batch normalization. Before, they differ in place and width; "
    "after, all are centered on 0 with standard deviation 1, each with its own shape.",
)
print("mean per channel, before:", [round(v, 2) for v in raw.mean((0, 2, 3)).tolist()])
print("mean per channel, after: ", [abs(round(v, 2)) for v in normalized.mean((0, 2, 3)).tolist()])
print("std  per channel, after: ", [round(v, 2) for v in normalized.std((0, 2, 3), correction=0).tolist()])

# %% [markdown]
# ### What γ and β are for
#
# Behind batch normalization there is usually a ReLU, and it clips at zero. Since the batch has been centered, $\beta$
# alone decides which part of a channel survives: a value passes if $\hat x > -\beta/\gamma$. A channel with
# $\beta = -\gamma$ fires for strong patterns only, one with $\beta = \gamma$ for nearly everything. $\gamma$ says how
# loudly the channel speaks to the next layer.
#
# Below, a horizontal-difference filter runs over a photograph. Change the values of `gammas` and `betas` and look for
# the pair that leaves only the strongest edges.

# %%
photo = photographs.load("astronaut")[:, ::3, ::3].float().mean(0)[None, None] / 255
edges = F.conv2d(photo, torch.tensor([[[[-1.0, 0.0, 1.0]]]]))
gammas, betas = (0.5, 1.0, 2.0), (-1.0, 0.0, 1.0)
maps, titles = [], []
for gamma in gammas:
    for beta in betas:
        y = batchnorm_forward(edges, torch.tensor([gamma]), torch.tensor([beta])).relu()
        maps.append(y[0])
        titles.append(f"γ = {gamma:g}, β = {beta:g}: {(y > 0).float().mean():.0%} active")
figures.show(
    figures.grid(maps, titles, columns=3, cell=2.2, limits=(0.0, 3.0)),
    alt="Nine feature maps of one photograph after a vertical-edge filter, batch normalization and ReLU. Towards larger "
    "beta more of the map is active; larger gamma makes the same edges brighter.",
)

# %% [markdown]
# ## Its claims, tested one by one
#
# Much is said in favor of batch normalization: gradients flow better, the weights may start badly, high learning rates
# become possible, it regularizes. Each of these can be measured. The learning rates come at the end of this lecture; let us
# start with a network that has not been trained at all.
#
# ### Between dense layers: does the gradient flow?
#
# Twenty dense layers with ReLU, 128 units each, on real images. The weights are drawn with the standard deviation of He
# et al., times a gain of ½, 1 or 2. We send one batch through, and one gradient back, and note for every layer the root
# mean square (RMS) of its activations and of the loss's gradient with respect to them.


# %%
def signal(kind: str, gain: float, norm: bool, depth: int = 20) -> tuple[list[float], list[float]]:
    """RMS of each layer's activations, and of the loss's gradient in them, in a network fresh from initialization."""
    draw = torch.Generator().manual_seed(0)
    h = batch.flatten(1) if kind == "dense" else F.avg_pool2d(batch[:32], 2)
    layers = []
    for _ in range(depth):
        shape = (128, h.shape[1]) if kind == "dense" else (16, h.shape[1], 3, 3)
        weight = torch.randn(shape, generator=draw).to(h)
        weight *= gain * (2 / weight[0].numel()) ** 0.5  # weight[0] is what one unit looks at: its fan-in
        h = F.linear(h, weight) if kind == "dense" else F.conv2d(h, weight, padding=1)
        if norm:
            h = batchnorm_forward(h, torch.ones(len(weight)).to(h), torch.zeros(len(weight)).to(h))
        h = h.relu().requires_grad_()
        h.retain_grad()
        layers.append(h)
    features = h.flatten(2).mean(2) if kind == "conv" else h
    top = torch.randn(10, features.shape[1], generator=draw).to(h) / features.shape[1] ** 0.5
    loss = F.cross_entropy(features @ top.T, train.labels[mixed[: len(h)]].to(h.device))
    loss.backward()
    return [rms(h) for h in layers], [rms(h.grad) for h in layers]


def rms(tensor: Tensor) -> float:
    return tensor.detach().double().square().mean().sqrt().item()


def show_signal(kind: str, alt: str) -> None:
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.3), layout="constrained")
    for index, gain in enumerate((0.5, 1.0, 2.0)):
        for norm in (False, True):
            for axis, values in zip(axes, signal(kind, gain, norm), strict=True):
                label = f"gain {gain:g}, {'with' if norm else 'without'}"
                color = figures.COLORS[("blue", "green", "vermilion")[index]]
                style = {"color": color, "linestyle": "-" if norm else ":"}
                axis.plot(
                    range(1, 21), values, label=label, **style, linewidth=(5 - 1.7 * index) if norm else 2
                )
    axes[0].set(xlabel="layer", ylabel="RMS of the activations", yscale="log", xticks=range(0, 21, 5))
    axes[1].set(xlabel="layer", ylabel="RMS of the gradient", yscale="log", xticks=range(0, 21, 5))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title="batch norm")
    figures.show(fig, alt=alt)


predict("half_the_gain")

# %%
show_signal(
    "dense",
    alt="RMS of activations (left) and gradients (right) over twenty dense layers, on logarithmic axes. Without batch "
    "norm, activations fall or rise by a factor of a million for gains of one half and two. With it, the three "
    "activation curves lie on each other, flat; the gradients lie on each other too but rise towards the first layer.",
)

# %% [markdown]
# The claim is **strong** for activations: with batch normalization, three curves become one, and it is flat. For any
# $a > 0$,
#
# $$\operatorname{BN}(a\,W h) = \operatorname{BN}(W h),$$
#
# so the network does not depend on the size of its weights. It may start anywhere.
#
# Look at the gradients, too. They don't depend on the gain either, but with batch normalization they are *not* flat:
# they grow from the last layer to the first. That is no flaw of this plot. Yang et al. (2019) show that in such a
# network, at initialization, the gradient grows by a constant factor at each layer, for ReLU about
# $\sqrt{\pi/(\pi - 1)} \approx 1.21$. Meanwhile plain He initialization (gain 1, dotted) keeps both nearly level. So the
# sentence "batch norm prevents exploding gradients" is **weak** as it stands: it removes the dependence on the weights'
# scale, and adds a mild explosion of its own. Skip connections are what tames that one.

# %%
for name, arguments in {
    "gain 1, without": (1.0, False),
    "gain 2, without": (2.0, False),
    "gain 2, with": (2.0, True),
}.items():
    _, gradient = signal("dense", *arguments)
    total = gradient[0] / gradient[-1]
    print(
        f"{name:16} gradient in layer 1 / in layer 20: {total:12.2f}   a factor of {total ** (1 / 19):.2f} per layer"
    )

# %% [markdown]
# There is a second half to $\operatorname{BN}(aWh) = \operatorname{BN}(Wh)$. A function that does not change when $W$
# is scaled has a gradient that shrinks as $W$ grows:
#
# $$\frac{\partial L}{\partial (aW)} = \frac1a \frac{\partial L}{\partial W}$$
#
# Weights that have become too large take smaller relative steps, so they stop growing: the layer corrects its own
# learning rate. Keep this in mind for the end of the lecture.

# %%
weight = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0)).to(batch)
ones, zeros = torch.ones(16).to(batch), torch.zeros(16).to(batch)
direction = torch.randn(16, 30, 30, generator=torch.Generator().manual_seed(1)).to(batch)
for a in (0.1, 1.0, 10.0):
    scaled = (a * weight).requires_grad_()
    y = batchnorm_forward(F.conv2d(batch, scaled), ones, zeros)
    (y.relu() * direction).mean().backward()
    print(
        f"a = {a:4g}   RMS of y {rms(y):.4f}   RMS of the gradient {rms(scaled.grad):.2e}   times a: {a * rms(scaled.grad):.2e}"
    )

# %% [markdown]
# ### Between convolutional layers
#
# The same experiment with twenty 3×3 convolutions of 16 channels, on 32 images reduced to 16×16. Each channel now has
# $32 \cdot 16 \cdot 16 = 8192$ values to take its mean from, where a dense unit had 64: one reason why batch
# normalization is at its best in convolutional networks, even with few images.

# %%
show_signal(
    "conv",
    alt="RMS of activations (left) and gradients (right) over twenty convolutions, on logarithmic axes. As between dense "
    "layers: without batch norm a fall or rise by many orders of magnitude, with it one level curve for the activations "
    "whatever the gain, and gradients that grow towards the first layer.",
)

# %% [markdown]
# The same picture: the claim holds between dense and between convolutional layers alike. One consequence is worth a
# note: a bias before batch normalization is useless, since the mean takes it out again. That is why convolutions in such
# networks are written `nn.Conv2d(…, bias=False)`, and $\beta$ does the bias's work.
#
# ### Does it regularize?
#
# In training, an image is normalized together with whatever other images chance has put into its batch. So its output
# is a little random, and randomness in the hidden layers works like dropout: that is the claim. It has two parts. The
# first is that the noise exists, and that it shrinks with the batch size.

# %%
predict("scatter_of_a_batch")

# %%
pool = standardize(train.images[mixed[:300]])
with torch.no_grad():
    responses = F.conv2d(pool, weight)  # (images, 16, 30, 30), computed once
sizes, scatter = (2, 4, 8, 16, 32, 64), []
draw = torch.Generator().manual_seed(0)
for size in sizes:
    seen = []
    for _ in range(40):
        mates = torch.randint(1, len(pool), (size - 1,), generator=draw)
        together = torch.cat([responses[:1], responses[mates.to(responses.device)]])
        seen.append(batchnorm_forward(together, ones, zeros)[0])
    scatter.append(torch.stack(seen).std(0).mean().item())
expected = [(size - 1) ** 0.5 / size for size in sizes]
expected = [value * scatter[-1] / expected[-1] for value in expected]  # through the last point
fig = figures.curves(
    {"measured": (sizes, scatter), "proportional to √(N − 1)/N": (sizes, expected)},
    "images in the batch, N",
    "scatter of one image's outputs",
    log=True,
    size=(5.5, 2.8),
)
fig.axes[0].set_xscale("log")
for axis, ticks in ((fig.axes[0].xaxis, sizes), (fig.axes[0].yaxis, (0.05, 0.1, 0.2, 0.4, 0.8))):
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)
figures.show(
    fig,
    alt="Standard deviation of one image's normalized activations over 40 random batches, against the batch size from 2 "
    "to 64, on logarithmic axes: a falling line, close to the expected one.",
)
print(
    "scatter:",
    {size: round(value, 3) for size, value in zip(sizes, scatter, strict=True)},
    "(the signal has std 1)",
)

# %% [markdown]
# The noise is there. The second part of the claim is that the noise *helps*, on images the network has not seen. To
# test it fairly, something has to be held fixed: a network with batch normalization differs from one without in far more
# than noise. So we compare four networks, trained from the same weights on the same few images, so few that they can be
# learned by heart:
#
# - **without** normalization, from He's initialization;
# - **group norm**, which normalizes each image by itself: the benefits of normalization without its noise (its formula
#   comes further down);
# - **batch norm**, statistics over all 32 images of a batch;
# - **ghost batch norm** (Hoffer et al. 2017): the same batches of 32 for the gradient, but statistics over eight at a
#   time. Against the line above, nothing has changed but the amount of noise.


# %%
def network(norm=None, gain: float = 1.0, width: int = 16, extra: int = 1) -> nn.Sequential:
    """Convolutions (each followed by `norm(channels)` and ReLU), global average pooling, one dense layer."""
    layers = []
    plan = [(3, width, 2), (width, width, 1), (width, 2 * width, 2)] + extra * [(2 * width, 2 * width, 1)]
    for channels, filters, stride in plan:
        conv = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=norm is None)
        nn.init.normal_(conv.weight, std=gain * (2 / (9 * channels)) ** 0.5)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()] if norm is None else [conv, norm(filters), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)).to(
        course.device
    )


class GhostNorm(nn.BatchNorm2d):
    """Batch norm whose statistics, in training, are taken over eight images at a time."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(8) if self.training else [x]
        return torch.cat([super(GhostNorm, self).forward(part) for part in parts])


few = Subset(train, [i for i in range(len(train)) if i % (len(train) // 10) < 13])
methods = {
    "without": None,
    "group norm": lambda channels: nn.GroupNorm(4, channels),
    "batch norm, 32": nn.BatchNorm2d,
    "ghost norm, 8": GhostNorm,
}
measured = {name: [] for name in methods}
for seed in range(course.scaled(2, fast=1)):
    for name, norm in methods.items():
        torch.manual_seed(seed)
        candidate = network(norm)
        shuffling = torch.Generator().manual_seed(seed)
        for steps, lr in ((course.scaled(55, fast=2), 0.05), (course.scaled(10, fast=1), 0.005)):
            fit(candidate, few, steps=steps, batch_size=32, lr=lr, task=standardized, generator=shuffling)
        measured[name].append([accuracy(candidate, part, transform=standardize) for part in (few, val)])

print(f"{'mean of the runs':16} {'training':>9} {'validation':>11} {'gap':>7}     validation, run by run")
for name, runs in measured.items():
    seen, unseen = torch.tensor(runs).mean(0).tolist()
    single = ", ".join(f"{run[1]:.1%}" for run in runs)
    print(f"{name:16} {seen:9.1%} {unseen:11.1%} {seen - unseen:7.1%}     {single}")

# %% [markdown]
# Read your own table before you read on, and read the *gap* with suspicion: a network that has learned less by heart
# has a smaller gap for free.
#
# Compare first the two lines that differ in noise alone. In our runs, on CIFAR-10 and on the textures, the noisier
# network learned less by heart. On *unseen* images that did not pay: it came out equal or a
# little worse, by differences not much larger than those between two runs of one method. So the noise is a brake on
# learning by heart, but the claim that it helps is **weak** here. It is better supported for larger networks and longer
# training: Ioffe and Szegedy could leave out dropout, and Hoffer et al. (2017), with small ghost batches, bring back the
# accuracy that very large batches had cost.
#
# Then compare *without* and *batch norm*. In the same number of steps, batch normalization gets far more of the training
# images right. That is not regularization, it is faster optimization, and it accounts for most of what the table shows.
# Whoever compares a network with and without batch normalization and calls the difference regularization has measured
# both at once.
#
# ### And the internal covariate shift?
#
# Ioffe and Szegedy named their paper after it: while the first layers learn, the distribution that reaches the later
# ones keeps shifting, and batch normalization would hold it still. Santurkar et al. (2018) put that to the test. They
# added random noise *after* batch normalization, with a new mean and a new variance at every step, so that the
# distributions shifted more than without any normalization. The networks trained just as well as with plain batch
# normalization. What they found instead is a smoother loss: along a gradient step, the loss and its gradient change less,
# so that larger steps can be trusted. It works; the name of the reason has changed.
#
# ## Training against inference
#
# At the end somebody shows the network a single image. It must be classified by what it shows and not by who is standing
# beside it, so the batch's mean and variance are out of the question. Batch normalization therefore leads two lives:
#
# | | normalizes by | and meanwhile |
# |---|---|---|
# | **training**, `model.train()` | $\mu$, $\sigma^2$ of the batch | keeps a running average of both |
# | **inference**, `model.eval()` | the running averages | changes nothing |
#
# After each training batch, the running averages take a step of size $\alpha$ (`momentum`, 0.1 unless you say otherwise)
# towards the batch's values:
#
# $$\bar\mu \leftarrow (1 - \alpha)\,\bar\mu + \alpha\,\mu \qquad\qquad
# \bar\sigma^2 \leftarrow (1 - \alpha)\,\bar\sigma^2 + \alpha\,\frac{m}{m-1}\,\sigma^2$$
#
# Two things in this formula trip up nearly everybody. First, it uses the *unbiased* variance, with $m - 1$: it is to
# estimate the variance of all images, while the batch is normalized by its own spread, with $m$. Second, PyTorch's
# `momentum` is the weight of the **new** value. In the optimizer, and in most other libraries, momentum is the weight of
# the old one.
#
# ### Running averages by hand
#
# A layer starts with $\bar\mu = 0$ and $\bar\sigma^2 = 1$. Our four numbers arrive, $\mu = 8$ and $\sigma^2 = 25$, with
# $\alpha = 0.1$.
#
# - $\bar\mu = 0.9 \cdot 0 + 0.1 \cdot 8 = 0.8$
# - $\bar\sigma^2 = 0.9 \cdot 1 + 0.1 \cdot \tfrac43 \cdot 25 = 0.9 + 3.33 = 4.23$
# - The same batch again: $\bar\mu = 0.9 \cdot 0.8 + 0.1 \cdot 8 = 1.52$. After $k$ batches, $8\,(1 - 0.9^k)$.
#
# The start is forgotten slowly: after 10 batches, $0.9^{10} = 35\,\%$ of it is left, after 44 less than one percent.

# %%
running_mean, running_var = 0.0, 1.0
for k in range(1, 45):
    running_mean = 0.9 * running_mean + 0.1 * mean.item()
    running_var = 0.9 * running_var + 0.1 * 4 / 3 * var.item()
    if k in (1, 2, 10, 44):
        print(f"after {k:2} batches: running mean {running_mean:5.2f}, running variance {running_var:5.2f}")

# %% [markdown]
# Now the layer. What is learned (`weight` is $\gamma$, `bias` is $\beta$) is an `nn.Parameter`; what is only tracked is
# registered with `register_buffer`, so that it is saved with the model and moves with it to the GPU. With
# `momentum=None`, batch $k$ is weighed with $1/k$, which makes the running values the plain average of all batches so far.


# %% exercise="BatchNorm"
class BatchNorm(nn.Module):
    """Batch normalization as a layer, for (N, C) and (N, C, H, W).

    Parameters weight (C,), ones at first, and bias (C,), zeros. Buffers running_mean (C,), zeros,
    running_var (C,), ones, and num_batches_tracked, 0; they keep no graph. momentum is the weight of
    the new batch, from 0 (the running values stay) to 1 (they are the batch's), or None: the plain
    average of all batches that num_batches_tracked counts.
    In training, one value per channel is refused with a ValueError; one image of more pixels is not.
    In eval mode nothing is refused, and nothing changes.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        ### BEGIN SOLUTION
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """x and the result: (N, C) or (N, C, H, W), of one dtype. x stays as it is."""
        ### BEGIN SOLUTION
        mean, variance = self.running_mean, self.running_var
        if self.training:
            count = x.numel() // x.shape[1]
            if count == 1:
                raise ValueError(
                    f"x must have more than one value per channel in training, got shape {tuple(x.shape)}"
                )
            axes = [0, 2, 3][: x.ndim - 1]
            mean, variance = x.mean(axes), x.var(axes, correction=0)
            self.num_batches_tracked += 1
            step = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean += step * (mean - self.running_mean)
                self.running_var += step * (variance * count / (count - 1) - self.running_var)
        shape = (1, -1, 1, 1)[: x.ndim]
        x_hat = (x - mean.view(shape)) / torch.sqrt(variance + self.eps).view(shape)
        return x_hat * self.weight.view(shape) + self.bias.view(shape)
        ### END SOLUTION


# %% [markdown]
# ### Two losses of one network
#
# Let us train a network with *your* layer. During the first 30 steps we take, at each of them, the loss on the same 150
# training images: once normalized by their own batch, as in training, and once by the running averages, as in
# inference. The weights are the same both times. We do it for two values of momentum; training itself takes no notice
# of it, for there the batch normalizes.


# %%
@torch.no_grad()
def answers(model: nn.Module, images: Tensor, training: bool) -> Tensor:
    """Logits (N, 10) in one of the two modes, from a copy, so that the model stays as it is."""
    return copy.deepcopy(model).train(training)(standardize(images))


def loss_in_mode(training: bool):
    some = mixed[:150]
    return lambda model: F.cross_entropy(
        answers(model, train.images[some], training).cpu(), train.labels[some]
    ).item()


recorded = {}
for momentum in (0.02, 0.1):
    torch.manual_seed(0)
    model = network(partial(BatchNorm, momentum=momentum))
    start = fit(
        model, train, steps=course.scaled(30, fast=3), task=standardized,
        generator=torch.Generator().manual_seed(0),
        watch=Watch(record={
            "by the batch": loss_in_mode(True),
            f"by running averages, momentum {momentum}": loss_in_mode(False),
        }),
    )  # fmt: skip
    recorded |= start.recorded

# %%
figures.show(
    figures.curves(
        recorded, "step", "loss of 150 images", title="the same weights, normalized in three ways"
    ),
    alt="Loss of 150 images over the first 30 training steps for the same weights. Normalized by the batch it falls. "
    "Normalized by running averages it lags behind: a little with momentum 0.1, far behind with momentum 0.02.",
)

# %% [markdown]
# The network is better than `.eval()` makes it look. The running averages still remember their start, mean 0 and
# variance 1, which has nothing to do with these images; and they average over weights that have changed since.
# Statistics that lag behind like this are called **stale**. Whoever validates after very few steps, with a small momentum
# or at a high learning rate, measures stale statistics and not the network.
#
# We go on training, and end with a few steps at a tenth of the learning rate. The weights then hardly move any more, and
# the running averages can catch up with them.

# %%
for steps, lr in ((course.scaled(90, fast=3), 0.05), (course.scaled(30, fast=2), 0.005)):
    fit(
        model, train, Validation(val, accuracy), steps=steps, lr=lr, task=standardized, watch=Watch(live=True)
    )
    print(
        f"loss normalized by the batch {loss_in_mode(True)(model):.3f}, "
        f"by running averages {loss_in_mode(False)(model):.3f}"
    )

# %% [markdown]
# ### The bug of forgetting `.eval()`
#
# One line is missing in a program that uses our trained network: `model.eval()`. Nothing crashes, nothing warns.

# %%
predict("one_class_a_batch")


# %%
@torch.no_grad()
def accuracy_without_eval(size: int, order: Tensor) -> float:
    twin = copy.deepcopy(model).train()
    right = [
        twin(standardize(val.images[part])).argmax(1).cpu() == val.labels[part] for part in order.split(size)
    ]
    return torch.cat(right).float().mean().item()


shuffled = torch.randperm(len(val), generator=torch.Generator().manual_seed(1))
by_class = val.labels.argsort(stable=True)
bars = {"with .eval()": accuracy(model, val, transform=standardize)}
for size, some_of in ((100, shuffled), (10, shuffled), (2, shuffled[:200]), (1, shuffled[:100])):
    bars[f"{size}, shuffled" if size > 1 else "1 at a time"] = accuracy_without_eval(size, some_of)
bars["one class\nat a time"] = accuracy_without_eval(len(val) // 10, by_class)

fig, axis = plt.subplots(figsize=(8, 2.9), layout="constrained")
drawn = axis.bar(
    list(bars),
    list(bars.values()),
    color=[figures.color(0)] + [figures.color(1)] * (len(bars) - 1),
    width=0.6,
)
axis.bar_label(drawn, [f"{value:.0%}" for value in bars.values()], padding=2)
axis.axhline(0.1, color="#555555", linestyle=":", linewidth=1.2)
axis.text(len(bars) - 0.55, 0.11, "guessing", color="#555555", fontsize=9)
axis.set(
    ylabel="validation accuracy",
    ylim=(0, 1),
    xlim=(-0.6, len(bars) + 0.1),
    title="one set of weights; orange: .eval() forgotten",
)
axis.grid(axis="x", visible=False)
figures.show(
    fig,
    alt="Bars of validation accuracy for the same weights: "
    + ", ".join(f"{k}: {v:.0%}" for k, v in bars.items()).replace("\n", " "),
)

# %% [markdown]
# That is what makes this bug so hard to find: **with large, shuffled batches there is next to nothing to see.** It
# shows with small batches, and it is devastating where images arrive in an order, as frames of a video do, tiles of one
# large photograph, or a folder of cats.
#
# An image that stands alone is not refused, by the way: it still has $H \cdot W$ values per channel. It is then
# normalized by itself. Only one value per channel, a batch of one behind a dense layer, leaves nothing to normalize, and
# that is when training stops with an error, usually at the ragged last batch of an epoch (`drop_last=True` is the cure).
#
# ### One image and its batch mates
#
# Here is the same bug from the point of view of one image. It is classified again and again, in training mode, in
# batches of growing size whose other members are drawn at random. Each dot is one batch, its height the probability
# that the network gives to the image's true class. In eval mode there is only one answer: the line.

# %%
sure = answers(model, val.images, training=False).softmax(1).cpu()
own = sure[torch.arange(len(val)), val.labels]
subject = int((own - 0.75).abs().argmin())
draw = torch.Generator().manual_seed(0)
sizes, draws = (1, 2, 4, 8, 16, 32, 64), course.scaled(20, fast=3)
dots, votes, twin = [], [], copy.deepcopy(model).train()
for size in sizes:
    group = torch.cat([torch.tensor([subject]), torch.zeros(size - 1, dtype=torch.long)])
    first = []
    for _ in range(draws):
        group[1:] = torch.randint(len(val), (size - 1,), generator=draw)
        with torch.no_grad():
            first.append(twin(standardize(val.images[group]))[0].softmax(0).cpu())
    dots.append(torch.stack(first)[:, val.labels[subject]])
    votes.append(len({int(p.argmax()) for p in first}))

fig, axes = plt.subplots(1, 2, figsize=(9, 2.9), layout="constrained", width_ratios=(1, 3.4))
axes[0].imshow(val.images[subject].permute(1, 2, 0))
axes[0].set_title(val.classes[val.labels[subject]])
axes[0].axis("off")
for place, values in enumerate(dots):
    jitter = torch.linspace(-0.15, 0.15, len(values))
    axes[1].plot(place + jitter, values, "o", color=figures.color(1), markersize=4, alpha=0.8)
axes[1].axhline(own[subject], color=figures.color(0), label="eval mode")
axes[1].set_xticks(range(len(sizes)), sizes)
axes[1].set(xlabel="images in the batch", ylabel="probability of the true class", ylim=(-0.03, 1.03))
axes[1].legend(loc="lower right")
figures.show(
    fig,
    alt=f"Left, one validation image ({val.classes[val.labels[subject]]}). Right, the probability of its true class in "
    "training mode for random batches of 1 to 64 images: widely scattered for small batches, less so for large ones; "
    "a line marks the one value of eval mode.",
)
print("different classes it was taken for:", dict(zip(sizes, votes, strict=True)))

# %% [markdown]
# ### Validation that changes the model
#
# A forgotten `.eval()` does more than blur the answers. In training mode, each forward pass moves the running
# averages, also under `torch.no_grad()`, for buffers are no parameters and need no gradient. So the *measurement changes
# the model*, and what it learns in this way comes from the validation set: a leak, as in lecture 1. How much it hurts
# depends on how different the classes look; that the model has changed does not.

# %%
spoiled = copy.deepcopy(model).train()
with torch.no_grad():
    for part in by_class.split(len(val) // 10):
        spoiled(standardize(val.images[part]))  # "only validating"
moved = max(
    (a - b).abs().max().item()
    for a, b in zip(spoiled.buffers(), model.buffers(), strict=True)
    if a.is_floating_point()
)
print(f"largest change of a running statistic: {moved:.2f}; of a weight: 0")
print(f"accuracy in eval mode, before: {accuracy(model, val, transform=standardize):.1%}")
print(f"                       after:  {accuracy(spoiled, val, transform=standardize):.1%}")

# %% [markdown]
# ## The backward pass
#
# Autograd has done this for us up to here. By hand it is four lines, and they show something that the forward pass
# hides. Let $g_i = \partial L/\partial y_i$ come from above. The two parameters are easy, since every value of the
# channel used the same $\gamma$ and $\beta$:
#
# $$\frac{\partial L}{\partial \gamma} = \sum_i g_i\,\hat x_i \qquad\qquad \frac{\partial L}{\partial \beta} = \sum_i g_i$$
#
# The input is harder: $x_i$ acts on $y_i$ directly, and on *all* the outputs through $\mu$ and through $\sigma$. With
# $\partial\mu/\partial x_i = 1/m$ and $\partial\sigma/\partial x_i = \hat x_i/m$ (take $\varepsilon = 0$ and try it),
#
# $$\frac{\partial \hat x_j}{\partial x_i} = \frac1\sigma\Bigl(\underbrace{[i = j]}_{\text{directly}}
# - \underbrace{\tfrac1m}_{\text{through }\mu} - \underbrace{\tfrac1m\,\hat x_i\,\hat x_j}_{\text{through }\sigma}\Bigr),$$
#
# and, summed over all outputs $j$,
#
# $$\frac{\partial L}{\partial x_i} = \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}}
# \Bigl(g_i - \frac1m\sum_j g_j - \hat x_i\,\frac1m\sum_j g_j\,\hat x_j\Bigr).$$
#
# Read it as geometry: from $g$, its mean is taken away, and its component along $\hat x$. What is left can neither shift
# the channel nor stretch it. It would be of no use: the forward pass undoes any shift and any stretch.
#
# ### Four numbers by hand
#
# Again $x = (1, 7, 9, 15)$, $\sigma = 5$, $\hat x = (-1.4, -0.2, 0.2, 1.4)$, $\gamma = 1$, $\varepsilon = 0$. The loss is
# the first output alone: $g = (1, 0, 0, 0)$.
#
# - The mean of $g$ is $0.25$; the mean of $g\,\hat x$ is $-1.4/4 = -0.35$.
# - First entry: $\tfrac15\,(1 - 0.25 - (-1.4)(-0.35)) = \tfrac15 \cdot 0.26 = 0.052$
# - Second: $\tfrac15\,(0 - 0.25 - (-0.2)(-0.35)) = \tfrac15 \cdot (-0.32) = -0.064$
# - Third and fourth, in the same way: $-0.036$ and $0.048$.
#
# Check: the four sum to $0$, and so do their products with $\hat x$. Note the last one: the loss looks at the first
# value only, and yet the fourth, another image, receives nearly as much gradient as the first.


# %%
def first_output(x: Tensor) -> Tensor:
    return (x - x.mean())[0] / x.var(correction=0).sqrt()


nudge = 1e-3 * torch.eye(4, dtype=torch.double)
measured_slope = torch.stack([(first_output(x + d) - first_output(x - d)) / 2e-3 for d in nudge])
print("by finite differences:", [round(v, 4) for v in measured_slope.tolist()])
print(
    f"their sum: {measured_slope.sum().abs():.4f}, and against x_hat: {(measured_slope * x_hat).sum().abs():.4f}"
)

# %% [markdown]
# Write it for both shapes of input. `x` is what went into the forward pass; compute from it again what you need.


# %% exercise="batchnorm_backward"
def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of a loss in x, gamma and beta, from its gradient in y. Autograd may not be used.

    grad_y, x: (N, C) or (N, C, H, W), with any N. gamma: (C,). eps as in the forward pass, 0 or more.
    Returns grad_x of the shape of x, grad_gamma (C,), grad_beta (C,), in the dtype of x.
    """
    ### BEGIN SOLUTION
    axes = [0, 2, 3][: x.ndim - 1]
    shape = (1, -1, 1, 1)[: x.ndim]

    def average(values: Tensor) -> Tensor:
        return values.mean(axes, keepdim=True)

    deviation = x - average(x)
    sigma = torch.sqrt(average(deviation**2) + eps)
    x_hat = deviation / sigma
    projected = grad_y - average(grad_y) - x_hat * average(grad_y * x_hat)
    return gamma.view(shape) * projected / sigma, (grad_y * x_hat).sum(axes), grad_y.sum(axes)
    ### END SOLUTION


# %% [markdown]
# ### Who feels the loss of one image?

# %%
predict("loss_of_one_image")

# %%
six = standardize(train.images[mixed[:6]]).mean(1, keepdim=True).cpu()
six = six[six.mean((1, 2, 3)).argsort(descending=True)]  # the brightest image first
grad_y = torch.zeros_like(six)
grad_y[0] = 1
grad_x, _, _ = batchnorm_backward(grad_y, six, torch.ones(1))

fig, axes = plt.subplots(2, 6, figsize=(9, 3.1), layout="constrained")
reach = grad_x[1:].abs().max().item()
for column in range(6):
    axes[0, column].imshow(six[column, 0], vmin=six.min(), vmax=six.max())
    drawn = axes[1, column].imshow(grad_x[column, 0], cmap="PuOr", vmin=-reach, vmax=reach)
    axes[0, column].set_title("in the loss" if column == 0 else "not in the loss", fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
axes[0, 0].set_ylabel("image")
axes[1, 0].set_ylabel("gradient")
fig.colorbar(drawn, ax=axes, shrink=0.8, extend="max")
figures.show(
    fig,
    alt="Top, six gray images; bottom, the gradient of a loss that contains only the first. The first image's gradient is "
    "positive and off the scale; the other five have gradients too, mostly negative, in which the images can be made out.",
)
print(f"sum of the gradient over the batch: {grad_x.sum().abs():.5f}")
print(f"mean gradient in the first image {grad_x[0].mean():+.3f}, in the others {grad_x[1:].mean():+.3f}")

# %% [markdown]
# The images themselves shine through in the gradient of the other five: that is the third term of the formula,
# $\hat x_i \cdot \tfrac1m\sum_j g_j\,\hat x_j$. In a network with batch normalization there is no such thing as the
# gradient of one image; there is only the gradient of a batch.
#
# ## Folding it into the convolution
#
# In inference, the four numbers of a channel are constants. Then batch normalization is a line, and a convolution
# followed by a line is another convolution:
#
# $$\gamma\,\frac{(W * x + b) - \bar\mu}{\sqrt{\bar\sigma^2 + \varepsilon}} + \beta
# \;=\; \underbrace{s\,W}_{W'} * x + \underbrace{s\,(b - \bar\mu) + \beta}_{b'}
# \qquad\text{with}\quad s = \frac{\gamma}{\sqrt{\bar\sigma^2 + \varepsilon}}$$
#
# There is one $s$ for each *output* channel: it multiplies the whole filter that produces this channel.
#
# ### One pixel by hand
#
# A 1×1 convolution on one channel, $W = 2$, $b = 1$. Running averages $\bar\mu = 8$, $\bar\sigma^2 = 25$; $\gamma = 10$,
# $\beta = 1$, $\varepsilon = 0$. The input is $x = 3$.
#
# - In two steps: $2 \cdot 3 + 1 = 7$, then $10 \cdot (7 - 8)/5 + 1 = -1$.
# - Folded: $s = 10/5 = 2$, $W' = 4$, $b' = 2 \cdot (1 - 8) + 1 = -13$. And $4 \cdot 3 - 13 = -1$.

# %%
W, b, running_mean, running_var, gamma, beta = 2, 1, 8, 25, 10, 1
s = gamma / running_var**0.5
for pixel in (3, -1, 0.5):
    two_steps = gamma * (W * pixel + b - running_mean) / running_var**0.5 + beta
    print(
        f"x = {pixel:4}   in two steps {two_steps:6.1f}   folded {s * W * pixel + s * (b - running_mean) + beta:6.1f}"
    )

# %% [markdown]
# Fold for real layers. `conv.bias` may be `None`, and so may `bn.weight` and `bn.bias` (`affine=False`). The result is a
# new `nn.Conv2d` that always has a bias; the two layers you were given stay as they are.


# %% exercise="fold_batchnorm"
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with the output of bn(conv(x)) in eval mode.

    Filters of shape (K, C, h, w) keep it; bn has K features. Keeps stride, padding, padding mode,
    dilation, groups, dtype and training flag of conv. conv and bn, in whatever modes they are, stay
    as they are.
    """
    ### BEGIN SOLUTION
    gamma = 1 if bn.weight is None else bn.weight
    beta = 0 if bn.bias is None else bn.bias
    b = 0 if conv.bias is None else conv.bias
    s = gamma / torch.sqrt(bn.running_var + bn.eps)
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
        conv.groups, padding_mode=conv.padding_mode,
    ).to(conv.weight)  # fmt: skip
    with torch.no_grad():
        folded.weight.copy_(conv.weight * s.view(-1, 1, 1, 1))
        folded.bias.copy_(s * (b - bn.running_mean) + beta)
    return folded.train(conv.training)
    ### END SOLUTION


# %% [markdown]
# ### A trained network without batch normalization
#
# Now fold your trained network: all its batch normalizations disappear, and with them their state. Then the clock. For
# a measurement of some weight, we take eight convolutions of 32 channels, and time three versions in turn, so that a
# busy moment of the machine meets them all: with batch normalization in eval mode, folded, and a network that never had
# any.


# %%
def fold_all(model: nn.Sequential) -> nn.Sequential:
    """The network with every (convolution, batch norm) pair made one convolution."""
    layers = list(model)
    kept = []
    for before, layer in zip([None, *layers], layers, strict=False):
        if isinstance(layer, BatchNorm | nn.BatchNorm2d):
            kept[-1] = fold_batchnorm(before, layer)
        else:
            kept.append(layer)
    return nn.Sequential(*kept)


folded = fold_all(model.eval())
difference = (answers(model, val.images, False) - answers(folded, val.images, False)).abs().max()
print(f"layers: {len(model)} before, {len(folded)} after")
print(f"largest difference between the logits of {len(val)} images: {difference:.1e}")
print(
    f"accuracy: {accuracy(model, val, transform=standardize):.1%} before, {accuracy(folded, val, transform=standardize):.1%} after"
)

# %%
predict("folded_network")


# %%
def stack(norm: bool) -> nn.Sequential:
    layers = []
    for _ in range(8):
        layers += [nn.Conv2d(32, 32, 3, padding=1), *([nn.BatchNorm2d(32)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers).eval().to(course.device)


@torch.inference_mode()
def seconds(network: nn.Module, x: Tensor) -> float:
    begin = time.perf_counter()
    network(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


with_norm = stack(norm=True)
versions = {"never had any": stack(norm=False), "with batch norm": with_norm, "folded": fold_all(with_norm)}
x = torch.randn(8, 32, 32, 32).to(course.device)
rounds = torch.tensor(
    [[seconds(version, x) for version in versions.values()] for _ in range(course.scaled(25, fast=4))]
)
ratios = (
    (rounds / rounds[:, :1])[2:].median(0).values
)  # each round against its own first entry; two to warm up
for name, duration, ratio in zip(
    versions, rounds[2:].median(0).values.tolist(), ratios.tolist(), strict=True
):
    print(f"{name:16} {1000 * duration:6.1f} ms    {ratio:5.2f} times the first")

# %% [markdown]
# Folding does not make the convolutions faster. It takes the batch normalization away, and leaves **zero overhead**: the
# ratio of the last line is 1, up to what the clock can tell. How much the middle line costs depends on the machine and on
# how much memory the maps take, for batch normalization computes little and reads and writes every value.
#
# Fold when training is over. A folded network can be trained on, but it has lost what made it easy to train, and to
# fold in training mode is wrong from the start: there the statistics are not constants.
#
# ## Batch, layer, instance and group norm
#
# Everything so far came from averaging over the batch: the noise, the two modes, the neighbors, the batch that must not
# be too small. The formula does not insist on it. All four methods below are
#
# $$y = \gamma_c\,\frac{x - \mu_S}{\sqrt{\sigma_S^2 + \varepsilon}} + \beta_c,$$
#
# and they differ in one thing: the set $S$ of values that share a mean and a variance. Lay a tensor `(N, C, H, W)` out
# as a block, images along one edge, channels along the second, pixels along the third, and each method is a way to cut
# it.

# %%
from matplotlib.collections import PolyCollection


def block(axis, kind: str, images: int = 4, channels: int = 6, rows: int = 4, groups: int = 2) -> None:
    """Draw a block of N images, C channels and H·W pixels, with one set of values that share statistics in color."""

    def shared(n: int, c: int) -> bool:
        own_image = n == images - 1
        return {
            "batch": c == channels - 1,
            "layer": own_image,
            "instance": own_image and c == channels - 1,
            "group": own_image and c >= channels - channels // groups,
        }[kind]

    def flat(c: float, n: float, r: float) -> tuple[float, float]:
        return 0.866 * (n - c), r - 0.5 * (n + c)  # images run down to the right, channels down to the left

    faces, paint = [], []

    def face(corners: list[tuple[int, int, int]], inside: bool, light: float) -> None:
        faces.append([flat(*corner) for corner in corners])
        paint.append([light * level for level in ((0, 0.447, 0.698) if inside else (1, 1, 1))])

    for c in range(channels):
        for n in range(images):
            face([(c, n, rows), (c + 1, n, rows), (c + 1, n + 1, rows), (c, n + 1, rows)], shared(n, c), 1.0)
    for r in range(rows):
        for n in range(images):
            inside = shared(n, channels - 1)
            face(
                [(channels, n, r), (channels, n + 1, r), (channels, n + 1, r + 1), (channels, n, r + 1)],
                inside,
                0.9,
            )
        for c in range(channels):
            inside = shared(images - 1, c)
            face(
                [(c, images, r), (c + 1, images, r), (c + 1, images, r + 1), (c, images, r + 1)], inside, 0.8
            )
    axis.add_collection(PolyCollection(faces, facecolors=paint, edgecolors="#555555", linewidths=0.7))
    axis.autoscale_view()
    axis.text(
        *flat(channels + 1, images / 2, -0.2), "images", rotation=-30, ha="center", va="center", fontsize=8
    )
    axis.text(
        *flat(channels / 2, images + 1, -0.2), "channels", rotation=30, ha="center", va="center", fontsize=8
    )
    axis.text(
        *flat(channels + 0.6, -0.2, rows / 2), "pixels", rotation=90, ha="center", va="center", fontsize=8
    )
    axis.set_aspect("equal")
    axis.axis("off")


fig, axes = plt.subplots(1, 4, figsize=(11, 3.6), layout="constrained")
titles = {
    "batch": "batch norm\none set per channel: C",
    "layer": "layer norm\none set per image: N",
    "instance": "instance norm\nper image and channel: N·C",
    "group": "group norm\nper image and group: N·G",
}
for axis, (kind, title) in zip(axes, titles.items(), strict=True):
    block(axis, kind)
    axis.set_title(title, fontsize=10)
figures.show(
    fig,
    alt="Four drawings of one block of images by channels by pixels; blue are the values that share one mean and one "
    "variance. Batch norm: one channel of all images. Layer norm: all channels of one image. Instance norm: one channel "
    "of one image. Group norm: half of the channels of one image. In all four, all pixels belong to the set.",
)

# %% [markdown]
# Only the blue slab of batch norm runs through all the images. The other three stay inside one image: they need no
# running averages, have no second mode, and do not care how large the batch is.
#
# ### Eight numbers by hand
#
# Two images of two channels with two pixels each:
#
# | | channel 0 | channel 1 |
# |---|---|---|
# | image 0 | 1, 7 | 9, 15 |
# | image 1 | 3, 5 | 11, 13 |
#
# - **Batch norm** averages down a column: $(1 + 7 + 3 + 5)/4 = 4$ and $(9 + 15 + 11 + 13)/4 = 12$.
# - **Layer norm** averages along a row: $(1 + 7 + 9 + 15)/4 = 8$ and $(3 + 5 + 11 + 13)/4 = 8$.
# - **Instance norm** takes each field of the table by itself: $4, 12, 4, 12$.
# - **Group norm** with one group is layer norm; with two, as many as there are channels, it is instance norm.

# %%
x = torch.tensor(
    [[[[1.0, 7.0]], [[9.0, 15.0]]], [[[3.0, 5.0]], [[11.0, 13.0]]]]
)  # (N, C, H, W) = (2, 2, 1, 2)
for name, axes in {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}.items():
    means, variances = x.mean(axes), x.var(axes, correction=0)
    print(
        f"{name:8} norm averages over axes {axes}: means {means.flatten().tolist()}, variances {variances.flatten().tolist()}"
    )

# %% [markdown]
# Write group norm, and you have three of the four. Neighboring channels form a group: with $C = 6$ and two groups,
# channels 0, 1, 2 and channels 3, 4, 5. A number of groups that does not divide $C$ is refused with a `ValueError`.
# $\gamma$ and $\beta$ still have one entry per channel.


# %% exercise="group_norm"
def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize each image over groups of neighboring channels, then scale and shift each channel.

    x: (N, C, H, W). gamma, beta: (C,). eps, 0 or more, as in batch norm. Returns y (N, C, H, W) in the
    dtype of x. C not divisible by num_groups is refused with a ValueError.
    """
    ### BEGIN SOLUTION
    if x.shape[1] % num_groups != 0:
        raise ValueError(f"num_groups must divide the number of channels, {x.shape[1]}, got {num_groups}")
    grouped = x.reshape(x.shape[0], num_groups, -1)
    center = grouped.mean(-1, keepdim=True)
    spread = torch.sqrt(grouped.var(-1, keepdim=True, correction=0) + eps)
    x_hat = ((grouped - center) / spread).reshape(x.shape)
    return x_hat * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
    ### END SOLUTION


# %% [markdown]
# ### What each of them removes from a photograph
#
# Whatever the values of a set have in common, normalizing takes out. Here the "batch" is one photograph three times: as
# it is, too dark, and with a warm tint. The channels are red, green and blue.

# %%
predict("three_pictures")

# %%
photo = photographs.load("cat")[:, :300, 75:375].float() / 255
variants = torch.stack([photo, 0.4 * photo, photo * torch.tensor([1.0, 0.7, 0.35]).view(3, 1, 1)])
one, zero = torch.ones(3), torch.zeros(3)
results = {
    "input": variants,
    "batch norm": batchnorm_forward(variants, one, zero) * 0.2 + 0.5,
    "layer norm": group_norm(variants, 1, one, zero) * 0.2 + 0.5,
    "instance norm": group_norm(variants, 3, one, zero) * 0.2 + 0.5,
}
fig, axes = plt.subplots(3, 4, figsize=(8, 6.1), layout="constrained")
for column, (name, pictures) in enumerate(results.items()):
    axes[0, column].set_title(name)
    for row in range(3):
        axes[row, column].imshow(pictures[row].clamp(0, 1).permute(1, 2, 0))
        axes[row, column].set(xticks=[], yticks=[])
        axes[row, column].grid(False)
for row, name in enumerate(("as it is", "too dark", "warm tint")):
    axes[row, 0].set_ylabel(name)
figures.show(
    fig,
    alt="A photograph of a cat: as it is, too dark, with a warm tint; and what three normalizations make of it. Batch norm "
    "keeps the differences between the three. Layer norm makes the dark one equal to the original and keeps the tint. "
    "Instance norm gives three equal pictures.",
)
for name, pictures in results.items():
    print(
        f"{name:14} largest difference between the original and the dark one: {(pictures[0] - pictures[1]).abs().max():.3f}"
    )

# %% [markdown]
# Instance norm was made for exactly this (Ulyanov et al. 2016): contrast and tint are part of an image's style, and a
# network that draws in another style has no use for them. A network that tells day from night does. Which normalization
# is right is a question of what may be thrown away.
#
# ### Two images a batch
#
# High-resolution images fill the memory, and segmentation networks are often trained with two images a batch, or one.
# Batch norm then estimates its statistics from next to nothing. We train the same network on the same number of images:
# in batches of 32 and in batches of 2, with batch norm and with *your* group norm. The learning rate is scaled with the
# batch size, as usual, and falls to a tenth for the last quarter. The training loss is the mean over that quarter.


# %%
class GroupNorm(nn.Module):
    """Your group_norm as a layer of four groups."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(num_features)),
            nn.Parameter(torch.zeros(num_features)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, 4, self.weight, self.bias)


@torch.no_grad()
def accuracy_in_mode(model: nn.Module, size: int, training: bool) -> float:
    twin, order = copy.deepcopy(model).train(training), shuffled[:300]
    given = torch.cat([twin(standardize(val.images[part])).argmax(1).cpu() for part in order.split(size)])
    return (given == val.labels[order]).float().mean().item()


print(f"{'':24} {'training loss':>14} {'accuracy, eval mode':>21} {'training mode':>15}")
images_seen = course.scaled(1400, fast=128)
for name, norm in {"batch norm": nn.BatchNorm2d, "group norm": GroupNorm}.items():
    for size in (32, 2):
        torch.manual_seed(0)
        small = network(norm)
        for share, lr in ((0.75, 0.1), (0.25, 0.01)):
            steps = int(share * images_seen / size)
            run = fit(small, train, steps=steps, batch_size=size, lr=lr * size / 32, task=standardized)
        loss = sum(run.loss) / len(run.loss)
        modes = [accuracy_in_mode(small, size, training) for training in (False, True)]
        print(f"{name}, {size:2} a batch {loss:16.2f} {modes[0]:21.1%} {modes[1]:15.1%}")

# %% [markdown]
# Read the training loss first. From 32 to 2 images a batch, batch norm learns *worse*, though it takes sixteen times as
# many steps; group norm stays about where it was. That claim is **strong**.
#
# Then the two accuracies of each line. Group norm knows no modes, they agree exactly. Batch norm's agree with 32 images,
# and drift apart with two: in training mode its statistics are mostly noise, and eval mode uses averages by which no
# training batch has ever been normalized.
#
# What our short runs do *not* show is that group norm is more accurate. With two images a batch, once the low learning
# rate had steadied its averages, batch norm in eval mode came out about as well. Wu and He (2018) train for a hundred
# epochs on ImageNet: there, group norm is slightly behind with 32 images per GPU and ten points ahead with two.

# %% [markdown] written="when_batchnorm_lies" points=3
# ### Written question: when batch norm lies
#
# A colleague trains a segmentation network with batch normalization. The crops are large, so only two fit into a batch.
# On the validation images, the trained network reaches a pixel accuracy of 0.81 when they are classified two at a time,
# in shuffled order, in **training** mode, and 0.52 in **evaluation** mode. "Evaluation mode is broken," says the
# colleague, and ships the program without `.eval()`.
#
# 1. The weights are the same both times. What differs, and why does it differ so much *here*?
# 2. Name two things the shipped program will do that its users won't expect.
# 3. Propose two repairs, at least one of which needs no new training, and say how you would check that each has worked.
#
# ### BEGIN SOLUTION
# 1. *(1 point)* The statistics differ: in training mode those of the two images at hand, in evaluation mode the running
#    averages. The network has only ever learned with statistics of two images, which scatter widely and depend on the
#    image itself; the mean of many such noisy statistics is not what any of its layers has seen. The last steps count
#    most (with `momentum=0.1` about the last ten batches, here twenty images), so the averages are noisy, too, and
#    stale if the weights still moved.
# 2. *(1 point, half for each)* The answer for an image depends on which image is processed with it, and so is not
#    repeatable. Images in an order (video frames, tiles of one photograph) or a single image give other results than
#    the 0.81 measured on shuffled pairs. The running averages and so the saved model change with use. A batch with one
#    value per channel stops with an error.
# 3. *(1 point, half for each, with its check)* Without training: freeze the weights and estimate the statistics again, as
#    the plain average over many training batches (`momentum=None`, reset, one pass in training mode without
#    validation images); check that the accuracy in evaluation mode approaches that in training mode. With training: group
#    norm in place of batch norm, or statistics over several devices (synchronized batch norm), or frozen batch norm from
#    a pretrained network; check that both modes give the same accuracy (group norm: exactly the same outputs), and that
#    the accuracy of an image processed alone is the same.
# ### END SOLUTION

# %% [markdown]
# ## Bad initialization and high learning rates
#
# Now the two claims that need training. Eight convolutions, three initializations (He's, a third of it, three times
# it), three learning rates, each with and without batch normalization: eighteen short trainings, the same batches for
# all. A curve that ends in a cross has left the numbers that a computer can hold.

# %%
predict("nine_panels")


# %%
def training_curve(norm, gain: float, lr: float, steps: int) -> list[float]:
    """Loss at each step; NaN once it has left the range of numbers."""
    torch.manual_seed(0)
    model = network(norm, gain, width=8, extra=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for part in mixed.repeat(9)[: 32 * steps].split(32):
        loss = F.cross_entropy(model(standardize(train.images[part])), train.labels[part].to(course.device))
        losses.append(loss.item())
        if not loss.isfinite() or loss > 1e6:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


gains, rates = (1 / 3, 1.0, 3.0), (0.01, 0.1, 0.5)
sweep = {}
for gain in gains:
    for lr in rates:
        for norm in (None, nn.BatchNorm2d):
            sweep[gain, lr, norm is not None] = training_curve(
                norm, gain, lr, steps=course.scaled(42, fast=3)
            )
            print(f"\r{len(sweep)} of 18 trainings", end="")


# %%
def smooth(values: list[float]) -> list[float]:
    """Mean of each value and the up to six before it."""
    return [
        sum(values[max(0, i - 6) : i + 1]) / len(values[max(0, i - 6) : i + 1]) for i in range(len(values))
    ]


lowest = min(min(smooth(curve)) for curve in sweep.values()) - 0.05
fig, axes = plt.subplots(3, 3, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
for row, gain in enumerate(gains):
    for column, lr in enumerate(rates):
        axis = axes[row, column]
        axis.axhline(2.303, color="#555555", linestyle=":", linewidth=1.2)
        for norm, color in ((False, figures.COLORS["vermilion"]), (True, figures.COLORS["blue"])):
            curve = smooth(sweep[gain, lr, norm])
            label = "with batch norm" if norm else "without"
            axis.plot(curve, "-" if norm else "--", color=color, label=label)
            if len(curve) < len(sweep[gain, lr, True]):
                axis.plot(len(curve) - 1, 2.303, "X", color=color, markersize=10, clip_on=False)
        axis.set(ylim=(lowest, 2.303 + 0.5 * (2.303 - lowest)))
        axis.set_title(f"gain {gain:.2g}, learning rate {lr:g}", fontsize=10)
for axis in axes[-1]:
    axis.set_xlabel("step")
for axis in axes[:, 0]:
    axis.set_ylabel("training loss")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
figures.show(
    fig,
    alt="Nine panels of training loss over steps, for three initial gains and three learning rates, with and without "
    "batch norm. With batch norm the loss falls in nearly all of them. Without it, it stays at guessing for a small gain, "
    "and breaks off, marked by a cross, for a large one.",
)
print("mean loss of the last ten steps (guessing: 2.30)")
print(f"{'gain':>6} {'rate':>6} {'without':>10} {'with':>8}")
for gain in gains:
    for lr in rates:
        ends = []
        for norm in (False, True):
            tail = sweep[gain, lr, norm]
            full = len(tail) == len(sweep[gains[0], rates[0], True])
            ends.append(f"{sum(tail[-10:]) / len(tail[-10:]):.2f}" if full else "diverged")
        print(f"{gain:6.2g} {lr:6g} {ends[0]:>10} {ends[1]:>8}")

# %% [markdown]
# **Bad initialization: the claim is strong.** Without batch normalization, the top row stands still, since an eightfold
# product of thirds lets nothing through, and the bottom row is off the scale at once. With it, the loss falls for gains
# that lie a factor of nine apart.
#
# **High learning rates: strong, too.** On the right, at a learning rate of 0.5, the networks without batch normalization
# have diverged or never moved; the ones with it learn. The mechanism is the one you measured above: a step too large
# makes the weights large, and large weights have small gradients.
#
# **Where it is weak.** Look at gain 1 and learning rate 0.01, where initialization and learning rate suit the network:
# there, batch normalization gains next to nothing. And it does not make the initialization
# irrelevant. Compare the left column from top to bottom: the *output* does not depend on the gain $a$, but the gradient
# is $1/a$ times as large while the weights are $a$ times as large. So one step turns the weights by $1/a^2$ as much, and a
# gain of 3 with learning rate 0.01 crawls, $9^2 = 81$ times slower than a gain of ⅓. Batch normalization turns a
# question of whether a network learns into one of how fast.
#
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | Good in training, poor as soon as `.eval()` is called | statistics of small batches, or stale ones: validated after few steps, momentum too small, weights loaded without their buffers |
# | The same image gets another answer each time | `.eval()` forgotten |
# | Accuracy collapses on sorted data or on video | `.eval()` forgotten: each batch loses what its images have in common |
# | Validating more often changes the result | validation in training mode moves the running averages |
# | Training stops at the last batch of an epoch | one value per channel in a ragged batch: `drop_last=True` |
# | A fine-tuned network with frozen weights still drifts | `requires_grad=False` does not stop the buffers: call `.eval()` on those layers, again after each `model.train()` |
# | Outputs a few percent off after a hand-written layer is swapped in | biased and unbiased variance mixed up, or `momentum` the other way round |
# | All wrong after folding | folded a layer in training mode, scaled the input axis instead of the output axis, or left the bias out of the scaling |
#
# ## Summary
#
# - Per channel: subtract the mean, divide by $\sqrt{\sigma^2 + \varepsilon}$, multiply by $\gamma$, add $\beta$. In
#   convolutional layers the mean runs over images *and* pixels.
# - $\operatorname{BN}(aWh) = \operatorname{BN}(Wh)$: the scale of the weights no longer matters, neither at the start nor
#   when a large learning rate has blown them up.
# - In training, an image's output and gradient depend on the whole batch; in inference, on running averages. `.eval()` is
#   the switch between the two.
# - In inference it is a line per channel and folds into the convolution before it, at no cost at all.
# - Layer, instance and group norm are the same formula over other axes. They need no batch; choose them where the batch
#   is small.
#
# ## Where the papers differ from us
#
# - **Ioffe and Szegedy (2015)** compute the inference statistics after training, as averages over many batches, with
#   $m/(m-1)$ on the variance. Moving averages, which they mention for following the accuracy during training, are what
#   libraries do. They place the layer before the nonlinearity, as we did; placing it behind is common, too.
# - **Momentum.** PyTorch and this course: the weight of the new value, 0.1. Keras and most papers: the weight of the old
#   one, 0.99 or 0.9. Keras also adds $10^{-3}$ instead of $10^{-5}$ to the variance.
# - **Ba, Kiros and Hinton (2016)** define layer norm for dense and recurrent layers, over the features of one sample. For
#   images, we follow Wu and He and average over channels and pixels. In transformers and ConvNeXt, layer norm averages
#   over the channels of each position by itself.
# - **Ulyanov, Vedaldi and Lempitsky (2016)** use instance norm in training and at test time alike. PyTorch's
#   `nn.InstanceNorm2d` has no $\gamma$ and $\beta$ unless asked for.
# - **Wu and He (2018)** use 32 groups in networks with up to 2048 channels. Our networks have few channels, so we took
#   four.
# - **Santurkar et al. (2018)** contradict the first paper's explanation, not its results.
#
# ## Next
#
# In lecture 3, *visualization*, we look into a trained network, filters first. It will be in eval mode, and now you know
# why. Batch normalization itself comes back wherever a network of this course is trained.

# %%
progress()
