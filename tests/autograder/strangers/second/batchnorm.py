# %% wrong batchnorm_forward: the channel axis is found by its length, as the axes whose size is len(gamma), so where N, H or W happens to equal C, that axis is not averaged over either
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    C = len(gamma)
    axes = [axis for axis, size in enumerate(x.shape) if size != C]
    mean = x.mean(axes, keepdim=True)
    var = (x - mean).square().mean(axes, keepdim=True)
    x_hat = (x - mean) / torch.sqrt(var + eps)
    shape = [1, C] + [1] * (x.dim() - 2)
    return x_hat * gamma.view(shape) + beta.view(shape)


# %% right batchnorm_forward: torch.vmap over the channel axis of a function for a single channel
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    def one_channel(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        centered = values - values.mean()
        return centered / (centered.square().mean() + eps).sqrt() * scale + shift

    return torch.vmap(one_channel, in_dims=(1, 0, 0), out_dims=1)(x, gamma, beta).to(x.dtype)


# %% wrong BatchNorm: the weight of the new batch is `self.momentum or 1 / count`, so a momentum of 0 is taken for None and the running values follow the plain average instead of staying
class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        axes = (0,) if x.dim() == 2 else (0, 2, 3)
        shape = (1, -1) if x.dim() == 2 else (1, -1, 1, 1)
        if self.training:
            n = x.numel() // x.shape[1]
            if n < 2:
                raise ValueError("more than one value per channel is needed in training")
            mean = x.mean(axes)
            var = x.var(axes, correction=0)
            with torch.no_grad():
                self.num_batches_tracked += 1
                m = self.momentum or 1 / self.num_batches_tracked.item()
                self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
                self.running_var.copy_((1 - m) * self.running_var + m * var * n / (n - 1))
        else:
            mean, var = self.running_mean, self.running_var
        x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return (x_hat * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


# %% wrong BatchNorm: in eval mode the whole computation runs under torch.no_grad ("inference needs no gradients"), so no gradient reaches x, weight or bias there
class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def _normalize(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return (self.weight.view(shape) * x_hat + self.bias.view(shape)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            with torch.no_grad():
                return self._normalize(x, self.running_mean, self.running_var)

        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1]
        if count <= 1:
            raise ValueError(f"one value per channel in training: {tuple(x.shape)}")
        mean, var = x.mean(axes), x.var(axes, correction=0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            m = self.momentum
            if m is None:
                m = 1 / int(self.num_batches_tracked)
            unbiased = var * count / (count - 1)
            self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
            self.running_var.copy_((1 - m) * self.running_var + m * unbiased)
        return self._normalize(x, mean, var)


# %% right BatchNorm: everything is a matrix with one column per channel, and the sums are products with a vector of ones
class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        for name, value in {"weight": 1.0, "bias": 0.0}.items():
            self.register_parameter(name, nn.Parameter(torch.full((num_features,), value)))
        for name, value in {"running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((num_features,), value))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def _measure(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        count = rows.shape[0]
        if count < 2:
            raise ValueError("training needs more than one value per channel")
        wide = rows.double()
        ones = wide.new_ones(count)
        mean = ones @ wide / count
        var = ones @ (wide - mean).square() / count

        with torch.no_grad():
            self.num_batches_tracked += 1
            new = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            pairs = (self.running_mean, mean), (self.running_var, var * (count / (count - 1)))
            for running, batch in pairs:
                running.copy_((1 - new) * running + new * batch)
        return mean, var

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1)
        rows = last.reshape(-1, last.shape[-1])
        mean, var = self._measure(rows) if self.training else (self.running_mean, self.running_var)
        y = (rows - mean) * (self.weight / (var + self.eps).sqrt()) + self.bias
        return y.reshape(last.shape).movedim(-1, 1).to(x.dtype)


# %% right BatchNorm: a match statement on mode and count, channel by channel with unbind, zip and stack
class BatchNorm(nn.Module):
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def _remember(self, moments: list[tuple[Tensor, Tensor]], count: int) -> None:
        self.num_batches_tracked.add_(1)
        match self.momentum:
            case None:
                new = 1.0 / self.num_batches_tracked.item()
            case given:
                new = given
        for c, (mean, var) in enumerate(moments):
            unbiased = var * count / (count - 1)
            self.running_mean[c] = (1 - new) * self.running_mean[c] + new * mean
            self.running_var[c] = (1 - new) * self.running_var[c] + new * unbiased

    def forward(self, x: Tensor) -> Tensor:
        channels = x.unbind(1)
        match self.training, channels[0].numel():
            case True, 0 | 1:
                raise ValueError("a single value per channel has no spread to train on")
            case True, count:
                means = [channel.mean() for channel in channels]
                spreads = [(channel - mean).square().mean() for channel, mean in zip(channels, means)]
                moments = list(zip(means, spreads))
                self._remember(moments, count)
            case _:
                moments = list(zip(self.running_mean.unbind(), self.running_var.unbind()))
        return torch.stack(
            [
                (channel - mean) / (var + self.eps).sqrt() * gamma + beta
                for channel, (mean, var), gamma, beta in zip(
                    channels, moments, self.weight.unbind(), self.bias.unbind(), strict=True
                )
            ],
            dim=1,
        ).to(x.dtype)


# %% wrong batchnorm_backward: the count m in the formula copied from the (N, C) case is x.shape[0] for images, too, instead of N·H·W, so grad_x of images is wrong (the sums' share is H·W times too large)
def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    if x.dim() == 2:
        axes, shape = (0,), (1, -1)
    else:
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
    m = x.shape[0]
    mean = x.mean(axes, keepdim=True)
    var = x.var(axes, correction=0, keepdim=True)
    std = torch.sqrt(var + eps)
    x_hat = (x - mean) / std

    grad_beta = grad_y.sum(axes)
    grad_gamma = (grad_y * x_hat).sum(axes)
    grad_x = m * grad_y - grad_beta.view(shape) - x_hat * grad_gamma.view(shape)
    grad_x = grad_x * gamma.view(shape) / (m * std)
    return grad_x, grad_gamma, grad_beta


# %% right batchnorm_backward: two directions per channel, ones and x_hat: one batched matrix product measures grad_y along them (these are grad_beta and grad_gamma), a second one takes that share away
import math


def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    def rows(t: Tensor) -> Tensor:
        return t.double().transpose(0, 1).flatten(1)

    values, upstream = rows(x), rows(grad_y)
    count = values.shape[1]
    centered = values - values.mean(1, keepdim=True)
    root = (centered.square().mean(1, keepdim=True) + eps).sqrt()
    directions = torch.stack([torch.ones_like(centered), centered / root], dim=2) / math.sqrt(count)
    along = directions.mT @ upstream.unsqueeze(2)  # (C, 2, 1)
    rest = upstream - (directions @ along).squeeze(2)
    grad_x = rest * gamma.double().unsqueeze(1) / root
    grad_beta, grad_gamma = (along.squeeze(2) * math.sqrt(count)).unbind(1)
    grad_x = grad_x.reshape(x.transpose(0, 1).shape).transpose(0, 1)
    return grad_x.to(x.dtype), grad_gamma.to(x.dtype), grad_beta.to(x.dtype)


# %% wrong fold_batchnorm: the convolution's old bias is added unscaled (bias + beta - running_mean * scale), so the output is shifted where the convolution has a bias and the scale is not 1
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        gamma = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight
        beta = torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias
        scale = gamma / torch.sqrt(bn.running_var + bn.eps)
        bias = beta - bn.running_mean * scale
        if conv.bias is not None:
            bias = bias + conv.bias
        folded.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
        folded.bias.copy_(bias)
    folded.train(conv.training)
    return folded


# %% right fold_batchnorm: a copy of the batch norm in eval mode is asked what it makes of 0 and of 1, which gives shift and scale; the new convolution is born on the meta device
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    settings = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    settings += ("dilation", "groups", "padding_mode")
    folded = nn.Conv2d(**{name: getattr(conv, name) for name in settings}, bias=True, device="meta")

    with torch.no_grad():
        line = copy.deepcopy(bn).double().eval()
        probes = torch.zeros(2, conv.out_channels, 1, 1, dtype=torch.float64, device=conv.weight.device)
        probes[1] = 1.0
        shift, at_one = line(probes)[:, :, 0, 0]
        scale = at_one - shift
        weight = torch.einsum("k...,k->k...", conv.weight.double(), scale)
        bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias.double(), scale)

    folded.weight = nn.Parameter(weight.to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype, copy=True))
    return folded.train(conv.training)


# %% wrong group_norm: the mean and variance are taken over the channels of a group only, at each pixel on its own (as ConvNeXt's channel layer norm does), and not over H and W as well
def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    N, C, H, W = x.shape
    if C % num_groups != 0:
        raise ValueError(f"{C} channels cannot be divided into {num_groups} groups")
    g = x.reshape(N, num_groups, C // num_groups, H, W)
    mean = g.mean(2, keepdim=True)
    var = g.var(2, correction=0, keepdim=True)
    y = ((g - mean) / torch.sqrt(var + eps)).reshape(N, C, H, W)
    return y * gamma.view(1, C, 1, 1) + beta.view(1, C, 1, 1)


# %% right group_norm: no reshape: every channel carries its group's number, index_add pools channel sums and indexing hands the results back
def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    samples, channels, height, width = x.shape
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"{num_groups} groups do not share out {channels} channels")
    size = channels // num_groups
    label = torch.arange(channels, device=x.device).div(size, rounding_mode="floor")

    def pooled(values: Tensor) -> Tensor:
        """The mean over each channel's group, once for each channel: (N, C, 1, 1)."""
        sums = values.new_zeros(samples, num_groups).index_add(1, label, values.sum((2, 3)))
        return (sums / (size * height * width))[:, label, None, None]

    centered = x - pooled(x)
    y = centered / (pooled(centered**2) + eps).sqrt()
    return (y * gamma[:, None, None] + beta[:, None, None]).to(x.dtype)
