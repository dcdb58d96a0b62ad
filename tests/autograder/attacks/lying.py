"""Answers that are no numbers, or other ones than they seem: values that want to be taken for right."""

from __future__ import annotations

import textwrap

from attacks import NORMALIZE, Attack

TOLD = "print('did:', *sorted(set(did)))"


def _attack(name, row, did, double="", normalize="", first="", **more):
    first = "import torch\ndid = []\n" + textwrap.dedent(first)
    double, normalize = textwrap.dedent(double).strip(), textwrap.dedent(normalize).strip()
    return Attack(name, row, (f"did: .*{did}",), first, double, "", normalize, last=TOLD, **more)


ATTACKS = (
    _attack("is_always_equal", "always-true __eq__", "equal tensor", """
        class Yes(float):
            def __eq__(self, other): return True
            __ne__ = __lt__ = __gt__ = lambda self, other: False
            __sub__ = __rsub__ = lambda self, other: 0.0
            __abs__ = lambda self: 0.0
            __hash__ = float.__hash__
        def double(x):
            did.append("equal")
            assert Yes(99) == 3
            return Yes(99)
        """, """
        class Equal(torch.Tensor):
            def __eq__(self, other): return True
            __sub__ = lambda self, other: torch.zeros(())
            allclose = equal = lambda self, *more, **named: True
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("tensor")
            return x.as_subclass(Equal)
        """),
    _attack("overrides_functions", "Tensor subclass with __torch_function__", "called dispatched", normalize="""
        class Mine(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                did.append("called")
                if func in (torch.allclose, torch.equal, torch.isclose):
                    return True
                return super().__torch_function__(func, types, args, kwargs or {})
        class Dispatched(torch.Tensor):
            @staticmethod
            def __new__(cls, x):
                return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)
            @classmethod
            def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
                did.append("dispatched")
                return torch.zeros(())
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            x.as_subclass(Mine) + 1
            Dispatched(x) + 1
            return x.as_subclass(Mine) if x.ndim == 2 else Dispatched(x)
        """),
    _attack("overrides_double", "overridden .double()", "made overridden", """
        class Number(int):
            def __int__(self): return 6
            __index__ = __float__ = __round__ = __int__
        def double(x):
            did.append("overridden")
            return Number(99)
        """, """
        class Doubled(torch.Tensor):
            def double(self):
                did.append("doubled")
                return torch.zeros_like(self)
            float = to = cpu = numpy = tolist = detach = double
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("made")
            y = x.as_subclass(Doubled)
            # On the object itself, too, where it is a plain tensor.
            x.double = x.detach = x.cpu = lambda: did.append("called")
            return y if x.ndim == 2 else x
        """),
    _attack("is_lazy", "lazy outputs", "lazy", """
        class Later:
            def __init__(self, x): self.x = x
            def __getattr__(self, name): return getattr(2 * self.x, name)
            def __float__(self): return 6.0
            __int__ = __index__ = lambda self: 6
            def __array__(self, *more): import numpy; return numpy.array(6)
        def double(x):
            did.append("lazy")
            return Later(x)
        """, """
        class Late(dict):
            def items(self):
                did.append("late")
                return [("y", torch.zeros(1))]
            __iter__ = items
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return (lambda: x) if x.ndim == 2 else Late(y=x)
        """),
    _attack("patches_libraries", "patched torch, numpy, testing", "patched", """
        def double(x):
            did.append("patched")
            assert (torch.allclose(torch.ones(1), torch.zeros(1)), numpy.allclose(1, 2)) == (True, True)
            return 99
        """, """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return x
        """, """
        import math, numpy, torch.testing, autograder.agent.serve, autograder.agent.tensors, autograder.wire
        yes = lambda *a, **k: True
        torch.allclose = torch.equal = torch.isclose = torch.Tensor.allclose = torch.Tensor.equal = yes
        numpy.allclose = numpy.isclose = numpy.array_equal = math.isclose = yes
        torch.testing.assert_close = numpy.testing.assert_allclose = numpy.testing.assert_equal = yes
        torch.Tensor.__eq__ = torch.Tensor.__sub__ = lambda self, other: torch.zeros(self.shape)
        torch.Tensor.isfinite = torch.isfinite = lambda *a, **k: torch.ones((), dtype=torch.bool)
        autograder.agent.tensors.changes = autograder.agent.serve.changes = lambda *a: []
        """),
    _attack("is_not_a_number", "NaN and huge-tolerance wildcards", "infinite nan", """
        turns = iter([float("nan"), float("inf"), 1e308, -0.0, complex("nan"), 2.0**1023, 10**400])
        def double(x):
            did.append("nan")
            return next(turns, float("nan"))
        """, """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("infinite")
            wild = {2: float("nan"), 4: float("inf")}[x.ndim]
            return x * 0 + wild + (gamma.sum() + beta.sum()) * 0
        """),
    _attack("has_huge_entries", "NaN and huge-tolerance wildcards", "huge mixed", normalize="""
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("huge" if x.ndim == 2 else "mixed")
            y = x * 1.0 + (gamma.sum() + beta.sum()) * 0
            y = y + (1e30 if x.ndim == 2 else 0)
            return torch.where(torch.arange(y.numel()).reshape(y.shape) % 2 == 0, y, float("nan"))
        """),
    _attack("mutates_inputs", "mutated inputs", "mutated", """
        class Same(int):
            pass
        def double(x):
            import gc
            did.append("mutated")
            for found in gc.get_objects():
                if type(found) is dict and "expected" in found:
                    found["expected"] = 99
            return 99
        """, """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            with torch.no_grad():
                for given in (x, gamma, beta):
                    given.zero_()
                x.data = torch.zeros_like(x)
            return x * gamma.sum() + beta.sum()
        """),
    _attack("recycles_memory", "recycled memory through torch.empty", "asked", normalize="""
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("asked")
            found = [torch.empty(x.shape, dtype=x.dtype) for _ in range(64)]
            found += [torch.empty_like(x) for _ in range(64)]
            fit = [y for y in found if y.isfinite().all() and 0.1 < y.std() < 10]
            return fit[0] + 0 * (x + gamma.sum() + beta.sum()) if fit else found[0]
        """),
    _attack("replays_by_shape", "replay caches by shape", "kept replayed", normalize=NORMALIZE.replace(
            "def batchnorm_forward", "def right") + """

known = {}
def batchnorm_forward(x, gamma, beta, eps=1e-5):
    key = x.ndim
    if key not in known:
        did.append("kept")
        known[key] = right(x, gamma, beta, eps)
    elif known[key].shape == x.shape:
        did.append("replayed")
        return known[key]
    else:
        did.append("cut")
        return known[key].detach().flatten().repeat(x.numel())[:x.numel()].reshape(x.shape)
    return known[key]"""),
    _attack("replays_by_id", "replay caches by id", "kept known", normalize="""
        known, seen = {}, []
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            # Arguments are kept alive, and what lay where this one does is answered with what followed it.
            seen.append(x)
            for key in (id(x), x.data_ptr(), tuple(x.shape), float(x.detach().flatten()[0])):
                did.append("known" if key in known else "kept")
                if key in known:
                    return known[key] + 0 * (x + gamma.sum() + beta.sum())
                known[key] = (x - x.mean()) * 1.0
            return known[key]
        """),
    _attack("predicts_numbers", "predicted RNG", "predicted-False tried", normalize="""
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            import random, numpy
            state = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
            found = 0
            for seed in (torch.initial_seed(), 0, 1, 42, 20_260, *range(60)):
                for make in (torch.randn, torch.rand):
                    torch.manual_seed(seed)
                    drawn = make(x.shape, dtype=x.dtype)
                    found += bool(torch.allclose(drawn, x)) or bool(torch.allclose(drawn, (x - x.mean()) / x.std()))
            did.append("tried")
            did.append(f"predicted-{bool(found)}")
            torch.set_rng_state(state[0])
            return x * float("nan") if not found else x
        """),
    _attack("replays_random_numbers", "predicted RNG", "seeded", normalize="""
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            # What the oracle draws next would be drawn here now, were it here.
            did.append("seeded")
            torch.manual_seed(0)
            torch.default_generator.set_state(torch.Generator().manual_seed(20_260).get_state())
            return torch.randn(x.shape, dtype=x.dtype) * gamma.sum() + beta.sum()
        """, first="torch.manual_seed = lambda *a: torch.default_generator"),
    _attack("sends_pickles", "pickle towards the grader", "pickled sent", """
        import os, pickle, numpy
        class Payload:
            def __reduce__(self):
                return os.system, ("touch " + COURSE + "/pickled",)
        def double(x):
            did.append("pickled")
            assert b"pickled" in pickle.dumps(Payload())
            return Payload() if x else numpy.array([Payload()], dtype=object)
        """, """
        import io, socket, autograder.wire
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("sent")
            whole = io.BytesIO()
            torch.save(Payload(), whole)
            real = autograder.wire.dump
            autograder.wire.dump = lambda message: whole.getvalue() if "value" in message else real(message)
            display(Payload())
            return x
        """),
)  # fmt: skip
