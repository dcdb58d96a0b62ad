"""Training, for a classifier, an FCN or a U-Net: one plain loop, what it showed and what it recorded."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from coursekit import _validate as validate
from coursekit._display import emit, in_notebook
from coursekit.figures import curves, image_html
from coursekit.modes import training_mode

Batch = dict[str, Tensor]
Transform = Callable[[Tensor], Tensor]
Augment = Callable[[Batch, torch.Generator | None], Batch]
Schedule = Callable[[float], float]
Score = Callable[[nn.Module, Dataset, Transform], float]
Probe = Callable[[nn.Module], float]


@dataclass
class History:
    """What happened in training.

    Attributes:
        loss: training loss of each step.
        val_score: pairs (steps taken, score on the validation set), one an epoch.
        recorded: for each probe, its value after the backward pass of each step.
        seconds: how long it took, earlier runs that were resumed included.
    """

    loss: list[float] = field(default_factory=list)
    val_score: list[tuple[int, float]] = field(default_factory=list)
    recorded: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def best(self) -> tuple[int, float] | None:
        """The first of the highest validation scores, as (steps taken, score)."""
        return max(self.val_score, key=lambda pair: (pair[1], -pair[0]), default=None)


def unit_range(images: Tensor) -> Tensor:
    """Images as floats: uint8 from 0…255 to 0…1, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def one_cycle(warmup: float = 0.2) -> Schedule:
    """A schedule that raises the learning rate linearly from 0, then lowers it linearly to 0.

    Args:
        warmup: the share of training in which it rises.

    Source: Smith and Topin 2018, without its last phase.
    """
    if not 0 <= warmup < 1:
        raise validate.refuse("warmup", "a share from 0 to below 1", warmup)
    return lambda done: done / warmup if done < warmup else (1 - done) / (1 - warmup)


def quarter_turns(batch: Batch, generator: torch.Generator | None) -> Batch:
    """A batch of images and maps, each mirrored and turned by a quarter or not, all in the same way.

    Args:
        batch: tensors whose last two axes are rows and columns.
        generator: draws which of the eight ways.
    """
    turns, mirror = torch.randint(4, (2,), generator=generator).tolist()
    batch = {name: value.rot90(turns, (-2, -1)) for name, value in batch.items()}
    return {name: value.flip(-1) for name, value in batch.items()} if mirror % 2 else batch


@contextmanager
def drawn_from(generator: torch.Generator | None) -> Iterator[None]:
    """What draws from torch's global generator inside, such as a new layer's weights, follows `generator` instead.

    Args:
        generator: gives the seed; the global generator is then as it was. None changes nothing.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Descent:
    """How weights follow their gradients.

    Attributes:
        optimizer: of the model's parameters; None is SGD with momentum 0.9, at the learning rate `fit` is given.
        schedule: factor on the learning rates, as a function of the share of the steps done, from 0 to 1.
        clip: gradients of a larger norm are scaled down to it.
    """

    optimizer: torch.optim.Optimizer | None = None
    schedule: Schedule | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.optimizer is not None and not isinstance(self.optimizer, torch.optim.Optimizer):
            raise validate.refuse("optimizer", "a torch.optim.Optimizer", type(self.optimizer).__name__)
        if self.clip is not None:
            validate.number("clip", self.clip)


@dataclass(frozen=True)
class Task:
    """What a network is shown, and what its logits are compared with.

    Attributes:
        target: the field, or the fields, of an item that the loss compares the logits with. A map (N, H, W) larger
            than the logits is cropped to its center: what a network without padding can know.
        loss: of the logits and the target fields.
        transform: from a batch of images, on the device, to the model's input.
        augment: changes a batch on the device before `transform`, in training only; it draws from the
            generator it is given.
    """

    target: str | tuple[str, ...] | list[str] = "label"
    loss: Callable[..., Tensor] = F.cross_entropy
    transform: Transform = unit_range
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if not self.fields or not all(isinstance(name, str) for name in self.fields):
            raise validate.refuse("target", "a field or several", repr(self.target))
        for name in ("loss", "transform", "augment"):
            if not callable(value := getattr(self, name)) and (name, value) != ("augment", None):
                raise validate.refuse(name, "callable", repr(value))

    @property
    def fields(self) -> list[str]:
        """The target fields, also where there is one."""
        return list(self.target) if isinstance(self.target, tuple | list) else [self.target]


@dataclass(frozen=True)
class Validation:
    """What is asked of a network after each epoch and at the end.

    Attributes:
        data: like the training set.
        score: of the model on `data`, called as `score(model, data, transform)` with the task's transform; higher
            is better. `accuracy` and `mean_iou` of `coursekit.metrics` are such.
        patience: stop after so many epochs without a better score, and bring the best epoch's weights back.
    """

    data: Dataset
    score: Score
    patience: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise validate.refuse("score", "a function of model, data and transform", repr(self.score))
        if self.patience is not None:
            validate.whole("patience", self.patience, 1)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how precisely a training runs, and the file from which it can go on.

    Attributes:
        device: where to train; None is where the model is.
        mixed_precision: bfloat16 where the device has it, else float16 with a scaled loss; None is on a GPU.
        checkpoint: a file that is written after each epoch. Where it exists, training goes on from it, and
            under a `generator` as if it had never been interrupted; random numbers that the model itself draws
            (dropout) are not part of it.
    """

    device: torch.device | str | None = None
    mixed_precision: bool | None = None
    checkpoint: str | os.PathLike[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is shown and kept of a training while it runs.

    Attributes:
        progress: whether to show a progress bar.
        live: whether the progress bar of a notebook also draws the loss.
        record: probes of the model by name, called after each backward pass, for example a gradient's norm.
    """

    progress: bool = True
    live: bool = False
    record: Mapping[str, Probe] = field(default_factory=dict)


def fit(
    model: nn.Module,
    train: Dataset,
    val: Validation | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    lr: float | None = None,
    descent: Descent = Descent(),
    task: Task = Task(),
    generator: torch.Generator | None = None,
    run: Run = Run(),
    watch: Watch = Watch(),
) -> History:
    """Train a network in place.

    A classifier needs few words, `fit(net, train, steps=200, batch_size=32, lr=0.03)`; the rest stands in groups:

        fit(
            net, train, Validation(val, mean_iou), epochs=10, batch_size=16,
            descent=Descent(torch.optim.Adam(net.parameters(), lr=3e-3), one_cycle()),
            task=Task("labels", pixel_cross_entropy, augment=quarter_turns),
        )

    Args:
        model: maps (N, C, H, W) floats to logits, (N, L) or (N, L, h, w); its mode afterwards is the one it
            came with.
        train: map-style, with items `{"image": (C, H, W), …}` that hold every target field of `task` too.
        val: a validation set with its score.
        epochs: passes over `train`.
        steps: instead of `epochs`, batches to take, over as many passes as that needs.
        batch_size: images a step; the ragged rest of an epoch is left out.
        lr: learning rate of the default optimizer, SGD with momentum 0.9; None is 0.05.
        descent: another optimizer, a schedule of its learning rates, a limit on the gradient.
        task: target fields and loss, transform and augmentation.
        generator: of the shuffling and of the augmentation, on the CPU; None is torch's global one.
        run: device, precision, checkpoint.
        watch: progress bar, live curve, what is recorded.

    Raises:
        ValueError: not exactly one of `epochs` and `steps`, a number that makes no sense, a field that the
            items lack, a learning rate beside an optimizer that has its own, a group that is none, or a checkpoint
            of another model.
    """
    if (epochs is None) == (steps is None):
        raise validate.refuse("epochs or steps", "exactly one of the two", f"epochs={epochs}, steps={steps}")
    if val is not None and not isinstance(val, Validation):
        raise validate.refuse("val", "a set with its score, Validation(data, score)", type(val).__name__)
    for given, kind in ((descent, Descent), (task, Task), (run, Run), (watch, Watch)):
        if not isinstance(given, kind):
            raise validate.refuse(kind.__name__.lower(), f"a {kind.__name__}", type(given).__name__)
    if lr is not None and descent.optimizer is not None:
        raise validate.refuse("lr", "left to the optimizer, which has its own", lr)
    validate.whole("batch_size", batch_size, 1)
    length = len(train)  # type: ignore[arg-type]
    if length == 0:
        raise validate.refuse("train", "at least one item", "none")
    a_pass = max(length // batch_size, 1)
    if steps is None:
        steps = validate.whole("epochs", epochs, 0) * a_pass
    validate.whole("steps", steps, 0)
    for name in ("image", *task.fields):
        if name not in (item := train[0]):
            raise validate.refuse("target", f"among the fields {', '.join(item)}", repr(name))

    device = device_of(model) if run.device is None else torch.device(run.device)
    model.to(device)
    optimizer = descent.optimizer
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05 if lr is None else lr, momentum=0.9)
    rates = [group["lr"] for group in optimizer.param_groups]
    precision = _Precision(device, run.mixed_precision)
    history = History(recorded={name: [] for name in watch.record})
    best: dict[str, Tensor] | None = None
    checkpoint = None if run.checkpoint is None else Path(run.checkpoint)
    if checkpoint is not None and checkpoint.exists():
        best = _resume(checkpoint, model, optimizer, history, generator)

    shown = _Shown(history, steps, watch)
    earlier, started = history.seconds, time.perf_counter()
    try:
        with training_mode(model), precision.layout(model):
            first = len(history.loss) + 1
            batches = _batches(train, batch_size, steps - len(history.loss), generator)
            for step, batch in enumerate(batches, start=first):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (descent.schedule(step / steps) if descent.schedule else 1)
                batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
                if task.augment is not None:
                    batch = task.augment(batch, generator)
                with precision.autocast():
                    logits = model(precision.arranged(task.transform(batch["image"])))
                logits = logits.float() if precision.on else logits
                loss = task.loss(logits, *(central(batch[name], logits) for name in task.fields))
                optimizer.zero_grad(set_to_none=True)
                precision.backward(loss, optimizer)
                if descent.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), descent.clip)
                history.loss.append(loss.item())
                for name, probe in watch.record.items():
                    history.recorded[name].append(float(probe(model)))
                precision.step(optimizer)
                ended = step % a_pass == 0 or step == steps
                if ended and val is not None:
                    history.val_score.append((step, val.score(model, val.data, task.transform)))
                    if val.patience is not None and history.best == history.val_score[-1]:
                        best = {name: value.clone() for name, value in model.state_dict().items()}
                if ended and checkpoint is not None:
                    history.seconds = earlier + time.perf_counter() - started
                    _save(checkpoint, model, optimizer, history, generator, best)
                shown.update()
                if ended and val is not None and val.patience is not None and _stale(history, val.patience):
                    break
    finally:
        history.seconds = earlier + time.perf_counter() - started
        shown.close()
    if best is not None:
        model.load_state_dict(best)
    return history


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def central(value: Tensor, logits: Tensor) -> Tensor:
    """The central part of a map (N, …, H, W) that logits (N, L, h, w) speak of; any other value as it is."""
    if logits.ndim != 4 or value.ndim < 3:
        return value
    for axis in (-2, -1):
        extra = value.shape[axis] - logits.shape[axis]
        if extra > 0:
            value = value.narrow(axis, extra // 2, logits.shape[axis])
    return value


def _stale(history: History, patience: int) -> bool:
    best = max((score for _, score in history.val_score), default=0.0)
    scores = [score for _, score in history.val_score]
    return len(scores) - 1 - scores.index(best) >= patience


def _batches(
    dataset: Dataset, batch_size: int, total: int, generator: torch.Generator | None
) -> Iterator[Batch]:
    """`total` batches, over as many shuffled passes as that takes."""
    length = len(dataset)  # type: ignore[arg-type]
    size = min(batch_size, length)
    while total > 0:
        # Drawn here and not by the loader, whose sampler draws once more after its last batch: a run that is
        # resumed at the end of a pass would go on with other numbers.
        order = torch.randperm(length, generator=generator)[: min(length // size, total) * size]
        total -= len(order) // size
        yield from DataLoader(dataset, size, sampler=order.tolist(), generator=generator)


class _Precision:
    """How a device multiplies fastest: half precision and channels-last on a GPU, plain floats elsewhere."""

    def __init__(self, device: torch.device, mixed: bool | None) -> None:
        self.device = device
        self.gpu = device.type == "cuda"
        self.on = self.gpu if mixed is None else mixed
        brain = not self.gpu or torch.cuda.is_bf16_supported()
        self.dtype = torch.bfloat16 if brain else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.on and not brain)

    def layout(self, model: nn.Module) -> AbstractContextManager[Any]:
        if not self.gpu:
            return nullcontext()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=self.on)

    def arranged(self, images: Tensor) -> Tensor:
        channels_last = self.gpu and images.ndim == 4
        return images.contiguous(memory_format=torch.channels_last) if channels_last else images

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.on else nullcontext()

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer) if self.scaler.is_enabled() else None

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.scaler.step(optimizer)
        self.scaler.update()


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: History,
    generator: torch.Generator | None,
    best: dict[str, Tensor] | None,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(history),
        "generator": None if generator is None else generator.get_state(),
        "best": best,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its destination: a rename is atomic only within one file system.
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def _resume(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: History,
    generator: torch.Generator | None,
) -> dict[str, Tensor] | None:
    """Put everything back as the checkpoint has it; the best epoch's weights, if it kept them."""
    device = device_of(model)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        raise validate.refuse("checkpoint", "written by fit for this model", f"{path} ({error})") from error
    for name, value in state["history"].items():
        setattr(history, name, value)
    if generator is not None and state["generator"] is not None:
        generator.set_state(state["generator"])
    best = state["best"]
    return None if best is None else {name: value.to(device) for name, value in best.items()}


class _Shown:
    """What is seen of training while it runs: a line under the cell that rewrites itself, or tqdm's bar."""

    def __init__(self, history: History, total: int, watch: Watch) -> None:
        self.history, self.total, self.live = history, total, watch.live
        self.under_cell = watch.progress and in_notebook()
        self.handle: Any = None
        self.due = 0.0
        # In a saved page, every step of a text bar would be a line of its own, and a widget would be blank.
        off = True if self.under_cell or not watch.progress else None
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
        words += [f"validation {self.history.val_score[-1][1]:.1%}"] if self.history.val_score else []
        return ", ".join(words)
