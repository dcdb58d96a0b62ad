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
# # Preprocessing
#
# **Where the pixels lie and how widely they scatter decides how far a gradient step gets: two numbers per channel put
# that right, if they come from the training set and never leave the model.**
#
# When you are done, you can
#
# - say what the origin and the scale of the input do to a gradient step, and put a number on it;
# - compute a mean image, channel statistics, and both for a data set that does not fit in memory;
# - whiten images, and say why convolutional networks seldom need it;
# - store statistics with a model, so that nobody has to remember them;
# - find a leak from the validation set by its effect, and close it.
#
# It takes about 120 minutes on a laptop, exercises included; all cells together run for about half a minute. You should
# know tensors in PyTorch, and what a gradient step is.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("01_preprocessing")
predict = coursekit.notebook.predict

import io

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import small_images
from coursekit.metrics import accuracy
from coursekit.training import Task, Validation, Watch, fit

# %% [markdown]
# The images are small, 32×32 pixels in ten classes: CIFAR-10 where it lies on this machine, otherwise patches cut from
# photographs. They come as bytes, from 0 to 255. Dividing by 255 is no preprocessing that depends on data, so we do it
# once, here.

# %%
torch.set_num_threads(1)  # for networks as small as these, sharing the work out takes longer than doing it

train = small_images("train", per_class=course.scaled(100, fast=20))
val = small_images("val", per_class=course.scaled(50, fast=10))
pixels, val_pixels = train.images / 255, val.images / 255  # (N, 3, 32, 32), from 0 to 1

first_of_each = [int((train.labels == label).nonzero()[0]) for label in range(10)]
figures.show(
    figures.grid(
        train.images[first_of_each], [train.classes[label] for label in range(10)], columns=10, cell=0.95
    ),
    alt=f"One image of each of the ten classes of {train.name}: {', '.join(train.classes)}.",
)
print(f"{train.name}: {len(train)} images to train on, {len(val)} to validate")
print(f"all pixels: mean {pixels.mean():.2f}, standard deviation {pixels.std(correction=0):.2f}")

# %% [markdown]
# ## What a gradient step sees
#
# One neuron, one input, one weight, one bias, squared loss. It is the smallest model with a gradient, and it shows all
# there is to show:
#
# $$L(w, b) = \frac1N \sum_{i=1}^N (w\,x_i + b - y_i)^2$$
#
# The loss is a bowl over the plane of $w$ and $b$. Its shape does not depend on the targets $y$ at all, only on the
# inputs. Half its second derivative is
#
# $$A = \begin{pmatrix} \overline{x^2} & \bar x \\ \bar x & 1 \end{pmatrix},$$
#
# where a bar means the average over the data. The eigenvalues of $A$ say how steep the bowl is, along its steepest and
# along its flattest direction. A gradient step of rate $\eta$ multiplies the error along a direction of eigenvalue
# $\lambda$ by $1 - 2\eta\lambda$. So $\eta$ must stay below $1/\lambda_{\max}$, or the error along the steepest direction
# grows; and then the error along the flattest one falls only by about $\lambda_{\min}/\lambda_{\max}$ a step. The ratio
# $\kappa = \lambda_{\max}/\lambda_{\min}$, the **condition number**, is about the number of steps you pay.
#
# ### Two numbers by hand
#
# There are two samples, $x = 9$ and $x = 11$. So $\bar x = 10$ and $\overline{x^2} = (81 + 121)/2 = 101$.
#
# - As they are: $A = \begin{pmatrix} 101 & 10 \\ 10 & 1 \end{pmatrix}$. The eigenvalues sum to 102 and multiply to
#   $101 - 100 = 1$: they are about $102$ and $1/102$, and $\kappa \approx 10\,400$.
# - With the mean subtracted, $x = -1$ and $x = 1$: $A = \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}$, $\kappa = 1$. The bowl is
#   round, and a step with $\eta = 1/2$ lands at the bottom.
# - The scale matters in the same way. Two centered, uncorrelated inputs with standard deviations 1 and 10 have
#   $A = \begin{pmatrix} 1 & 0 \\ 0 & 100 \end{pmatrix}$, so $\kappa = 100$. Divide each by its own, and $\kappa = 1$ again.

# %%
predict("line_through_two_samples")


# %%
def descend(x: Tensor, y: Tensor, steps: int = 200_000) -> tuple[float, int]:
    """Condition number, and steps of gradient descent until the loss is a millionth of what it was at zero."""
    inputs = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    A = inputs.T @ inputs / len(x)
    eigenvalues = torch.linalg.eigvalsh(A)
    rate = 1 / (eigenvalues[0] + eigenvalues[-1])  # the rate at which both ends fall equally fast
    best = torch.linalg.lstsq(inputs, y.double()[:, None]).solution[:, 0]
    theta = torch.zeros(inputs.shape[1], dtype=torch.double)
    goal = 1e-6 * (best @ A @ best)
    for step in range(steps):  # noqa: B007
        error = theta - best
        if error @ A @ error <= goal:
            break
        theta = theta - rate * 2 * A @ error
    return (eigenvalues[-1] / eigenvalues[0]).item(), step


x, y = torch.tensor([[9.0], [11.0]]), torch.tensor([-1.0, 1.0])
for name, given in {"x = 9, 11": x, "x = −1, 1": x - x.mean(0)}.items():
    condition, steps = descend(given, y)
    print(f"{name:10}  condition number {condition:9.1f}   {steps:6} steps")

# %% [markdown]
# Try `x - 9`, or `(x - 10) * 10`. Then go on to images.
#
# ### Loss contours of two image features
#
# To draw a bowl we need a model with two weights. Here are two numbers for each image: its **brightness**, the mean of its
# gray values, and its **contrast**, their standard deviation. The target is $1$ for the first five classes and $-1$ for the
# others. The model is $w_1 \cdot \text{brightness} + w_2 \cdot \text{contrast}$, without a bias so that it fits on paper.
# Below are the lines of equal loss and fifteen gradient steps from zero. Each panel has a learning rate of its own, the
# same share of the largest one that it permits, $0.4/\lambda_{\max}$.


# %%
def two_features(images: Tensor) -> Tensor:
    """Brightness and contrast of images (N, 3, H, W), as (N, 2)."""
    gray = images.mean(1)
    return torch.stack([gray.mean((1, 2)), gray.std((1, 2))], 1)


def bowl(axis, features: Tensor, target: Tensor, title: str) -> None:
    """Contours of the squared loss over two weights, and a path of gradient descent."""
    features, target = features.double(), target.double()
    A, c = features.T @ features / len(features), features.T @ target / len(features)
    eigenvalues = torch.linalg.eigvalsh(A)
    best, theta = torch.linalg.solve(A, c), torch.zeros(2, dtype=torch.double)
    path = [theta]
    for _ in range(15):
        theta = theta - 0.8 / eigenvalues[1] * (A @ theta - c)
        path.append(theta)
    path, reach = torch.stack(path), 1.3 * best.norm().item()
    w1, w2 = (torch.linspace(center - reach, center + reach, 161) for center in best.tolist())
    away = torch.stack(torch.meshgrid(w1 - best[0], w2 - best[1], indexing="xy"), -1).double()
    height = torch.einsum("abi,ij,abj->ab", away, A, away)
    start = (best @ A @ best).item()
    levels = [start * share for share in (0.01, 0.1, 0.3, 0.6, 1, 1.6, 2.5, 4, 6, 9, 14, 20, 30, 45)]
    axis.contour(w1, w2, height, levels=levels, colors="#999999", linewidths=0.8)
    axis.plot(*path.T, "o-", color=figures.COLORS["vermilion"], markersize=3.5, linewidth=1.2)
    axis.plot(*best.tolist(), "*", color=figures.COLORS["blue"], markersize=12)
    left = (path[-1] - best) @ A @ (path[-1] - best) / start
    condition = (eigenvalues[1] / eigenvalues[0]).item()
    axis.set(
        title=f"{title}\nκ = {condition:.1f}, {left:.1%} left", xlabel="weight of brightness", aspect="equal"
    )
    axis.grid(False)


features, target = two_features(pixels), 1.0 - 2.0 * (train.labels >= 5)
centered = features - features.mean(0)
standardized = centered / features.std(0, correction=0)
fig, axes = plt.subplots(1, 3, figsize=(10, 3.8), layout="constrained")
bowl(axes[0], features, target, "as they are")
bowl(axes[1], centered, target, "mean subtracted")
bowl(axes[2], standardized, target, "and divided by the std")
axes[0].set_ylabel("weight of contrast")
figures.show(
    fig,
    alt="Loss contours over two weights with fifteen gradient steps. As the features are, the ellipses are long and thin "
    "and the path stops far from the minimum. With the mean subtracted they are shorter; after division by the standard "
    "deviation they are close to circles, and the path reaches the minimum.",
)

# %% [markdown]
# The star is the minimum, and "left" is the share of the excess loss that is left after fifteen steps. In the first panel
# the gradient points across the valley and hardly along it. Subtracting the mean and dividing by the standard deviation
# bring the minimum within reach. Whatever the panel, the model can express the same functions once it has a bias; what
# changes is which way is down. Where an ellipse is left in the last panel, it is the correlation of the two features that
# makes it. Whitening takes that out as well, further down.
#
# ### A weight that is a little off
#
# There is a second way to see the same thing. Weights are never exact: they have just been initialized, or a step was too
# large. How much does an error in a weight cost?
#
# By hand: $x = 9$ and $x = 11$ are told apart by the sign of $1 \cdot x - 10$, which is $-1$ and $1$. Let the weight be
# 12 % too large: $1.12 \cdot 9 - 10 = 0.08$. The first sample has changed sides. Now with centered inputs, $-1$ and $1$, weight
# 1 and bias 0: $1.12 \cdot (-1) = -1.12$. Nothing has happened, and nothing will before the weight is off by 100 %.
#
# The figure does it with two clouds in the plane, far from the origin and centered. All weights, the bias included, are
# multiplied by random factors of mean 1 and standard deviation 5 %, forty times.

# %%
draw = torch.Generator().manual_seed(0)
clouds = torch.randn(2, 100, 2, generator=draw) * torch.tensor([1.0, 0.6]) + torch.tensor(
    [[[-1.8, 0]], [[1.8, 0]]]
)
cloud_sides = torch.tensor([-1.0, 1.0]).repeat_interleave(100)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for axis, origin, title in zip(
    axes, (torch.tensor([20.0, 12.0]), torch.zeros(2)), ("far from the origin", "centered"), strict=True
):
    points = clouds.flatten(0, 1) + origin
    inputs = torch.cat([points, torch.ones(200, 1)], 1)
    exact = torch.linalg.lstsq(inputs, cloud_sides[:, None]).solution[:, 0]
    changed = []
    for _ in range(40):
        w = exact * (1 + 0.05 * torch.randn(3, generator=draw))
        changed.append(((inputs @ w > 0) != (inputs @ exact > 0)).float().mean())
        height = torch.tensor([-6.0, 6.0]) + origin[1]
        axis.plot(-(w[1] * height + w[2]) / w[0], height, color="#999999", linewidth=0.7)
    for side, color in ((-1, figures.COLORS["blue"]), (1, figures.COLORS["orange"])):
        axis.plot(*points[cloud_sides == side].T, "o" if side < 0 else "^", color=color, markersize=3.5)
    axis.set(xlim=(origin[0] - 6, origin[0] + 6), ylim=(origin[1] - 2.5, origin[1] + 2.5), title=title)
    print(f"{title:20} {torch.stack(changed).mean():6.1%} of the points change sides")
figures.show(
    fig,
    alt="Two clouds of points and forty perturbed lines between them. Far from the origin the lines sweep across both "
    "clouds. Around the origin they stay together, between the clouds.",
)

# %% [markdown]
# How far from the origin are images? The mean of all pixels above is about twice their standard deviation. For a weight
# vector with a random error $\delta$, the output moves by $\delta \cdot x$, whose size goes with the length of $x$. Below, the
# same images as they are and centered.

# %%
for name, images in {
    "as they are": pixels,
    "centered": pixels - pixels.mean((0, 2, 3), keepdim=True),
}.items():
    print(
        f"{name:12} root mean square length of an image: {images.flatten(1).norm(dim=1).square().mean().sqrt():5.1f}"
    )

# %% [markdown]
# A factor of about two, for three numbers subtracted. What becomes of the size of numbers from layer to layer is where
# lecture 2 goes on.
#
# ## Three conventions
#
# All that follows subtracts a mean $\mu$, and perhaps divides by a standard deviation $\sigma$. The three conventions differ in
# what the average runs over. With images $x_{n,c,h,w}$,
#
# | | statistics | used by |
# |---|---|---|
# | **mean image** | $\mu_{c,h,w} = \frac1N\sum_n x_{n,c,h,w}$ | AlexNet |
# | **channel mean** | $\mu_c = \frac1{NHW}\sum_{n,h,w} x_{n,c,h,w}$ | VGG |
# | **channel mean and std** | $\mu_c$ as above, $\sigma_c^2 = \frac1{NHW}\sum_{n,h,w} (x_{n,c,h,w} - \mu_c)^2$ | ResNet as it is trained today |
#
# ### Four pixels by hand
#
# Two images with one channel and two pixels each: $(1, 7)$ and $(9, 15)$.
#
# - The mean image is $(5, 11)$. What is left is $(-4, -4)$ and $(4, 4)$.
# - The channel mean is $32/4 = 8$. What is left is $(-7, -1)$ and $(1, 7)$.
# - The variance is $(49 + 1 + 1 + 49)/4 = 25$, so $\sigma = 5$. What is left is $(-1.4, -0.2)$ and $(0.2, 1.4)$. We divide by
#   the number of pixels, 4 and not 3: this is the **population** standard deviation.

# %%
four = torch.tensor([[[[1.0, 7.0]]], [[[9.0, 15.0]]]])  # (N, C, H, W) = (2, 1, 1, 2)
print("mean image  ", four.mean(0).flatten().tolist())
print("channel mean", four.mean((0, 2, 3)).tolist())
print(
    "channel std ", four.std((0, 2, 3), correction=0).tolist(), " with N − 1:", four.std((0, 2, 3)).tolist()
)

# %% [markdown]
# The mean image first. Images may come as bytes, and a byte cannot hold the sum of two bright pixels.


# %% exercise="mean_image"
def mean_image(images: Tensor) -> Tensor:
    """The average of all images, pixel by pixel.

    images: (N, C, H, W), floats or integers such as uint8.
    Returns (C, H, W), in the dtype of images; float32 for integers.
    """
    ### BEGIN SOLUTION
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return images.to(torch.float64).mean(dim=0).to(dtype)
    ### END SOLUTION


# %% [markdown]
# ### What a mean image looks like
#
# Left, the mean of all training images; then the means of the single classes. Where all images of a class show their object
# in the middle, the middle of the mean stands out. The mean of all classes is nearly flat: three numbers, one for each
# color, say almost all of it. The spread of the images' pixels, in the last line, is far larger than the mean image's.

# %%
of_all = mean_image(train.images)
of_classes = [mean_image(train.images[train.labels == label]) for label in range(10)]
spread = of_all.std((1, 2), correction=0)
figures.show(
    figures.grid(
        [image / 255 for image in (of_all, *of_classes)], ["all", *train.classes], columns=11, cell=0.95
    ),
    alt="The mean image of the training set, nearly uniform, and the mean image of each of the ten classes, blurred and "
    "of different colors.",
)
print("std of the mean image over its pixels, per channel:", [round(v, 1) for v in spread.tolist()])
print(
    "std of the pixels themselves, per channel:         ",
    [round(v, 1) for v in (255 * pixels).std((0, 2, 3), correction=0).tolist()],
)

# %% [markdown]
# There is a practical reason, too. A mean image has a fixed size. A network that is to take images of any size, and the
# networks for segmentation of this course are, has no use for it.
#
# Now the two numbers per channel. Both are taken over images *and* pixels, for a convolution uses the same filter
# everywhere.


# %% exercise="channel_statistics"
def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of every channel.

    images: (N, C, H, W), floats or integers such as uint8; the mean may be 10,000 times the standard
    deviation.
    Returns mean (C,) and std (C,), in the dtype of images; float32 for integers.
    """
    ### BEGIN SOLUTION
    dtype = images.dtype if images.is_floating_point() else torch.float32
    x = images.double()
    mean = x.mean((0, 2, 3), keepdim=True)
    std = ((x - mean) ** 2).mean((0, 2, 3)).sqrt()
    return mean.flatten().to(dtype), std.to(dtype)
    ### END SOLUTION


# %% [markdown]
# ### One batch, three conventions
#
# Six images, and what each convention makes of them. To be shown, the results are shifted so that 0 is gray. On the right, the
# histogram of each channel over the whole training set. Below, one pixel before and after.

# %%
channel_mean, channel_std = channel_statistics(pixels)
mu, sigma = channel_mean.view(1, 3, 1, 1), channel_std.view(1, 3, 1, 1)
schemes = {
    "as it is": lambda x: x,
    "mean image": lambda x: x - mean_image(pixels),
    "channel mean": lambda x: x - mu,
    "mean and std": lambda x: (x - mu) / sigma,
}
shown = pixels[first_of_each][:6]
fig, axes = plt.subplots(
    4, 7, figsize=(10, 5.2), layout="constrained", gridspec_kw={"width_ratios": [1] * 6 + [2.2]}
)
for row, (name, scheme) in enumerate(schemes.items()):
    results, everything = scheme(shown), scheme(pixels)
    display = results if row == 0 else results * (0.2 if row == 3 else 0.8) + 0.5
    for column in range(6):
        axes[row, column].imshow(display[column].clamp(0, 1).permute(1, 2, 0))
        axes[row, column].set(xticks=[], yticks=[])
        axes[row, column].grid(False)
    axes[row, 0].set_ylabel(name)
    for channel, (color, style) in enumerate((("vermilion", "-"), ("green", "--"), ("blue", ":"))):
        density, edges = torch.histogram(
            everything[:, channel].contiguous(), 60, range=(-2.5, 2.5), density=True
        )
        axes[row, 6].plot(edges[:-1], density, style, color=figures.COLORS[color], linewidth=1.3)
    axes[row, 6].axvline(0, color="#555555", linewidth=0.8)
    axes[row, 6].set(yticks=[], xlim=(-2.5, 2.5))
figures.show(
    fig,
    alt="Six images in four rows: as they are, minus the mean image, minus the channel mean, and divided by the standard "
    "deviation as well. To the eye the rows hardly differ. The histograms do: from the right of zero they move to "
    "the middle, and in the last row they widen to standard deviation 1.",
)
print("one pixel (red, green, blue) of the first image:")
for name, scheme in schemes.items():
    print(f"  {name:13}", "  ".join(f"{v:6.2f}" for v in scheme(shown)[0, :, 16, 16].tolist()))

# %% [markdown]
# To the eye, little has changed: no convention throws anything away, since each of them can be undone. To a gradient step the
# difference is large.
#
# ### What a network makes of it
#
# A network of two convolutions and one dense layer, from the same initial weights, on the same batches. Only the input
# differs. Each way is tried at three learning rates, since a fair comparison lets each have its own.

# %%
predict("bytes_as_inputs")


# %%
def network(seed: int = 0, channels: int = 3) -> nn.Sequential:
    """Two convolutions with ReLU, an average over 2×2 regions, one dense layer."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(channels, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
    ]  # fmt: skip
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers).to(course.device)


moved_mu, moved_sigma = mu.to(course.device), sigma.to(course.device)
ways = {
    "0 to 255": lambda x: x.float(),
    "0 to 1": lambda x: x / 255,
    "channel mean": lambda x: x / 255 - moved_mu,
    "mean and std": lambda x: (x / 255 - moved_mu) / moved_sigma,
}
rates, losses, scores = (0.01, 0.03, 0.1), {}, {}
for name, way in ways.items():
    for rate in rates:
        model = network()
        run = fit(
            model, train, steps=course.scaled(70, fast=3), batch_size=32, lr=rate, task=Task(transform=way),
            generator=torch.Generator().manual_seed(0), watch=Watch(progress=False),
        )  # fmt: skip
        losses[name, rate], scores[name, rate] = run.loss, accuracy(model, val, transform=way)
        print(f"\r{len(losses)} of 12 trainings", end="")


# %%
def smooth(values: list[float]) -> list[float]:
    """Mean of each value and the up to nine before it."""
    return [
        sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1]) for i in range(len(values))
    ]


lowest = min(min(smooth(losses[name, 0.01])) for name in ways)
figures.show(
    figures.curves(
        {name: smooth(losses[name, 0.01]) for name in ways},
        "step",
        "training loss",
        title="learning rate 0.01",
        limits=(lowest - 0.1, 2.9),
    ),
    alt="Training loss at a learning rate of 0.01 for four kinds of input. From 0 to 255 it starts off the scale and does not "
    "get below guessing. From 0 to 1 and with the channel mean subtracted it falls slowly; with mean and standard "
    "deviation it falls fastest.",
)
print(f"loss of the last ten steps, validation accuracy (guessing: 2.30, 10%)\n{'':14}", end="")
print("".join(f"{f'learning rate {rate:g}':>22}" for rate in rates))
for name in ways:
    cells = (f"{sum(losses[name, rate][-10:]) / 10:10.2f}, {scores[name, rate]:6.1%}" for rate in rates)
    print(f"{name:14}" + "".join(f"{cell:>22}" for cell in cells))

# %% [markdown]
# The claim is **strong** for bytes: pixels from 0 to 255 throw the weights out of range in the first steps, and at none of
# these rates do they come back. It is **strong** for division by the standard deviation at a low learning rate, where the
# last line is well ahead of the others. It is **weaker** than often told at the best rate of each line: a larger
# rate makes up for a part of what a smaller input costs, and at a rate of 0.1 the standardized network can be the one that suffers
# first. Preprocessing mostly saves the search for a learning rate, and what it adds beyond that depends on the data.
#
# ## More images than memory
#
# Both functions so far need all the images at once. ImageNet has $1.3$ million, and as bytes of size 256×256 that is 250 GB. The
# statistics fit into six numbers; can they be found in one pass, batch by batch?
#
# The mean can: add up, count, divide. For the variance there is a formula that every textbook has and that nobody should
# use in single precision, $\sigma^2 = \overline{x^2} - \bar x^2$. It subtracts two large numbers to get a small one. The
# other way is to merge summaries. Let $n$ pixels have mean $\mu$ and sum of squared deviations $S$, and let a new batch have
# $k$, $\nu$ and $T$. With $\delta = \nu - \mu$, all of them together have
#
# $$n' = n + k \qquad \mu' = \mu + \delta\,\frac{k}{n + k} \qquad S' = S + T + \delta^2\,\frac{n\,k}{n + k}.$$
#
# ### Two batches by hand
#
# The batches are $(1, 7)$ and $(9, 15)$.
#
# - Alone: $n = 2$, $\mu = 4$, $S = 9 + 9 = 18$, and $k = 2$, $\nu = 12$, $T = 18$. Each has a standard deviation of 3.
# - Merged: $\delta = 8$, so $\mu' = 4 + 8 \cdot \tfrac24 = 8$ and $S' = 18 + 18 + 64 \cdot \tfrac{4}{4} = 100$.
# - $\sigma = \sqrt{100/4} = 5$, as above. The average of the two standard deviations would have been 3: it misses that the
#   batches differ from each other.

# %%
n, mean, S = 0, 0.0, 0.0
for numbers in (torch.tensor([1.0, 7.0]), torch.tensor([9.0, 15.0])):
    k, batch_mean = len(numbers), numbers.mean().item()
    T, delta = ((numbers - batch_mean) ** 2).sum().item(), batch_mean - mean
    mean, S, n = mean + delta * k / (n + k), S + T + delta**2 * n * k / (n + k), n + k
    print(f"after {n} numbers: mean {mean:.0f}, S {S:.0f}, standard deviation {(S / n) ** 0.5:.0f}")

# %% [markdown]
# Your function gets an iterable that can be walked once. Batches may have different numbers of images, and images of
# different sizes; every *pixel* counts the same.


# %% exercise="streaming_statistics"
def streaming_statistics(batches) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of every channel, in one pass.

    batches: an iterable of tensors (n, C, H, W), which can be walked once; n, H and W (each at least 1)
    may differ from batch to batch. None is changed, and keeping them would fill the memory.
    Returns mean (C,) and std (C,), in the dtype of the batches; float32 for integers. In float32 data
    with a mean of a million and a standard deviation of 1, both are accurate to two figures.
    """
    ### BEGIN SOLUTION
    n, mean, S = 0, 0.0, 0.0
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double().transpose(0, 1).flatten(1)  # one row for each channel
        k, nu = x.shape[1], x.mean(1)
        delta = nu - mean
        S = S + ((x - nu[:, None]) ** 2).sum(1) + delta**2 * (n * k / (n + k))
        mean = mean + delta * (k / (n + k))
        n += k
    return mean.to(dtype), (S / n).sqrt().to(dtype)
    ### END SOLUTION


# %% [markdown]
# ### How the textbook formula fails
#
# Numbers with a standard deviation of 1, stored in single precision, around a mean that grows from 1 to a million. The true
# standard deviation of the stored numbers is known from double precision. How far off is each way?

# %%
offsets, textbook, yours = [10**k for k in range(7)], [], []
for offset in offsets:
    x = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)) + offset
    true = x.double().std(correction=0).item()
    difference = (x**2).mean() - x.mean() ** 2
    textbook.append(max(abs(difference.clamp(min=0).sqrt().item() - true), 1e-9))
    yours.append(max(abs(streaming_statistics(iter(x.split(3)))[1].item() - true), 1e-9))
fig = figures.curves(
    {"textbook, float32": (offsets, textbook), "yours": (offsets, yours)},
    "mean of the numbers",
    "error of the std",
    log=True,
    limits=(5e-10, 1e5),
    size=(5.5, 2.8),
)
fig.axes[0].set_xscale("log")
figures.show(
    fig,
    alt="Error of the standard deviation against the mean of the numbers, on logarithmic axes. The textbook formula's error "
    "grows until it exceeds the standard deviation itself; yours stays below a millionth.",
)
whole = channel_statistics(train.images)
streamed = streaming_statistics(iter(train.images.split(37)))
print(
    "largest difference to all images at once:",
    max((a - b).abs().max().item() for a, b in zip(whole, streamed, strict=True)),
)

# %% [markdown]
# From a mean of about ten thousand standard deviations on, the textbook formula returns noise. What counts is that ratio.
# Pixels from 0 to 255 have one of about two, and nothing happens. It is large where a small signal sits on a large offset:
# on the dark level of a camera, in map coordinates in meters, in times counted from 1970.
#
# ## PCA and whitening
#
# Dividing by standard deviations makes each input as wide as the others. It leaves them correlated, and neighboring pixels are
# as correlated as anything in this world. **Principal component analysis** (PCA) finds directions along which the data
# are *uncorrelated*, which is less than independent: the eigenvectors of the covariance matrix,
#
# $$\Sigma = \frac1N \sum_n (x_n - \mu)(x_n - \mu)^\top = U\,S\,U^\top,$$
#
# with the variances along these directions on the diagonal of $S$. **Whitening** divides by their roots, so that the
# covariance becomes the identity and the bowl of the loss a round one. There are many ways to do it, for a round
# distribution may be turned at will. Two have names:
#
# $$x_{\text{PCA}} = (x - \mu)\,U\,(S + \varepsilon)^{-1/2}
# \qquad\qquad x_{\text{ZCA}} = (x - \mu)\,\underbrace{U\,(S + \varepsilon)^{-1/2}\,U^\top}_{W}$$
#
# ZCA turns back at the end. Of all whitening transforms it changes the data least, so a whitened image still looks like an
# image. The small $\varepsilon$ is for directions in which there is next to no variance: without it they would be blown up
# until they are nothing but noise.
#
# ### Four points by hand
#
# $(3, 3),\ (-3, -3),\ (1, -1),\ (-1, 1)$: the mean is 0, and
# $\Sigma = \begin{pmatrix} 5 & 4 \\ 4 & 5 \end{pmatrix}$, for $(9 + 9 + 1 + 1)/4 = 5$ and $(9 + 9 - 1 - 1)/4 = 4$.
#
# - Eigenvectors: $u_1 = (1, 1)/\sqrt2$ with variance 9, and $u_2 = (1, -1)/\sqrt2$ with variance 1.
# - So $W$ divides by 3 along $u_1$ and by 1 along $u_2$ (with $\varepsilon = 0$):
#   $W = \tfrac13\,u_1 u_1^\top + u_2 u_2^\top = \begin{pmatrix} 2/3 & -1/3 \\ -1/3 & 2/3 \end{pmatrix}$.
# - $(3, 3)\,W = (1, 1)$ and $(1, -1)\,W = (1, -1)$. All four points have come to the corners of a square.

# %%
points = torch.tensor([[3.0, 3.0], [-3.0, -3.0], [1.0, -1.0], [-1.0, 1.0]])
S, U = torch.linalg.eigh(points.T @ points / len(points))
W = U @ torch.diag(S**-0.5) @ U.T
print("variances:", [round(v, 2) for v in S.tolist()])
print("W:        ", [[round(v, 3) for v in row] for row in W.tolist()])
print("whitened: ", [[round(v, 2) for v in row] for row in (points @ W).tolist()])

# %% [markdown]
# Note the side on which $W$ stands: samples are rows here, and $W$ is symmetric, so that $xW$ and $(Wx^\top)^\top$ are the
# same. If your $W$ is not symmetric, you have stopped at PCA.


# %% exercise="zca_whiten"
def zca_whiten(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Whiten samples and stay as close to them as can be.

    x: (N, D), one sample a row; N may be at most D, and either of them 1. eps, at least 0, is added to
    every eigenvalue of the covariance, which divides by N.
    Returns the whitened samples (N, D) and the symmetric W (D, D), in the dtype of x; float32 for
    integers.
    """
    ### BEGIN SOLUTION
    dtype = x.dtype if x.is_floating_point() else torch.float32
    deviations = x.double() - x.double().mean(0)
    S, U = torch.linalg.eigh(deviations.T @ deviations / x.shape[0])
    W = (U / torch.sqrt(S.clamp(min=0) + eps)) @ U.T
    return (deviations @ W).to(dtype), W.to(dtype)
    ### END SOLUTION


# %% [markdown]
# ### Two neighboring pixels
#
# Take the red value of one pixel and that of the pixel two to the right, in all training images. Each step below is one
# factor of the formula; two points are marked, so that you can follow them.

# %%
neighbors = torch.stack([pixels[:, 0, 16, 15], pixels[:, 0, 16, 17]], 1)
moved = neighbors - neighbors.mean(0)
S, U = torch.linalg.eigh(moved.T @ moved / len(moved))
stages = {
    "as they are": neighbors,
    "centered": moved,
    "turned (PCA)": moved @ U,
    "PCA whitened": moved @ U / S.sqrt(),
    "yours (ZCA)": zca_whiten(neighbors)[0],
}
extremes = [int(moved.sum(1).argmax()), int((moved[:, 0] - moved[:, 1]).argmax())]
fig, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
for column, (name, values) in enumerate(stages.items()):
    axes[column].plot(*values.T, ".", color=figures.COLORS["sky"], markersize=2.5)
    for index, marker, color in zip(extremes, ("s", "^"), ("vermilion", "blue"), strict=True):
        axes[column].plot(*values[index], marker, color=figures.COLORS[color], markersize=8)
    limit = 1.1 if column < 3 else 5
    axes[column].set(title=name, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
figures.show(
    fig,
    alt="Scatter plots of two neighboring pixels in five stages. A narrow diagonal cloud, then centered, then turned along "
    "the axes, then PCA whitened to a round cloud, then ZCA whitened, round too, with the two marked points in "
    "directions close to their first ones.",
)
for name, values in stages.items():
    d = values - values.mean(0)
    covariance = d.T @ d / len(d)
    print(
        f"{name:14} variances {covariance[0, 0]:6.3f} {covariance[1, 1]:6.3f}   covariance {covariance[0, 1].abs():6.3f}"
    )

# %% [markdown]
# And the bowl of the loss, for a model with one weight for each of the two pixels. Standardizing is not enough here: both
# pixels have standard deviation 1, and yet the valley is long, because they say nearly the same.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 3.8), layout="constrained")
for axis, values, title in (
    (axes[0], moved / moved.std(0, correction=0), "standardized"),
    (axes[1], zca_whiten(neighbors)[0], "whitened"),
):
    bowl(axis, values, target, title)
    axis.set(xlabel="weight of the left pixel")
axes[0].set_ylabel("weight of the right pixel")
figures.show(
    fig,
    alt="Loss contours over the weights of two neighboring pixels. Standardized, they are long ellipses along a diagonal; "
    "whitened, they are circles, and the gradient steps go straight to the minimum.",
)

# %% [markdown]
# ### Whole images
#
# Gray, and reduced to 16×16, an image has 256 numbers, few enough for the 1,000 images to have a covariance of full rank. Row
# by row: the images; PCA whitened; *your* ZCA, with a large, a small, and a very small $\varepsilon$.

# %%
gray = F.avg_pool2d(pixels.mean(1, keepdim=True), 2).flatten(1)  # (N, 256)
d = gray.double() - gray.double().mean(0)
S, U = torch.linalg.eigh(d.T @ d / len(d))
rows = {
    "images": gray,
    "PCA, ε = 10⁻³": (d @ U * (S.clamp(min=0) + 1e-3) ** -0.5).flip(1).float(),
    "ZCA, ε = 10⁻¹": zca_whiten(gray, 0.1)[0],
    "ZCA, ε = 10⁻³": zca_whiten(gray, 1e-3)[0],
    "ZCA, ε = 10⁻⁵": zca_whiten(gray, 1e-5)[0],
}
fig, axes = plt.subplots(5, 10, figsize=(10, 5.3), layout="constrained")
for row, (name, values) in enumerate(rows.items()):
    for column, index in enumerate(first_of_each):
        picture = values[index].view(16, 16)
        limit = (0, 1) if row == 0 else (-2.5 * values.std(), 2.5 * values.std())
        axes[row, column].imshow(picture, vmin=limit[0], vmax=limit[1])
        axes[row, column].set(xticks=[], yticks=[])
        axes[row, column].grid(False)
    axes[row, 0].set_ylabel(name, fontsize=9)
figures.show(
    fig,
    alt="Ten small gray images in five rows. PCA whitening leaves patterns in which no object can be seen. ZCA with a large "
    "epsilon leaves the object's edges. The smaller epsilon, the more noise covers them.",
)

# %% [markdown]
# PCA whitened pixels are coefficients, and where they stand means nothing: a convolution has no use for them. ZCA
# keeps the places and keeps the edges, and with small $\varepsilon$ it amplifies what the images have least of, their noise.
#
# ### Why CNNs seldom whiten
#
# First, the price. The covariance has $D^2$ entries and its eigenvectors cost about $D^3$ operations.

# %%
predict("memory_of_whitening")

# %%
for side in (16, 32, 64, 224):
    D = 3 * side * side
    print(
        f"{side:3}×{side:<3}  D = {D:7,}   W: {4 * D * D / 1e9:8.3f} GB   about {D**3:.0e} operations for the eigenvectors"
    )

# %% [markdown]
# Second, a $W$ for 16×16 images is for 16×16 images only, and the next image may be larger. Third, a convolutional network can
# do most of it by itself. Below are six columns of your $W$, each shown as an image: what is added up to get *one*
# whitened pixel.

# %%
_, W = zca_whiten(gray, 1e-3)
places = [(3, 3), (3, 8), (3, 12), (8, 8), (12, 4), (12, 12)]
columns = [W[:, 16 * r + c].view(16, 16) for r, c in places]
reach = W.abs().max().item()
figures.show(
    figures.grid(
        columns, [f"pixel ({r}, {c})" for r, c in places], columns=6, cell=1.6, limits=(-reach, reach)
    ),
    alt="Six columns of the whitening matrix as images. Each is gray but for one bright pixel at its place with a dark ring of "
    "neighbors: the same small pattern, shifted.",
)
energy = [
    c[r - 2 : r + 3, k - 2 : k + 3].square().sum() / c.square().sum()
    for c, (r, k) in zip(columns, places, strict=True)
]
print("share of a column's squares within 5×5 pixels:", [f"{share:.1%}" for share in energy])

# %% [markdown]
# Six times the same pattern: the pixel, minus its neighbors. That is a filter of 5×5 pixels, shifted from place to place, or in
# one word a convolution. The first layer can learn it if it pays. Does it pay to have it from the start? The same network, the
# same steps, on standardized and on ZCA whitened gray images:

# %%
gray_val = F.avg_pool2d(val_pixels.mean(1, keepdim=True), 2).flatten(1)
inputs = {
    "standardized": [(g - gray.mean()) / gray.std() for g in (gray, gray_val)],
    "ZCA, ε = 10⁻¹": [(g - gray.mean(0)) @ zca_whiten(gray, 0.1)[1] for g in (gray, gray_val)],
    "ZCA, ε = 10⁻³": [(g - gray.mean(0)) @ zca_whiten(gray, 1e-3)[1] for g in (gray, gray_val)],
}


class Pairs(torch.utils.data.Dataset):
    """Images (N, 256) as a data set of (1, 16, 16), with labels."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.view(-1, 1, 16, 16), labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": int(self.labels[index])}


print(
    f"training loss, validation accuracy\n{'':14}"
    + "".join(f"{f'learning rate {rate:g}':>22}" for rate in rates)
)
for name, (for_training, for_validation) in inputs.items():
    results = []
    for rate in rates:
        model = network(channels=1)
        run = fit(
            model, Pairs(for_training, train.labels), steps=course.scaled(120, fast=3), batch_size=32, lr=rate,
            task=Task(transform=lambda x: x), generator=torch.Generator().manual_seed(0), watch=Watch(progress=False),
        )  # fmt: skip
        score = accuracy(model, Pairs(for_validation, val.labels), transform=lambda x: x)
        results.append(f"{sum(run.loss[-10:]) / 10:14.2f}, {score:6.1%}")
    print(f"{name:14}" + "".join(results))

# %% [markdown]
# In our runs, whitening came out **behind** on CIFAR-10, at every rate and with either $\varepsilon$, and about **even** on
# the textures, ahead in some places of the table and behind in others. One seed and 120 steps are a weak test. But nothing
# in it asks for $D^2$ numbers and a fixed image size, and most networks of the last ten years do without.
#
# ## Statistics belong to the model
#
# A trained network has learned what to do with *standardized* images. The six numbers that made them are as much a part of it as
# its weights; without them the weights are worth nothing. Yet in most programs they stand in another file, or in
# somebody's memory.
#
# The remedy is to make standardization the first layer. What is measured, not learned, is registered with
# `register_buffer`: it is saved by `state_dict()`, moves along with `.to(device)`, and no optimizer touches it.
#
# One detail of PyTorch is in the way. Loading a state demands that each buffer has the saved shape, and a new Standardizer
# does not know any shape yet. The method `_load_from_state_dict` below is given: it makes room before the numbers are copied
# in, and all you have to do for it is to register `mean` and `std` in `__init__`, empty: `torch.empty(0)`.
#
# By hand, for `"channel_standard"`: the four pixels from above give `mean` 8 and `std` 5, and a new image $(3, 18)$
# becomes $(-1, 2)$. For `"channel_mean"` it becomes $(-5, 10)$; for `"mean_image"`, with $(5, 11)$ subtracted, $(-2, 7)$.

# %%
new = torch.tensor([3.0, 18.0])
print("channel_standard", ((new - 8) / 5).tolist())
print("channel_mean    ", (new - 8).tolist())
print("mean_image      ", (new - torch.tensor([5.0, 11.0])).tolist())


# %% exercise="Standardizer"
class Standardizer(nn.Module):
    """Subtracts a mean and divides by a standard deviation that were measured on a training set.

    mode: "mean_image", "channel_mean" or "channel_standard"; only the last one divides. Buffers mean
    and std, both empty before fit, then of any shape that broadcasts with (N, C, H, W). std is 1 where
    the mode does not divide, and where a channel has a standard deviation of 0.
    """

    def __init__(self, mode: str = "channel_standard") -> None:
        super().__init__()
        ### BEGIN SOLUTION
        self.mode = mode
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0))
        ### END SOLUTION

    def fit(self, images: Tensor) -> "Standardizer":
        """Measure images (N, C, H, W), and return self."""
        ### BEGIN SOLUTION
        if self.mode == "mean_image":
            self.mean = mean_image(images)
        else:
            center, spread = channel_statistics(images)
            self.mean = center.view(-1, 1, 1)
        self.std = torch.ones_like(self.mean)
        if self.mode == "channel_standard":
            self.std = torch.where(spread > 0, spread, 1.0).view(-1, 1, 1)
        return self
        ### END SOLUTION

    def forward(self, images: Tensor) -> Tensor:
        """images and the result: (N, C, H, W). RuntimeError before fit or a load."""
        ### BEGIN SOLUTION
        if len(self.mean) == 0:
            raise RuntimeError("Standardizer has measured nothing yet: call fit(images), or load a state")
        return (images - self.mean) / self.std
        ### END SOLUTION

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        # Given: an empty buffer takes the shape of what is about to be loaded.
        for name in ("mean", "std"):
            saved, own = state_dict.get(prefix + name), self._buffers.get(name)
            if saved is not None and own is not None and own.numel() == 0:
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


# %% [markdown]
# ### A model that carries its statistics
#
# We train a network whose first layer is *your* Standardizer. Then it goes through a file, into a new network that has seen
# no image.

# %%
standardizer = Standardizer().fit(pixels).to(course.device)
model = nn.Sequential(standardizer, network())
for steps, rate in ((course.scaled(200, fast=4), 0.03), (course.scaled(60, fast=2), 0.003)):
    fit(
        model,
        train,
        Validation(val, accuracy),
        steps=steps,
        batch_size=32,
        lr=rate,
        generator=torch.Generator().manual_seed(1),
        watch=Watch(live=True),
    )

file = io.BytesIO()
torch.save(model.state_dict(), file)
file.seek(0)
loaded = nn.Sequential(Standardizer(), network(seed=99))
loaded.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
print("in the file:", ", ".join(list(model.state_dict())[:4]), "…")
print(f"trained model {accuracy(model, val):.1%}, loaded model {accuracy(loaded.to(course.device), val):.1%}")

# %% [markdown]
# ### What forgotten statistics cost
#
# Now the same weights without that layer, in a program whose author has to remember. Nothing crashes, all shapes fit.

# %%
weights = model[1]
guesses = {
    "its own statistics": standardizer,
    "none: pixels from 0 to 1": lambda x: x,
    "none: pixels from 0 to 255": lambda x: 255 * x,
    "its own, for blue, green, red": lambda x: standardizer(x.flip(1)),
    "mean 0.5 and std 0.5": lambda x: (x - 0.5) / 0.5,
    "its own mean, no std": lambda x: x - standardizer.mean,
    "its own, in units of 0 to 255": lambda x: (x - 255 * standardizer.mean) / (255 * standardizer.std),
}
table = {
    name: accuracy(weights, val, transform=lambda x, guess=guess: guess(x / 255))
    for name, guess in guesses.items()
}
fig, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
bars = axis.barh(
    list(table), list(table.values()), color=[figures.color(0)] + [figures.color(1)] * (len(table) - 1)
)
axis.bar_label(bars, [f"{value:.0%}" for value in table.values()], padding=3)
axis.axvline(0.1, color="#555555", linestyle=":", linewidth=1.2)
axis.invert_yaxis()
axis.set(xlabel="validation accuracy (dotted: guessing)", xlim=(0, 1))
axis.grid(axis="y", visible=False)
figures.show(
    fig,
    alt="Bars of validation accuracy for the same weights under seven ways to preprocess: "
    + ", ".join(f"{name}: {value:.0%}" for name, value in table.items())
    + ".",
)

# %% [markdown]
# Some of these mistakes leave nothing but guessing. The dangerous ones are those in between: a program that swaps red and
# blue, or takes somebody else's mean, loses some of its accuracy and no test fails. Whoever downloads a network downloads
# its statistics with it, whatever images it is used on.
#
# ## Statistics belong to the training set
#
# The validation score is a promise about images that nobody has seen. It holds only if nothing about the validation
# images has got into the model, and the statistics are part of the model. So the order is: **split, then measure, then
# apply.** The mean and the standard deviation of the training part are used for *both* parts, and for every image that comes
# later.
#
# By hand: four images of one pixel each, $2, 4, 6$ for training and $20$ for validation. The training part alone has mean
# $4$. With the validation image, the mean is $32/4 = 8$: all of the training images are now negative, and they are because of
# an image that they must not know of.


# %% exercise="split_then_standardize"
def split_then_standardize(
    images: Tensor, val_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, nn.Module]:
    """Shuffle and split images, then standardize both parts by the statistics of the training part.

    images: (N, C, H, W). round(N · val_fraction) of them go to validation, perhaps none; generator
    draws the shuffle.
    Returns train and val, both standardized, and the Standardizer, of mode "channel_standard".
    """
    ### BEGIN SOLUTION
    shuffled = images[torch.randperm(len(images), generator=generator).to(images.device)]
    size = round(val_fraction * len(images))
    standardizer = Standardizer(mode="channel_standard").fit(shuffled[size:])
    return standardizer(shuffled[size:]), standardizer(shuffled[:size]), standardizer
    ### END SOLUTION


# %% [markdown]
# ### One pixel, watched
#
# A leak can be measured: change the validation images and see whether the *training* data move. They must not, by any
# amount. Here is your function beside one that measures first and splits afterwards.


# %%
def standardize_then_split(images: Tensor, val_fraction: float, generator: torch.Generator):
    """Leaks: the statistics have seen the validation images."""
    standardizer = Standardizer().fit(images)
    shuffled = standardizer(images)[torch.randperm(len(images), generator=generator)]
    held_out = round(len(images) * val_fraction)
    return shuffled[held_out:], shuffled[:held_out], standardizer


for name, split in {
    "split, then measure": split_then_standardize,
    "measure, then split": standardize_then_split,
}.items():
    before, its_val, layer = split(pixels, 0.2, torch.Generator().manual_seed(0))
    # which images the validation part consists of
    which = torch.cdist(its_val.flatten(1), layer(pixels).flatten(1)).argmin(1)
    darker = pixels.clone()
    darker[which] *= 0.3
    after = split(darker, 0.2, torch.Generator().manual_seed(0))[0]
    print(f"{name}: the training images move by up to {(after - before).abs().max():.4f} standard deviations")

# %% [markdown]
# ### Does it show in the score?
#
# Here one has to be honest. If the validation images come from where the training images come from, six numbers give away
# next to nothing. But suppose that they come from elsewhere, as images in an application do: another camera, darker, with a warm tint.
# The network is the one trained above, and three people validate it. The first uses the training statistics. The second has
# measured training and validation images together. The third standardizes each set by its own statistics, "so that both are
# standardized".

# %%
predict("darker_camera")

# %%
tints = {
    "the same camera": (1.0, 1.0, 1.0),
    "darker": (0.5, 0.5, 0.5),
    "darker, warm tint": (0.75, 0.5, 0.35),
}
print(f"{'validation accuracy':20} {'training statistics':>20} {'both together':>15} {'each its own':>14}")
honest, promised = {}, {}
for name, tint in tints.items():
    arrived = val_pixels * torch.tensor(tint).view(1, 3, 1, 1)
    row = []
    for seen in (pixels, torch.cat([pixels, arrived]), arrived):
        layer = Standardizer().fit(seen).to(course.device)
        with torch.no_grad():
            logits = weights(layer(arrived.to(course.device))).cpu()
        row.append((logits.argmax(1) == val.labels).float().mean().item())
    honest[name], promised[name] = row[0], row[2]
    print(f"{name:20} {row[0]:20.1%} {row[1]:15.1%} {row[2]:14.1%}")
print(
    f"\nWith the darker camera, the third person promises {promised['darker']:.0%}; the program delivers {honest['darker']:.0%}."
)

# %% [markdown]
# In the first line the first two columns agree within a fraction of a percent: the leak of six numbers is **weak** where
# nothing has shifted. In the other lines the third person reports a score that no user will see. The repair is not to hide the
# shift but to train for it (darker and tinted copies of the training images), or to use statistics of each single image by
# design, as instance normalization does, in training *and* in use.
#
# (If your offline images are textures, the third column is lower in the first line. Their validation patches come from other
# regions of the photographs, with another mean, and taking that away confuses the network.)
#
# ### A leak that needs no shift
#
# Six numbers cannot carry much. Statistics that are larger, or that have looked at the *labels*, can. A common
# one is: "keep the features that tell the classes apart best". We make it as hard as can be. The labels are **coin
# flips**, drawn anew each time, so that no method in this world can be right more often than half of the time. There are 80
# images, 40 for training and 40 for validation, described by the responses of random filters. We keep the 30
# features that differ most between the two "classes", and classify by the nearer mean of the training part.

# %%
predict("coin_flips")

# %%
draw = torch.Generator().manual_seed(0)
filters = torch.randn(64, 3, 5, 5, generator=draw)
with torch.no_grad():
    responses = F.conv2d(Standardizer().fit(pixels)(pixels), filters, stride=3).relu().flatten(1)


def coin_flip_accuracy(choose_on: slice, keep: int = 30) -> float:
    """Validation accuracy on random labels, with features chosen on `choose_on` of 80 images."""
    z = responses[torch.randperm(len(responses), generator=draw)[:80]]
    y = (torch.arange(80) % 2)[torch.randperm(80, generator=draw)]
    z = (z - z[:40].mean(0)) / (z[:40].std(0) + 1e-6)
    chosen, flips = z[choose_on], y[choose_on]
    best = (chosen[flips == 1].mean(0) - chosen[flips == 0].mean(0)).abs().topk(keep).indices
    z = z[:, best]
    centers = [z[:40][y[:40] == side].mean(0) for side in (0, 1)]
    nearer = (z[40:] - centers[1]).norm(dim=1) < (z[40:] - centers[0]).norm(dim=1)
    return (nearer == (y[40:] == 1)).float().mean().item()


repeats = course.scaled(60, fast=5)
outcomes = {
    "chosen on all images": [coin_flip_accuracy(slice(0, 80)) for _ in range(repeats)],
    "chosen on the training part": [coin_flip_accuracy(slice(0, 40)) for _ in range(repeats)],
}
fig, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
for row, (name, values) in enumerate(outcomes.items()):
    jitter = torch.rand(len(values), generator=draw) * 0.3 - 0.15
    axis.plot(values, row + jitter, "o", color=figures.color(1 - row), markersize=4, alpha=0.7)
    average = sum(values) / len(values)
    axis.plot([average, average], [row - 0.3, row + 0.3], color="black")
    print(f"{name:28} mean of {len(values)} repetitions: {average:.1%}")
axis.axvline(0.5, color="#555555", linestyle=":", linewidth=1.2)
axis.set(
    yticks=(0, 1),
    yticklabels=list(outcomes),
    xlabel="validation accuracy on coin flips",
    ylim=(1.5, -0.5),
    xlim=(0.1, 1),
)
axis.grid(axis="y", visible=False)
figures.show(
    fig,
    alt="Validation accuracy on random labels in many repetitions. With features chosen on all images the dots lie "
    "around 70 percent or above; with features chosen on the training part they lie around 50 percent.",
)

# %% [markdown]
# This claim is **strong**: a validation score far above chance, for labels that hold no information. Change `keep`, or the
# 80 images, and look when the leak gets smaller. The classifier itself has only ever been trained on the training part; one
# statistic, computed a line too early, was enough. The same happens with the number of principal components chosen on all
# data, with outliers removed by a rule fitted to all data, with patches of one photograph on both sides of the split.
#
# A rule that covers them all: **whatever is computed from more than one image is part of the model, and is fitted on the
# training part.**

# %% [markdown] written="one_scanner" points=3
# ### Written question: one scanner, then another
#
# A hospital trains a segmentation network on 400 slices from its scanner. A colleague writes: "I standardized all 400
# slices with their common mean and std, then split them at random into 320 and 80. The slices of one patient lie next
# to each other, about 20 for each. For the test on the other hospital's scanner, I standardized their 100 slices with
# their own mean and std, to be fair to both. Validation 0.91, test 0.88. At the other hospital, the program reaches 0.70."
#
# 1. Name the leaks and mistakes in this report. Which one has probably raised the validation score the most, and why?
# 2. Why may the test have reached 0.88 while the program reaches 0.70 on the same scanner?
# 3. Write down, in order, the steps of a procedure whose score you would believe.
#
# ### BEGIN SOLUTION
# 1. *(1 point)* The statistics were measured before the split (two numbers: a real leak, with little effect). The split is by
#    slice: neighboring slices of one patient are nearly the same image and stand on both sides, so validation asks for
#    patients that the network knows. That is the large one. The test set was standardized by its own statistics.
# 2. *(1 point)* The program gets one slice at a time and applies the training statistics. The other scanner's images have another
#    mean and spread; measured over all 100 slices these had been taken out in the test, and in use they are not. The test measured
#    another program than the one that was shipped.
# 3. *(1 point)* Split by patient; measure mean and std on the training patients only; store them with the network; apply the
#    same stored numbers, through the shipped program, to validation patients and to single slices of the other scanner; look at
#    the test once. If scanners differ: training images of several scanners, augmentation of brightness and contrast, or
#    normalization of each slice by itself in training and in use alike.
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | The loss is in the thousands, or NaN, within a few steps | bytes from 0 to 255 as input |
# | Good at home, guessing in the application | statistics forgotten, or in other units (0 to 1, 0 to 255) |
# | A downloaded network is somewhat worse than its paper says | your own statistics instead of its own, or blue, green, red instead of red, green, blue |
# | Batch 7 has another mean than batch 8 after standardizing | nothing: it should; only the training set as a whole has mean 0 |
# | The standard deviation is NaN or 0 where it cannot be | $\overline{x^2} - \bar x^2$ in single precision |
# | A streaming mean is a little off | images counted instead of pixels, or a smaller last batch that counts as much as the others |
# | One channel is inf or NaN | it was constant in training, and its standard deviation is 0 |
# | Validation is better than anything later | something was fitted on more than the training part |
#
# ## Summary
#
# - A gradient step suffers from inputs far from the origin and from inputs of different scale. The condition number of the
#   inputs' second moments says how much.
# - Three conventions: mean image, channel mean, channel mean and std. The last two do not depend on the image size.
# - One pass is enough for them, if summaries are merged and squares are not subtracted.
# - Whitening takes out the correlations as well. For images it costs $D^2$ numbers, amplifies noise, and is nearly a convolution.
# - The statistics are buffers of the model: saved, loaded and moved with it.
# - Split, then measure, then apply. Whatever is computed from more than one image is fitted on the training part.
#
# ## Where the papers differ from us
#
# - **LeCun, Bottou, Orr and Müller (1998)** is where the argument about the bowl comes from. They also ask for inputs that are
#   uncorrelated, and for targets and weights of matching scale.
# - **Krizhevsky, Sutskever and Hinton (2012)** subtract the mean image of the 256×256 training images, and nothing
#   else; crops of 224×224 follow. They also shift the colors of each image along the principal components of RGB, as augmentation.
# - **Simonyan and Zisserman (2015)** subtract the mean RGB value. The well-known numbers 103.9, 116.8, 123.7 are in the order
#   blue, green, red, because the program they used read images so.
# - **He et al. (2016)** subtract the per-pixel mean, as AlexNet does. Mean and standard deviation per channel, 0.485, 0.456, 0.406
#   and 0.229, 0.224, 0.225, came with later implementations, torchvision's among them.
# - **Krizhevsky (2009)** introduces CIFAR-10 and whitens it with ZCA. Networks of the years after did so, too; with batch
#   normalization the habit disappeared.
# - The population standard deviation is ours. Over millions of pixels, dividing by $N - 1$ makes no difference to anybody.
#
# ## Next
#
# The input now has mean 0 and standard deviation 1, and after the first layer it has them no longer. In lecture 2, *batch
# normalization*, every layer gets the treatment of this one, with statistics that are not measured once but at every step.

# %%
progress()
