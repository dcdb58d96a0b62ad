"""Modes: a network in evaluation or training mode for a while, and then as it was."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


def evaluation_mode(model: nn.Module) -> AbstractContextManager[None]:
    """The model in evaluation mode; every module's own training flag comes back, also after an error."""
    return _in_mode(model, training=False)


def training_mode(model: nn.Module) -> AbstractContextManager[None]:
    """The model in training mode; every module's own training flag comes back, also after an error."""
    return _in_mode(model, training=True)


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
