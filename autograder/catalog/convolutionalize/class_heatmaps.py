"""The exercise class_heatmaps of lecture 04: a probability for every class in every cell."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.convolutionalize.draws import (
    in_both_modes,
    mode_case,
    normalized_features,
    reached_by_gradients,
)
from autograder.catalog.observations import filled
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import convolutionalize as reference


def _heatmap_case(*, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        c, k = d.choice([1, 2]), d.choice([2, 3])
        layers = (nn.Conv2d(c, k, 2), nn.Tanh(), nn.Conv2d(k, d.choice([3, 2, 4]), 1))
        fcn = filled(d, nn.Sequential(*layers), scale=1.0)
        with torch.no_grad():
            fcn[-1].get_parameter("weight").mul_(scale)
        images = d.tensor(d.choice([2, 1, 3]), c, d.integer(3, 4), d.integer(4, 6), dtype=dtype)
        return Case((Network.describe(fcn.to(dtype)), images))

    return draw


def _heatmap_modes(d: Draw) -> Case:
    c, k = d.choice([1, 2]), d.choice([2, 3])
    fcn = filled(d, nn.Sequential(*normalized_features(d, c, k), nn.Conv2d(k, 3, 1)), scale=0.5)
    images = d.tensor(d.choice([2, 3]), c, d.integer(3, 4), d.integer(4, 6))
    return mode_case(fcn, images)


CLAIMS = Exercise(
    id="class_heatmaps",
    topic="convolutionalize",
    title="A probability for every class in every cell",
    reference=reference.class_heatmaps,
    minutes=8,
    difficulty=2,
    properties=claims(
        """
        probabilities (1): in every cell of the map, the probabilities of the classes: the softmax over the
          class axis
        large_scores (0.25): scores in the thousands give probabilities too, not NaN
        mode (0.5): the network runs in eval mode, and its mode is left as it was
        tried: one network in eval and in training mode, looked at after each call
        no_grad (0.25): the result keeps no graph: no gradients
        tried: the gradients of the result's inner product with fixed random numbers
        """,
        probabilities=on(_heatmap_case(), examples=6),
        large_scores=on(_heatmap_case(scale=3000.0, dtype=torch.float32), examples=4),
        mode=on(_heatmap_modes, in_both_modes, examples=3, beside="probabilities"),
        no_grad=on(_heatmap_case(), reached_by_gradients, examples=3, beside="probabilities"),
    ),
    hints=hints("""
        I don't know what has to sum to 1
        Each cell is one classification of its window, with a probability for each class.

        My values sum to 1, but over the wrong things
        The scores are (N, L, h, w). Which axis holds the classes?

        I don't know how to start
        was = fcn.training; fcn.eval(); under torch.no_grad(): maps = fcn(images).softmax(1); fcn.train(was).
        """),
)

answers = Answers(CLAIMS)


@answers.right
def restored(fcn, images):
    """softmax(1), the mode put back"""
    was = fcn.training
    fcn.eval()
    with torch.no_grad():
        scores = fcn(images)
    fcn.train(was)
    return scores.softmax(1)


answers.edits("""
raw_scores: all but mode no_grad
- scores.softmax(1)
+ scores
You returned the scores as the network gives them.
Turn them into probabilities: softmax over the class axis, dim=1.

logarithms: all but mode no_grad
- scores.softmax(1)
+ scores.log_softmax(1)
You returned the logarithms of the probabilities.
softmax, not log_softmax.

sigmoid: all but mode no_grad
- scores.softmax(1)
+ scores.sigmoid()
You used the sigmoid, so the classes of a cell do not compete, and their values do not sum to 1.
Take the softmax over the class axis.

last_axis: all but mode no_grad
- scores.softmax(1)
+ scores.softmax(-1)
Your softmax runs along each row of the map: dim=-1 is the width here.
The classes are axis 1 of (N, L, h, w): softmax(1).

down_the_columns: all but mode no_grad
- scores.softmax(1)
+ scores.softmax(2)
Your softmax runs down each column of the map: dim=2 is the height here.
The classes are axis 1 of (N, L, h, w): softmax(1).

over_the_batch: all but mode no_grad
- scores.softmax(1)
+ scores.softmax(0)
Your softmax compares the images of the batch: dim=0.
The classes are axis 1 of (N, L, h, w): softmax(1).

over_the_map: all but mode no_grad
- scores.softmax(1)
+ scores.flatten(2).softmax(2).view_as(scores)
Your softmax runs over all cells, so each class's map sums to 1.
Each cell is a classification of its own: the classes sum to 1 in every cell, softmax(1).

over_cells_and_classes: all but mode no_grad
- scores.softmax(1)
+ scores.flatten(1).softmax(1).view_as(scores)
You flattened each image's scores before the softmax, so all cells and classes share one sum.
Leave the shape as it is: softmax(1) works on the class axis of every cell.

stretched: all but mode no_grad
- return scores.softmax(1)
+ low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
+ return (scores - low) / (high - low)
You stretched each map between its smallest and largest score, which makes a picture and no probability.
Take the softmax over the class axis.

divided_by_the_sum: all but mode no_grad
- scores.softmax(1)
+ scores / scores.sum(1, keepdim=True)
You divided the scores by their sum, but scores may be negative.
Take the softmax over the class axis: exponentials are positive.

winners_only: all but no_grad
- scores.softmax(1)
+ scores.argmax(1)
You returned the best class of every cell.
Return the probabilities of all classes, (N, L, h, w).

exponentials_overflow: large_scores
- scores.softmax(1)
+ scores.exp() / scores.exp().sum(1, keepdim=True)
Your exponentials overflow where scores are large, and ∞/∞ is NaN.
scores.softmax(1) takes the largest score off first; do the same, or call it.

eval_forgotten: mode
- was = fcn.training
- fcn.eval()
...
- fcn.train(was)
The network ran in the mode you found it in: in training mode, batch norm uses the batch and dropout drops.
Call fcn.eval() before, which reaches every layer, and put the mode back afterwards.

left_in_eval_mode: mode
- was = fcn.training
...
- fcn.train(was)
You left the network in eval mode.
Remember fcn.training before, and call fcn.train(was) afterwards.

left_in_training_mode: mode
- was = fcn.training
...
- fcn.train(was)
+ fcn.train()
You put the network into training mode at the end, also where it was in eval mode.
Remember fcn.training before, and call fcn.train(was) afterwards.

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
    flags = {m: m.training for m in fcn.modules()}
    fcn.eval()
    scores = fcn(images).detach()
    for module, flag in flags.items():
        module.training = flag
    out = torch.empty_like(scores)
    for n in range(scores.shape[0]):
        for i in range(scores.shape[2]):
            for j in range(scores.shape[3]):
                e = (scores[n, :, i, j] - scores[n, :, i, j].max()).exp()
                out[n, :, i, j] = e / e.sum()
    return out


EXERCISE = answers.exercise()
