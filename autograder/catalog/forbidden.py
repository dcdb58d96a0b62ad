"""Library calls that are the answer to more than one exercise."""

from __future__ import annotations

from autograder.exercise import Forbidden

BATCH_NORM = Forbidden(
    "F.batch_norm",
    (
        "torch.nn.functional.batch_norm",
        "aten.batch_norm",
        "aten.native_batch_norm",
        "aten._native_batch_norm_legit",
        "aten._native_batch_norm_legit_no_training",
        "aten._batch_norm_with_update",
        "aten.cudnn_batch_norm",
        "aten.miopen_batch_norm",
    ),
)
GROUP_NORM = Forbidden(
    "F.group_norm", ("torch.nn.functional.group_norm", "aten.group_norm", "aten.native_group_norm")
)
LAYER_NORM = Forbidden(
    "F.layer_norm", ("torch.nn.functional.layer_norm", "aten.layer_norm", "aten.native_layer_norm")
)
INSTANCE_NORM = Forbidden("F.instance_norm", ("torch.nn.functional.instance_norm", "aten.instance_norm"))
AUTOGRAD = Forbidden(
    "autograd",
    (
        "torch.autograd.grad",
        "torch.autograd.backward",
        "torch._tensor.Tensor.backward",
        "torch.autograd.forward_ad.make_dual",
        "torch._functorch.eager_transforms.vjp",
        "torch._functorch.eager_transforms.jvp",
        "torch._functorch.eager_transforms.jacfwd",
        "torch._functorch.eager_transforms.jacrev",
        "torch._functorch.apis.grad",
    ),
)
INTERPOLATE = Forbidden(
    "F.interpolate",
    (
        "torch.nn.functional.interpolate",
        "torch.nn.functional.upsample",
        "aten.upsample_nearest2d",
        "aten._upsample_nearest_exact2d",
        "aten.upsample_bilinear2d",
        "aten._upsample_bilinear2d_aa",
    ),
)
CONV_TRANSPOSE = Forbidden(
    "F.conv_transpose2d",
    (
        "aten.convolution(transposed=True)",
        "aten.conv_transpose1d",
        "aten.conv_transpose2d",
        "aten.slow_conv_transpose2d",
        "aten.cudnn_convolution_transpose",
        "aten.miopen_convolution_transpose",
        "torch.nn.grad.conv2d_input",
    ),
)
MAX_UNPOOL = Forbidden("F.max_unpool2d", ("torch.nn.functional.max_unpool2d", "aten.max_unpool2d"))
MAX_POOL = Forbidden(
    "F.max_pool2d",
    (
        "torch.nn.functional.max_pool2d_with_indices",
        "torch.nn.functional._max_pool2d",
        "torch.nn.functional.adaptive_max_pool2d_with_indices",
        "torch.nn.functional._adaptive_max_pool2d",
        "aten.max_pool2d",
        "aten.max_pool2d_with_indices",
        "aten.adaptive_max_pool2d",
        "aten.fractional_max_pool2d",
    ),
)
