"""What exercises of lecture 03 share: hooks of a network's owner."""

from torch import nn

from autograder.attempt import Handle, Subject
from autograder.values import Named, Network


def with_hooks(subject: Subject, described: Network | Named, *paths: str) -> Handle:
    """The network, with a hook of its owner's on some of its modules."""
    model = subject.build(described)
    # It takes whatever it is given and returns None, as a hook does that changes nothing.
    hook = subject.build(Network.describe(nn.Identity())).do("__getattribute__", "__init__")
    for path in paths:
        model.do("get_submodule", path).do("register_forward_hook", hook)
    return model
