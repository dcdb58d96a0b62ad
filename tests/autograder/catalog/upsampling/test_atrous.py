import copy

import pytest
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestAtrous(Contract):
    exercise_id = "atrous"


def pair(value):
    return (value, value) if isinstance(value, int) else value


def times(one, other):
    return one[0] * other[0], one[1] * other[1]


def dense(net, *, conv=None, after=times, allowed=lambda pool: pair(pool.padding) == (0, 0)):
    """Layer by layer; `conv` makes the new convolutions, `after` what has been removed."""
    removed, layers = (1, 1), []
    for layer in net:
        if "AvgPool" in type(layer).__name__ or (isinstance(layer, nn.MaxPool2d) and not allowed(layer)):
            raise ValueError(f"net must have unpadded max pools, got {layer}")
        new = copy.deepcopy(layer)
        if isinstance(layer, nn.Conv2d):
            padding, dilation = times(removed, layer.padding), times(removed, layer.dilation)
            new.stride, new.padding, new.dilation = (1, 1), padding, dilation
            new = new if conv is None else conv(layer, padding, dilation)
        elif isinstance(layer, nn.MaxPool2d):
            new.stride, new.dilation = 1, times(removed, pair(layer.dilation))
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            removed = after(removed, pair(layer.stride))
        layers.append(new)
    return nn.Sequential(*layers)


def verdict_of(**changes):
    return evaluate("atrous", lambda net: dense(net, **changes))


def built(layer, padding, dilation):
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        padding=padding,
        dilation=dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
    )


def loaded(layer, padding, dilation):
    new = built(layer, padding, dilation)
    new.load_state_dict(layer.state_dict())
    return new


def test_layer_by_layer_is_right():
    assert verdict_of().correct


def test_layers_without_the_weights_are_told_so():
    verdict = verdict_of(conv=built)
    assert [f.name for f in verdict.findings] == ["weights_not_copied", "float32_layers"]
    assert "the weights of convolutions" in verdict.results[0].message
    assert verdict.points == 0


def test_layers_built_without_the_weights_groups_and_a_bias_too():
    def conv(layer, padding, dilation):
        sizes = layer.in_channels, layer.out_channels, layer.kernel_size
        return nn.Conv2d(*sizes, padding=padding, dilation=dilation)

    verdict = verdict_of(conv=conv)
    assert [f.name for f in verdict.findings] == ["weights_not_copied", "float32_layers"]


def test_biases_left_behind_are_another_mistake():
    def conv(layer, padding, dilation):
        new = built(layer, padding, dilation)
        new.weight.data.copy_(layer.weight.data)
        return new.to(layer.weight)

    assert [f.name for f in verdict_of(conv=conv).findings] == ["biases_not_copied"]


def test_a_mere_copy_is_not_said_to_have_removed_anything():
    verdict = evaluate("atrous", copy.deepcopy)
    assert [f.name for f in verdict.findings] == ["strides_kept", "accepts_any_pool"]


def test_float32_layers_with_the_weights_cost_their_own_claim():
    verdict = verdict_of(conv=loaded)
    assert (verdict.points, verdict.diagnosis) == (3.5, "float32_layers")


def test_some_layers_without_the_weights_are_told_the_same():
    def conv(layer, padding, dilation):
        return (
            built(layer, padding, dilation)
            if dilation != layer.dilation
            else loaded(layer, padding, dilation)
        )

    verdict = verdict_of(conv=conv)
    assert verdict.outcomes["pool"] is Outcome.WRONG_KIND
    assert "other numbers than net in the weights of convolutions" in verdict.results[0].message


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (
            lambda k, old, padding, dilation: (dilation[0] * (k[0] - 1) // 2, dilation[1] * (k[1] - 1) // 2),
            "same_padding",
        ),
        (lambda k, old, padding, dilation: dilation, "padding_of_the_dilation"),
        (lambda k, old, padding, dilation: times(old, dilation), "padding_times_own_dilation"),
    ],
    ids=["same", "the dilation", "multiplied by the dilation"],
)
def test_a_padding_made_up_and_one_multiplied_too_often_are_told_apart(rule, name):
    def conv(layer, padding, dilation):
        new = copy.deepcopy(layer)
        new.stride, new.padding, new.dilation = (1, 1), padding, dilation
        new.padding = rule(layer.kernel_size, layer.padding, padding, dilation)
        return new

    verdict = verdict_of(conv=conv)
    assert [f.name for f in verdict.findings] == [name]


def test_the_stride_just_before_and_the_last_one_are_two_mistakes():
    verdict = verdict_of(after=lambda removed, stride: stride)
    assert (verdict.diagnosis, verdict.points) == ("stride_before_only", 3)
    verdict = verdict_of(after=lambda removed, stride: removed if stride == (1, 1) else stride)
    assert verdict.diagnosis == "last_stride_only"


def test_one_stride_for_both_axes_costs_its_own_claim():
    verdict = verdict_of(after=lambda removed, stride: times(removed, (stride[0], stride[0])))
    assert (verdict.diagnosis, verdict.points) == ("rows_stride_for_both", 3.75)


@pytest.mark.parametrize(
    ("allowed", "name"),
    [
        (lambda pool: True, "accepts_padded_pools"),
        (lambda pool: pool.padding == 0, "refuses_a_pair_of_zeros"),
        (lambda pool: pair(pool.padding)[0] == 0, None),
    ],
    ids=["all", "the pair (0, 0) not", "padded along the rows"],
)
def test_what_is_refused_has_neighbors_that_are_not(allowed, name):
    verdict = verdict_of(allowed=allowed)
    assert (verdict.diagnosis, verdict.points) == (name, 3.75)


def test_a_frozen_layer_stays_frozen():
    def answer(net):
        was = net.training
        net.eval()
        new = dense(net)
        net.train(was)
        return new

    verdict = evaluate("atrous", answer)
    assert verdict.points == 3.5
    assert "now in" in next(r for r in verdict.results if r.name == "apart").message


def test_statistics_and_eps_of_batch_norm_have_names_of_their_own():
    def statistics(net):
        new = dense(net)
        for layer in new:
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
        return new

    def eps(net):
        new = dense(net)
        for number, layer in enumerate(new):
            if isinstance(layer, nn.BatchNorm2d):
                new[number] = nn.BatchNorm2d(layer.num_features).to(layer.weight)
                new[number].load_state_dict(layer.state_dict())
        return new

    for answer, name in ((statistics, "statistics_lost"), (eps, "eps_lost")):
        verdict = evaluate("atrous", answer)
        assert (verdict.points, verdict.diagnosis) == (3.75, name)


def test_a_subclass_of_sequential_is_right_and_another_module_is_not():
    class Dense(nn.Sequential):
        pass

    class Wrapped(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

    assert evaluate("atrous", lambda net: Dense(*dense(net))).correct
    assert evaluate("atrous", lambda net: Wrapped(dense(net))).points == 3.5
