"""The half beside the learner's objects: whatever it is asked and whatever they do, it answers with a plain dict."""

import ast
import contextlib
import signal
import socket
import sys
import threading
import time
import tracemalloc
from dataclasses import FrozenInstanceError

import hostile
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autograder import wire
from autograder.agent import Agent, fingerprint, preserved, source_of
from autograder.agent.limits import FAR
from autograder.attempt import Attempt, Conditions, Gone, Odd, Raised, Stumbled, TimedOut
from autograder.catalog.observations import carries
from autograder.exercise import Case, call
from autograder.values import Batches, Named, Network
from autograder.wire import Channel


def ask(answer, *args, **kwargs):
    return Attempt.local(answer, "f", seconds=kwargs.pop("seconds", 10.0)).subject()(*args, **kwargs)


def request(op="call", **changes):
    return {
        "op": op, "target": {"name": "f"}, "args": (), "kwargs": {}, "wrt": [], "grad_seed": 1, "seed": 1,
        "threads": 1, "watch": "calls", "untouched": True, "device": "cpu", "limit": 5.0, "remote": True,
    } | changes  # fmt: skip


# -- calls --------------------------------------------------------------------------------------------------


def test_a_source_is_had_though_another_thread_makes_trees(monkeypatch):
    def disturbed(text, left=[2], parse=ast.parse):  # noqa: B006 (as many as are left)
        if left[0]:
            left[0] -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=129, after=72)")
        return parse(text)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert source_of(ask).startswith("def ask(")


def test_arguments_are_copies():
    x = torch.ones(3)
    ask(lambda x: x.zero_(), x)
    assert torch.equal(x, torch.ones(3))


def test_arguments_changed_in_place_are_told():
    def f(x, y, *, z, net):
        y.add_(1)
        z.resize_(1)
        with torch.no_grad():
            net.weight.zero_()

    attempt = Attempt.local(f, "f")
    arguments = (torch.ones(2), torch.ones(2))
    net = Network.describe(nn.Linear(1, 1))
    _, changed = attempt.subject().with_changes(*arguments, z=torch.ones(4), net=net)
    assert changed == ["1", "net", "z"]


def test_batches_changed_while_they_are_walked_are_told():
    batches = Batches((torch.ones(2), torch.ones(2)))
    for change, told in ((lambda b: b.add_(1), ["0"]), (lambda b: b + 1, [])):
        subject = Attempt.local(lambda batches, change=change: [change(b) for b in batches], "f").subject()
        assert subject.with_changes(batches)[1] == told


def test_arguments_keep_their_memory_layout():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert ask(lambda x: x.stride(), x) == x.stride()


def test_gradients_are_those_of_autograd():
    x, y = torch.randn(3), torch.randn(3)
    grads = Attempt.local(lambda x, y: x * y.detach(), "f").subject().vjp(x, y, wrt=[0, 1])["grads"]
    cotangent = torch.randn(3, generator=torch.Generator().manual_seed(20_260), dtype=torch.float64).float()
    assert torch.allclose(grads["0"], cotangent * y)
    assert grads["1"] is None


def test_a_graph_that_is_cut_gives_no_gradients():
    grads = Attempt.local(lambda x: x.detach(), "f").subject().vjp(torch.ones(2), wrt=[0])["grads"]
    assert grads == {"0": None}


def test_a_failing_backward_pass_is_the_learners():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            raise ZeroDivisionError("in backward")

    with pytest.raises(Raised, match="in backward"):
        Attempt.local(lambda x: Bad.apply(x), "f").subject().vjp(torch.ones(2), wrt=[0])


def test_global_numbers_follow_the_seed_of_the_call():
    import random

    def f():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    attempt = Attempt.local(f, "f")
    one, again, other = (attempt.subject(Conditions(seed=seed))() for seed in (5, 5, 6))
    assert one == again
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_an_exception_tells_its_kinds_its_message_and_the_learners_line():
    def f(x):
        return x.view(7)

    with pytest.raises(Raised) as caught:
        ask(f, torch.ones(3))
    assert caught.value.kinds[:2] == ("RuntimeError", "Exception")
    assert "7" in caught.value.message
    assert caught.value.line == "return x.view(7)"


def test_an_object_that_came_back_goes_in_again_as_itself():
    made = []

    def f(thing=None):
        if thing is None:
            made.append(nn.ReLU())
            return made[-1]
        return thing is made[-1]

    subject = Attempt.local(f, "f").subject()
    assert subject(subject()) is True


@pytest.mark.parametrize("observe", [call, carries])
def test_a_question_that_one_reply_answers_is_one_round_trip_and_one_call(monkeypatch, observe):
    requests, calls = [], []
    attempt = Attempt.local(lambda x: calls.append(1) or 2 * x, "f")
    exchange = attempt._exchange
    monkeypatch.setattr(attempt, "_exchange", lambda r, s: requests.append(r["op"]) or exchange(r, s))
    attempt.ask(observe, Case((torch.ones(2),)))
    assert (requests, calls) == (["call"], [1])


def test_a_new_question_forgets_what_was_kept():
    attempt = Attempt.local(lambda: nn.ReLU(), "f")
    kept = attempt.subject()()
    attempt.subject()()
    with pytest.raises(Raised):
        kept(torch.ones(1))


# -- requests of any kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"op": "exec"},
        {"op": ["call"]},
        {"op": "call"},
        request(target={}),
        request(target={"ref": 99, "method": "x"}),
        request(target={"name": "nobody"}),
        request(args=5),
        request(args=(Named("nobody"),)),
        request(args=(Network(["Evil", {}], {}),)),
        request(args=(torch.ones(1),), device="nowhere"),
        request(wrt=["nobody"]),
        request(seed="x"),
        request("inspect", ref=99),
        request("build", value=Named("nobody")),
        request("look", name="nobody"),
    ],
    ids=str,
)
def test_any_request_is_answered(bad):
    reply = Agent({"f": lambda *a, **k: None}).answer(bad)
    assert isinstance(reply, dict)
    assert "value" not in reply


def test_what_cannot_be_served_is_no_fault_of_the_learners():
    with pytest.raises(Gone, match="nobody"):
        ask(lambda x: x, Named("nobody"))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["op", "target", "name", "ref", "args", "device"]) | st.text(max_size=3),
                inner,
                max_size=4,
            )
        ),
    ).filter(lambda v: isinstance(v, dict)),
    st.sampled_from(["call", "look", "build", "inspect", ""]),
)
def test_noise_is_answered(noise, op):  # fmt: skip
    assert isinstance(Agent({"f": lambda: 1}).answer(noise | {"op": op}), dict)


@pytest.mark.parametrize("name", [*hostile.RETURNED, *hostile.RAISED])
def test_every_reply_fits_into_a_frame(name):
    answer = (hostile.RETURNED | hostile.RAISED)[name]
    reply = Agent({"f": answer}).answer(request(args=(torch.ones(2, 2, dtype=torch.float64),), limit=2.0))
    assert len(wire.dump(reply)) < 2**22
    wire.load(wire.dump(reply))


class Awkward(nn.Module):
    def state_dict(self, *args, **kwargs):
        raise RuntimeError("no state")


class Nameless(nn.Module):
    def named_modules(self, *args, **kwargs):
        while True:
            yield "x", self


@pytest.mark.parametrize(
    "module", [Awkward(), nn.LazyLinear(3), nn.Linear(2, 2, device="meta")], ids=lambda m: type(m).__name__
)
def test_an_awkward_module_can_be_inspected_or_says_why_not(module):
    net = ask(lambda: module)
    with contextlib.suppress(Raised):
        assert net.inspect()["kinds"]


def _holding(**parts):
    net = nn.Linear(2, 2)
    for name, part in parts.items():
        (net.register_parameter if isinstance(part, nn.Parameter) else net.register_buffer)(name, part)
    return net


def _expanded():
    net = nn.Linear(2, 2)
    net.weight = nn.Parameter(torch.zeros(1).expand(2**20, 2**20))
    return net


class Entries(nn.Module):
    def state_dict(self, *args, **kwargs):
        return dict.fromkeys(map(str, range(1_000_000)))


HUGE = {
    "a layer's weight of terabytes": _expanded,
    "a parameter of terabytes": lambda: _holding(wide=nn.Parameter(torch.zeros(1).expand(2**40))),
    "a buffer of terabytes": lambda: _holding(wide=torch.zeros(1).expand(2**20, 2**20)),
    "a state of a million entries": Entries,
    "names of a million characters": lambda: _holding(
        **{"x" * 10**6 + str(n): torch.zeros(1) for n in range(40)}
    ),
    "one buffer many times": lambda: _holding(
        **{f"b{n}": part for n, part in enumerate(torch.zeros(2**26).expand(99, -1))}
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_module_is_bounded_before_it_is_looked_at(served, name):
    attempt = served(lambda big=True: HUGE[name]() if big else 7)
    net = attempt.subject()()
    start = time.monotonic()
    for parts in [(), ("parameters", "buffers", "config")]:
        with contextlib.suppress(Raised):
            net.inspect(*parts)
    assert time.monotonic() - start < 20
    assert attempt.subject()(big=False) == 7


def test_an_argument_made_larger_than_any_memory_has_changed():
    def grow(x):
        x.data = torch.zeros(1, dtype=x.dtype).expand(2**40)
        return 1

    reply = Agent({"f": grow}).answer(request(args=(torch.ones(2),), untouched=True))
    assert reply["changed"] == ["0"]


def test_a_module_without_end_is_timed_out():
    net = Attempt.local(lambda: Nameless(), "f", seconds=1.0).subject()()
    with pytest.raises(TimedOut):
        net.inspect()


def test_something_that_is_no_module_is_told_so():
    with pytest.raises(Raised, match=r"expected an nn\.Module, got Mute"):
        ask(lambda: hostile.Mute()).inspect()


# -- limits -------------------------------------------------------------------------------------------------


def test_a_time_limit_leaves_the_alarm_as_it_was():
    rung = []
    old = signal.signal(signal.SIGALRM, lambda *args: rung.append(1))
    try:
        with pytest.raises(TimedOut):
            ask(lambda: time.sleep(60), seconds=0.5)
        assert ask(lambda: 1) == 1
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        signal.raise_signal(signal.SIGALRM)
        assert rung == [1]
    finally:
        signal.signal(signal.SIGALRM, old)


def busy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(("most", "in_time"), [(None, True), (0.4, False)])
def test_one_call_may_use_the_whole_time_where_it_is_not_one_of_many(most, in_time):
    attempt = Attempt.local(lambda: busy(0.8), "f")
    seen = attempt.ask(call, Case(), Conditions(seconds=2.0, call=most))
    assert isinstance(seen.value, TimedOut) != in_time


def test_time_is_what_the_processor_spent_on_it():
    """A busy machine makes no right answer late; what only waits has longer, and not for ever."""
    asleep = Attempt.local(lambda: time.sleep(0.5), "f").ask(call, Case(), Conditions(seconds=0.3))
    assert asleep.value is None
    assert asleep.seconds == pytest.approx(0.5 / FAR, abs=0.05)
    assert isinstance(
        Attempt.local(lambda: time.sleep(9), "f").ask(call, Case(), Conditions(seconds=0.3)).value, TimedOut
    )
    at_work = Attempt.local(lambda: busy(0.25), "f").ask(call, Case(), Conditions(seconds=0.3))
    assert at_work.value is None
    assert at_work.seconds >= 0.25


def test_a_training_that_is_cut_short_says_at_which_step():
    def train():
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for _ in range(5):
            weight.sum().backward()
            optimizer.step()
        busy(60)

    seen = Attempt.local(train, "train").ask(call, Case(), Conditions(watch="samples", seconds=1.0))
    assert str(seen.value) == "still running after 1 s of processor time, after 5 steps of its optimizer"


def test_after_a_timeout_everything_is_put_back():
    def f():
        torch.set_default_dtype(torch.float64)
        sys.stdout = None
        while True:
            try:  # noqa: SIM105
                time.sleep(0.01)
            except BaseException:
                pass

    before = (
        torch.get_default_dtype(),
        sys.stdout,
        sys.getprofile(),
        threading.getprofile(),
        torch.get_num_threads(),
    )
    attempt = Attempt.local(f, "f")
    with pytest.raises(TimedOut):
        attempt.subject(Conditions(watch="calls", seconds=0.5))()
    assert (
        torch.get_default_dtype(),
        sys.stdout,
        sys.getprofile(),
        threading.getprofile(),
        torch.get_num_threads(),
    ) == before
    assert torch.ones(2).sum() == 2


def test_an_endless_print_takes_no_memory():
    def f():
        for _ in range(2000):
            print("x" * 10_000)

    attempt = Attempt.local(f, "f")
    attempt.subject()()
    tracemalloc.start()
    seen = attempt.ask(call, Case())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(seen.printed) <= 600
    assert peak < 2**20


def test_an_import_is_not_interrupted_half_way(tmp_path, monkeypatch):
    """torch imports a lot late, and a module that is broken stays so for every later cell."""
    (tmp_path / "imported_late.py").write_text("import time\nbefore = 1\ntime.sleep(0.8)\nafter = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def f():
        import imported_late

        time.sleep(60)
        return imported_late.after

    with pytest.raises(TimedOut):
        ask(f, seconds=0.3)
    assert sys.modules.pop("imported_late").after == 2


def test_an_import_without_end_is(tmp_path, monkeypatch):
    (tmp_path / "imported_for_ever.py").write_text("while True: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("autograder.agent.limits.DEFERRED", 5)

    def f():
        import imported_for_ever

        return imported_for_ever

    with pytest.raises(TimedOut):
        ask(f, seconds=0.3)


def test_time_that_is_used_up_is_used_up():
    attempt = Attempt.local(lambda: time.sleep(9), "f")
    seen = attempt.ask(call, Case(), Conditions(seconds=0.2))
    assert isinstance(seen.value, TimedOut)
    assert 0.2 <= seen.seconds < 0.3
    start = time.monotonic()
    later = attempt.ask(call, Case(), Conditions(seconds=0.2, spent=seen.seconds))
    assert isinstance(later.value, TimedOut)
    assert time.monotonic() - start < 0.1


def test_what_a_question_showed_comes_out_as_one_value():
    def f(x):
        print("hello")
        return torch.relu(x)

    attempt = Attempt.local(f, "f")
    seen = attempt.ask(call, Case((torch.ones(2),)), Conditions(watch="calls"))
    assert torch.equal(seen.value, torch.ones(2))
    assert (seen.kind, seen.printed, seen.devices) == ("tensor", "hello\n", {"cpu"})
    assert "aten.relu" in seen.calls
    assert seen.seconds > 0
    again = attempt.ask(call, Case((torch.ones(2),)))
    assert (again.printed, again.calls) == ("hello\n", frozenset())
    with pytest.raises(FrozenInstanceError):
        again.printed = ""


def test_an_observation_that_stumbles_is_told_from_one_that_says_why():
    attempt = Attempt.local(lambda: 3, "f")

    def odd(subject, case):
        raise Odd("three is no tensor")

    assert str(attempt.ask(odd, Case()).value) == "three is no tensor"
    with pytest.raises(Stumbled) as stumbled:
        attempt.ask(lambda subject, case: subject().shape, Case())
    assert stumbled.value.seen.kind == "int"
    assert isinstance(stumbled.value.__cause__, AttributeError)


def test_preserved_puts_everything_back_after_an_error():
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads()
    with contextlib.suppress(ZeroDivisionError), preserved():
        torch.rand(5), np.random.rand(5)
        torch.set_grad_enabled(False)
        raise ZeroDivisionError
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (np.random.get_state()[1].tolist(), torch.get_num_threads())
    assert torch.is_grad_enabled()


# -- over a socket ------------------------------------------------------------------------------------------


@pytest.fixture
def served():
    """``served(answer)``: a remote attempt at it, the agent in a thread."""
    near, far = socket.socketpair()
    threads = []

    def serve(answer, **kwargs):
        threads.append(threading.Thread(target=Agent({"f": answer}).serve, args=(Channel(far),), daemon=True))
        threads[0].start()
        return Attempt.remote(near, "f", **kwargs)

    yield serve
    near.close()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    far.close()


def test_an_agent_stops_at_goodbye():
    near, far = socket.socketpair()
    with near, far:
        Channel(near).send({"op": "bye"})
        Agent({}).serve(Channel(far))


@pytest.mark.parametrize(
    "sent", [b"garbage, and more of it than a header holds", wire.dump([1, 2]), wire.dump(None)]
)
def test_an_agent_that_hears_no_request_says_so_and_stops(sent):
    near, far = socket.socketpair()
    with near, far:
        near.sendall(sent)
        Agent({}).serve(Channel(far))
        assert "broken" in Channel(near).receive(timeout=5)


@pytest.mark.parametrize(
    "name", ["a tensor of a terabyte", "a list in itself", "an array of objects", "a huge number"]
)
def test_the_agent_outlives_what_cannot_travel(served, name):
    attempt = served(lambda x=None: 7 if x is None else hostile.RETURNED[name](x))
    attempt.subject()(torch.ones(2))
    assert attempt.subject()() == 7


def test_a_silent_far_side_is_timed_out_and_stays_so():
    near, far = socket.socketpair()
    with near, far:
        attempt = Attempt.remote(near, "f", seconds=0.3, grace=0.1)
        for _ in range(3):
            with pytest.raises(TimedOut):
                attempt.look()


def test_a_far_side_that_hangs_up_is_gone_and_stays_so():
    near, far = socket.socketpair()
    far.close()
    attempt = Attempt.remote(near, "f", seconds=1)
    for _ in range(3):
        with pytest.raises(Gone):
            attempt.look()


def test_a_far_side_that_answers_slowly_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr("autograder.attempt.PATIENCE", 0.2)

    def exchange(request, seconds):
        time.sleep(0.05)
        return {"kind": "callable"}

    attempt = Attempt(exchange, "f", remote=True, seconds=0.1)
    many = (attempt.look() for _ in range(50))
    with pytest.raises(Gone, match="slowly"):
        list(many)


@pytest.mark.parametrize("reply", [[1], None, "x", torch.ones(1)])
def test_an_answer_that_is_none_is_gone(reply):
    near, far = socket.socketpair()
    with near, far:
        Channel(far).send(reply)
        with pytest.raises(Gone):
            Attempt.remote(near, "f", seconds=1).look()


# -- what is seen of the source -----------------------------------------------------------------------------


def decorated(function):
    return function


@decorated
def documented(x):
    """Says what it does."""
    return x + 1


def twice(x):
    return documented(documented(x))


def test_the_source_is_that_of_the_function_and_no_other():
    assert source_of(twice) == "def twice(x):\n    return documented(documented(x))"
    assert source_of(documented).startswith("@decorated\ndef documented(x):")
    assert source_of(Awkward).startswith("class Awkward(nn.Module):")
    assert source_of(len) == source_of(3) == source_of(exec) == ""


def test_fingerprints_tell_functions_apart_and_not_local_names():
    def one(x):
        """Documented."""
        total = x.sum()
        return total / 2

    def other(y):
        """Other words."""
        s = y.sum()
        return s / 2

    def third(x):
        """Documented."""
        total = x.sum()
        return total / 3

    assert fingerprint(one) == fingerprint(other) != fingerprint(third)
    assert fingerprint(3) == fingerprint(len) == ""
