"""What torch's and Python's commonest errors mean, in a sentence that is true wherever they come up.

An error's own words say what a library met; these say what was done to it.
"""

from __future__ import annotations

import re

MEANINGS: tuple[tuple[str, str], ...] = (
    (
        r"could not infer output dtype|only support floating point and complex dtypes"
        r"|must be either a floating point or complex dtype",
        "Whole numbers reach a mean, a standard deviation or the like, which torch has for floats only: turn them "
        "into floats first.",
    ),
    (
        r"not implemented for '(\w+)'",
        "Torch has no such operation for tensors of dtype {0}: convert them first.",
    ),
    (
        r"view size is not compatible",
        "A tensor that does not lie in memory in the order of its axes reaches .view, or something that uses it: "
        ".reshape and .contiguous() copy where they must.",
    ),
    (
        r"leaf Variable that requires grad is being used in an in-place operation",
        "Something that a gradient is asked for is changed in place: work on a copy.",
    ),
    (
        r"modified by an inplace operation",
        "A tensor was changed in place after it had been used, and its gradient needs what it was.",
    ),
    (
        r"backward through the graph a second time",
        "A graph that was used up is met again: something computed with gradients is kept from one call to the "
        "next. Make it anew, or keep it detached.",
    ),
    (
        r"does not require grad and does not have a grad_fn",
        "The result carries no graph: on the way to it something was detached, computed under no_grad, or made anew "
        "from plain numbers.",
    ),
    (
        r"Can't call numpy\(\) on Tensor that requires grad",
        "Numpy is handed a tensor that carries a graph: stay with torch where gradients are asked for, and .detach() "
        "where none are.",
    ),
    (
        r"support the deepcopy protocol",
        "A tensor that carries a graph is kept, and copy.deepcopy refuses it: keep it detached.",
    ),
    (
        r"to be on the same device",
        "Tensors of two devices meet: make new ones where the input is, as x.new_zeros and device=x.device do.",
    ),
    (
        r"to have the same dtype|must have the same dtype|expected scalar type|type \(.+\) should be the same",
        "Tensors of two dtypes meet: make new ones, and new layers, in the dtype of the input.",
    ),
    (
        r"source and destination dtypes match|Expected self\.dtype to be equal to src\.dtype",
        "Values are written into a tensor of another dtype.",
    ),
    (
        r"can't be cast to the desired output type",
        "An operation in place has a result that the tensor's dtype cannot hold: convert the tensor first.",
    ),
    (
        r"with (a |two )?bool tensors? is not supported",
        "Bools are subtracted: convert them first, or turn them around with ~.",
    ),
    (
        r"tensors used as indices must be",
        "Floats are used as indices: whole numbers or bools are needed, as .long() makes them.",
    ),
    (
        r"size of tensor a \(\d+\) must match the size of tensor b|expanded size of the tensor"
        r"|could not be broadcast|shape mismatch",
        "Two shapes do not fit each other axis by axis, counted from the last one: keepdim=True, or an axis of size 1 "
        "put in, says what goes with what.",
    ),
    (
        r"shapes cannot be multiplied|Expected size for first two dimensions of batch2|size mismatch, got",
        "In a matrix product, the columns of the one are not as many as the rows of the other.",
    ),
    (
        r"is invalid for input of size|must be divisible by the product|doesn't match (the )?input size",
        "A reshape asks for another number of values than the tensor has.",
    ),
    (
        r"length of the desired ordering of dimensions",
        "Permute names another number of axes than the tensor has: one was dropped or added before, as squeeze() drops "
        "every axis of size 1.",
    ),
    (
        r"Dimension out of range|too many indices for tensor|Dimension specified as -?\d+ but tensor has no",
        "The tensor has fewer axes than the code counts on.",
    ),
    (
        r"out of bounds|index out of range|list index|tuple index",
        "An index lies beyond the end of its axis.",
    ),
    (
        r"Given groups=\d+, (expected )?weight|to have \d+ channels|should contain \d+ elements",
        "A layer gets another number of channels than it was made for.",
    ),
    (
        r"Kernel size can't be greater than actual input size|Output size is too small",
        "A window is larger than the map that it is laid on.",
    ),
    (
        r"Padding size should be less than the corresponding input dimension",
        "F.pad mirrors less than one side's length at a time: a small image has to be mirrored more than once.",
    ),
    (
        r"Boolean value of Tensor with (more than one|no) value|truth value of an array",
        "A tensor of several values is asked whether it is true, by if, and, or, max or min: use torch.where, &, |, "
        ".any() or .all().",
    ),
    (
        r"elements cannot be converted to Scalar|only (one-element|one element|integer) tensors"
        r"|only integer scalar arrays",
        "A tensor of several values is used as one number.",
    ),
    (
        r"to be equal size|Sizes of tensors must match except",
        "Tensors of different sizes are put together.",
    ),
    (
        r"non-empty (TensorList|list of Tensors)|(arg is an|argument is) empty|does not have an identity"
        r"|input.numel\(\) == 0|non-zero size|iterable with no initial value",
        "Something empty is put together, or its largest or smallest value asked for: think of inputs that leave "
        "nothing over.",
    ),
    (
        r"'NoneType' object|(and|type\(s\) for .*) 'NoneType'|got NoneType|not NoneType",
        "Something is None where a value is needed: a function returned nothing, or an argument that may be None was "
        "used as it came.",
    ),
    (
        r"values to unpack",
        "A shape or a tuple has another number of entries than the code takes apart.",
    ),
    (
        r"cannot access local variable '(\w+)'|cannot access free variable '(\w+)'",
        "{0} was not set on this way through the code: a branch was not taken, or a loop not entered.",
    ),
    (
        r"division by zero|division or modulo by zero|integer modulo by zero",
        "Something is divided by 0.",
    ),
    (r"maximum recursion depth", "The code calls itself without an end."),
)


def meaning(message: str) -> str:
    """What an error with that message says about the code that met it, or "" where it is not a well-known one."""
    for pattern, sentence in MEANINGS:
        if found := re.search(pattern, message):
            return sentence.format(*filter(None, found.groups()))
    return ""
