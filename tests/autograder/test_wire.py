"""What goes over the wire arrives as it was, and nothing that comes over it can do more than be refused."""

import contextlib
import json
import math
import socket
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from alike import same
from hypothesis import given
from hypothesis import strategies as st

from autograder import wire
from autograder.values import Batches, Foreign, Generator, Named, Network, Ref
from autograder.wire import Channel, Closed, WireError, copied, dump, load

DTYPES = list(wire._DTYPES.values())
HEADER = struct.Struct("!4sQQ")


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    axes = draw(st.permutations(range(len(shape))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * 10
    if numbers.numel() and draw(st.booleans()):
        numbers.view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    if not dtype.is_floating_point and not dtype.is_complex:
        numbers = numbers.nan_to_num(0, 0, 0).abs()
    laid_out = numbers.permute(axes).contiguous().permute([axes.index(axis) for axis in range(len(shape))])
    return laid_out.to(dtype)


arrays = tensors().filter(lambda t: t.dtype is not torch.bfloat16).map(lambda t: t.contiguous().numpy())
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.text(st.characters(categories=["Cs"]), max_size=1)
    | tensors()
    | arrays
    | st.builds(Generator, st.integers(0, 2**63))
    | st.builds(Ref, st.integers(0, 2**40), st.text(max_size=9))
    | st.builds(Foreign, st.text(max_size=9), st.text(max_size=9))
    | st.sets(st.integers() | st.text(max_size=3), max_size=4)
)
keys = st.text(max_size=5) | st.integers(-(2**40), 2**40) | st.tuples(st.integers(0, 9), st.booleans())
messages = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=3).map(lambda items: Batches(tuple(items)))
        | st.builds(Named, st.text(max_size=9), st.dictionaries(st.text(max_size=5), inner, max_size=3))
    ),
    max_leaves=12,
)


# -- there and back -----------------------------------------------------------------------------------------


def framed(message):
    return load(dump(message))


both_ways = pytest.mark.parametrize("carry", [framed, copied])


@both_ways
@given(message=messages)
def test_what_arrives_is_what_was_sent(carry, message):
    assert same(message, carry(message))


@both_ways
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3), (2, 3, 4, 5)], ids=str)
def test_every_dtype_and_shape_arrives(carry, dtype, shape):
    numbers = (torch.arange(math.prod(shape)) % 2).reshape(shape).to(dtype)
    assert same(numbers, carry(numbers))


@both_ways
@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.transpose(0, 1),
        lambda x: x.permute(3, 1, 0, 2),
        lambda x: x.contiguous(memory_format=torch.channels_last),
    ],
    ids=["transposed", "permuted", "channels_last"],
)
def test_a_dense_tensor_keeps_its_strides(carry, laid_out):
    x = laid_out(torch.randn(2, 3, 4, 5))
    back = carry(x)
    assert back.stride() == x.stride()
    assert torch.equal(back, x)


@both_ways
@pytest.mark.parametrize(
    "view",
    [lambda x: x[::2, :, 1:3], lambda x: x.flip(0), lambda x: x[:1].expand(5, 3, 4), lambda x: x[..., 0]],
    ids=["sliced", "flipped", "expanded", "selected"],
)
def test_a_view_arrives_with_its_numbers_alone(carry, view):
    x = view(torch.randn(4, 3, 4))
    assert torch.equal(carry(x), x)
    assert len(dump(x)) < 4 * x.numel() + 300


@both_ways
def test_what_arrives_is_no_view_whose_mistreatment_torch_would_word_otherwise(carry):
    for x in (torch.randn(2, 3), torch.randn(2, 3, 4).permute(2, 0, 1)):
        with pytest.raises(RuntimeError, match=r"^a leaf Variable"):
            carry(x).requires_grad_().add_(1)


@both_ways
def test_conjugates_and_gradients_are_resolved(carry):
    z = torch.randn(3, dtype=torch.complex64)
    assert torch.equal(carry(z.conj()), z.conj().resolve_conj())
    assert torch.equal(carry(z.conj().imag), z.conj().imag.resolve_neg())
    x = torch.randn(3, requires_grad=True)
    assert not carry(x * 2).requires_grad


@both_ways
def test_arrays_keep_their_shape_whatever_their_strides(carry):
    a = np.arange(12.0).reshape(3, 4)
    for array in (a[::-1], a.T, a[:, ::2], np.array(3.0), np.asfortranarray(a)):
        back = carry(array)
        assert back.shape == array.shape
        assert np.array_equal(back, array)


@both_ways
def test_a_long_text_is_cut(carry):
    assert carry("x" * (wire.MAX_STRING + 5)) == "x" * wire.MAX_STRING


@both_ways
def test_a_loaded_tensor_is_not_the_one_that_was_dumped(carry):
    x = torch.zeros(3)
    carry(x).add_(1)
    assert torch.equal(x, torch.zeros(3))


# -- what may not leave -------------------------------------------------------------------------------------


def nested(depth: int):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def endless() -> list:
    value: list = []
    value.append(value)
    return value


@both_ways
@pytest.mark.parametrize(
    "value",
    [
        object(), b"bytes", 1j, lambda: 1, range(3), torch.Generator(), 2**5000, -(2**5000), endless(),
        nested(500), nested(50_000), torch.eye(3).to_sparse(), torch.zeros(3, device="meta"),
        torch.zeros(1).expand(2**40), torch.zeros(3).to(torch.float8_e4m3fn), torch.zeros([1] * 20),
        np.array([object()]), np.array(["a"]), np.zeros(2, ">f4"), np.zeros(2, "M8[s]"), {"a": {1, b"x"}},
        Ref("1", None), Network(object(), {}),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_what_cannot_travel_is_refused_before_it_leaves(carry, value):
    with pytest.raises(WireError):
        carry({"value": value})


@both_ways
def test_a_message_over_its_bounds_does_not_leave(carry, monkeypatch):
    monkeypatch.setattr(wire, "MAX_BYTES", 1000)
    monkeypatch.setattr(wire, "MAX_TEXT", 1000)
    monkeypatch.setattr(wire, "MAX_TENSORS", 3)
    carry([torch.zeros(100), torch.zeros(100)])
    for message in ([torch.zeros(100)] * 3, torch.zeros(251), [torch.zeros(1)] * 4, ["text"] * 300):
        with pytest.raises(WireError):
            carry(message)


# -- what may not come in -----------------------------------------------------------------------------------


def frame(text, payload=b"", *, length=None, size=None, magic=b"crs1") -> bytes:
    """A frame by hand: nothing in it need be true."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    lengths = (len(text) if length is None else length, len(payload) if size is None else size)
    return HEADER.pack(magic, *lengths) + text + payload


def message(body, *heads) -> dict:
    return {"tensors": list(heads), "body": body}


def head(shape, dtype="float32", order=None) -> dict:
    return {"dtype": dtype, "shape": shape, "order": list(range(len(shape))) if order is None else order}


TENSOR = {"$": "tensor", "v": 0}
EIGHT = bytes(8)
REFUSED = {
    "nothing": b"",
    "half a header": b"crs1\0\0",
    "another magic": frame(message(1), magic=b"http"),
    "a text that is longer than it may be": frame(message(1), length=2**63),
    "tensors that are larger than they may be": frame(message(1), size=2**63),
    "less than it says": frame(message(1), length=500),
    "more than it says": frame(message(1)) + b"x",
    "not JSON": frame(b"{]"),
    "not UTF-8": frame(b"\xff\xfe\xfa"),
    "not a message": frame([1, 2]),
    "a message without a body": frame({"tensors": []}),
    "tensors that are none": frame({"tensors": 5, "body": 1}),
    "tensors that are text": frame({"tensors": "ab", "body": 1}),
    "a dict without a tag": frame(message({"x": 1})),
    "an unknown tag": frame(message({"$": "pickle", "v": "x"})),
    "a tag that is a list": frame(message({"$": [1], "v": 1})),
    "a tag without a value": frame(message({"$": "tuple"})),
    "a tuple of nothing": frame(message({"$": "tuple", "v": None})),
    "a set of lists": frame(message({"$": "set", "v": [[1]]})),
    "a dict with a list for a key": frame(message({"$": "dict", "v": [[[1], 2]]})),
    "a dict of triples": frame(message({"$": "dict", "v": [[1, 2, 3]]})),
    "a float that is none": frame(message({"$": "float", "v": "pi"})),
    "a generator without a number": frame(message({"$": "generator", "v": None})),
    "a ref without a number": frame(message({"$": "ref", "v": ["a", "b"]})),
    "a negative ref": frame(message({"$": "ref", "v": [-1, "b"]})),
    "a network of nothing": frame(message({"$": "network", "v": []})),
    "a tensor that is not there": frame(message(TENSOR)),
    "a tensor before the first": frame(message({"$": "tensor", "v": -1}, head([2])), EIGHT),
    "a tensor by a fraction": frame(message({"$": "tensor", "v": 0.5}, head([2])), EIGHT),
    "a tensor by a truth": frame(message({"$": "tensor", "v": False}, head([2])), EIGHT),
    "fewer bytes than the shape": frame(message(TENSOR, head([3])), EIGHT),
    "more bytes than the shape": frame(message(TENSOR, head([1])), EIGHT),
    "an unknown dtype": frame(message(TENSOR, head([2], "object")), EIGHT),
    "a dtype that is a list": frame(message(TENSOR, head([2], ["float32"])), EIGHT),
    "a negative size": frame(message(TENSOR, head([-2])), EIGHT),
    "two negative sizes": frame(message(TENSOR, head([-2, -1])), EIGHT),
    "a fractional size": frame(message(TENSOR, head([2.0])), EIGHT),
    "a size that is a truth": frame(message(TENSOR, head([True, 2])), EIGHT),
    "a huge size": frame(message(TENSOR, head([2**70])), EIGHT),
    "a huge size times nothing": frame(message(TENSOR, head([0, 2**70])), b""),
    "a large size times nothing": frame(message(TENSOR, head([0, 2**61])), b""),
    "huge sizes that wrap around": frame(message(TENSOR, head([2**33, 2**31 + 1])), EIGHT),
    "17 dimensions": frame(message(TENSOR, head([1] * 17)), bytes(4)),
    "a shape that is text": frame(message(TENSOR, {"dtype": "float32", "shape": "2", "order": [0]}), EIGHT),
    "a shape that is a number": frame(message(TENSOR, {"dtype": "uint8", "shape": 8, "order": []}), EIGHT),
    "an order that is too long": frame(message(TENSOR, head([2], order=[0, 1])), EIGHT),
    "an order that repeats": frame(message(TENSOR, head([1, 2], order=[0, 0])), EIGHT),
    "an order of texts": frame(message(TENSOR, head([2], order=["0"])), EIGHT),
    "a head that is a list": frame(message(TENSOR, [1])),
    "a head without a shape": frame(message(TENSOR, {"dtype": "bool"})),
    "a bool of 2": frame(message(TENSOR, head([3], "bool")), b"\0\1\2"),
    "bytes that belong to nothing": frame(message(1), EIGHT),
    "too many tensors": frame(message(1, *[head([0])] * (wire.MAX_TENSORS + 1))),
    "too deep a nesting": frame(b'{"tensors":[],"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nesting that is not too deep for JSON": frame(message(nested(400))),
    "nested tags": frame(b'{"tensors":[],"body":' + b'{"$":"tuple","v":[' * 300 + b"]}" * 300 + b"}"),
    "a number of 5000 digits": frame(b'{"tensors":[],"body":' + b"9" * 5000 + b"}"),
    "a number of 4000 digits": frame(b'{"tensors":[],"body":' + b"9" * 4000 + b"}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_frame_that_lies_is_refused(name):
    with pytest.raises(WireError):
        load(REFUSED[name])


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"more than it says"}))
def test_the_channel_refuses_it_too(name):
    near, far = socket.socketpair()

    def speak():
        with contextlib.suppress(OSError):
            far.sendall(REFUSED[name])
            far.shutdown(socket.SHUT_WR)

    with near, far:
        speaker = threading.Thread(target=speak)
        speaker.start()
        with pytest.raises(WireError):
            Channel(near).receive(timeout=5)
        near.close()
        speaker.join()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(noise):
    with pytest.raises(WireError):
        load(noise)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["tensor", "float32", "$", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.fixed_dictionaries({"$": st.sampled_from(["tuple", "set", "dict", "tensor", "array", "ref", "network", "named", "batches", "generator", "foreign", "float", "?"]) | inner, "v": inner})
        | st.fixed_dictionaries({"dtype": st.sampled_from(["float32", "bool", "int8"]) | inner, "shape": inner, "order": inner})
    ),
    max_leaves=10,
)  # fmt: skip


@given(json_values, st.lists(json_values, max_size=3) | json_values, st.binary(max_size=16))
def test_well_formed_json_of_any_content_is_loaded_or_refused(body, heads, payload):
    with contextlib.suppress(WireError):
        load(frame({"tensors": heads, "body": body}, payload))


@given(messages, st.data())
def test_a_damaged_frame_is_loaded_or_refused(value, data):
    good = bytearray(dump(value))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for bad in (good, good[:cut]):
        with contextlib.suppress(WireError):
            load(bad)


def test_a_header_alone_claims_no_memory():
    near, far = socket.socketpair()
    with near, far:
        far.sendall(HEADER.pack(b"crs1", wire.MAX_TEXT, wire.MAX_BYTES) + b"x" * 1000)
        tracemalloc.start()
        with pytest.raises(TimeoutError):
            Channel(near).receive(timeout=0.2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("length", "size"), [(wire.MAX_TEXT + 1, 0), (10, wire.MAX_BYTES + 1), (2**64 - 1, 2**64 - 1)]
)
def test_a_header_over_the_bounds_is_refused_at_once(length, size):
    near, far = socket.socketpair()
    with near, far:
        far.sendall(HEADER.pack(b"crs1", length, size))
        with pytest.raises(WireError):
            Channel(near).receive(timeout=5)


def test_refusing_takes_no_memory_to_speak_of():
    claims = [
        frame(message(TENSOR, head([2**20, 2**9])), EIGHT),
        frame(b'{"tensors":[],"body":' + b"[" * wire.MAX_TEXT, length=2**40),
    ]
    tracemalloc.start()
    for claim in claims:
        with pytest.raises(WireError):
            load(claim)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


# -- a channel ----------------------------------------------------------------------------------------------


@pytest.fixture
def channels():
    near, far = socket.socketpair()
    with near, far:
        yield Channel(near), Channel(far)


def test_messages_arrive_in_order(channels):
    near, far = channels
    sent = [{"n": n, "x": torch.full((n,), float(n))} for n in range(5)]
    for one in sent:
        near.send(one)
    assert all(same(one, far.receive(timeout=5)) for one in sent)


def test_a_large_message_crosses_a_small_pipe(channels):
    near, far = channels
    big = torch.arange(3_000_000)
    sender = threading.Thread(target=near.send, args=(big,))
    sender.start()
    assert torch.equal(far.receive(timeout=30), big)
    sender.join()


def test_a_slow_sender_is_waited_for(channels):
    near, far = channels
    whole = dump({"x": torch.arange(10)})

    def trickle():
        for start in range(0, len(whole), 40):
            near.sock.sendall(whole[start : start + 40])
            time.sleep(0.01)

    sender = threading.Thread(target=trickle)
    sender.start()
    assert torch.equal(far.receive(timeout=30)["x"], torch.arange(10))
    sender.join()


def test_the_time_limit_is_for_the_whole_frame(channels):
    near, far = channels
    whole = dump("x" * 1000)
    stop = threading.Event()

    def trickle():
        for byte in whole:
            if stop.wait(0.05):
                return
            near.sock.sendall(bytes([byte]))

    sender = threading.Thread(target=trickle)
    sender.start()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        far.receive(timeout=0.4)
    assert time.monotonic() - start < 5
    stop.set()
    sender.join()


def test_silence_is_a_timeout(channels):
    with pytest.raises(TimeoutError):
        channels[1].receive(timeout=0.05)


def test_a_peer_that_does_not_read_is_a_timeout(channels):
    with pytest.raises(TimeoutError):
        channels[0].send(torch.zeros(4_000_000), timeout=0.2)


def test_a_peer_that_left_between_frames_is_closed(channels):
    near, far = channels
    near.send(1)
    near.close()
    assert far.receive(timeout=5) == 1
    with pytest.raises(Closed):
        far.receive(timeout=5)
    with pytest.raises(Closed):
        far.send(torch.zeros(4_000_000), timeout=5)


def test_a_peer_that_left_inside_a_frame_broke_it(channels):
    near, far = channels
    near.sock.sendall(dump("hello")[:-3])
    near.close()
    with pytest.raises(WireError) as caught:
        far.receive(timeout=5)
    assert not isinstance(caught.value, Closed)


def test_a_channel_that_was_closed_here_is_closed(channels):
    near, _ = channels
    near.close()
    with pytest.raises(Closed):
        near.send(1, timeout=1)
    with pytest.raises(Closed):
        near.receive(timeout=1)
