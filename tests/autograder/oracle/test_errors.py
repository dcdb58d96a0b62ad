"""What an error means: each sentence against the error itself, as the installed torch words it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autograder.oracle.errors import MEANINGS, meaning

X = torch.arange(6.0).view(2, 3)
WEIGHT = torch.ones(3, requires_grad=True)


def _used_twice():
    y = (WEIGHT**2).sum()
    y.backward()
    y.backward()


def _needed_later():
    y = WEIGHT.exp()
    z = (y * y).sum()
    y.add_(1)
    z.backward()


def _kept_graph():
    layer = nn.Module()
    layer.kept = WEIGHT * 2
    copy.deepcopy(layer)


def _not_taken():
    if len(X) > 5:
        total = 1
    return total


def _endless():
    return _endless()


ERRORS = {
    "mean of whole numbers": (lambda: X.long().mean(), "floats only"),
    "std of whole numbers": (lambda: X.byte().std(), "floats only"),
    "no such operation": (lambda: X.to(torch.int64).softmax(0), "of dtype Long"),
    "view": (lambda: X.T.view(6), ".reshape"),
    "kron": (lambda: torch.kron(X.view(1, 1, 2, 3).transpose(2, 3), torch.ones(1, 1, 2, 2)), ".reshape"),
    "leaf in place": (lambda: WEIGHT.add_(1), "changed in place"),
    "needed later": (_needed_later, "after it had been used"),
    "used twice": (_used_twice, "from one call to the next"),
    "no graph": (lambda: X.sum().backward(), "carries no graph"),
    "numpy": (lambda: WEIGHT.numpy(), "Numpy is handed"),
    "deepcopy": (_kept_graph, "deepcopy refuses"),
    "dtypes in a product": (lambda: X.double() @ torch.ones(3, 1), "two dtypes"),
    "dtypes in a layer": (lambda: nn.Linear(3, 1)(X.double()), "two dtypes"),
    "dtypes in a convolution": (lambda: nn.Conv2d(1, 1, 1)(X[None, None].double()), "two dtypes"),
    "index put": (lambda: X.clone().index_put_((torch.tensor([0]),), torch.ones(1, 3).double()), "another dtype"),
    "in place, cast": (lambda: X.long().add_(0.5), "cannot hold"),
    "bools subtracted": (lambda: (X > 1) - (X > 2), "Bools"),
    "floats as indices": (lambda: X[torch.tensor([0.0])], "Floats are used"),
    "broadcast": (lambda: X + torch.ones(2), "axis by axis"),
    "expand": (lambda: X.expand(3, 3), "axis by axis"),
    "numpy's broadcast": (lambda: np.ones(3) + np.ones(2), "axis by axis"),
    "matrix product": (lambda: X @ X, "matrix product"),
    "reshape": (lambda: X.reshape(4, 2), "another number of values"),
    "permute": (lambda: X.permute(0, 2, 1), "Permute names"),
    "axis": (lambda: X.sum(2), "fewer axes"),
    "indices": (lambda: X[0, 0, 0], "fewer axes"),
    "out of bounds": (lambda: X[2], "beyond the end"),
    "a gather": (lambda: X.gather(1, torch.tensor([[255]])), "beyond the end"),
    "a list": (lambda: [1][3], "beyond the end"),
    "channels": (lambda: nn.Conv2d(3, 1, 1)(X[None, None]), "number of channels"),
    "batch norm": (lambda: nn.BatchNorm2d(3)(X[None, None]), "number of channels"),
    "window": (lambda: nn.Conv2d(1, 1, 4)(X[None, None]), "larger than the map"),
    "pooling": (lambda: F.max_pool2d(X[None, None], 4), "larger than the map"),
    "reflection": (lambda: F.pad(X[None, None], [3, 3, 0, 0], mode="reflect"), "mirrors less"),
    "ambiguous": (lambda: bool(X > 1), "asked whether it is true"),
    "numpy's ambiguous": (lambda: bool(np.ones(2) > 0), "asked whether it is true"),
    "one number": (lambda: X.item(), "used as one number"),
    "a range": (lambda: range(torch.tensor([1, 2])), "used as one number"),
    "stacked": (lambda: torch.stack([X, X.T]), "different sizes"),
    "concatenated": (lambda: torch.cat([X, X.T]), "different sizes"),
    "nothing stacked": (lambda: torch.stack([]), "Something empty"),
    "nothing's largest": (lambda: torch.empty(0).max(), "Something empty"),
    "nothing's largest in Python": (lambda: max([]), "Something empty"),
    "None": (lambda: None.shape, "Something is None"),
    "None, added": (lambda: 1 + None, "Something is None"),
    "unpacked": (lambda: [n for n, c, h in [X.shape]], "takes apart"),
    "unset": (_not_taken, "total was not set"),
    "by zero": (lambda: 1 / 0, "divided by 0"),
    "recursion": (_endless, "without an end"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_what_an_error_means(name):
    provoke, part = ERRORS[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of many kinds
        provoke()
    said = meaning(str(caught.value))
    assert part in said, (said, str(caught.value))


def test_every_sentence_was_heard_but_the_one_that_takes_two_devices():
    heard = {meaning(_words(provoke)) for provoke, _ in ERRORS.values()}
    # Up to the word that an error puts in.
    unheard = [
        sentence for _, sentence in MEANINGS if not any(sentence.split("{0}")[-1] in one for one in heard)
    ]
    assert len(unheard) == 1, unheard
    words = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    assert meaning(words) == unheard[0]


def test_other_errors_have_no_meaning_of_their_own():
    assert meaning("image must be of shape (C, H, W), got (3,)") == ""
    assert meaning("") == ""


def _words(provoke):
    try:
        provoke()
    except Exception as error:
        return str(error)
    return ""
