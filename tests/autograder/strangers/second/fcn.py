# %% wrong sample_patches: the index into the n legal centers of a class is a uniform number times (n - 1), rounded down, so the last legal center of each class is never drawn (unless it is the only one).
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    H, W = labels.shape
    half = size // 2
    inner = labels[half : half + max(H - size + 1, 0), half : half + max(W - size + 1, 0)]
    patches, targets = [], []
    for c in inner.unique().tolist():
        if c == 255:
            continue
        rows, cols = torch.where(inner == c)
        # indices run from 0 to n - 1
        pick = (torch.rand(per_class, generator=generator) * (len(rows) - 1)).long()
        for r, k in zip(rows[pick].tolist(), cols[pick].tolist()):
            patches.append(image[:, r : r + size, k : k + size])
            targets.append(c)
    if patches:
        result = torch.stack(patches)
    else:
        result = image.new_zeros((0, image.shape[0], size, size))
    if not result.is_floating_point():
        result = result.float()
    return result, torch.tensor(targets, dtype=torch.int64)


# %% right sample_patches: an inner generator yields (class, row, column), all patches are read by one broadcast index
def sample_patches(
    image: Tensor, labels: Tensor, size: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    height, width = labels.shape
    down, across = height - size + 1, width - size + 1  # how many corners are legal
    pixels = image if image.is_floating_point() else image.float()
    truth = labels.long()

    def draws():
        if down < 1 or across < 1:
            return
        inner = truth[size // 2 :, size // 2 :][:down, :across].reshape(-1)
        for label in sorted(set(inner.tolist()) - {255}):
            places = torch.nonzero(inner == label).flatten()
            which = torch.randint(len(places), (per_class,), generator=generator, device=generator.device)
            yield from ((label, *divmod(place, across)) for place in places[which.to(places.device)].tolist())

    table = torch.tensor(list(draws()), dtype=torch.int64, device=image.device).reshape(-1, 3)
    targets, row, col = table.unbind(1)
    span = torch.arange(size, device=image.device)
    patches = pixels[:, (row[:, None] + span)[:, :, None], (col[:, None] + span)[:, None, :]]
    return patches.movedim(0, 1).contiguous(), targets.clone()


# %% wrong pixel_cross_entropy: as in keras the probabilities are clipped at 1e-7 before the logarithm, so the loss of a badly wrong pixel stops at about 16.1 and has no gradient (large logits give a finite but wrong loss).
def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    target = target.long()
    valid = target != ignore_index
    true_class = torch.where(valid, target, torch.zeros_like(target))
    probability = logits.softmax(dim=1).gather(1, true_class.unsqueeze(1)).squeeze(1)
    losses = -probability.clamp(min=1e-7).log()  # never log(0)
    weight = valid.to(logits.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(logits.dtype)[true_class]
    if mask is not None:
        weight = weight * mask.to(logits.dtype)
    total = weight.sum()
    return (weight * losses).sum() / torch.where(total > 0, total, torch.ones_like(total))


# %% right pixel_cross_entropy: only the valid pixels are picked out as a table of rows; the weights are a reduced list of factors
import functools
import operator


def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    truth = target.long()
    valid = truth != ignore_index
    rows, truth = logits.movedim(1, -1)[valid], truth[valid]  # (K, L), (K,)
    losses = rows.log_softmax(-1).take_along_dim(truth[:, None], 1).squeeze(1).neg()

    factors = [torch.ones_like(losses)]
    if class_weights is not None:
        factors.append(class_weights.to(losses.dtype)[truth])
    if mask is not None:
        factors.append(mask[valid].to(losses.dtype))
    weight = functools.reduce(operator.mul, factors)

    above, below = (weight * losses).sum(), weight.sum()
    nothing = below == 0
    quotient = above / torch.where(nothing, torch.ones_like(below), below)
    return torch.where(nothing, above * 0, quotient)


# %% wrong median_frequency_weights: the frequency of a class is the mean of its shares in the single images that contain it, instead of pooled pixels over pooled pixels, so small images count as much as large ones.
def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    share_sum = torch.zeros(num_classes, dtype=torch.float64)
    images = torch.zeros(num_classes, dtype=torch.float64)
    for labels in label_maps:
        flat = labels.reshape(-1).long()
        flat = flat[flat != ignore_index]
        if flat.numel() == 0:
            continue
        count = torch.bincount(flat, minlength=num_classes).double()
        share_sum += count / flat.numel()
        images += count > 0
    weights = torch.zeros(num_classes)
    present = images > 0
    if present.any():
        frequency = share_sum[present] / images[present]
        weights[present] = (frequency.quantile(0.5) / frequency).float()
    return weights


# %% right median_frequency_weights: numpy, a table images × classes, the divisors by a matrix product
import numpy as np


def median_frequency_weights(
    label_maps: list[Tensor] | Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    def histogram(labels: Tensor) -> np.ndarray:
        flat = labels.detach().cpu().long().numpy().ravel()
        return np.bincount(flat[flat != ignore_index], minlength=num_classes)

    table = np.array([histogram(m) for m in label_maps], dtype=np.float64).reshape(-1, num_classes)
    pixels = table.sum(axis=0)
    area = (table > 0).astype(np.float64).T @ table.sum(axis=1)

    weights = np.zeros(num_classes)
    if (present := pixels > 0).any():
        frequency = pixels[present] / area[present]
        weights[present] = np.median(frequency) / frequency
    device = label_maps[0].device if len(label_maps) else "cpu"
    return torch.from_numpy(weights).float().to(device)


# %% wrong SkipFCN: enlarged maps are cropped to their center (as a U-Net does) instead of top-left, so for sizes that no stride divides the scores are shifted.
class SkipFCN(nn.Module):
    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        super().__init__()
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        width = dict(zip((8, 16, 32), channels))
        classes = torch.arange(num_classes)
        for stride in self.strides:
            score = nn.Conv2d(width[stride], num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            factor = stride if stride == self.strides[-1] else 2
            up = nn.ConvTranspose2d(
                num_classes, num_classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
            )
            ramp = 1 - (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
            with torch.no_grad():
                up.weight.zero_()
                up.weight[classes, classes] = torch.outer(ramp, ramp)
            setattr(self, f"score_{stride}", score)
            setattr(self, f"up_{stride}", up)

    @staticmethod
    def cropped(x: Tensor, size: tuple[int, int]) -> Tensor:
        top = (x.shape[2] - size[0]) // 2
        left = (x.shape[3] - size[1]) // 2
        return x[:, :, top : top + size[0], left : left + size[1]]

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        total = None
        for stride in self.strides:
            scores = getattr(self, f"score_{stride}")(features[stride])
            if total is not None:
                scores = scores + self.cropped(total, scores.shape[2:])
            total = getattr(self, f"up_{stride}")(scores)
        return self.cropped(total, size)


# %% right SkipFCN: layers as subclasses that bring their own reset_parameters, the steps folded with functools.reduce
import functools


class _ZeroScore(nn.Conv2d):
    """A 1×1 convolution that begins with zeros."""

    def reset_parameters(self) -> None:
        for parameter in (self.weight, self.bias):
            nn.init.zeros_(parameter)


class _BilinearUp(nn.ConvTranspose2d):
    """A transposed convolution that begins as bilinear enlargement, class by class."""

    def __init__(self, classes: int, factor: int):
        super().__init__(classes, classes, 2 * factor, stride=factor, padding=factor // 2, bias=False)

    def reset_parameters(self) -> None:
        factor = self.stride[0]
        rising = torch.arange(2 * factor, dtype=torch.float64) + 0.5
        tent = torch.minimum(rising, rising.flip(0)) / factor
        with torch.no_grad():
            self.weight.zero_().diagonal().copy_((tent[:, None] * tent)[:, :, None])


class SkipFCN(nn.Module):
    def __init__(self, num_classes: int, channels: tuple[int, int, int], variant: str):
        super().__init__()
        last = {"32s": 32, "16s": 16, "8s": 8}[variant]
        self.path = [stride for stride in (32, 16, 8) if stride >= last]
        for stride, width in zip((32, 16, 8), reversed(channels)):
            if stride in self.path:
                self.add_module(f"score_{stride}", _ZeroScore(width, num_classes, 1))
                self.add_module(f"up_{stride}", _BilinearUp(num_classes, stride if stride == last else 2))

    def forward(self, features: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        def step(coarse: Tensor | None, stride: int) -> Tensor:
            fine = self.get_submodule(f"score_{stride}")(features[stride])
            if coarse is not None:
                fine = fine + coarse[..., : fine.shape[-2], : fine.shape[-1]]
            return self.get_submodule(f"up_{stride}")(fine)

        height, width = size
        return functools.reduce(step, self.path, None)[..., :height, :width]


# %% wrong confusion_matrix: void is taken to be whatever is outside of 0 … num_classes - 1 (the well-known fast_hist) and ignore_index is never looked at, so pixels whose void label is the number of a class are counted.
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    truth = target.reshape(-1).long()
    guess = prediction.reshape(-1).long()
    known = (truth >= 0) & (truth < num_classes)
    pairs = num_classes * truth[known] + guess[known]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


# %% right confusion_matrix: a sparse matrix with a one for each pixel, whose duplicates sum up
def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    pairs = torch.stack([target.long().reshape(-1), prediction.long().reshape(-1)])
    pairs = pairs[:, pairs[0] != ignore_index]
    ones = torch.ones(pairs.shape[1], dtype=torch.int64, device=pairs.device)
    sparse = torch.sparse_coo_tensor(pairs, ones, (num_classes, num_classes))
    return sparse.coalesce().to_dense()


# %% wrong segmentation_scores: one mask (in truth or in prediction) serves all averages, so a class that is only predicted counts with accuracy 0 in mean_accuracy instead of being left out.
def segmentation_scores(matrix: Tensor) -> dict:
    matrix = matrix.double()
    hits = matrix.diagonal()
    truth = matrix.sum(dim=1)
    predicted = matrix.sum(dim=0)
    union = truth + predicted - hits
    seen = union > 0
    iou = hits / union  # 0 / 0 is NaN
    accuracy = hits / truth.clamp(min=1)
    return {
        "pixel_accuracy": (hits.sum() / matrix.sum()).item(),
        "mean_accuracy": accuracy[seen].mean().item(),
        "mean_iou": iou[seen].mean().item(),
        "frequency_weighted_iou": ((truth * iou)[seen].sum() / truth.sum()).item(),
        "iou": iou.float(),
    }


# %% right segmentation_scores: a report class with cached properties, sums by einsum
from functools import cached_property


class _Report:
    names = "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"

    def __init__(self, matrix: Tensor):
        self.counts = matrix.to(torch.float64)
        self.dtype = matrix.dtype if matrix.is_floating_point() else torch.get_default_dtype()

    @cached_property
    def hits(self) -> Tensor:
        return torch.einsum("ii->i", self.counts)

    @cached_property
    def truth(self) -> Tensor:
        return torch.einsum("tp->t", self.counts)

    @cached_property
    def predicted(self) -> Tensor:
        return torch.einsum("tp->p", self.counts)

    @cached_property
    def iou(self) -> Tensor:
        return self.hits / (self.truth + self.predicted - self.hits)

    @property
    def pixel_accuracy(self) -> Tensor:
        return self.hits.sum() / self.truth.sum()

    @property
    def mean_accuracy(self) -> Tensor:
        return (self.hits / self.truth).nanmean()

    @property
    def mean_iou(self) -> Tensor:
        return self.iou.nanmean()

    @property
    def frequency_weighted_iou(self) -> Tensor:
        return (self.truth * self.iou).nansum() / self.truth.sum()


def segmentation_scores(matrix: Tensor) -> dict:
    report = _Report(matrix)
    return {name: float(getattr(report, name)) for name in _Report.names} | {"iou": report.iou.to(report.dtype)}


# %% wrong train_fcn: the last thing is a look at the accuracy that switches the network back into training mode, so it is returned in training mode instead of evaluation mode.
def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    c = (64, 96, 128)
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(c), c)

    def loss(logits, labels):
        return F.cross_entropy(logits, labels.long(), ignore_index=255)

    def training_accuracy(images=16):
        net.eval()
        hits = known = 0
        with torch.no_grad():
            for i in range(min(images, len(dataset))):
                item = dataset[i]
                guess = net(item["image"][None].float() / 255).argmax(1)[0]
                valid = item["labels"] != 255
                hits += int((guess == item["labels"])[valid].sum())
                known += int(valid.sum())
        net.train()  # back to where we were
        return hits / max(known, 1)

    fit(
        net,
        dataset,
        steps=400,
        batch_size=16,
        descent=Descent(torch.optim.AdamW(net.parameters(), lr=6e-3), one_cycle()),
        task=Task("labels", loss, augment=quarter_turns),
        generator=generator,
    )
    print(f"accuracy on training images: {training_accuracy():.3f}")
    return net


# %% right train_fcn: a training loop of its own: endless shuffled order, each scene mirrored and turned by three bits, OneCycleLR
from itertools import islice


def train_fcn(dataset: Dataset, generator: torch.Generator) -> nn.Module:
    widths, steps, batch, top_rate = (64, 96, 128), 450, 16, 6e-3

    items = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([item["image"] for item in items])
    labels = torch.stack([item["labels"] for item in items])
    square = images.shape[-1] == images.shape[-2]

    def order():
        while True:
            yield from torch.randperm(len(items), generator=generator).tolist()

    def turned(x: Tensor, code: int) -> Tensor:
        if code & 1:
            x = x.flip(-1)
        if code & 2:
            x = x.flip(-2)
        return x.transpose(-1, -2) if code & 4 and square else x

    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone(widths), widths)
        optimizer = torch.optim.AdamW(net.parameters(), lr=top_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=top_rate, total_steps=steps, cycle_momentum=False
        )
        endless = order()
        net.train()
        for _ in range(steps):
            picks = list(islice(endless, batch))
            codes = torch.randint(8, (batch,), generator=generator).tolist()
            x = torch.stack([turned(images[i], code) for i, code in zip(picks, codes)]).float() / 255
            y = torch.stack([turned(labels[i], code) for i, code in zip(picks, codes)]).long()
            optimizer.zero_grad()
            F.cross_entropy(net(x), y, ignore_index=255).backward()
            optimizer.step()
            schedule.step()
    return net.eval()
