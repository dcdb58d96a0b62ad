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
# # From a classifier to a fully convolutional network
#
# **Only the dense layers tie a classifier to one image size. Rewritten as convolutions, with the same weights, they turn it into a
# network that classifies every window of an image of any size, in one pass.**
#
# When you are done, you can
#
# - write a dense layer as a convolution, and get the order of the axes right;
# - turn a trained classifier into a fully convolutional network by copying its weights;
# - read its heatmaps: which cell looks at which pixels, and what its numbers mean;
# - show that the heatmap is what classifying every window gives, and how much cheaper it is;
# - tell classification, localization, detection, semantic and instance segmentation apart by what they output.
#
# It takes about 140 minutes on a laptop, exercises included; all cells together run for less than one. You should have done
# lecture 3, *visualization*: its receptive fields say what a cell of a heatmap has seen.

# %% role="setup"
import coursekit.notebook  # before torch, which reads only once how its threads are to wait

course = coursekit.notebook.start("04_convolutionalize")
predict = coursekit.notebook.predict

import copy
import time

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

from autograder import check, example, hint, progress
from coursekit import figures
from coursekit.data import SmallImages, here, photographs, textures
from coursekit.data.scenes import CLASSES, Scenes
from coursekit.data.sealions import sealion_patches, sealion_photographs
from coursekit.metrics import accuracy
from coursekit.models import pretrained, settings
from coursekit.training import Descent, Task, Watch, fit, one_cycle, quarter_turns
from coursekit.visualization import receptive_field

# %% [markdown]
# ## A classifier for one size
#
# First we need a classifier, with dense layers at its end, as AlexNet and VGG have them. It learns to tell small patches apart:
# **textures** cut from photographs, 32×32 pixels. Where the environment variable `COURSEKIT_DATA` names a folder with the
# **sea lions** in it, it learns the patches of that census instead: animals of five kinds photographed from the air, and
# background, at half their size. All cells below are the same for both.

# %%
REAL = here("sealions")
WINDOW = 48 if REAL else 32


def patches(split: str, per_class: int) -> SmallImages:
    """Patches of WINDOW×WINDOW pixels with a label each."""
    if not REAL:
        data = textures.textures(split, per_class)
        keep = data.labels < 8  # as many as there are colors to paint them with
        return SmallImages(data.name, data.classes[:8], data.images[keep], data.labels[keep])
    data = sealion_patches(split, min(per_class, 60 if split == "train" else 20))
    return SmallImages(
        data.name, data.classes, F.avg_pool2d(data.images.float(), 2).round().byte(), data.labels
    )


train, val = patches("train", course.scaled(200, fast=10)), patches("val", course.scaled(60, fast=5))
L = len(train.classes)


def block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


side = ((WINDOW - 4) // 2 - 2) // 2
side = (side - 2) // 2  # the map that is flattened has side × side cells
torch.manual_seed(0)
cnn = nn.Sequential(
    *block(3, 16, 5), *block(16, 32, 3), *block(32, 48, 3),
    nn.Flatten(), nn.Linear(48 * side * side, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, L),
).to(course.device)  # fmt: skip


def turned(batch: dict, generator: torch.Generator | None) -> dict:
    """A batch of patches, mirrored and turned by quarters: seen from above, no direction is special."""
    return {**batch, **quarter_turns({"image": batch["image"]}, generator)}


history = fit(
    cnn, train, steps=course.scaled(300, fast=4), batch_size=32, task=Task(augment=turned),
    descent=Descent(torch.optim.AdamW(cnn.parameters(), lr=3e-3, weight_decay=0.05), one_cycle()),
    generator=torch.Generator().manual_seed(0), watch=Watch(live=True),
)  # fmt: skip
cnn.eval()
print(f"{L} classes: {', '.join(train.classes)}")
print(f"accuracy on patches it has not seen: {accuracy(cnn, val):.1%}")

# %% [markdown]
# Now show it a larger image, and listen to what it says.

# %%
large = torch.rand(1, 3, WINDOW + 24, WINDOW + 40).to(course.device)
features, dense = cnn[:12], cnn[12:]
try:
    cnn(large)
except RuntimeError as error:
    print("the classifier:", error)
with torch.no_grad():
    print("its features, on a patch:       ", tuple(features(large[..., :WINDOW, :WINDOW]).shape))
    print("its features, on a larger image:", tuple(features(large).shape))

# %% [markdown]
# The convolutions took the larger image without a word: a kernel slides over whatever there is. The map just has more cells. It is
# the **dense layer** that was built for one number of inputs.
#
# ## A dense layer is a convolution
#
# A dense layer after `Flatten` has a weight for every channel $c$ and every place $(i, j)$ of the map. So does a kernel as large as the
# map:
#
# $$y_o = b_o + \sum_{c,i,j} W_{o,\,(c,i,j)}\; x_{c,i,j} \qquad\longleftrightarrow\qquad
# y_o[r, s] = b_o + \sum_{c,i,j} K_{o,c,i,j}\; x_{c,\,r+i,\,s+j}.$$
#
# With $K_{o,c,i,j} = W_{o,(c,i,j)}$ they are the same sum at $r = s = 0$. On a larger map, the right one goes on and gives an answer for every place. A
# dense layer after a dense layer has one place only: it becomes a **1×1 convolution**.
#
# ### By hand
#
# A map with 2 channels of 1×2 cells: channel 0 is $(1, 2)$, channel 1 is $(3, 4)$. Flattened, channels first: $(1, 2, 3, 4)$. With the weights
# $(1, 0, -1, 2)$ the dense layer says $1 - 3 + 8 = 6$.
#
# As a kernel of 1×2, channel 0 has weights $(1, 0)$ and channel 1 has $(-1, 2)$. On a map one cell wider, $(1, 2, 5)$ and $(3, 4, 0)$, it says
# $6$ and then $1 \cdot 2 + 0 \cdot 5 - 1 \cdot 4 + 2 \cdot 0 = -2$.

# %%
wider = torch.tensor([[[1.0, 2.0, 5.0]], [[3.0, 4.0, 0.0]]])
weights = torch.tensor([1.0, 0.0, -1.0, 2.0])
print("dense:      ", (weights * wider[..., :2].flatten()).sum().item())
print("convolution:", F.conv2d(wider[None], weights.reshape(1, 2, 1, 2)).flatten().tolist())

# %% [markdown]
# Your function does it for any dense layer. A layer without a bias gives a convolution without one. Sizes that do not fit are refused with a
# `ValueError`. And the new layer must have its *own* numbers: training one must not change the other.


# %% exercise="linear_to_conv"
def linear_to_conv(linear: nn.Linear, in_channels: int, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """The convolution with the weights of a dense layer that followed Flatten, in channels-first order.

    linear: in_channels · h · w inputs, kernel_size = (h, w); anything else is refused with a
    ValueError. A layer without bias (linear.bias is None) gives a convolution without one.
    Returns a convolution from (N, in_channels, H, W) to (N, out_features, H - h + 1, W - w + 1), with
    copies of the weights, of their dtype, that can be trained; linear stays as it was.
    """
    ### BEGIN SOLUTION
    h, w = kernel_size
    if in_channels * h * w != linear.in_features:
        raise ValueError(
            f"a window of {in_channels}×{h}×{w} does not give the layer's {linear.in_features} inputs"
        )
    biased = linear.bias is not None
    conv = nn.Conv2d(in_channels, linear.out_features, (h, w), bias=biased).to(linear.weight)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.reshape(conv.weight.shape))
        if biased:
            conv.bias.copy_(linear.bias)
    return conv
    ### END SOLUTION


# %% [markdown]
# ### The order of the axes
#
# The whole art is in one `reshape`, and `reshape` never complains. In Keras, maps are $(H, W, C)$: `Flatten` there counts the channels
# *last*, and the weights of `Dense` are stored as (inputs, outputs). Its recipe for the same step reads:
#
# ```
# W, b = dense.get_weights()                  # (h*w*c, out), (out,)
# conv.set_weights([W.reshape(h, w, c, out), b])
# ```
#
# Ours is $(\text{out}, c, h, w)$. Below, a Keras layer is imitated with tensors, carried over in the right order, and in a wrong one.

# %%
torch.manual_seed(1)
c, h, w, out = 48, side, side, 64
x = torch.rand(1, c, h, w)
keras_w, keras_b = torch.randn(h * w * c, out), torch.randn(out)
keras_says = x.permute(0, 2, 3, 1).flatten(1) @ keras_w + keras_b  # channels last, as Keras flattens

recipe = keras_w.reshape(h, w, c, out)  # the Keras recipe: a kernel in Keras's own order (h, w, c, out)
for name, kernel in {
    "(h, w, c, out), then permuted to (out, c, h, w)": recipe.permute(3, 2, 0, 1),
    "reshaped to (out, c, h, w) at once": keras_w.T.reshape(out, c, h, w),
}.items():
    ours = F.conv2d(x, kernel, keras_b)[..., 0, 0]
    print(f"{name:50} largest difference {(ours - keras_says).abs().max():.1e}")

# %% [markdown]
# The second line has the right shape, raises no error, and is wrong everywhere. If a converted network seems to have forgotten everything, look here
# first.
#
# ## The whole classifier
#
# Now layer by layer. Convolutions, batch norms, pools, ReLUs and dropout are copied as they are. `Flatten` becomes an
# `nn.Identity`, so that every layer keeps its place. The first `Linear` becomes a convolution with the window of the map
# that was flattened, those after it 1×1 convolutions. To know the window, follow the shape of an image of the size that
# the classifier was made for: in eval mode, since batch norm takes note of every image that it sees in training mode, and
# best through copies, so that the classifier keeps its own modes.
#
# Newer classifiers end otherwise: `AdaptiveAvgPool2d(1)`, then `Flatten`, then `Linear`. Left as it is, that pool would average over *any* image and
# leave one answer. It was trained on maps of one size; an average over a **window of that size**, moved one cell at a time, keeps the map.


# %% exercise="convolutionalize"
def convolutionalize(cnn: nn.Sequential, input_size: tuple[int, int, int]) -> nn.Sequential:
    """A fully convolutional network with the weights of a classifier.

    cnn: features, Flatten, then Linear, ReLU, Dropout…, Sequentials may nest, and one ReLU may stand at
    two places; AdaptiveAvgPool2d(1) before Flatten becomes an average over the window it saw, with
    stride 1. input_size: (C, H, W) the classifier was made for.
    Returns a network from (N, C, H', W') to (N, L, h, w): (N, L, 1, 1) at input_size, with the
    classifier's numbers. Weights are copies, of their dtype, that can be trained. Each layer's training
    flag carries over (some may be frozen in eval mode while others train); the CNN stays as it was.
    """
    ### BEGIN SOLUTION
    shape: tuple[int, int, int] = input_size  # of the map that the next layer's convolutional twin reads

    def convert(layers: nn.Sequential) -> nn.Sequential:
        nonlocal shape
        twins = nn.Sequential()
        # named_children() lists a layer that stands at two places only once.
        for name, layer in layers._modules.items():
            if isinstance(layer, nn.Sequential):
                twin = convert(layer)
            elif isinstance(layer, nn.Linear):
                twin = linear_to_conv(layer, shape[0], shape[1:])
                shape = (layer.out_features, 1, 1)
            elif isinstance(layer, nn.Flatten):
                twin = nn.Identity()
            elif isinstance(layer, nn.AdaptiveAvgPool2d):
                twin = nn.AvgPool2d(shape[1:], stride=1)
                shape = (shape[0], 1, 1)
            else:
                twin = copy.deepcopy(layer)
                probe = copy.deepcopy(layer).eval()
                like = next(layers.parameters(), torch.empty(0))
                with torch.no_grad():
                    shape = tuple(probe(torch.zeros(1, *shape).to(like)).shape[1:])
            if not isinstance(layer, nn.Sequential):
                twin.train(layer.training)
            twins.add_module(name, twin)
        twins.training = layers.training
        return twins

    return convert(cnn)
    ### END SOLUTION


# %% [markdown]
# ### The same numbers, and more of them

# %%
fcn = convolutionalize(cnn, (3, WINDOW, WINDOW))
some = val.images[:8].to(course.device) / 255
with torch.no_grad():
    difference = (fcn(some)[..., 0, 0] - cnn(some)).abs().max()
    print(f"on patches: largest difference {difference:.1e}, in scores up to {cnn(some).abs().max():.0f}")
    print(f"on the larger image, {tuple(large.shape[2:])}: a map of {tuple(fcn(large).shape[2:])} cells")
dense = list(cnn[13:])  # all behind Flatten
for layer, twin in zip(dense, list(fcn.modules())[-len(dense) :], strict=False):
    print(f"{layer!s:48} → {twin}")

# %% [markdown]
# ## Heatmaps
#
# The scores of a cell become probabilities as those of the classifier do: by a softmax over the **classes**, in each cell for itself,
#
# $$p_c[r, s] = \frac{e^{z_c[r, s]}}{\sum_k e^{z_k[r, s]}}.$$
#
# By hand, two classes and two cells: $z_0 = (0, \ln 3)$, $z_1 = (0, 0)$. The first cell says $1/2$ and $1/2$, the second $3/4$ and $1/4$. In each
# cell the classes sum to 1; over the map, nothing needs to sum to anything.

# %%
z = torch.tensor([[[[0.0, torch.tensor(3.0).log()]], [[0.0, 0.0]]]])
print("class 0:", z.softmax(1)[0, 0].tolist(), " class 1:", z.softmax(1)[0, 1].tolist())

# %% [markdown]
# The function asks a network that is not its own. It has to run in eval mode and without gradients, and to be left as it was: a layer that
# someone has frozen in eval mode while the rest is trained must be found so again. `fcn.train(was)` gives all layers *one* flag; remember each
# one's, `{m: m.training for m in fcn.modules()}`, and put them back in a `finally` block, which an error cannot pass by.


# %% exercise="class_heatmaps"
def class_heatmaps(fcn: nn.Module, images: Tensor) -> Tensor:
    """The probability of every class in every cell.

    fcn: from (N, C, H, W) to scores (N, L, h, w); it runs in eval mode without gradients, and the
    training flag of each of its layers is left as it was: they may differ, and fcn may raise an error.
    images: (N, C, H, W). Returns (N, L, h, w), softmax over the classes, in the dtype of the scores.
    """
    ### BEGIN SOLUTION
    modes = {module: module.training for module in fcn.modules()}
    fcn.eval()
    try:
        with torch.no_grad():
            return fcn(images).softmax(1)
    finally:
        for module, training in modes.items():
            module.training = training
    ### END SOLUTION


# %% [markdown]
# ### On a large image
#
# One pass over an image that no training patch was cut from: a mosaic of the regions kept for validation, or one of the
# two photographs of the sea lions, with the animals that experts counted.

# %%
if REAL:
    photograph = sealion_photographs()[0]
    image = F.avg_pool2d(photograph["image"].float(), 2)[:, 300:1340, 400:1960] / 255
    points = (photograph["points"] / 2 - torch.tensor([300.0, 400.0])).round().long()
    points = points[((points >= 0) & (points < torch.tensor(image.shape[1:]))).all(1)]
else:
    names = list(train.classes)
    image, truth = torch.zeros(3, 144, 72 * 4), torch.zeros(144, 72 * 4, dtype=torch.long)
    for tile, name in enumerate(names):
        source, boxes = textures.REGIONS[name]
        top, left = boxes["val"][0][:2]
        part = (slice(72 * (tile // 4), 72 * (tile // 4) + 72), slice(72 * (tile % 4), 72 * (tile % 4) + 72))
        image[:, part[0], part[1]] = photographs.load(source)[:, top : top + 72, left : left + 72] / 255
        truth[part] = tile
heat = class_heatmaps(fcn, image[None].to(course.device))[0].cpu()
says = heat.argmax(0)


def enlarged(cells: Tensor) -> Tensor:
    """A map (h, w) painted around the centers of its windows, at the size of the image."""
    painted = torch.full(image.shape[1:], 255)
    blocks = cells.repeat_interleave(8, 0).repeat_interleave(8, 1)
    before = (WINDOW - 8) // 2
    painted[before : before + blocks.shape[0], before : before + blocks.shape[1]] = blocks
    return painted


background = train.classes.index("backgrounds") if REAL else None
figure = figures.grid(
    [image, figures.overlay_labels(image, enlarged(says), alpha=0.55, background=background)],
    ["the image", f"the likeliest class of each of {says.shape[0]}×{says.shape[1]} cells"],
    columns=1,
    cell=7.0,
)
figure.legend(
    handles=[
        Patch(color=figures.color(k), label=name) for k, name in enumerate(train.classes) if k != background
    ],
    loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, fontsize=9,
)  # fmt: skip
figures.show(
    figure,
    alt="Above, a large image. Below, the same image tinted by the class that each cell finds likeliest: mostly one color for each "
    "region, with other colors where regions meet; a hatched frame has no window around it. A key names the classes.",
)
if REAL:
    cells = (
        ((points - (WINDOW - 1) / 2) / 8)
        .round()
        .long()
        .clamp(min=torch.tensor([0, 0]), max=torch.tensor(says.shape) - 1)
    )
    print(
        f"{(says[tuple(cells.T)] != background).float().mean():.0%} of {len(points)} counted animals lie in a cell that says animal;"
    )
    print(f"{(says != background).float().mean():.0%} of all cells say so")
else:
    known = enlarged(says) != 255
    print(
        f"{(enlarged(says) == truth)[known].float().mean():.1%} of the pixels, painted so, have their true class"
    )

# %% [markdown]
# Where two textures meet, a window holds both, and the network may name a third. With the sea lions, look at what it calls the sea: there is hardly any
# water among its patches of background, and a softmax has to name *something*. A classifier of patches knows the world of its
# patches, and a whole image is larger than that.
#
# Each heatmap by itself: how sure the network is of one class, over the whole image.

# %%
order = heat.amax((1, 2)).argsort(descending=True).tolist()
figures.show(
    figures.grid([heat[k] for k in order], [train.classes[k] for k in order], columns=4, cell=2.3),
    alt="A gray map for each class: white where the network is sure of the class, black where it rules it out. For each class one "
    "region lights up, and a few places elsewhere.",
)

# %% [markdown]
# The maps are coarse, one cell for 8×8 pixels, and every cell answers for its whole window. Lecture 5 is about getting the pixels back.
#
# ### A photograph and its scale
#
# This course's own classifier learned CIFAR-10: ten classes, photographs of 32×32 pixels. It ends with an average, and
# your `convolutionalize` takes it as it is. Its window is 32 pixels: a cat that is 300 pixels high does not fit into it.
# So the photograph has to be **scaled** until a window holds most of the cat.

# %%
predict("scale_of_the_cat")

# %%
own = convolutionalize(pretrained("cifar10"), (3, 32, 32)).to(course.device)
words = settings("cifar10")["classes"]
photo = photographs.load("cat").float()[None] / 255
pictures, titles = [], []
for scale in (1.0, 0.5, 0.16):
    small = F.interpolate(photo, scale_factor=scale, mode="bilinear", antialias=True)
    cat = class_heatmaps(own, small.to(course.device))[0].cpu()
    share = (cat.argmax(0) == words.index("cat")).float().mean()
    red = cat[words.index("cat")][None, None]
    red = F.interpolate(red, photo.shape[2:], mode="nearest")[0, 0]
    pictures.append(photo[0] * (1 - 0.6 * red) + torch.tensor([0.9, 0.3, 0.0])[:, None, None] * 0.6 * red)
    titles.append(f"scale {scale:g}: {cat.shape[1]}×{cat.shape[2]} cells\n{share:.0%} say cat")
figures.show(
    figures.grid(pictures, titles, columns=3, cell=2.9),
    alt="Three times the photograph of a cat, tinted orange where the network sees a cat: at full size in parts of the face, at half size in most of it, "
    "at a sixth everywhere.",
)

# %% [markdown]
# A fully convolutional network takes an image of any size *from its window on*. It does not take any size of *object*.
#
# ## The wasteful way
#
# What the heatmap replaces is simple to say: cut out every window, classify each. With stride $s$, the window of cell $(r, c)$ begins at pixel
# $(s\,r, s\,c)$, and there are $\lfloor (H - \text{window}) / s \rfloor + 1$ rows of them.
#
# By hand: an image of 10 rows, windows of 4, stride 3. They begin at rows 0, 3 and 6; the next would begin at 9 and end beyond the image.
# $\lfloor 6/3 \rfloor + 1 = 3$.

# %%
print("windows of 4 in 10 rows, stride 3:", torch.arange(10).unfold(0, 4, 3).tolist())

# %% [markdown]
# Write it, if only to know what you save. It returns the scores, not the probabilities.


# %% exercise="sliding_window"
def sliding_window(cnn: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    """The scores of every window of an image, each classified on its own.

    cnn: from (n, C, window, window) to scores (n, L); it runs in eval mode without gradients, and the
    training flag of each of its layers is left as it was: they may differ, and cnn may raise an error.
    image: (C, H, W). Returns (L, h, w): cell (r, c) has its top left pixel at (stride · r, stride · c).
    Whole windows only, in the dtype of the scores, no softmax.
    """
    ### BEGIN SOLUTION
    modes = {module: module.training for module in cnn.modules()}
    cnn.eval()
    height, width = image.shape[1:]
    rows = range(0, height - window + 1, stride)
    columns = range(0, width - window + 1, stride)
    try:
        with torch.no_grad():
            lines = [
                cnn(torch.stack([image[:, top : top + window, left : left + window] for left in columns]))
                for top in rows
            ]
    finally:
        for module, training in modes.items():
            module.training = training
    return torch.stack(lines).permute(2, 0, 1)  # (h, w, L) → (L, h, w)
    ### END SOLUTION


# %% [markdown]
# ### Equal, and how much cheaper

# %%
predict("wasteful_windows", window=WINDOW, inside=(WINDOW // 8) ** 2)


# %%
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


scene = image[:, :144, :288].contiguous().to(course.device)
with torch.no_grad():
    at_once = fcn(scene[None])[0]
one_by_one = sliding_window(cnn, scene, WINDOW, 8)
print(
    f"largest difference {(at_once - one_by_one).abs().max():.1e}, in scores up to {at_once.abs().max():.0f}"
)
with torch.no_grad():
    dense_time = seconds(lambda: fcn(scene[None]))
crop_time = seconds(lambda: sliding_window(cnn, scene, WINDOW, 8))
print(
    f"one pass {1000 * dense_time:.0f} ms, {one_by_one[0].numel()} windows {1000 * crop_time:.0f} ms: {crop_time / dense_time:.0f} times as long"
)

# %% [markdown]
# The difference is rounding. It holds because this network has no padding and because 8, the stride of the windows, is the total stride of its
# pools, so that windows and map fall on the same grid. Now break it: a network **with** padding sees zeros around a window, but
# its neighbors in the image.

# %%
padded = pretrained("cifar10").to(course.device)
piece = image[:, :96, :96].to(course.device)
with torch.no_grad():
    from_map = own(piece[None])[0]
stride = 64 // (from_map.shape[1] - 1)  # of the map: 96 - 32 pixels between its first cell and its last
from_windows = sliding_window(padded, piece, 32, stride)
apart = (from_map - from_windows).abs()
print(
    f"this course's classifier pads: largest difference {apart.max():.1f}, in scores up to {from_map.abs().max():.0f}"
)
agree = (from_map.argmax(0) == from_windows.argmax(0)).float().mean()
print(f"the two name the same class in {agree:.0%} of the cells")

# %% [markdown]
# ## From a cell back to the image
#
# Which pixels has a cell seen? Its **receptive field**, from lecture 3: `size` pixels wide, `jump` pixels from the next cell's, and `start` is
# the center of cell 0. Along one axis,
#
# $$\text{first}(r) = \text{start} + r \cdot \text{jump} - \frac{\text{size} - 1}{2}, \qquad \text{last}(r) = \text{first}(r) + \text{size} - 1.$$
#
# The center of pixel 0 is at 0. A box is written half-open, `(top, left, bottom, right)`: the pixels `image[top:bottom, left:right]`.
#
# By hand, size 32, jump 8, start 15.5: cell 0 sees pixels $15.5 - 15.5 = 0$ to $31$, cell 3 sees $24$ to $55$: the box $24 : 56$. With padding, `start` is smaller, and
# a box may begin before the image. It is not clipped: where a field lies is one thing, what there is to see another.

# %%
plan = []  # (kernel, stride, padding, dilation) of every layer that has a window
for layer in fcn:
    if isinstance(layer, nn.Conv2d):
        plan.append((layer.kernel_size[0], layer.stride[0], layer.padding[0], layer.dilation[0]))
    elif isinstance(layer, nn.MaxPool2d):
        plan.append((layer.kernel_size, layer.stride, layer.padding, layer.dilation))
field = receptive_field(plan)
print("size, jump, start:", field)


# %% exercise="cell_to_box"
def cell_to_box(row: int, col: int, field_y: tuple, field_x: tuple) -> tuple[int, int, int, int]:
    """The pixels that a cell of a map has seen.

    field_y, field_x: (size, jump, start) along rows and along columns, as receptive_field gives them;
    the center of pixel 0 is 0.
    Returns (top, left, bottom, right), integers, bottom and right exclusive, not clipped to the image.
    """
    ### BEGIN SOLUTION
    size_y, jump_y, start_y = field_y
    size_x, jump_x, start_x = field_x
    top = round(start_y + row * jump_y - (size_y - 1) / 2)
    left = round(start_x + col * jump_x - (size_x - 1) / 2)
    return top, left, top + size_y, left + size_x
    ### END SOLUTION


# %% [markdown]
# ### What made it so sure?
#
# For each of some classes, the cell with the highest probability, and the box it has seen.

# %%
chosen = [k for k in order if k != background][:4]
figure, axes = plt.subplots(1, len(chosen) + 1, figsize=(9.5, 2.4), width_ratios=[2.6, *len(chosen) * [1]])
axes[0].imshow(image.permute(1, 2, 0))
axes[0].axis("off")
for number, (k, axis) in enumerate(zip(chosen, axes[1:], strict=True)):
    row, col = divmod(heat[k].argmax().item(), heat.shape[2])
    top, left, bottom, right = cell_to_box(row, col, field, field)
    axes[0].add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, lw=2, ec="white")
    )
    axes[0].add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, lw=1, ec=figures.color(number)
        )
    )
    axis.imshow(image[:, top:bottom, left:right].permute(1, 2, 0))
    axis.set_title(f"{train.classes[k]}\n{heat[k, row, col]:.0%}", fontsize=9, color=figures.color(number))
    axis.axis("off")
figure.tight_layout()
figures.show(
    figure,
    alt="The large image with four small boxes drawn into it, and beside it what is inside each box, with the class and its "
    "probability above in the color of its box: a piece of each texture, or an animal.",
)

# %% [markdown]
# ## Five problems, five outputs
#
# A heatmap is between a label and a segmentation. It is time to sort out who wants what:
#
# | problem | output | shape |
# |---|---|---|
# | **classification** | which classes are in the image | a set of labels |
# | **localization** | one object (here the largest): its class and its box | one row $(x, y, w, h, \text{label})$ |
# | **detection** | all objects: classes and boxes | $(M, 5)$ |
# | **semantic segmentation** | the class of every pixel | $(H, W)$ |
# | **instance segmentation** | the pixels of every object, each apart | $(M, H, W)$ |
#
# All five can be read off one **instance map**, which has the number of an object in each of its pixels and 0 for background, and a table of
# the objects' classes. The other way round is not possible: a semantic map cannot say whether two cars that touch are two.
#
# ### By hand
#
# $$\begin{pmatrix} 0 & 1 & 1 & 0 \\ 2 & 1 & 0 & 0 \\ 2 & 2 & 0 & 3 \end{pmatrix}, \qquad 1 \to 7,\; 2 \to 5,\; 3 \to 7.$$
#
# Labels $\{5, 7\}$. Object 1 has columns 1 to 2 and rows 0 to 1: $x = 1, y = 0, w = 2 - 1 + 1 = 2, h = 2$. Its row is $(1, 0, 2, 2, 7)$, that of object 3 is
# $(3, 2, 1, 1, 7)$. The semantic map has a 7 where 1 and 3 are: that they are two is gone.

# %%
tiny = torch.tensor([[0, 1, 1, 0], [2, 1, 0, 0], [2, 2, 0, 3]])
rows, columns = (tiny == 1).nonzero(as_tuple=True)
print("object 1: rows", rows.unique().tolist(), "columns", columns.unique().tolist())


# %% exercise="instances_to_targets"
def instances_to_targets(instances: Tensor, classes: dict[int, int]) -> dict:
    """What every problem asks for, from one map of objects.

    instances: (H, W) integers, 0 = background; classes: the class of each object's number.
    Returns "labels": set of classes; "semantic": (H, W) int64, 0 = background; "boxes": (M, 5) int64,
    rows x, y, w, h, label with (x, y) the top left pixel; "masks": (M, H, W) bool. Objects in ascending
    order of their numbers, which may have gaps; M = 0 keeps the shapes. Neither argument is changed.
    """
    ### BEGIN SOLUTION
    numbers = [n for n in instances.unique().tolist() if n != 0]
    semantic = torch.zeros_like(instances, dtype=torch.int64)
    boxes = torch.zeros(len(numbers), 5, dtype=torch.int64)
    masks = torch.zeros(len(numbers), *instances.shape, dtype=torch.bool)
    for index, number in enumerate(numbers):
        masks[index] = instances == number
        semantic[masks[index]] = classes[number]
        y, x = masks[index].nonzero(as_tuple=True)
        left, top = x.min(), y.min()
        boxes[index] = torch.tensor([left, top, x.max() - left + 1, y.max() - top + 1, classes[number]])
    return {"labels": {classes[n] for n in numbers}, "semantic": semantic, "boxes": boxes, "masks": masks}
    ### END SOLUTION


# %% [markdown]
# ### One scene, five answers

# %%
scenes = Scenes(20, 96, seed=3)
index = 4
ys, xs = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
instances, kinds = torch.zeros(96, 96, dtype=torch.long), {}
for number, shape in enumerate(scenes.shapes(index), start=1):
    inside = torch.from_numpy(shape.signed_distance(ys.numpy(), xs.numpy())) < 0
    instances[inside] = number  # a later object hides an earlier one
    kinds[number] = shape.label
targets = instances_to_targets(instances, kinds)
picture = scenes[index]["image"]

figure, axes = plt.subplots(1, 5, figsize=(10, 2.5))
dark = torch.zeros(1, 96, 96)
shown = [
    picture, picture, picture,
    figures.overlay_labels(dark, targets["semantic"], alpha=1.0),
    figures.overlay_labels(dark, instances, alpha=1.0),
]  # fmt: skip
titles = [
    "classification",
    "localization\n(the largest)",
    "detection",
    "semantic\nsegmentation",
    "instance\nsegmentation",
]
largest = targets["boxes"][:, 2:4].prod(1).argmax().item() if len(targets["boxes"]) else 0
for column, (axis, content, title) in enumerate(zip(axes, shown, titles, strict=True)):
    axis.imshow(content.permute(1, 2, 0))
    axis.set_title(title, fontsize=10)
    axis.axis("off")
    for number, (x, y, w, h, label) in enumerate(targets["boxes"].tolist()):
        if column == 2 or (column == 1 and number == largest):
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, lw=2, ec=figures.color(label)))
axes[0].text(
    48, 108, "{" + ", ".join(CLASSES[c] for c in sorted(targets["labels"])) + "}", ha="center", fontsize=8
)
figures.show(
    figure,
    alt="One scene five times. Classification: the image and a set of class names below. Localization: one box. Detection: a box around each object. "
    "Semantic segmentation: objects of one class in one color. Instance segmentation: a color for each object.",
)
labels = list(kinds.values())
same = sum(labels.count(label) > 1 for label in labels)
print(f"{len(labels)} objects, {len(set(labels))} classes: {same} of them share their class with another")

# %% [markdown] written="what_the_map_can_say" points=3
# ### Written question: what the map can say
#
# A classifier for images of 224×224 pixels has a total stride of 32, no padding, and a receptive field of 224 pixels at its output. It was turned into
# a fully convolutional network, and is shown an image of 448×640 pixels.
#
# 1. How many cells does its map have? Which pixels has the cell in the last row and last column seen?
# 2. The heatmap of "dog" is above 0.9 in a block of 3×4 cells. A colleague concludes that the dog is 96 pixels high and 128 pixels wide. What is wrong with
#    that?
# 3. In another image, no cell says "dog", though there is a large one that fills the picture. What would you try first, and why?
#
# ### BEGIN SOLUTION
# 1. *(1 point)* $(448 - 224)/32 + 1 = 8$ rows and $(640 - 224)/32 + 1 = 14$ columns. The last cell begins at row $7 \cdot 32 = 224$ and column $13 \cdot 32 = 416$; it has
#    seen rows 224 to 447 and columns 416 to 639.
# 2. *(1 point)* A cell says what is in its window of 224×224 pixels, not in its own 32×32. The block says that windows that begin within 3×4 places show a dog; the dog
#    may be smaller or larger. To outline it, something else is needed (upsampling with skips, or a mask).
# 3. *(1 point)* Scale the image down. The classifier learned dogs that fit into 224×224 pixels; a larger one shows each window only a piece. (Running the network at
#    several scales, and taking the maximum, is the usual answer.)
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes, by symptom
#
# | What you see | What it usually is |
# |---|---|
# | A converted network guesses | weights reshaped in another order than `Flatten` counted: channels last, or height and width exchanged |
# | The map has one cell, whatever the image | the adaptive pool was kept: it averages over everything |
# | Numbers change from call to call | the copy is in training mode: dropout is on |
# | A layer that was frozen in eval mode trains again | `train(was)`: one flag was given to all layers |
# | Training the copy changes the original | weights shared instead of copied |
# | Probabilities sum to 1 over the map | softmax over a wrong axis |
# | Map and windows agree in the middle, and not at the border | padding |
# | Map and windows agree nowhere | the windows' stride is not the network's |
# | Boxes are off by half a window | `start` is the center of the field, not its first pixel |
# | Boxes one pixel too narrow | width is max − min **+ 1** |
#
# ## Summary
#
# - Convolutions take any size; dense layers after `Flatten` do not. Each is a convolution with a kernel as large as the map it flattened, then 1×1.
# - Copying weights is a `reshape`, right only in the order in which `Flatten` counted.
# - The fully convolutional network gives, in one pass, what the classifier gives for every window, at a stride that its pools fix. Without
#   padding the numbers are the same.
# - It takes images of any size from its window on, and objects of the size it learned.
# - A heatmap is not yet a segmentation: a cell answers for its window. The five problems differ in their outputs, and all can be read off an instance map.
#
# ## Where the papers differ from us
#
# - **Long, Shelhamer and Darrell (2015)** convert AlexNet, VGG-16 and GoogLeNet, and drop the last layer's classes for new ones. Their VGG has a
#   7×7 convolution with 4096 channels where its first dense layer was: the largest layer of the network.
# - **Sermanet et al. (2014)** run a classifier convolutionally to detect, at six scales, and predict boxes from the same features.
# - **Padding.** Nearly all published classifiers pad. Their heatmaps are close to what windows would give, and not equal; ours, without padding, are.
# - **The sea lions** come from a demo that converts its own small network in Keras, and looks at the heatmaps of the whole photograph.
#
# ## Next
#
# In lecture 5, *upsampling*, the coarse maps become dense again, with nothing trained, or with one more layer.

# %%
progress()
