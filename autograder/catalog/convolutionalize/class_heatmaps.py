"""The exercise class_heatmaps of lecture 04: a probability for every class in every cell."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.convolutionalize.draws import (
    as_in_eval_mode,
    found_case,
    left_as_found,
    normalized_features,
    reached_by_gradients,
    running_case,
)
from autograder.catalog.observations import described, filled
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import convolutionalize as reference

# A map of one cell, and one several times as wide as high, are maps too.
SIZES = [(3, 4), (2, 2), (5, 3), (2, 7)]


def _heatmap_case(
    sizes: list[tuple[int, int]], *, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        c, k, size = d.choice([1, 2]), d.choice([2, 3]), d.each(sizes)
        layers = (nn.Conv2d(c, k, 2), nn.Tanh(), nn.Conv2d(k, d.choice([3, 2, 4, 1]), 1))
        fcn = filled(d, nn.Sequential(*layers), scale=1.0)
        with torch.no_grad():
            fcn[-1].get_parameter("weight").mul_(scale)
        images = d.layout(d.tensor(d.choice([2, 1, 3]), c, *size, dtype=dtype))
        return Case((Network.describe(fcn.to(dtype)), images))

    return draw


def _normalized(d: Draw) -> tuple[nn.Sequential, torch.Tensor]:
    c, k = d.choice([1, 2]), d.choice([2, 3])
    fcn = filled(d, nn.Sequential(*normalized_features(d, c, k), nn.Conv2d(k, 3, 1)), scale=0.5)
    return fcn, d.tensor(d.choice([2, 3]), c, d.integer(3, 4), d.integer(4, 6))


def _in_some_mode(d: Draw) -> Case:
    return running_case(d, *_normalized(d))


def _found_in_some_mode(d: Draw) -> Case:
    fcn, images = _normalized(d)
    return found_case(d, fcn, nn.Sequential(*list(fcn)[:-1], nn.Conv2d(5, 3, 1)), images)


def _dtype(subject: Subject, case: Case) -> Any:
    return described(subject(*case.args)).partition(" (")[0]


CLAIMS = Exercise(
    id="class_heatmaps",
    topic="convolutionalize",
    title="A probability for every class in every cell",
    reference=reference.class_heatmaps,
    minutes=8,
    difficulty=2,
    properties=claims(
        """
        probabilities (0.75): in every cell of the map, the probabilities of the classes: the softmax over the
          class axis
        large_scores (0.25): scores in the thousands give probabilities too, not NaN
        mode (0.25): the network runs in eval mode, every layer of it
        tried: one network in eval mode, and with layers in training mode
        as_found (0.25): every layer's training flag is left as it was, where layers differ and where the
          network raises an error too; nothing else of the network changes, nor do the images
        tried: the network after a call, and one whose last layer raised an error
        no_grad (0.25): the result keeps no graph: no gradients
        tried: the gradients of the result's inner product with fixed random numbers
        dtype (0.25): float64 scores give float64 probabilities
        tried: the dtype of the result
        """,
        probabilities=on(_heatmap_case(SIZES), examples=6),
        large_scores=on(_heatmap_case(SIZES[:1], scale=3000.0), examples=4),
        mode=on(_in_some_mode, as_in_eval_mode, examples=4, beside="probabilities"),
        as_found=on(_found_in_some_mode, left_as_found, examples=4, beside="probabilities"),
        no_grad=on(_heatmap_case(SIZES[:1]), reached_by_gradients, examples=3, beside="probabilities"),
        dtype=on(_heatmap_case(SIZES[:1], dtype=torch.float64), _dtype, examples=2, beside="probabilities"),
    ),
    hints=hints("""
        I don't know what has to sum to 1
        Each cell is one classification of its window, with a probability for each class.

        My values sum to 1, but over the wrong things
        The scores are (N, L, h, w). Which axis holds the classes?

        I don't know how to start
        flags = {m: m.training for m in fcn.modules()}; fcn.eval(); try: under torch.no_grad(): scores =
          fcn(images); finally: for m, flag in flags.items(): m.training = flag. Then scores.softmax(1).
          fcn.train(was) is not enough: it gives every layer the same flag.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def restored(fcn, images):
    """softmax(1), the flags put back"""
    flags = {m: m.training for m in fcn.modules()}
    fcn.eval()
    try:
        with torch.no_grad():
            scores = fcn(images)
    finally:
        for m, flag in flags.items():
            m.training = flag
    return scores.softmax(1)


answers.edits("""
raw_scores: probabilities large_scores
- scores.softmax(1)
+ scores
You returned the scores as the network gives them.
Turn them into probabilities: softmax over the class axis, dim=1.

logarithms: probabilities large_scores
- scores.softmax(1)
+ scores.log_softmax(1)
You returned the logarithms of the probabilities.
softmax, not log_softmax.

sigmoid: probabilities large_scores
- scores.softmax(1)
+ scores.sigmoid()
You used the sigmoid, so the classes of a cell do not compete, and their values do not sum to 1.
Take the softmax over the class axis.

last_axis: probabilities large_scores
- scores.softmax(1)
+ scores.softmax(-1)
Your softmax runs along each row of the map: dim=-1 is the width here.
The classes are axis 1 of (N, L, h, w): softmax(1).

down_the_columns: probabilities large_scores
- scores.softmax(1)
+ scores.softmax(2)
Your softmax runs down each column of the map: dim=2 is the height here.
The classes are axis 1 of (N, L, h, w): softmax(1).

over_the_batch: probabilities large_scores
- scores.softmax(1)
+ scores.softmax(0)
Your softmax compares the images of the batch: dim=0.
The classes are axis 1 of (N, L, h, w): softmax(1).

over_the_map: probabilities large_scores
- scores.softmax(1)
+ scores.flatten(2).softmax(2).view_as(scores)
Your softmax runs over all cells, so each class's map sums to 1.
Each cell is a classification of its own: the classes sum to 1 in every cell, softmax(1).

over_cells_and_classes: probabilities large_scores
- scores.softmax(1)
+ scores.flatten(1).softmax(1).view_as(scores)
You flattened each image's scores before the softmax, so all cells and classes share one sum.
Leave the shape as it is: softmax(1) works on the class axis of every cell.

stretched: probabilities large_scores
- return scores.softmax(1)
+ low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
+ return (scores - low) / (high - low)
You stretched each map between its smallest and largest score, which makes a picture and no probability.
Take the softmax over the class axis.

divided_by_the_sum: probabilities large_scores
- scores.softmax(1)
+ scores / scores.sum(1, keepdim=True)
You divided the scores by their sum, but scores may be negative.
Take the softmax over the class axis: exponentials are positive.

classes_last: probabilities large_scores
- scores.softmax(1)
+ scores.softmax(1).permute(0, 2, 3, 1)
Your classes are the last axis: (N, h, w, L).
Leave the axes as the network gives them, (N, L, h, w).

winners_only: probabilities large_scores dtype
- scores.softmax(1)
+ scores.argmax(1)
You returned the best class of every cell.
Return the probabilities of all classes, (N, L, h, w).

exponentials_overflow: large_scores
- scores.softmax(1)
+ scores.exp() / scores.exp().sum(1, keepdim=True)
Your exponentials overflow where scores are large, and ∞/∞ is NaN.
scores.softmax(1) takes the largest score off first; do the same, or call it.

always_float32: dtype
- return scores.softmax(1)
+ return scores.softmax(1).float()
Your probabilities are float32 whatever the scores are.
Leave the dtype of the scores as it is: softmax keeps it, and so does scores.new_zeros.

eval_forgotten: mode
- fcn.eval()
Layers of the network ran in training mode: their batch norm used the batch, their dropout dropped.
Call fcn.eval() before, which reaches every layer, and put the flags back afterwards.

outermost_flag_only: mode as_found
- flags = {m: m.training for m in fcn.modules()}
- fcn.eval()
+ fcn.training = False
- try:
-     with torch.no_grad():
-         scores = fcn(images)
- finally:
-     for m, flag in flags.items():
-         m.training = flag
+ with torch.no_grad():
+     scores = fcn(images)
You set the outermost training flag alone, which changes nothing for the layers inside, and left it so.
Call fcn.eval(), which reaches every layer, and put every layer's own flag back afterwards.

left_in_eval_mode: as_found
- flags = {m: m.training for m in fcn.modules()}
...
- try:
-     with torch.no_grad():
-         scores = fcn(images)
- finally:
-     for m, flag in flags.items():
-         m.training = flag
+ with torch.no_grad():
+     scores = fcn(images)
You left the network in eval mode.
Remember every layer's training flag before, and put it back in a finally block.

left_in_training_mode: as_found
- flags = {m: m.training for m in fcn.modules()}
...
- try:
-     with torch.no_grad():
-         scores = fcn(images)
- finally:
-     for m, flag in flags.items():
-         m.training = flag
+ with torch.no_grad():
+     scores = fcn(images)
+ fcn.train()
You put the network into training mode at the end, whatever it was in.
Remember every layer's training flag before, and put it back in a finally block.

one_flag_for_all: as_found
- flags = {m: m.training for m in fcn.modules()}
+ was = fcn.training
- try:
-     with torch.no_grad():
-         scores = fcn(images)
- finally:
-     for m, flag in flags.items():
-         m.training = flag
+ with torch.no_grad():
+     scores = fcn(images)
+ fcn.train(was)
You gave every layer the flag of the outermost one, so what was frozen on purpose is not any more; and after
  an error of the network nothing is put back.
Remember each layer's own flag, {m: m.training for m in fcn.modules()}, and put them back in a finally block.

one_flag_for_all_after_errors_too: as_found
- flags = {m: m.training for m in fcn.modules()}
+ was = fcn.training
- for m, flag in flags.items():
-     m.training = flag
+ fcn.train(was)
You gave every layer the flag of the outermost one, so what was frozen on purpose is not any more.
Remember each layer's own flag, {m: m.training for m in fcn.modules()}, and put them back one by one.

only_training_put_back: as_found
- m.training = flag
+ if flag:
+     m.train()
You put layers back with train(), which switches everything inside them too: what was in eval mode inside a
  network in training mode is not any more.
m.training = flag, for each of fcn.modules(), switches m alone.

not_after_an_error: as_found
- try:
-     with torch.no_grad():
-         scores = fcn(images)
- finally:
-     for m, flag in flags.items():
-         m.training = flag
+ with torch.no_grad():
+     scores = fcn(images)
+ for m, flag in flags.items():
+     m.training = flag
Where the network raises an error, the line that puts the flags back is never reached.
Put them back in the finally block of a try.

frozen_for_good: as_found
- with torch.no_grad():
-     scores = fcn(images)
+ fcn.requires_grad_(False)
+ scores = fcn(images.detach())
You switched requires_grad off in the network that you were given, so it can no longer be trained.
Run it under torch.no_grad(): then no parameter has to change.

graph_kept: no_grad
- with torch.no_grad():
-     scores = fcn(images)
+ scores = fcn(images)
Your result keeps the graph of everything that was computed, which costs memory.
Run the network under torch.no_grad().
""")


@answers.right
def on_a_copy(fcn, images):
    """a copy of the network, logsumexp"""
    twin = copy.deepcopy(fcn).eval()
    with torch.inference_mode():
        scores = torch.cat([twin(image[None]) for image in images])
        return (scores - scores.logsumexp(dim=1, keepdim=True)).exp()


@answers.right
def cell_by_cell(fcn, images):
    """cell by cell"""
    modules = list(fcn.modules())
    flags = [m.training for m in modules]
    try:
        scores = fcn.eval()(images).detach()
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
    out = torch.empty_like(scores)
    for n in range(scores.shape[0]):
        for i in range(scores.shape[2]):
            for j in range(scores.shape[3]):
                e = (scores[n, :, i, j] - scores[n, :, i, j].max()).exp()
                out[n, :, i, j] = e / e.sum()
    return out


EXERCISE = answers.exercise()
