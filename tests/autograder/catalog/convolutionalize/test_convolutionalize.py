import copy

import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def own_conv(linear, channels, size):
    conv = nn.Conv2d(channels, linear.out_features, size, bias=linear.bias is not None).to(linear.weight)
    conv.weight.data = linear.weight.data.reshape(conv.weight.shape).clone()
    if linear.bias is not None:
        conv.bias.data = linear.bias.data.clone()
    return conv


def unwritten(linear, channels, size):
    raise NotImplementedError


def converting(dense=own_conv, layers_of=iter, made=nn.Sequential, after=lambda cnn, fcn: fcn):
    """An answer of its own style, with one part exchanged."""

    def convolutionalize(cnn, input_size):
        def convert(network, size):
            twins = []
            for layer in layers_of(network):
                if isinstance(layer, nn.Sequential):
                    twin, size = convert(layer, size)
                elif isinstance(layer, nn.Flatten):
                    continue
                elif isinstance(layer, nn.Linear):
                    twin, size = dense(layer, size[0], size[1:]), (layer.out_features, 1, 1)
                elif isinstance(layer, nn.AdaptiveAvgPool2d):
                    twin, size = nn.AvgPool2d(size[1:], 1), (size[0], 1, 1)
                else:
                    twin = copy.deepcopy(layer)
                    zeros = torch.zeros(1, *size, dtype=next(cnn.parameters()).dtype)
                    size = copy.deepcopy(layer).eval()(zeros).shape[1:]
                if not isinstance(layer, nn.Sequential):
                    twin.train(layer.training)
                twins.append(twin)
            result = made(*twins)
            result.training = network.training
            return result, size

        return after(cnn, convert(cnn, tuple(input_size))[0])

    return convolutionalize


class Named(nn.Sequential):
    pass


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome not in HOLDS}


class TestConvolutionalize(Contract):
    exercise_id = "convolutionalize"

    def test_another_style_and_a_class_of_ones_own_are_right(self):
        for answer in (converting(), converting(made=Named)):
            verdict = evaluate("convolutionalize", answer)
            assert verdict.correct, (verdict.outcomes, verdict.message)

    def test_a_function_that_waits_for_its_helper_was_attempted(self):
        verdict = evaluate("convolutionalize", converting(dense=unwritten))
        assert verdict.outcome is not Outcome.NOT_ATTEMPTED
        assert verdict.diagnosis == "helper_not_written"
        assert "it calls unwritten, which is not written yet" in verdict.results[0].message

        def half_done(cnn, input_size):
            layers = list(cnn)
            raise NotImplementedError(layers)

        assert evaluate("convolutionalize", half_done).outcome is Outcome.NOT_ATTEMPTED

    def test_new_layers_without_the_weights_are_told_so(self):
        def bare(linear, channels, size):
            nn.Conv2d(1, 1, 1)
            return nn.Conv2d(channels, linear.out_features, size, bias=linear.bias is not None)

        verdict = evaluate("convolutionalize", converting(dense=bare))
        assert [f.name for f in verdict.findings] == ["weights_not_copied", "new_layers_float32"]
        assert "4.weight" in verdict.results[0].message
        # torch's own bias where there is none, after other layers were drawn: never the same numbers twice.

        def biased(linear, channels, size):
            nn.Conv2d(1, 1, 1)
            conv = nn.Conv2d(channels, linear.out_features, size).to(linear.weight)
            conv.weight.data = linear.weight.data.reshape(conv.weight.shape).clone()
            if linear.bias is not None:
                conv.bias.data = linear.bias.data.clone()
            return conv

        verdict = evaluate("convolutionalize", converting(dense=biased))
        assert (lost(verdict), verdict.diagnosis) == ({"without_bias"}, "bias_invented")

    def test_the_training_flags_cost_their_own_claim(self):
        wrong = {
            "one_flag_for_all": lambda cnn, fcn: fcn.train(cnn.training),
            "always_in_training_mode": lambda cnn, fcn: fcn.train(),
            "sequential_in_training_mode": lambda cnn, fcn: nn.Sequential(*fcn),
        }
        for name, after in wrong.items():
            verdict = evaluate("convolutionalize", converting(after=after))
            assert (lost(verdict), verdict.diagnosis, verdict.points) == ({"modes"}, name, 5.75)

    def test_a_layer_that_stands_at_two_places_costs_its_own_claim(self):
        verdict = evaluate("convolutionalize", converting(layers_of=nn.Module.children))
        assert (lost(verdict), verdict.diagnosis) == ({"shared_layer"}, "shared_layer_lost")

    def test_what_is_left_behind_is_seen(self):
        def hooked(cnn, fcn):
            cnn[0].register_forward_hook(lambda *seen: None)
            return fcn

        def freezes(cnn, fcn):
            cnn.requires_grad_(False)
            return fcn

        def shares_statistics(cnn, fcn):
            norms = [[m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (cnn, fcn)]
            for one, other in zip(*norms, strict=True):
                other.running_mean = one.running_mean
            return fcn

        for after in (hooked, freezes, shares_statistics):
            assert lost(evaluate("convolutionalize", converting(after=after))) == {"apart"}
