"""Training a classifier: one plain loop with a progress bar, and what it recorded."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from coursekit import _validate as validate
from coursekit._display import emit, in_notebook
from coursekit.figures import curves, image_html
from coursekit.visualization import evaluation_mode, training_mode

Transform = Callable[[Tensor], Tensor]
Probe = Callable[[nn.Module], float]


@dataclass
class History:
    """What happened in training.

    Attributes:
        loss: training loss of each step.
        val_accuracy: pairs (steps taken, accuracy on the validation set), one an epoch.
        recorded: for each probe, its value after the backward pass of each step.
        seconds: how long it took.
    """

    loss: list[float] = field(default_factory=list)
    val_accuracy: list[tuple[int, float]] = field(default_factory=list)
    recorded: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0


def unit_range(images: Tensor) -> Tensor:
    """Images as floats: uint8 from 0…255 to 0…1, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def fit(
    model: nn.Module,
    train: Dataset,
    val: Dataset | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    lr: float = 0.05,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    transform: Transform = unit_range,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    record: Mapping[str, Probe] | None = None,
    progress: bool = True,
    live: bool = False,
) -> History:
    """Train a classifier in place.

    Args:
        model: maps (N, C, H, W) floats to logits (N, L); its mode afterwards is the one it came with.
        train: map-style, with items `{"image": (C, H, W), "label": int}`.
        val: like `train`; its accuracy is taken after each epoch and at the end.
        epochs: passes over `train`.
        steps: instead of `epochs`, batches to take, over as many passes as that needs.
        batch_size: images a step; the ragged rest of an epoch is left out.
        lr: learning rate of the default optimizer, SGD with momentum 0.9.
        optimizer: used instead of the default one.
        loss: of logits and labels.
        transform: from a batch of images, on the device, to the model's input.
        device: where to train; None is where the model is.
        generator: of the shuffling, on the CPU; None is torch's global one.
        record: probes of the model by name, called after each backward pass, for example a gradient's norm.
        progress: whether to show a progress bar.
        live: whether the progress bar of a notebook also draws the loss.

    Raises:
        ValueError: not exactly one of `epochs` and `steps`, or a number that makes no sense.
    """
    if (epochs is None) == (steps is None):
        raise validate.refuse("epochs or steps", "exactly one of the two", f"epochs={epochs}, steps={steps}")
    validate.whole("batch_size", batch_size, 1)
    length = len(train)  # type: ignore[arg-type]
    a_pass = max(length // batch_size, 1)
    if steps is None:
        steps = validate.whole("epochs", epochs, 0) * a_pass
    validate.whole("steps", steps, 0)

    device = _device_of(model) if device is None else torch.device(device)
    model.to(device)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loader = DataLoader(train, batch_size, shuffle=True, generator=generator, drop_last=length >= batch_size)
    history = History(recorded={name: [] for name in record or {}})
    watch = _Watch(history, steps, progress, live)
    started = time.perf_counter()
    try:
        with training_mode(model):
            for step, batch in enumerate(_endless(loader, steps), start=1):
                logits = model(transform(batch["image"].to(device)))
                batch_loss = loss(logits, batch["label"].to(device))
                optimizer.zero_grad(set_to_none=True)
                batch_loss.backward()
                history.loss.append(batch_loss.item())
                for name, probe in (record or {}).items():
                    history.recorded[name].append(float(probe(model)))
                optimizer.step()
                if val is not None and (step % a_pass == 0 or step == steps):
                    correct = accuracy(model, val, transform=transform, device=device)
                    history.val_accuracy.append((step, correct))
                watch.update()
    finally:
        history.seconds = time.perf_counter() - started
        watch.close()
    return history


@torch.no_grad()
def accuracy(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 256,
    transform: Transform = unit_range,
    device: torch.device | str | None = None,
) -> float:
    """The share of images that a classifier, in evaluation mode, gives its largest logit for the right class.

    Args:
        model: maps (N, C, H, W) floats to logits (N, L); its mode is left as found.
        dataset: map-style, with items `{"image": (C, H, W), "label": int}`.
        batch_size: images at a time.
        transform: from a batch of images, on the device, to the model's input.
        device: where the model is; None finds out.
    """
    device = _device_of(model) if device is None else torch.device(device)
    correct = 0
    with evaluation_mode(model):
        for batch in DataLoader(dataset, batch_size):
            logits = model(transform(batch["image"].to(device)))
            correct += (logits.argmax(1) == batch["label"].to(device)).sum().item()
    return correct / len(dataset)  # type: ignore[arg-type]


def _endless(loader: DataLoader, total: int) -> Iterator[dict[str, Tensor]]:
    """`total` batches, over as many passes as that takes."""
    taken = 0
    while taken < total:
        for batch in loader:
            yield batch
            taken += 1
            if taken == total:
                return


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


class _Watch:
    """What is seen of training while it runs: a line under the cell that rewrites itself, or tqdm's bar."""

    def __init__(self, history: History, total: int, progress: bool, live: bool) -> None:
        self.history, self.total, self.live = history, total, live
        self.under_cell = progress and in_notebook()
        self.handle: Any = None
        self.due = 0.0
        # In a saved page, every step of a text bar would be a line of its own, and a widget would be blank.
        off = True if self.under_cell or not progress else None
        self.bar = tqdm(total=total, unit="step", mininterval=0.25, disable=off)

    def update(self) -> None:
        self.bar.update()
        now = time.perf_counter()
        if now >= self.due:
            self._show()
            # Drawing a curve must not slow training down by more than a tenth.
            self.due = now + max(0.25, 10 * (time.perf_counter() - now))

    def close(self) -> None:
        self._show()
        self.bar.close()

    def _show(self) -> None:
        words = self._words()
        self.bar.set_postfix_str(words, refresh=False)
        if not self.under_cell:
            return
        step = len(self.history.loss)
        text = f"{step}/{self.total} steps, {words}" if words else f"{step}/{self.total} steps"
        html = f'<progress value="{step}" max="{max(self.total, 1)}" aria-label="training"></progress> {text}'
        if self.live and step:
            curve = curves({"training": self.history.loss}, "step", "training loss", size=(5, 2.2))
            html += "<br>" + image_html(curve, f"Training loss over {text}.")
        self.handle = emit({"text/html": html, "text/plain": text}, self.handle)

    def _words(self) -> str:
        words = [f"loss {self.history.loss[-1]:.3f}"] if self.history.loss else []
        words += [f"validation {self.history.val_accuracy[-1][1]:.1%}"] if self.history.val_accuracy else []
        return ", ".join(words)
