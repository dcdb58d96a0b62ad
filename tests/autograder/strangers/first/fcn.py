# %% wrong sample_patches: a row that holds the class is drawn first and a column in that row second, so the legal centers of a class are not equally likely (a lone center in its row comes far too often).
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches and the labels of their centers, every class equally often."""
    if not image.is_floating_point():
        image = image.float()
    height, width = labels.shape
    half = size // 2
    inner = labels[half : half + height - size + 1, half : half + width - size + 1]

    def draw(n):
        return torch.randint(n, (1,), generator=generator).item()

    patches, targets = [], []
    for c in sorted(set(inner.flatten().tolist()) - {255}):
        hits = inner == c
        rows = hits.any(dim=1).nonzero()[:, 0]
        for _ in range(per_class):
            row = rows[draw(len(rows))].item()
            columns = hits[row].nonzero()[:, 0]
            col = columns[draw(len(columns))].item()
            patches.append(image[:, row : row + size, col : col + size])
            targets.append(c)
    if not patches:
        return image.new_zeros(0, image.shape[0], size, size), torch.zeros(0, dtype=torch.int64)
    return torch.stack(patches), torch.tensor(targets, dtype=torch.int64)


# %% right sample_patches: no loop at all: labels sorted into runs, uniform numbers scaled to each run, windows from unfold
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches and the labels of their centers, every class equally often."""
    source = image if image.is_floating_point() else image.to(torch.float32)
    channels, height, width = source.shape
    down, across = height - size + 1, width - size + 1
    if down < 1 or across < 1:
        return (
            source.new_empty((0, channels, size, size)),
            torch.empty(0, dtype=torch.int64, device=labels.device),
        )

    flat = labels.narrow(0, size // 2, down).narrow(1, size // 2, across).reshape(-1).to(torch.int64)
    order = flat.argsort()  # corners, those of one class next to each other
    classes, counts = flat.unique(return_counts=True)
    starts = counts.cumsum(0) - counts
    counted = classes != 255
    classes, counts, starts = classes[counted], counts[counted, None], starts[counted, None]

    chance = torch.rand(
        len(classes), per_class, generator=generator, dtype=torch.float64, device=generator.device
    ).to(flat.device)
    offset = torch.minimum((chance * counts).long(), counts - 1)
    corner = order[starts + offset].flatten()
    row = torch.div(corner, across, rounding_mode="floor")
    col = corner - row * across

    windows = source.unfold(1, size, 1).unfold(2, size, 1)  # (C, down, across, size, size), a view
    patches = windows[:, row, col].movedim(1, 0).contiguous()
    return patches, classes[:, None].expand(-1, per_class).flatten()


# %% wrong pixel_cross_entropy: each image is averaged over its own weights first and then the mean over the batch is taken, instead of one quotient of sums over all pixels of the batch.
def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    target = target.long()
    valid = target != ignore_index
    safe = target.masked_fill(~valid, 0)
    nll = -logits.log_softmax(dim=1).gather(1, safe.unsqueeze(1)).squeeze(1)
    weight = valid.to(logits.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(logits.dtype)[safe]
    if mask is not None:
        weight = weight * mask.to(logits.dtype)
    total = weight.sum(dim=(1, 2))
    total = torch.where(total > 0, total, torch.ones_like(total))
    return ((weight * nll).sum(dim=(1, 2)) / total).mean()


# %% right pixel_cross_entropy: comparison with an arange as one-hot code, einsum for the class weights, logsumexp of shifted logits
def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Σ w·M·ℓ / Σ w·M over the valid pixels, a scalar."""
    kind = logits.dtype
    truth = target.to(torch.int64)
    numbers = torch.arange(logits.shape[1], device=logits.device).reshape(1, -1, 1, 1)
    one_hot = (truth.unsqueeze(1) == numbers) & (truth != ignore_index).unsqueeze(1)

    shifted = logits - logits.detach().amax(dim=1, keepdim=True)
    surprise = shifted.logsumexp(dim=1) - torch.where(one_hot, shifted, torch.zeros_like(shifted)).sum(dim=1)

    factors = [(truth != ignore_index).to(kind)]
    if class_weights is not None:
        factors.append(torch.einsum("l,nlhw->nhw", class_weights.to(kind), one_hot.to(kind)))
    if mask is not None:
        factors.append(mask.to(kind))
    weight = factors[0]
    for factor in factors[1:]:
        weight = weight * factor

    above, below = (weight * surprise).sum(), weight.sum()
    something = below > 0
    return torch.where(something, above / torch.where(something, below, torch.ones_like(below)), above * 0)


# %% wrong median_frequency_weights: the divisor of a class's frequency counts all pixels of the images that contain it, the void pixels too.
def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    pixels = torch.zeros(num_classes, dtype=torch.float64)
    total = torch.zeros(num_classes, dtype=torch.float64)
    for label_map in label_maps:
        flat = label_map.flatten().long()
        count = torch.bincount(flat[flat != ignore_index], minlength=num_classes)
        pixels += count
        total[count > 0] += label_map.numel()
    weights = torch.zeros(num_classes, dtype=torch.float64)
    there = pixels > 0
    if there.any():
        frequency = pixels[there] / total[there]
        weights[there] = frequency.quantile(0.5) / frequency
    return weights.float()


# %% right median_frequency_weights: exact arithmetic: Counter, Fraction and statistics.median
import statistics
from collections import Counter
from fractions import Fraction


def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Class weights median(freq) / freq(c)."""
    hits: Counter[int] = Counter()
    chances: Counter[int] = Counter()
    for label_map in label_maps:
        census = Counter(label_map.reshape(-1).tolist())
        census.pop(ignore_index, None)
        hits.update(census)
        chances.update(dict.fromkeys(census, sum(census.values())))

    frequency = {c: Fraction(hits[c], chances[c]) for c in range(num_classes) if hits[c]}
    if not frequency:
        return torch.zeros(num_classes, dtype=torch.float32)
    middle = statistics.median(frequency.values())
    return torch.tensor(
        [float(middle / frequency[c]) if c in frequency else 0.0 for c in range(num_classes)],
        dtype=torch.float32,
    )


# %% wrong SkipFCN: the bilinear kernels of even size 2·factor are centered at factor - 1 (the formula for odd sizes) instead of factor - 1/2, so every enlargement is shifted by half a pixel of the finer map.
class SkipFCN(nn.Module):
    """The head of FCN-32s, FCN-16s or FCN-8s."""

    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        super().__init__()
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        for stride, c in zip(self.strides, reversed(channels)):
            score = nn.Conv2d(c, num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            factor = stride if stride == self.strides[-1] else 2
            up = nn.ConvTranspose2d(
                num_classes, num_classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
            )
            center = factor - 1
            ramp = 1 - (torch.arange(2 * factor) - center).abs() / factor
            with torch.no_grad():
                up.weight.zero_()
                for c_ in range(num_classes):
                    up.weight[c_, c_] = ramp[:, None] * ramp[None, :]
            setattr(self, f"score_{stride}", score)
            setattr(self, f"up_{stride}", up)

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        coarse = None
        for stride in self.strides:
            score = getattr(self, f"score_{stride}")(features[stride])
            if coarse is not None:
                score = score + coarse[:, :, : score.shape[2], : score.shape[3]]
            coarse = getattr(self, f"up_{stride}")(score)
        return coarse[:, :, : size[0], : size[1]]


# %% right SkipFCN: match statement, kernels by einsum with the identity, recursion from the finest stride down to 32
def _layer_pair(in_channels: int, num_classes: int, factor: int) -> tuple[nn.Conv2d, nn.ConvTranspose2d]:
    score = nn.Conv2d(in_channels, num_classes, kernel_size=1)
    for parameter in score.parameters():
        nn.init.zeros_(parameter)
    up = nn.ConvTranspose2d(
        num_classes, num_classes, kernel_size=2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    odd = torch.arange(1, 4 * factor, 2) / (2 * factor)  # 1, 3, 5, … over 2·factor
    tent = torch.minimum(odd, 2 - odd)
    up.weight = nn.Parameter(torch.einsum("io,h,w->iohw", torch.eye(num_classes), tent, tent))
    return score, up


class SkipFCN(nn.Module):
    """The head of FCN-32s, FCN-16s or FCN-8s."""

    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        super().__init__()
        c8, c16, c32 = channels
        match variant:
            case "32s":
                plan = [(32, c32, 32)]
            case "16s":
                plan = [(32, c32, 2), (16, c16, 16)]
            case "8s":
                plan = [(32, c32, 2), (16, c16, 2), (8, c8, 8)]
            case _:
                raise ValueError(f"no variant {variant!r}")
        for stride, c, factor in plan:
            score, up = _layer_pair(c, num_classes, factor)
            self.add_module(f"score_{stride}", score)
            self.add_module(f"up_{stride}", up)
        self.finest = plan[-1][0]

    def _enlarged(self, features: dict[int, Tensor], stride: int) -> Tensor:
        total = self.get_submodule(f"score_{stride}")(features[stride])
        if stride < 32:
            coarser = self._enlarged(features, 2 * stride)
            total = total + coarser.narrow(2, 0, total.shape[2]).narrow(3, 0, total.shape[3])
        return self.get_submodule(f"up_{stride}")(total)

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Features of each stride to logits (N, L, *size)."""
        height, width = size
        return self._enlarged(features, self.finest)[..., :height, :width]


# %% wrong confusion_matrix: pixels whose prediction equals ignore_index are left out as well, so where ignore_index is the number of a class its predictions on counting pixels are lost.
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    truth = target.flatten().long()
    guess = prediction.flatten().long()
    keep = (truth != ignore_index) & (guess != ignore_index)
    pairs = truth[keep] * num_classes + guess[keep]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


# %% right confusion_matrix: an accumulating index_put_ into a fresh matrix of zeros
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """How many pixels of each class were taken for each class."""
    guess, truth = (labels.reshape(-1).to(torch.int64) for labels in (prediction, target))
    where = (truth != ignore_index).nonzero().squeeze(1)
    truth, guess = truth.index_select(0, where), guess.index_select(0, where)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
    return matrix.index_put_((truth, guess), torch.ones_like(truth), accumulate=True)


# %% wrong segmentation_scores: a class that is only predicted gets NaN in iou, like an absent one, because presence is read from the truth alone; so it is also left out of mean_iou.
def segmentation_scores(matrix: Tensor) -> dict:
    matrix = matrix.double()
    hits = matrix.diagonal()
    truth = matrix.sum(dim=1)
    predicted = matrix.sum(dim=0)
    present = truth > 0
    nan = torch.full_like(hits, float("nan"))
    accuracy = torch.where(present, hits / truth, nan)
    iou = torch.where(present, hits / (truth + predicted - hits), nan)
    return {
        "pixel_accuracy": (hits.sum() / matrix.sum()).item(),
        "mean_accuracy": accuracy.nanmean().item(),
        "mean_iou": iou.nanmean().item(),
        "frequency_weighted_iou": ((truth * iou).nansum() / truth.sum()).item(),
        "iou": iou.float(),
    }


# %% right segmentation_scores: plain Python lists, zip for the columns, one ratio helper that knows 0 / 0
import math


def segmentation_scores(matrix: Tensor) -> dict:
    """The scores of a confusion matrix (L, L), rows = truth."""

    def ratio(above, below) -> float:
        return float(above / below) if below else math.nan

    def mean(values) -> float:
        known = [value for value in values if not math.isnan(value)]
        return ratio(math.fsum(known), len(known))

    rows = matrix.tolist()
    hits = [row[c] for c, row in enumerate(rows)]
    truth = [sum(row) for row in rows]
    predicted = [sum(column) for column in zip(*rows)]
    iou = [ratio(h, t + p - h) for h, t, p in zip(hits, truth, predicted)]
    return {
        "pixel_accuracy": ratio(sum(hits), sum(truth)),
        "mean_accuracy": mean(map(ratio, hits, truth)),
        "mean_iou": mean(iou),
        "frequency_weighted_iou": ratio(math.fsum(t * v for t, v in zip(truth, iou) if t), sum(truth)),
        "iou": torch.tensor(iou, dtype=torch.float32),
    }


# %% wrong train_fcn: the training loop feeds the bytes as floats 0 … 255 without scaling, so the returned network has never seen images from 0 to 1 and segments them badly.
def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    widths = (64, 96, 128)
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(widths), widths)
    steps, batch_size = 400, 16
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(dataset), (batch_size,), generator=generator).tolist()
        items = [dataset[i] for i in chosen]
        images = torch.stack([item["image"] for item in items]).float()
        labels = torch.stack([item["labels"] for item in items]).long()
        if torch.rand((), generator=generator) < 0.5:
            images, labels = images.flip(-1), labels.flip(-1)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels, ignore_index=255)
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# %% right train_fcn: the course's fit behind functools.partial, cross-entropy as a lambda, a few more steps
from functools import partial


def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    """A network that segments scenes it has never seen."""
    channels = (64, 96, 128)
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(channels), channels)
    loss = lambda logits, labels: F.cross_entropy(logits, labels.long(), ignore_index=255)
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3)
    train = partial(
        fit,
        steps=430,
        batch_size=16,
        descent=Descent(optimizer, one_cycle()),
        task=Task("labels", loss, augment=quarter_turns),
        generator=generator,
    )
    train(net, dataset)
    return net.eval()
