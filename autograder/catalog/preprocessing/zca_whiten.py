"""The exercise zca_whiten of lecture 01: whitening that stays close to the image."""

from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double, described
from autograder.catalog.preprocessing.draws import numbers_of
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
from coursekit import preprocessing as reference


def _mixed(d: Draw, n: int, dims: int, low: float = 0.5, high: float = 2.0) -> torch.Tensor:
    """Correlated samples, their mean away from 0, whose covariance has no eigenvalue below low²."""
    z = d.tensor(n, dims)
    z = torch.linalg.qr(z - z.mean(0)).Q * n**0.5
    turn = torch.linalg.qr(d.tensor(dims, dims)).Q
    x = (z * torch.linspace(low, high, dims, dtype=torch.float64)) @ turn + d.tensor(dims, shift=2.0)
    return (x * 1000).round() / 1000


def _samples(d: Draw) -> Case:
    dims = d.integer(2, 5)
    return Case((d.layout(_mixed(d, dims + d.integer(3, 8), dims)),))


def _small_samples(d: Draw) -> Case:
    dims = d.integer(2, 4)
    eps = d.choice([0.1, 0.5, 0.02])
    return Case((_mixed(d, dims + d.integer(3, 8), dims, 0.3, 0.8), eps))


def _dependent(d: Draw) -> Case:
    """More features than samples, or the same feature twice."""
    dims = d.integer(3, 5)
    if d.flag():
        return Case((d.tensor(dims - 1, dims, shift=1.0), d.choice([0.1, 0.02])))
    x = _mixed(d, dims + 5, dims)
    return Case((torch.cat([x, x[:, :1]], 1), d.choice([0.1, 0.02])))


def _whole_samples(d: Draw) -> Case:
    dims = d.integer(2, 3)
    corners = torch.cat([torch.zeros(1, dims), 4 * torch.eye(dims)]).long()
    return Case((torch.cat([corners, d.integers(4, dims, low=0, high=9)]),))


def _zca_kinds(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for dtype in (torch.int64, torch.float32, torch.float64):
        x = case.args[0].to(dtype)
        answer, changed = subject.with_changes(x)
        seen[f"for {str(dtype).removeprefix('torch.')} samples"] = described(answer)
        seen["modified in place"] = bool(changed) or seen.get("modified in place", False)
    return seen


def _zca_both(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    return {"whitened": as_double(result[0]), "W": as_double(result[1])}


CLAIMS = Exercise(
    id="zca_whiten",
    topic="preprocessing",
    title="Whitening that stays close to the image",
    reference=reference.zca_whiten,
    minutes=20,
    difficulty=3,
    properties=claims(
        """
        whitened (1.25): the samples, centered and multiplied by W
        matrix (1): W = U (S + eps)^(−1/2) Uᵀ of the covariance (÷N), symmetric
        eps (0.75): eps is added to every eigenvalue, inside the root
        dependent (0.5): features that depend on each other, and fewer samples than features
        kinds (0.5): (N, D) and (D, D): floats keep their dtype, integers give float32; nothing in place
        tried: zca_whiten(x) for int64, float32 and float64
        """,
        whitened=on(_samples, numbers_of(0), tolerance=(1e-3, 1e-4)),
        matrix=on(_samples, numbers_of(1), tolerance=(1e-3, 1e-4)),
        eps=on(_small_samples, numbers_of(1), tolerance=(1e-4, 1e-5)),
        dependent=on(_dependent, _zca_both, tolerance=(1e-3, 1e-4)),
        kinds=on(_whole_samples, _zca_kinds, examples=4, beside="matrix"),
    ),
    hints=hints("""
        My W is not symmetric
        U turns into the basis of the eigenvectors. What turns back?

        I get inf or NaN
        An eigenvalue of a covariance can be 0: that is what eps is for. Rounding in float32 can put one
          further below 0 than eps lifts it: compute in float64, and clamp at 0.

        I don't know how to start
        c = x.double() - x.double().mean(0); S, U = torch.linalg.eigh(c.T @ c / N); W = U @
          torch.diag((S.clamp(min=0) + eps) ** -0.5) @ U.T; whitened = c @ W; then both .to(x.dtype), or
          float32 for integers.
        """),
    forbidden=(Forbidden("sklearn.decomposition", ("sklearn.decomposition.",)),),
)

answers = Answers(CLAIMS)


@answers.right
def plain(x, eps=1e-5):
    """eigenvectors of the covariance"""
    dtype = x.dtype if x.is_floating_point() else torch.float32
    x = x.double()
    centered = x - x.mean(0)
    covariance = centered.T @ centered / len(x)
    S, U = torch.linalg.eigh(covariance)
    scale = (S.clamp(min=0) + eps) ** -0.5
    W = (U * scale) @ U.T
    return (centered @ W).to(dtype), W.to(dtype)


answers.edits("""
pca_whitening: all but kinds
- (U * scale) @ U.T
+ U * scale
You stopped in the basis of the eigenvectors: this is PCA whitening.
Turn back at the end, W = U (S + eps)^(−1/2) Uᵀ: that is what makes W symmetric.

pca_whitening_by_svd: all but kinds
- S, U = torch.linalg.eigh(covariance)
+ U, S, _ = torch.linalg.svd(covariance)
- (U * scale) @ U.T
+ U * scale
You stopped in the basis of the singular vectors: this is PCA whitening.
Turn back at the end, W = U (S + eps)^(−1/2) Uᵀ: that is what makes W symmetric.

standardized_first: all but kinds
- centered = x - x.mean(0)
+ centered = (x - x.mean(0)) / x.std(0, correction=0)
You divided the features by their own std before you took the covariance.
Only the mean is subtracted: W itself takes care of the scale.

not_centered: all but kinds
- centered = x - x.mean(0)
+ centered = x
You did not subtract the mean of the features.
A covariance is taken around the mean: center x over axis 0 first.

centered_for_the_covariance_only: whitened dependent
- (centered @ W)
+ (x @ W)
You multiplied x itself by W, not the centered x.
whitened = (x − mean) @ W.

mean_of_each_sample: all but kinds
- x.mean(0)
+ x.mean(1, keepdim=True)
You subtracted the mean of each sample.
Each feature has its own mean, over the samples: x.mean(0).

one_less: all but kinds
- len(x)
+ (len(x) - 1)
You divided the covariance by N−1.
Divide by N here; torch.cov needs correction=0 for it.

covariance_not_divided: all but kinds
- centered.T @ centered / len(x)
+ centered.T @ centered
You did not divide the covariance by N.
The covariance is centeredᵀ @ centered / N.

without_root: all but kinds
- (S.clamp(min=0) + eps) ** -0.5
+ 1 / (S.clamp(min=0) + eps)
You divided by the eigenvalues.
An eigenvalue is a variance: divide by its root.

root_not_inverted: all but kinds
- ** -0.5
+ ** 0.5
You multiplied by the root of the eigenvalues instead of dividing by it.
The exponent is −1/2: wide directions are made narrower.

feature_by_feature: all but kinds
- S, U = torch.linalg.eigh(covariance)
- scale = (S.clamp(min=0) + eps) ** -0.5
- W = (U * scale) @ U.T
+ W = torch.diag((covariance.diag() + eps) ** -0.5)
You divided each feature by its own std, which leaves the features correlated.
Use the eigenvectors of the covariance, not its diagonal alone.

eps_outside_root: eps dependent
- (S.clamp(min=0) + eps) ** -0.5
+ 1 / (S.clamp(min=0).sqrt() + eps)
You added eps after the root.
It belongs to the eigenvalue: (S + eps)^(−1/2).

eps_ignored: eps dependent
- (S.clamp(min=0) + eps)
+ S.clamp(min=1e-12)
You did not use eps.
Add it to the eigenvalues: where one is 0, there is nothing else to divide by.

integers_not_converted: kinds
- x = x.double()
You asked for the mean of integers, which torch does not take.
Convert x first: x.double(), and the results back at the end.

in_place: kinds
- centered = x - x.mean(0)
+ x -= x.mean(0)
+ centered = x
You modified x in place (-= or a method that ends in _).
Write x - mean into a new name: the caller still needs x.

always_double: kinds
- dtype = x.dtype if x.is_floating_point() else torch.float32
...
- (centered @ W).to(dtype), W.to(dtype)
+ centered @ W, W
Your answer is float64 whatever x is.
Compute in float64 if you like, then return the dtype of x (float32 for integers).
""")


@answers.right
def by_svd(x, eps=1e-5):
    """from the singular values"""
    kind = x.dtype if x.is_floating_point() else torch.float32
    centered = x.double() - x.double().mean(0)
    _, singular, v = torch.linalg.svd(centered, full_matrices=True)
    s = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    s[: len(singular)] = singular**2 / len(x)
    w = (v.T / torch.sqrt(s + eps)) @ v
    return (centered @ w).to(kind), w.to(kind)


@answers.right
def by_cov(x, eps=1e-5):
    """torch.cov and einsum"""
    kind = x.dtype if x.is_floating_point() else torch.float32
    x = x.double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    w = torch.einsum("ik,k,jk->ij", vectors, 1 / torch.sqrt(values + eps), vectors)
    return torch.einsum("ni,ij->nj", x - x.mean(0), w).to(kind), w.to(kind)


@answers.right
def by_numpy(x, eps=1e-5):
    """numpy"""
    rows = x.cpu().numpy().astype(np.float64)
    rows = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False, bias=True))
    w = vectors @ np.diag((values + eps) ** -0.5) @ vectors.T
    kind = x.dtype if x.is_floating_point() else torch.float32
    return torch.from_numpy(rows @ w).to(x.device, kind), torch.from_numpy(w).to(x.device, kind)


EXERCISE = answers.exercise()
