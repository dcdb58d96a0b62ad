# %% wrong batchnorm_forward: eps is a lower bound of the variance (clamp, as in F.normalize) instead of being added to it
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    if x.dim() == 2:
        axes, shape = (0,), (1, -1)
    else:
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
    mean = x.mean(dim=axes, keepdim=True)
    var = x.var(dim=axes, keepdim=True, correction=0)
    x_hat = (x - mean) / var.clamp(min=eps).sqrt()
    return gamma.view(shape) * x_hat + beta.view(shape)


# %% right batchnorm_forward: one row per channel, float64 inside, einsum for the variance, for both ranks alike
def batchnorm_forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    channels_first = x.movedim(1, 0)  # (C, N) or (C, N, H, W)
    rows = channels_first.flatten(1).to(torch.float64)
    centered = rows - rows.mean(dim=1, keepdim=True)
    var = torch.einsum("cm,cm->c", centered, centered) / rows.shape[1]
    slope = gamma.to(torch.float64) / torch.sqrt(var + eps)
    y = torch.einsum("c,cm->cm", slope, centered) + beta.to(torch.float64)[:, None]
    return y.reshape(channels_first.shape).movedim(0, 1).to(x.dtype)


# %% wrong BatchNorm: with momentum=None the average is weighted by a private Python counter instead of num_batches_tracked, so it starts over after a state dict has been loaded
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
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        axes = (0,) if x.dim() == 2 else (0, 2, 3)
        shape = (1, -1) if x.dim() == 2 else (1, -1, 1, 1)
        if self.training:
            n = x.numel() // x.shape[1]
            if n == 1:
                raise ValueError("one value per channel has no variance")
            mean = x.mean(axes)
            var = x.var(axes, correction=0)
            with torch.no_grad():
                self.count += 1
                self.num_batches_tracked += 1
                m = 1 / self.count if self.momentum is None else self.momentum
                self.running_mean.mul_(1 - m).add_(m * mean)
                self.running_var.mul_(1 - m).add_(m * var * n / (n - 1))
        else:
            mean, var = self.running_mean, self.running_var
        x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return self.weight.view(shape) * x_hat + self.bias.view(shape)


# %% wrong BatchNorm: momentum is taken as in keras, as the weight of the old running values, so the new batch gets 1 - momentum
class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    @torch.no_grad()
    def update(self, mean: Tensor, unbiased_var: Tensor) -> None:
        self.num_batches_tracked += 1
        if self.momentum is None:
            keep = 1 - 1 / self.num_batches_tracked.item()
        else:
            keep = self.momentum
        self.running_mean = keep * self.running_mean + (1 - keep) * mean
        self.running_var = keep * self.running_var + (1 - keep) * unbiased_var

    def forward(self, x: Tensor) -> Tensor:
        axes = [0] if x.ndim == 2 else [0, 2, 3]
        extra = (None,) * (x.ndim - 2)
        column = (slice(None), *extra)  # (C,) -> (C,) or (C, 1, 1)
        if self.training:
            n = x.numel() // x.shape[1]
            if n <= 1:
                raise ValueError("more than one value per channel is needed in training")
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            self.update(mean, var * n / (n - 1))
        else:
            mean, var = self.running_mean, self.running_var
        x_hat = (x - mean[column]) / (var[column] + self.eps) ** 0.5
        return x_hat * self.weight[column] + self.bias[column]


# %% right BatchNorm: var_mean, walrus and lerp_ on the buffers, axes by comprehension
class BatchNorm(nn.Module):
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)))
        for name, start in {
            "running_mean": torch.zeros(num_features),
            "running_var": torch.ones(num_features),
            "num_batches_tracked": torch.zeros((), dtype=torch.int64),
        }.items():
            self.register_buffer(name, start)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        match self.momentum:
            case None:
                share = 1.0 / self.num_batches_tracked.item()
            case momentum:
                share = float(momentum)
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            running.lerp_(batch.detach().to(running.dtype), share)

    def forward(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean, var = self.running_mean, self.running_var
        if self.training:
            if (n := x.numel() // x.shape[1]) < 2:
                raise ValueError(f"training needs more than one value per channel, not {n}")
            var, mean = torch.var_mean(x, dim=axes, correction=0)
            self._remember(mean, var * (n / (n - 1)))
        column = [1, -1] + [1] * (x.dim() - 2)
        mean, var, weight, bias = (t.view(column) for t in (mean, var, self.weight, self.bias))
        return (weight * ((x - mean) * torch.rsqrt(var + self.eps)) + bias).to(x.dtype)


# %% right BatchNorm: a dataclass of moments, one row per channel in float64, running values as weighted sums in fresh tensors
from dataclasses import dataclass


@dataclass
class ChannelMoments:
    mean: Tensor
    var: Tensor  # biased

    @staticmethod
    def measured(rows: Tensor) -> "ChannelMoments":
        mean = rows.mean(dim=1)
        return ChannelMoments(mean, (rows - mean.unsqueeze(1)).square().mean(dim=1))

    def normalize(self, rows: Tensor, eps: float) -> Tensor:
        return (rows - self.mean.unsqueeze(1)) / (self.var.unsqueeze(1) + eps).sqrt()


class BatchNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.full((num_features,), 1.0))
        self.bias = nn.Parameter(torch.full((num_features,), 0.0))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def _mixed(self, running: Tensor, batch: Tensor, share: float) -> Tensor:
        both = torch.stack([running.double(), batch.detach().double()])
        shares = torch.tensor([1.0 - share, share], dtype=torch.float64, device=running.device)
        return torch.einsum("s,sc->c", shares, both).to(running.dtype)

    def _moments(self, rows: Tensor) -> ChannelMoments:
        if not self.training:
            return ChannelMoments(self.running_mean.double(), self.running_var.double())
        count = rows.shape[1]
        if count <= 1:
            raise ValueError("one value per channel cannot be normalized in training")
        moments = ChannelMoments.measured(rows)
        with torch.no_grad():
            self.num_batches_tracked = self.num_batches_tracked + 1
            if (share := self.momentum) is None:
                share = 1.0 / int(self.num_batches_tracked)
            self.running_mean = self._mixed(self.running_mean, moments.mean, share)
            self.running_var = self._mixed(
                self.running_var, moments.var * (count / (count - 1)), share
            )
        return moments

    def forward(self, x: Tensor) -> Tensor:
        turned = x.transpose(0, 1)
        rows = turned.flatten(1).double()
        x_hat = self._moments(rows).normalize(rows, self.eps)
        y = x_hat * self.weight.double().unsqueeze(1) + self.bias.double().unsqueeze(1)
        return y.reshape(turned.shape).transpose(0, 1).to(x.dtype)


# %% wrong batchnorm_backward: grad_y is overwritten by grad_y * gamma before grad_gamma and grad_beta are summed, so both of these are gamma times too large (unseen where gamma is 1)
def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    axes = (0,) if x.dim() == 2 else (0, 2, 3)
    shape = (1, -1) if x.dim() == 2 else (1, -1, 1, 1)
    mean = x.mean(axes, keepdim=True)
    std = torch.sqrt(x.var(axes, keepdim=True, correction=0) + eps)
    x_hat = (x - mean) / std
    grad_y = grad_y * gamma.view(shape)
    grad_gamma = (grad_y * x_hat).sum(axes)
    grad_beta = grad_y.sum(axes)
    grad_x = grad_y - grad_y.mean(axes, keepdim=True)
    grad_x = grad_x - x_hat * (grad_y * x_hat).mean(axes, keepdim=True)
    return grad_x / std, grad_gamma, grad_beta


# %% right batchnorm_backward: staged, node by node backwards through the graph of the forward pass, one row per channel in float64
def batchnorm_backward(
    grad_y: Tensor, x: Tensor, gamma: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    def rows_of(tensor: Tensor) -> Tensor:
        return tensor.detach().movedim(1, 0).flatten(1).double()

    # forward, node by node
    rows, d_y = rows_of(x), rows_of(grad_y)
    count = rows.shape[1]
    centered = rows - rows.mean(1, keepdim=True)
    var = centered.square().mean(1, keepdim=True)
    inverse = 1 / (var + eps).sqrt()
    x_hat = centered * inverse

    # backward, in the opposite order
    d_beta = d_y.sum(1)
    d_gamma = (d_y * x_hat).sum(1)
    d_hat = d_y * gamma.detach().double()[:, None]
    d_inverse = (d_hat * centered).sum(1, keepdim=True)
    d_var = d_inverse * -0.5 * inverse**3
    d_centered = d_hat * inverse + d_var * 2 * centered / count
    d_mean = -d_centered.sum(1, keepdim=True)
    d_rows = d_centered + d_mean / count

    d_x = d_rows.reshape(x.movedim(1, 0).shape).movedim(0, 1).contiguous()
    return d_x.to(x.dtype), d_gamma.to(x.dtype), d_beta.to(x.dtype)


# %% wrong fold_batchnorm: copy.copy makes a shallow copy that shares its dictionary of parameters with conv, so conv itself gets the folded weight and bias
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    folded = copy.copy(conv)  # stride, padding, groups, mode, ... all come along
    with torch.no_grad():
        gamma = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight
        beta = torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias
        bias = torch.zeros_like(bn.running_mean) if conv.bias is None else conv.bias
        scale = gamma / torch.sqrt(bn.running_var + bn.eps)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        bias = (bias - bn.running_mean) * scale + beta
        dtype = conv.weight.dtype
        folded.weight = nn.Parameter(weight.to(dtype))
        folded.bias = nn.Parameter(bias.to(dtype))
    return folded


# %% right fold_batchnorm: settings by getattr, a closure that fills in what is missing, float64 and einsum, load_state_dict
def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    names = (
        "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    ).split()
    build = partial(nn.Conv2d, **{name: getattr(conv, name) for name in names})
    folded = build(bias=True, device=conv.weight.device, dtype=conv.weight.dtype)

    def known(tensor: Tensor | None, missing: float) -> Tensor:
        if tensor is None:
            return torch.full_like(bn.running_var, missing, dtype=torch.float64)
        return tensor.detach().to(torch.float64)

    scale = known(bn.weight, 1.0) * (known(bn.running_var, 1.0) + bn.eps).rsqrt()
    shift = known(bn.bias, 0.0) - known(bn.running_mean, 0.0) * scale
    weight = torch.einsum("k,kcij->kcij", scale, conv.weight.detach().to(torch.float64))
    folded.load_state_dict({"weight": weight, "bias": torch.addcmul(shift, scale, known(conv.bias, 0.0))})
    return folded.train(conv.training)


# %% wrong group_norm: nothing checks that num_groups divides C, so it gets through silently where C*H*W happens to be divisible, and otherwise raises reshape's RuntimeError instead of a ValueError
def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    # reshape complains by itself when the channels cannot be split into groups
    groups = x.reshape(x.shape[0], num_groups, -1)
    mean = groups.mean(dim=2, keepdim=True)
    var = groups.var(dim=2, keepdim=True, correction=0)
    y = ((groups - mean) / torch.sqrt(var + eps)).reshape(x.shape)
    return y * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)


# %% right group_norm: a generator over slabs of neighboring channels, put together again with cat
def group_norm(x: Tensor, num_groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    channels = x.size(1)
    if num_groups < 1 or divmod(channels, num_groups)[1]:
        raise ValueError(f"{channels} channels cannot be divided into {num_groups} groups")

    size = channels // num_groups
    pieces = zip(x.split(size, dim=1), gamma.split(size), beta.split(size), strict=True)

    def finished():
        for slab, slope, offset in pieces:
            centered = slab - slab.mean(dim=(1, 2, 3), keepdim=True)
            var = centered.square().mean(dim=(1, 2, 3), keepdim=True)
            x_hat = centered / (var + eps).sqrt()
            yield x_hat * slope[:, None, None] + offset[:, None, None]

    return torch.cat(list(finished()), dim=1).to(x.dtype)
