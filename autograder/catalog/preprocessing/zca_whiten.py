"""The exercise zca_whiten of lecture 01: whitening that stays close to the image."""

from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double
from autograder.catalog.preprocessing.draws import KINDS, kind_of_answer, numbers_of
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
    eps, dims = d.each([0.1, 0.0, 0.5, 2.0]), d.integer(2, 4)
    return Case((_mixed(d, dims + d.integer(3, 8), dims, 0.3, 0.8), eps))


def _dependent(d: Draw) -> Case:
    """A covariance with eigenvalues of 0, for each reason that there is, or of a single number."""
    which, dims = d.each(["a feature twice", "N < D", "N = D", "D = 1", "N = 1"]), d.integer(3, 5)
    x = d.tensor(
        {"N < D": dims - 1, "N = D": dims, "N = 1": 1}.get(which, dims + 5),
        1 if which == "D = 1" else dims,
        shift=1.0,
    )
    if which == "a feature twice":
        x = torch.cat([x, x[:, :1]], 1)
    return Case((x, d.choice([0.1, 0.02])))


def _whole_samples(d: Draw) -> Case:
    dims = d.integer(2, 3)
    corners = torch.cat([torch.zeros(1, dims), 4 * torch.eye(dims)]).long()
    return Case((torch.cat([corners, d.integers(4, dims, low=0, high=9)]),))


def _zca_kinds(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        x = case.args[0].to(dtype)
        answer, changed = subject.with_changes(x)
        seen[f"for {str(dtype).removeprefix('torch.')} samples"] = kind_of_answer(answer)
        seen["modified in place"] = bool(changed) or seen.get("modified in place", False)
    return seen


def _zca_both(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    return {"whitened": as_double(result[0]), "W": as_double(result[1])}


def _matrix(subject: Subject, case: Case) -> Any:
    W = numbers_of(1)(subject, case)
    D = case.args[0].shape[1]
    if not isinstance(W, torch.Tensor) or W.shape == (D, D):
        return W
    # A matrix of another shape may be singular, and its numbers are noise where eps is 0.
    return torch.zeros_like(W)


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
        eps (0.75): eps is added to every eigenvalue, inside the root; it may be 0 where none of them is
        dependent (0.5): features that depend on each other, no more samples than features, one feature, one
          sample
        kinds (0.5): (N, D) and (D, D): floats keep their dtype, integers give float32; nothing in place
        tried: zca_whiten(x) for uint8, int64, float32 and float64
        """,
        whitened=on(_samples, numbers_of(0), tolerance=(1e-3, 1e-4)),
        matrix=on(_samples, _matrix, tolerance=(1e-3, 1e-4)),
        eps=on(_small_samples, _matrix, tolerance=(1e-4, 1e-5)),
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

pca_whitening_in_rows: all but kinds
- (U * scale) @ U.T
+ scale[:, None] * U.T
- (centered @ W).to(dtype)
+ (centered @ W.T).to(dtype)
You stopped in the basis of the eigenvectors, a row of W each: this is PCA whitening.
Turn back at the end, W = U (S + eps)^(−1/2) Uᵀ: that is what makes W symmetric.

eigenvectors_in_rows: all but kinds
- (U * scale) @ U.T
+ (U.T * scale) @ U
You took the rows of U for the eigenvectors.
They are its columns: U · diag · Uᵀ, and not Uᵀ · diag · U.

cholesky_factor: all but kinds
- S, U = torch.linalg.eigh(covariance)
- scale = (S.clamp(min=0) + eps) ** -0.5
- W = (U * scale) @ U.T
+ inverse = torch.linalg.inv(covariance + eps * torch.eye(len(covariance)).to(covariance))
+ W = torch.linalg.cholesky(inverse)
Your W is triangular, a Cholesky factor: it makes the features uncorrelated, but it turns them.
Only the symmetric root stays close to the samples: W = U (S + eps)^(−1/2) Uᵀ.

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

one_mean: all but kinds
- x.mean(0)
+ x.mean()
You subtracted one number, the mean of all features.
Each feature has its own mean, over the samples: x.mean(0).

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

divided_by_features: all but kinds
- len(x)
+ x.shape[1]
You divided the covariance by D, the number of features.
It is an average over the samples: divide by N.

samples_in_columns: all
- covariance = centered.T @ centered / len(x)
+ covariance = centered @ centered.T / x.shape[1]
- (centered @ W).to(dtype)
+ (W @ centered).to(dtype)
Your W is (N, N): it whitens the samples, as where each of them is a column.
A sample is a row here: centered.T @ centered / N is (D, D), and whitened = centered @ W.

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

swapped: all
- (centered @ W).to(dtype), W.to(dtype)
+ W.to(dtype), (centered @ W).to(dtype)
You returned W first.
The order is the whitened samples, then W.

integers_not_converted: kinds
- x = x.double()
You asked for the mean of integers, which torch does not take.
Convert x first: x.double(), and the results back at the end.

in_place: kinds
- centered = x - x.mean(0)
+ x -= x.mean(0)
+ centered = x
You modified the x that you were handed.
Write x - mean into a new name; double() of a float64 tensor is that tensor, and -= writes into it.

always_single: kinds
- (centered @ W).to(dtype), W.to(dtype)
+ (centered @ W).float(), W.float()
Your answer is float32 even for float64 samples.
Only integers become float32; floats keep their own dtype.

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


answers.edits("""
singular_values_of_the_samples: all but kinds
- s[: len(singular)] = singular**2 / len(x)
- w = (v.T / torch.sqrt(s + eps)) @ v
+ s[: len(singular)] = singular
+ w = (v.T / (s + eps)) @ v
You divided by the singular values of the samples as they are.
An eigenvalue of the covariance is such a value squared, divided by N: W divides by
  √(s²/N + eps).

directions_left_out: dependent
- full_matrices=True
+ full_matrices=False
- s = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
- s[: len(singular)] = singular**2 / len(x)
+ s = singular**2 / len(x)
Where there are fewer samples than features, your W leaves directions out: a short SVD has no vector for them.
Their eigenvalue is 0, and W scales them by eps^(−1/2): full_matrices=True, and zeros behind
  the singular values.
""")


@answers.right
def by_cov(x, eps=1e-5):
    """torch.cov and einsum"""
    kind = x.dtype if x.is_floating_point() else torch.float32
    x = x.double()
    D = x.shape[1]
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0).view(D, D))
    w = torch.einsum("ik,k,jk->ij", vectors, 1 / torch.sqrt(values + eps), vectors)
    return torch.einsum("ni,ij->nj", x - x.mean(0), w).to(kind), w.to(kind)


answers.edits("""
torch_cov_as_it_is: all but kinds
- torch.cov(x.T, correction=0).view(D, D)
+ torch.cov(x.T)
Your covariance is torch.cov's: divided by N − 1, and a number where there is one feature.
Divide by N: centered.T @ centered / N, which is (D, D) always.

covariance_of_one_feature: dependent
- .view(D, D)
The covariance of one feature is a number with you, and a matrix is asked for: torch.cov drops both axes.
Compute centered.T @ centered / N, which is (1, 1) there, or put the axes back: .reshape(D, D).
""")


@answers.right
def by_numpy(x, eps=1e-5):
    """numpy"""
    rows = x.cpu().numpy().astype(np.float64)
    rows = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(rows, rowvar=False, bias=True)))
    w = vectors @ np.diag((values + eps) ** -0.5) @ vectors.T
    kind = x.dtype if x.is_floating_point() else torch.float32
    return torch.from_numpy(rows @ w).to(x.device, kind), torch.from_numpy(w).to(x.device, kind)


EXERCISE = answers.exercise()
