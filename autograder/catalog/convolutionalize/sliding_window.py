"""The exercise sliding_window of lecture 04: one crop after the other, the wasteful way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.convolutionalize.draws import (
    in_both_modes,
    mode_case,
    normalized_features,
    reached_by_gradients,
)
from autograder.catalog.observations import filled
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import convolutionalize as reference


def _patch_classifier(d: Draw, c: int, window: int, *features: nn.Module) -> nn.Sequential:
    k = d.choice([2, 3])
    features = features or (nn.Conv2d(c, k, 2), nn.Tanh())
    inputs = len(features[0].get_parameter("weight")) * (window - 1) ** 2
    return filled(
        d, nn.Sequential(*features, nn.Flatten(), nn.Linear(inputs, d.choice([3, 2, 4]))), scale=0.5
    )


def _window_case(
    cells: list[tuple[int, int]],
    strides: list[int],
    *,
    apart: bool = False,
    leftover: bool = False,
    windows: tuple[int, ...] = (3, 4),
    dtype: torch.dtype = torch.float32,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        c, window, (h, w) = d.choice([2, 1]), d.choice(windows), d.choice(cells)
        stride = d.choice(strides) + (window if apart else 0)
        # At least two rows in one direction: half of a single one would be none.
        more = d.choice([(stride - 1, 1), (1, stride - 1)]) if leftover else (0, 0)
        size = (window + stride * (h - 1) + more[0], window + stride * (w - 1) + more[1])
        cnn = _patch_classifier(d, c, window).to(dtype)
        return Case((Network.describe(cnn), d.layout(d.tensor(c, *size, dtype=dtype)), window, stride))

    return draw


def _window_modes(d: Draw) -> Case:
    c, window, stride = d.choice([1, 2]), 3, d.choice([2, 1])
    cnn = _patch_classifier(d, c, window, *normalized_features(d, c, d.choice([2, 3])))
    image = d.tensor(c, window + stride, window + 2 * stride)
    return mode_case(cnn, image, window, stride)


def _window_dtype(subject: Subject, case: Case) -> Any:
    scores = subject(*case.args)
    return str(scores.dtype) if isinstance(scores, torch.Tensor) else scores


def _slide(
    cnn, image, window, stride, *, count=None, crop=None, of=None, shape=None, mode="restored", dtype=None,
    grad=False,
):  # fmt: skip
    """The windows one by one, with a switch for each mistake."""
    was = cnn.training
    if mode != "training":
        cnn.eval()
    step = stride
    count = count or (lambda size: (size - window) // step + 1)
    crop = crop or (lambda r, c: image[:, r : r + window, c : c + window])
    h, w = count(image.shape[1]), count(image.shape[2])
    with torch.set_grad_enabled(grad):
        crops = [crop(i * step, j * step) for i in range(h) for j in range(w)]
        scores = torch.cat([cnn(x[None]) for x in crops])
    if mode == "restored":
        cnn.train(was)
    elif mode == "left in training":
        cnn.train()
    scores = of(scores) if of else scores
    scores = scores.to(dtype) if dtype else scores
    return shape(scores, h, w) if shape else scores.T.reshape(-1, h, w)


def _slide_softmax(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, of=lambda scores: scores.softmax(1))


def _slide_winners(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.argmax(1).reshape(h, w))


def _slide_stride_ignored(cnn, image, window, stride):
    return _slide(cnn, image, window, 1)


def _slide_tiles(cnn, image, window, stride):
    return _slide(cnn, image, window, window)


def _slide_last_missing(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, count=lambda size: len(range(0, size - window, stride)))


def _slide_divided(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, count=lambda size: (size - window) // stride)


def _slide_over_the_edge(cnn, image, window, stride):
    padded = nn.functional.pad(image, (0, window + stride, 0, window + stride))
    return _slide(
        cnn, image, window, stride, count=lambda size: -((window - size) // stride) + 1,
        crop=lambda r, c: padded[:, r : r + window, c : c + window],
    )  # fmt: skip


def _slide_moved_back(cnn, image, window, stride):
    bottom, right = image.shape[1] - window, image.shape[2] - window

    def crop(r, c):
        r, c = min(r, bottom), min(c, right)
        return image[:, r : r + window, c : c + window]

    return _slide(cnn, image, window, stride, count=lambda size: -((window - size) // stride) + 1, crop=crop)


def _slide_cut_off(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, count=lambda size: len(range(0, size, stride)))


def _slide_axes_mixed(cnn, image, window, stride):
    crops = image.unfold(1, window, stride).unfold(2, window, stride)
    channels, h, w = crops.shape[:3]
    crops = crops.reshape(h * w, channels, window, window)
    return _slide(cnn, image, window, stride, crop=lambda r, c: crops[r // stride * w + c // stride])


def _slide_unfold_mixed(cnn, image, window, stride):
    crops = nn.functional.unfold(image[None], window, stride=stride)
    crops = crops.reshape(-1, image.shape[0], window, window)
    w = (image.shape[2] - window) // stride + 1
    return _slide(cnn, image, window, stride, crop=lambda r, c: crops[r // stride * w + c // stride])


def _slide_centered(cnn, image, window, stride):
    padded = nn.functional.pad(image, (window // 2,) * 4)
    return _slide(
        cnn, image, window, stride, count=lambda size: -(-size // stride),
        crop=lambda r, c: padded[:, r : r + window, c : c + window],
    )  # fmt: skip


def _slide_map_transposed(cnn, image, window, stride):
    def shape(scores, h, w):
        return scores.T.reshape(-1, h, w).transpose(1, 2)

    return _slide(cnn, image, window, stride, shape=shape)


def _slide_width_first(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.T.reshape(-1, w, h))


def _slide_laid_out_by_columns(cnn, image, window, stride):
    def shape(scores, h, w):
        return scores.T.reshape(-1, w, h).transpose(1, 2)

    return _slide(cnn, image, window, stride, shape=shape)


def _slide_squeezed(cnn, image, window, stride):
    return _slide(cnn, image, window, stride).squeeze()


def _slide_grid_centered(cnn, image, window, stride):
    top, left = ((size - window) % stride // 2 for size in image.shape[1:])
    return _slide(cnn, image[:, top:, left:], window, stride)


def _slide_with_graph(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, grad=True)


def _slide_columns_first(cnn, image, window, stride):
    def shape(scores, h, w):
        # Windows collected column by column, laid out as if they had come row by row.
        return scores.T.reshape(-1, h, w).transpose(1, 2).reshape(-1, h, w)

    return _slide(cnn, image, window, stride, shape=shape)


def _slide_positions_swapped(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, crop=lambda r, c: image[:, c : c + window, r : r + window])


def _slide_crops_transposed(cnn, image, window, stride):
    def crop(r, c):
        return image[:, r : r + window, c : c + window].transpose(1, 2)

    return _slide(cnn, image, window, stride, crop=crop)


def _slide_not_transposed(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.reshape(-1, h, w))


def _slide_classes_last(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.reshape(h, w, -1))


def _slide_batch_axis(cnn, image, window, stride):
    return _slide(cnn, image, window, stride)[None]


def _slide_in_training(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, mode="training")


def _slide_left_in_eval(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, mode="left")


def _slide_left_in_training(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, mode="left in training")


def _slide_float32(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, dtype=torch.float32)


def _slide_unfold(cnn, image, window, stride):
    """All windows as one batch, out of F.unfold."""
    h, w = ((size - window) // stride + 1 for size in image.shape[1:])
    crops = nn.functional.unfold(image[None], window, stride=stride)[0].T
    was = [(m, m.training) for m in cnn.modules()]
    cnn.eval()
    scores = cnn(crops.reshape(-1, image.shape[0], window, window)).detach()
    for m, flag in was:
        m.training = flag
    return scores.T.unflatten(1, (h, w))


def _slide_rows(cnn, image, window, stride):
    """Row after row on a copy of the network."""
    twin = copy.deepcopy(cnn).eval()
    rows = []
    for top in range(0, image.shape[1] - window + 1, stride):
        lefts = range(0, image.shape[2] - window + 1, stride)
        crops = [image[:, top : top + window, left : left + window] for left in lefts]
        rows.append(torch.stack([twin(crop.unsqueeze(0)).detach()[0] for crop in crops], dim=1))
    return torch.stack(rows, dim=1)


SLID = ("scores", "leftover", "sparse")

EXERCISE = Exercise(
    id="sliding_window",
    topic="convolutionalize",
    title="The wasteful way: one crop after the other",
    reference=reference.sliding_window,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "scores",
            "cell (i, j) holds the scores, no softmax, of the crop whose top left is (i·stride, j·stride)",
            1.5,
            _window_case([(2, 3), (3, 2), (3, 3)], [2, 1, 3]),
            examples=6,
        ),
        Property(
            "leftover",
            "rows and columns that no whole window reaches are left out",
            0.75,
            _window_case([(2, 3), (3, 2)], [3, 4], leftover=True, windows=(5, 6)),
            examples=4,
        ),
        Property(
            "sparse",
            "a single row or column of windows, and strides larger than the window",
            0.75,
            _window_case([(1, 3), (3, 1), (1, 1)], [1, 2], apart=True),
            examples=6,
        ),
        Property(
            "mode",
            "the classifier runs in eval mode, and its mode is left as it was",
            0.5,
            _window_modes,
            in_both_modes,
            examples=3,
            tried="one classifier in eval and in training mode, looked at after each call",
        ),
        Property(
            "no_grad",
            "the result keeps no graph: no gradients",
            0.25,
            _window_case([(2, 3)], [2, 1]),
            reached_by_gradients,
            examples=3,
            tried="the gradients of the result's inner product with fixed random numbers",
        ),
        Property(
            "dtype",
            "a float64 classifier gives float64 scores",
            0.25,
            _window_case([(2, 3)], [2, 1], dtype=torch.float64),
            _window_dtype,
            examples=3,
            tried="the dtype of the result",
        ),
    ),
    misconceptions=(
        Misconception(
            "softmax_applied",
            "You returned probabilities.",
            "Return the scores as the classifier gives them: probabilities are class_heatmaps' business.",
            SLID,
            _slide_softmax,
        ),
        Misconception(
            "winners_only",
            "You returned the best class of every window.",
            "Return the scores of all classes, (L, h, w).",
            (*SLID, "mode", "dtype"),
            _slide_winners,
        ),
        Misconception(
            "stride_ignored",
            "Your windows are one pixel apart, whatever the stride.",
            "Window (i, j) begins at row i·stride and column j·stride.",
            SLID,
            _slide_stride_ignored,
        ),
        Misconception(
            "tiles",
            "Your windows are a window apart: they never overlap.",
            "Step by stride, not by window.",
            SLID,
            _slide_tiles,
        ),
        Misconception(
            "last_window_missing",
            "Your last row and column of windows are missing where they end exactly at the border.",
            "The last window begins at H − window, and range leaves its end out: range(0, H − window + 1, stride).",
            ("scores", "sparse"),
            _slide_last_missing,
        ),
        Misconception(
            "one_window_short",
            "Your map is one row and one column short.",
            "h = (H − window) // stride + 1: a single window already makes one cell.",
            SLID,
            _slide_divided,
        ),
        Misconception(
            "over_the_edge",
            "Your last windows hang over the border, filled up with zeros.",
            "Whole windows only: h = (H − window) // stride + 1, rounded down.",
            ("leftover",),
            _slide_over_the_edge,
        ),
        Misconception(
            "cut_off",
            "Your last windows hang over the border, where slicing cuts them off: they are smaller than the classifier's input.",
            "The last window begins at H − window: range(0, H − window + 1, stride).",
            ("scores", "leftover", "mode", "no_grad", "dtype"),
            _slide_cut_off,
        ),
        Misconception(
            "moved_back",
            "You moved the last windows back until they end at the border, so they are not a stride apart.",
            "Leave out what no whole window reaches.",
            ("leftover",),
            _slide_moved_back,
        ),
        Misconception(
            "centered",
            "You padded the image, so that windows are centered on the pixels.",
            "The window of cell (0, 0) begins at pixel (0, 0), without padding.",
            SLID,
            _slide_centered,
        ),
        Misconception(
            "map_transposed",
            "Your map has rows and columns swapped: (L, w, h).",
            "Rows of windows become rows of the map: lay the scores out as (L, h, w).",
            SLID,
            _slide_map_transposed,
        ),
        Misconception(
            "width_before_height",
            "You laid the scores out as (L, w, h).",
            "Windows collected row by row are laid out row by row: (L, h, w).",
            SLID,
            _slide_width_first,
        ),
        Misconception(
            "laid_out_by_columns",
            "You collected the windows row by row, and laid the scores out column by column.",
            "Windows collected row by row are laid out row by row: reshape to (L, h, w), with nothing to transpose.",
            ("scores", "leftover"),
            _slide_laid_out_by_columns,
        ),
        Misconception(
            "axes_squeezed",
            "Where there is one row or one column of windows, your map loses that axis.",
            "Take out the batch axis only, with [0] or squeeze(0): the result is (L, h, w) always.",
            ("sparse",),
            _slide_squeezed,
        ),
        Misconception(
            "grid_centered",
            "You centered the windows in the image, leaving rows out at both ends.",
            "The first window begins at pixel (0, 0); what no whole window reaches is left out at the end.",
            ("leftover",),
            _slide_grid_centered,
        ),
        Misconception(
            "columns_first",
            "You collected the windows column by column, and laid the scores out row by row.",
            "The outer loop runs over the rows, the inner one over the columns.",
            ("scores", "leftover"),
            _slide_columns_first,
        ),
        Misconception(
            "positions_swapped",
            "Rows and columns are exchanged where you cut: in the positions, or in how many there are of each.",
            "An image is (C, H, W), and cell (i, j) is image[:, i·stride : i·stride + window, j·stride : j·stride + window]: the rows come first.",
            (*SLID, "mode", "no_grad", "dtype"),
            _slide_positions_swapped,
        ),
        Misconception(
            "crops_transposed",
            "Your crops are transposed.",
            "Keep (C, rows, columns) in every crop.",
            SLID,
            _slide_crops_transposed,
        ),
        Misconception(
            "unfolded_axes_mixed",
            "You reshaped the unfolded image, (C, h, w, window, window), with the channels in front, so your crops mix channels and places.",
            "Move the windows to the front before the reshape: crops.permute(1, 2, 0, 3, 4).",
            SLID,
            _slide_axes_mixed,
        ),
        Misconception(
            "unfold_not_transposed",
            "You reshaped what F.unfold gives, (1, C·window², windows), with the windows last, so your crops mix all windows.",
            "Transpose first: unfold(…)[0].T.reshape(-1, C, window, window).",
            SLID,
            _slide_unfold_mixed,
        ),
        Misconception(
            "scores_not_transposed",
            "You reshaped (windows, L) to (L, h, w), which mixes the scores of different windows.",
            "Transpose first: scores.T.reshape(L, h, w).",
            SLID,
            _slide_not_transposed,
        ),
        Misconception(
            "classes_last",
            "Your classes are the last axis: (h, w, L).",
            "Channels first: permute to (L, h, w).",
            SLID,
            _slide_classes_last,
        ),
        Misconception(
            "batch_axis_left",
            "Your result has a batch axis.",
            "One image, one map: (L, h, w).",
            SLID,
            _slide_batch_axis,
        ),
        Misconception(
            "eval_forgotten",
            "The classifier ran in the mode you found it in: in training mode, batch norm uses the batch and dropout drops.",
            "Call cnn.eval() before, which reaches every layer, and put the mode back afterwards.",
            ("mode",),
            _slide_in_training,
        ),
        Misconception(
            "left_in_eval_mode",
            "You left the classifier in eval mode.",
            "Remember cnn.training before, and call cnn.train(was) afterwards.",
            ("mode",),
            _slide_left_in_eval,
        ),
        Misconception(
            "left_in_training_mode",
            "You put the classifier into training mode at the end, also where it was in eval mode.",
            "Remember cnn.training before, and call cnn.train(was) afterwards.",
            ("mode",),
            _slide_left_in_training,
        ),
        Misconception(
            "graph_kept",
            "Your result keeps the graph of everything that was computed, which costs memory for every window.",
            "Run the classifier under torch.no_grad().",
            ("no_grad",),
            _slide_with_graph,
        ),
        Misconception(
            "always_float32",
            "Your map is float32 whatever the scores are.",
            "Make it out of the scores, or with scores.new_zeros.",
            ("dtype",),
            _slide_float32,
        ),
    ),
    right=(
        Variant("one batch out of F.unfold", _slide_unfold),
        Variant("row after row, on a copy of the network", _slide_rows),
    ),
    hints=(
        Hint(
            "I don't know how many windows there are",
            "The first begins at row 0, the last at row H − window at the latest. How many steps of stride fit in between?",
        ),
        Hint(
            "The scores are right, but in the wrong cells",
            "Collected row by row, the scores are (h·w, L). The classes have to become the first axis before the windows are laid out as (h, w).",
        ),
        Hint(
            "I don't know how to start",
            "In eval mode without gradients, two loops: for top in range(0, H − window + 1, stride), for left in range(0, W − window + 1, stride): cnn(image[None, :, top : top + window, left : left + window])[0]. Stack them, transpose, reshape to (L, h, w), and put the mode back.",
        ),
    ),
)
