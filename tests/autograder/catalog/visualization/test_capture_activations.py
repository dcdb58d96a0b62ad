import functools

import pytest
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def hooked(model, x, layers, make=lambda output: output.detach().clone(), find=None):
    modules = dict(model.named_modules())
    if find is None and not set(layers) <= set(modules):
        raise ValueError(f"layers must be among {list(modules)}, got {layers}")
    captured, handles = {}, []
    found = {layer: modules[layer] if find is None else find(model, layer) for layer in layers}

    def keep(layer, module, inputs, output):
        captured[layer] = make(output)

    try:
        for layer, module in found.items():
            handles.append(module.register_forward_hook(functools.partial(keep, layer)))
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return captured


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT}


class TestCaptureActivations(Contract):
    exercise_id = "capture_activations"

    @pytest.mark.parametrize(
        "make", [lambda o: o.detach().clone().numpy(), lambda o: o.detach().clone().float()]
    )
    def test_another_kind_costs_one_claim(self, exam, make):
        def capture_activations(model, x, layers):
            return hooked(model, x, layers, make)

        assert lost(evaluate("capture_activations", capture_activations, exam=exam)) == {"detached"}

    def test_layers_that_nobody_asked_for_cost_one_claim(self, exam):
        def capture_activations(model, x, layers):
            if unknown := set(layers) - set(dict(model.named_modules())):
                raise ValueError(f"layers: {unknown}")
            return hooked(model, x, list(dict(model.named_modules())))

        verdict = evaluate("capture_activations", capture_activations, exam=exam)
        assert lost(verdict) == {"detached"}
        assert verdict.diagnosis == "every_layer"

    def test_a_path_to_a_parameter_is_unknown(self, exam):
        def find(model, layer):
            try:
                return functools.reduce(getattr, layer.split("."), model)
            except AttributeError:
                raise ValueError(f"layers: unknown path {layer!r}") from None

        def capture_activations(model, x, layers):
            return hooked(model, x, layers, find=find)

        assert lost(evaluate("capture_activations", capture_activations, exam=exam)) == {"refused"}

    def test_each_module_runs_in_its_own_mode(self, exam):
        def capture_activations(model, x, layers):
            modes = [(m, m.training) for m in model.modules()]
            model.train(model.training)
            try:
                return hooked(model, x, layers)
            finally:
                for module, mode in modes:
                    module.training = mode

        assert lost(evaluate("capture_activations", capture_activations, exam=exam)) == {"mode"}

    def test_no_layers_are_legal(self, exam):
        def capture_activations(model, x, layers):
            found = hooked(model, x, layers)
            return {**found, layers[0]: found[layers[0]]}

        assert lost(evaluate("capture_activations", capture_activations, exam=exam)) == {"mode"}

    def test_a_layer_may_stand_at_two_paths(self, exam):
        def capture_activations(model, x, layers):
            last = {module: path for path, module in model.named_modules(remove_duplicate=False)}
            found = hooked(model, x, layers)
            return {last[model.get_submodule(path)]: found[path] for path in layers}

        assert lost(evaluate("capture_activations", capture_activations, exam=exam)) == {"twice"}
