import numpy as np
import pytest
import torch
from contract import Contract
from scipy.ndimage import distance_transform_edt

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def as_published(arrange=lambda d: np.sort(d, axis=2), combine=lambda a, b: a + b, dtype=float):
    """The implementation that goes round, with numpy, all distances in one array; mended to what is asked here."""

    def unet_weight_map(instances, w0=10.0, sigma=5.0, class_weights=None):
        y = instances.numpy()
        ids = [i for i in np.unique(y) if i != 0]
        w = np.zeros(y.shape)
        if len(ids) > 1:
            d = arrange(np.stack([distance_transform_edt(y != i) for i in ids], axis=2))
            w += w0 * np.exp(-0.5 * (combine(d[..., 0], d[..., 1]) / sigma) ** 2) * (y == 0)
        if class_weights is None:
            n = max((y == 0).sum(), 1), max((y != 0).sum(), 1)
            class_weights = tuple(y.size / 2 / k for k in n)
            w_c = np.where(y == 0, *class_weights)
        else:
            w_c = np.zeros(y.shape, dtype)
            for k, v in enumerate(class_weights):
                w_c[(y != 0) == k] = v
        return torch.from_numpy(w + w_c).float()

    return unet_weight_map


class TestUnetWeightMap(Contract):
    exercise_id = "unet_weight_map"

    @pytest.mark.parametrize(
        ("answer", "name", "points"),
        [
            (as_published(lambda d: d), "not_sorted", 3.5),
            (as_published(np.sort, lambda a, b: a - b), "distances_subtracted", 2.25),
            (as_published(lambda d: np.sort(d, axis=1)), "sorted_along_the_columns", 2.25),
            (as_published(dtype=int), "class_weights_cut_off", 0.75),
        ],
    )
    def test_mistakes_of_public_implementations_have_their_names(self, answer, name, points):
        assert evaluate("unet_weight_map", as_published()).correct
        verdict = evaluate("unet_weight_map", answer)
        assert (verdict.points, verdict.diagnosis) == (points, name)

    def test_weights_without_w_c_are_told_so(self):
        whole = as_published()
        verdict = evaluate(
            "unet_weight_map", lambda i, w0=10.0, sigma=5.0, class_weights=None: whole(i, w0, sigma, (0, 0))
        )
        assert verdict.diagnosis == "w_c_left_out"

    @pytest.mark.parametrize("change", [lambda w: w.double(), lambda w: w.numpy()], ids=["double", "numpy"])
    def test_a_wrong_kind_costs_its_own_claim(self, change):
        def unet_weight_map(instances, *args, **kwargs):
            return change(as_published()(instances, *args, **kwargs))

        assert evaluate("unet_weight_map", unet_weight_map).points == 4.5

    def test_a_wrong_shape_is_not_told_that_its_dtype_is_wrong(self):
        def unet_weight_map(instances, *args, **kwargs):
            return as_published()(instances, *args, **kwargs)[None]

        verdict = evaluate("unet_weight_map", unet_weight_map)
        assert verdict.outcomes["carries"] is Outcome.WAITING
        assert verdict.outcomes["border"] is Outcome.WRONG_KIND

    def test_the_weight_of_the_background_is_balanced_too(self):
        def unet_weight_map(instances, w0=10.0, sigma=5.0, class_weights=None):
            if class_weights is None:
                n = int((instances != 0).sum())
                class_weights = (1.0 if 0 < n < instances.numel() else 0.5, instances.numel() / 2 / max(n, 1))
            return as_published()(instances, w0, sigma, class_weights)

        assert evaluate("unet_weight_map", unet_weight_map).outcomes["balanced"] is Outcome.WRONG_VALUES
