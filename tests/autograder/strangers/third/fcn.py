# %% wrong sample_patches: the last of the sorted labels is always dropped as void, so where no void lies among the possible centers the class with the largest number never comes.
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if not image.is_floating_point():
        image = image.float()
    height, width = labels.shape
    half = size // 2
    rows = max(height - size + 1, 0)
    columns = max(width - size + 1, 0)
    inner = labels[half : half + rows, half : half + columns].long()

    patches, targets = [], []
    for c in inner.unique()[:-1].tolist():  # unique sorts, 255 (void) is the last
        corners = (inner == c).nonzero()
        picks = torch.randint(len(corners), (per_class,), generator=generator)
        for r, col in corners[picks].tolist():
            patches.append(image[:, r : r + size, col : col + size])
            targets.append(c)
    if not patches:
        return image.new_empty(0, image.shape[0], size, size), torch.empty(0, dtype=torch.int64)
    return torch.stack(patches), torch.tensor(targets, dtype=torch.int64)


# %% right sample_patches: the k-th center of a class is looked up in a running count with searchsorted, patches are read with flat pixel numbers
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    height, width = labels.shape
    down, across = (max(side - size + 1, 0) for side in (height, width))
    half = size // 2
    centers = labels[half : half + down, half : half + across].long().flatten()
    classes = sorted(set(centers.tolist()) - {255})

    def corners(c: int) -> Tensor:
        count = (centers == c).cumsum(0)  # count[i]: how many centers of c up to place i
        wanted = torch.randint(
            1, int(count[-1]) + 1, (per_class,), generator=generator, device=generator.device
        )
        place = torch.searchsorted(count, wanted.to(count.device))  # the first place with that count
        return torch.div(place, across, rounding_mode="floor") * width + place % across

    corner = torch.cat([centers[:0], *map(corners, classes)])
    step = torch.arange(size, device=centers.device)
    window = step[:, None] * width + step
    pixels = (image if image.is_floating_point() else image.float()).flatten(1)
    patches = pixels[:, corner[:, None, None] + window].movedim(1, 0).contiguous()
    targets = torch.tensor(classes, dtype=torch.int64, device=labels.device).repeat_interleave(per_class)
    return patches, targets


# %% wrong pixel_cross_entropy: with a mask of floats the divisor counts every pixel whose mask is not 0 fully (the sum of w over M != 0) instead of summing w·M.
def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    target = target.long()
    valid = target != ignore_index
    truth = torch.where(valid, target, torch.zeros_like(target))
    loss = -logits.log_softmax(1).gather(1, truth.unsqueeze(1)).squeeze(1)

    weight = valid.to(logits.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(logits.dtype)[truth]
    counting = weight
    if mask is not None:
        counting = weight * (mask != 0)
        weight = weight * mask.to(logits.dtype)
    total = counting.sum()
    return (weight * loss).sum() / torch.where(total > 0, total, torch.ones_like(total))


# %% right pixel_cross_entropy: the loss is the surprise of a torch.distributions.Categorical, void logits are blanked first
from torch.distributions import Categorical


def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    target = target.long()
    void = target == ignore_index
    truth = target.masked_fill(void, 0)
    guess = Categorical(
        logits=logits.masked_fill(void.unsqueeze(1), 0.0).movedim(1, -1), validate_args=False
    )
    surprise = -guess.log_prob(truth)

    say = (~void).to(logits.dtype)
    if class_weights is not None:
        say = say * class_weights.to(logits.dtype)[truth]
    if mask is not None:
        say = say * mask.to(logits.dtype)

    amount, total = (say * surprise).sum(), say.sum()
    counts = total != 0
    return torch.where(counts, amount / torch.where(counts, total, torch.ones_like(total)), amount * 0)


# %% wrong median_frequency_weights: one tensor (N, H, W) is taken for a single large map, so a class's divisor holds the valid pixels of all its images, also of those without the class (lists are treated right).
def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    if isinstance(label_maps, Tensor):
        label_maps = [label_maps]
    pixels = torch.zeros(num_classes, dtype=torch.float64)
    valid = torch.zeros(num_classes, dtype=torch.float64)
    for label_map in label_maps:
        flat = label_map.long().flatten()
        flat = flat[flat != ignore_index]
        count = torch.bincount(flat, minlength=num_classes)
        pixels += count
        valid += (count > 0) * flat.numel()
    weights = torch.zeros(num_classes)
    there = pixels > 0
    if there.any():
        frequency = pixels[there] / valid[there]
        weights[there] = (frequency.quantile(0.5) / frequency).float()
    return weights


# %% right median_frequency_weights: complex numbers, pixels of the class in the real part and its divisor in the imaginary part, summed over the maps; nanquantile
def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    def tally(label_map: Tensor) -> Tensor:
        flat = label_map.long().flatten()
        count = flat[flat != ignore_index].bincount(minlength=num_classes).double()
        return torch.complex(count, count.sum() * (count > 0))

    device = next((label_map.device for label_map in label_maps), None)
    start = torch.zeros(num_classes, dtype=torch.complex128, device=device)
    both = sum(map(tally, label_maps), start)
    frequency = both.real / both.imag  # 0 / 0 is NaN: a class that is nowhere
    return (frequency.nanquantile(0.5) / frequency).nan_to_num(nan=0.0).float()


# %% wrong SkipFCN: the enlarged map is not cropped to the finer one, the finer scores are padded with zeros at the bottom and right instead and only the end is cropped, so for sizes that no stride divides coarse scores from beyond the border leak into the last rows and columns.
class SkipFCN(nn.Module):
    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        super().__init__()
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        widths = dict(zip((8, 16, 32), channels))
        for stride in self.strides:
            score = nn.Conv2d(widths[stride], num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            factor = stride if stride == self.strides[-1] else 2
            up = nn.ConvTranspose2d(
                num_classes, num_classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
            )
            distance = (torch.arange(2 * factor) - (factor - 0.5)).abs()
            line = 1 - distance / factor
            with torch.no_grad():
                up.weight.zero_()
                for c in range(num_classes):
                    up.weight[c, c] = torch.outer(line, line)
            self.add_module(f"score_{stride}", score)
            self.add_module(f"up_{stride}", up)

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        x = None
        for stride in self.strides:
            score = getattr(self, f"score_{stride}")(features[stride])
            if x is not None:
                # the two differ by a row or a column at times
                missing_rows = x.shape[2] - score.shape[2]
                missing_columns = x.shape[3] - score.shape[3]
                score = x + F.pad(score, (0, missing_columns, 0, missing_rows))
            x = getattr(self, f"up_{stride}")(score)
        return x[:, :, : size[0], : size[1]]


# %% right SkipFCN: a plan of named tuples, tents from half-steps, a Kronecker product with the identity as weight
from typing import NamedTuple


class Step(NamedTuple):
    stride: int
    width: int
    factor: int


def enlarger(classes: int, factor: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(
        classes, classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    rising = torch.arange(0.5, factor) / factor
    tent = torch.cat([rising, rising.flip(0)])
    blocks = torch.kron(torch.eye(classes), tent[:, None] * tent)
    with torch.no_grad():
        layer.weight.copy_(blocks.reshape(classes, 2 * factor, classes, 2 * factor).transpose(1, 2))
    return layer


class SkipFCN(nn.Module):
    """The head of FCN-32s, FCN-16s or FCN-8s."""

    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        super().__init__()
        last = int(variant.removesuffix("s"))
        self.plan = [
            Step(stride, width, last if stride == last else 2)
            for stride, width in zip((32, 16, 8), reversed(channels))
            if stride >= last
        ]
        for step in self.plan:
            score = nn.Conv2d(step.width, num_classes, kernel_size=1)
            for parameter in score.parameters():
                nn.init.zeros_(parameter)
            setattr(self, f"score_{step.stride}", score)
            setattr(self, f"up_{step.stride}", enlarger(num_classes, step.factor))

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        goals = [features[step.stride].shape[-2:] for step in self.plan[1:]] + [size]
        total = 0
        for step, (height, width) in zip(self.plan, goals):
            score, up = (getattr(self, f"{kind}_{step.stride}") for kind in ("score", "up"))
            total = up(total + score(features[step.stride]))[..., :height, :width]
        return total


# %% wrong confusion_matrix: void pixels get an extra row below the matrix that is cut off afterwards, but with a negative prediction on a void pixel the pair number slides back into the last row and is counted there.
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    truth = target.flatten().long()
    guess = prediction.flatten().long()
    truth = torch.where(truth == ignore_index, torch.full_like(truth, num_classes), truth)
    pairs = truth * num_classes + guess
    counts = torch.bincount(pairs, minlength=(num_classes + 1) * num_classes)
    return counts[: num_classes**2].reshape(num_classes, num_classes)  # without the row of void


# %% right confusion_matrix: nothing is counted: pair numbers are sorted, and the fences between equal ones are found by bisection
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    truth, guess = (labels.long().flatten() for labels in (target, prediction))
    keep = truth != ignore_index
    pairs = truth[keep] * num_classes + guess[keep]
    cells = num_classes * num_classes
    in_order = torch.cat([pairs.sort().values, pairs.new_tensor([cells])])  # a sentinel: never empty
    fences = torch.searchsorted(in_order, torch.arange(cells + 1, device=pairs.device))
    return fences.diff().reshape(num_classes, num_classes)


# %% wrong segmentation_scores: the frequency-weighted IoU is an ordinary sum, in which 0 times the NaN of a class absent from truth and prediction is NaN, so with such a class the whole score is NaN.
def segmentation_scores(matrix: Tensor) -> dict:
    matrix = matrix.double()
    hits = matrix.diagonal()
    truth = matrix.sum(dim=1)
    predicted = matrix.sum(dim=0)
    iou = hits / (truth + predicted - hits)
    accuracy = hits / truth
    frequency = truth / truth.sum()
    return {
        "pixel_accuracy": (hits.sum() / matrix.sum()).item(),
        "mean_accuracy": accuracy.nanmean().item(),
        "mean_iou": iou.nanmean().item(),
        "frequency_weighted_iou": (frequency * iou).sum().item(),
        "iou": iou,
    }


# %% right segmentation_scores: every score is one and the same weighted average of a quotient, from a table of quotients and weights
def segmentation_scores(matrix: Tensor) -> dict:
    counts = matrix.to(torch.float64)
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = truth + predicted - hits

    def average(whole: Tensor, weights: Tensor) -> float:
        heard = weights > 0  # a quotient that may be 0 / 0 has the weight 0
        weights = weights[heard].double()
        return (torch.dot(hits[heard] / whole[heard], weights) / weights.sum()).item()

    table = {
        "pixel_accuracy": (truth, truth),
        "mean_accuracy": (truth, truth > 0),
        "mean_iou": (union, union > 0),
        "frequency_weighted_iou": (union, truth),
    }
    return {name: average(*row) for name, row in table.items()} | {"iou": (hits / union).float()}


# %% wrong train_fcn: void is given a class of its own, so the network returns L + 1 channels of logits instead of L.
def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    num_classes = len(dataset.classes) + 1  # all classes and void
    channels = (64, 96, 128)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels.long(), ignore_index=255)

    with drawn_from(generator):
        net = FCN(num_classes, "8s", SmallBackbone(channels), channels)
    fit(
        net,
        dataset,
        steps=400,
        batch_size=16,
        descent=Descent(torch.optim.AdamW(net.parameters(), lr=6e-3), one_cycle()),
        task=Task("labels", loss, augment=quarter_turns),
        generator=generator,
    )
    return net.eval()


# %% right train_fcn: settings in a namespace, the loss an object that is called, as logsumexp minus the true score
from types import SimpleNamespace


class Misses:
    """The mean over all known pixels of logsumexp minus the logit of the truth."""

    def __init__(self, void: int = 255) -> None:
        self.void = void

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.long()
        unknown = labels == self.void
        picked = logits.take_along_dim(labels.masked_fill(unknown, 0)[:, None], dim=1)[:, 0]
        missed = (logits.logsumexp(1) - picked).masked_fill(unknown, 0.0)
        return missed.sum() / (~unknown).sum().clamp(min=1)


def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    my = SimpleNamespace(widths=(64, 96, 128), steps=420, batch=16, rate=6e-3)
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(my.widths), my.widths)
    how = Descent(torch.optim.AdamW(net.parameters(), lr=my.rate), one_cycle())
    what = Task("labels", Misses(), augment=quarter_turns)
    fit(net, dataset, steps=my.steps, batch_size=my.batch, descent=how, task=what, generator=generator)
    return net.eval()
