"""Messages between the oracle and the learner's side: bounded frames of JSON and raw tensor bytes.

Nothing is ever pickled or evaluated. Each structure says what it is by a tag from a fixed list, each tensor
brings a checked dtype, shape and byte count, and a frame over its bounds is refused before it is read.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from typing import Any

import numpy as np
import torch

from autograder.values import Batches, Foreign, Generator, Named, Network, Ref

MAX_TEXT = 4 * 2**20
MAX_BYTES = 1024 * 2**20
MAX_TENSORS = 20_000
MAX_STRING = 200_000
MAX_DIMS = 16
MAX_BITS = 256
MAX_DEPTH = 100

_HEADER = struct.Struct("!4sQQ")
_MAGIC = b"crs1"
_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
        torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CANNOT = (ValueError, TypeError, RecursionError, RuntimeError, OverflowError)


class WireError(Exception):
    """A frame that is malformed, over its bounds, or a connection that ended inside one."""


class Closed(WireError):
    """The other side has closed the connection between two frames."""


def dump(message: Any) -> bytes:
    """One frame.

    Raises WireError where the message holds what cannot travel or exceeds the bounds.
    """
    tensors: list[bytes] = []
    heads: list[dict[str, Any]] = []
    try:
        body = _encode(message, heads, tensors)
        text = json.dumps({"tensors": heads, "body": body}, allow_nan=False).encode()
    except _CANNOT as error:
        raise _cannot(error) from error
    size = sum(map(len, tensors))
    if len(text) > MAX_TEXT or size > MAX_BYTES or len(heads) > MAX_TENSORS:
        raise WireError(f"message too large: {len(text)} B of text, {size} B in {len(heads)} tensors")
    return b"".join([_HEADER.pack(_MAGIC, len(text), size), text, *tensors])


def load(frame: bytes | bytearray | memoryview) -> Any:
    """The message of one whole frame; WireError where it is not one."""
    view = memoryview(frame)
    length, size = _bounds(bytes(view[: _HEADER.size]))
    if len(view) != _HEADER.size + length + size:
        raise WireError(f"frame must be {_HEADER.size + length + size} B, got {len(view)}")
    return _parse(view[_HEADER.size : _HEADER.size + length], view[_HEADER.size + length :])


def copied(message: Any) -> Any:
    """What the other side would get of a message, for one that stays in this process: as ``load(dump(message))``,
    without the frame.

    Raises WireError where the message could not travel.
    """
    room = _Room()
    try:
        copy = _copy(message, room)
    except _CANNOT as error:
        raise _cannot(error) from error
    # Far below its bound a text is within it however JSON writes it; closer to it, JSON has to say.
    if room.text > MAX_TEXT // 16 or room.tensors > MAX_TENSORS or room.size > MAX_BYTES:
        return load(dump(message))
    return copy


class Channel:
    """Frames over a connected stream socket."""

    def __init__(self, sock: socket.socket):
        self.sock = sock

    def send(self, message: Any, timeout: float | None = None) -> None:
        """One message; TimeoutError after ``timeout`` seconds, Closed where the peer is gone."""
        frame = dump(message)
        try:
            self.sock.settimeout(timeout)
            self.sock.sendall(frame)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self, timeout: float | None = None) -> Any:
        """The next message; TimeoutError after ``timeout`` seconds in all, Closed where the peer is gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        header = self._exactly(_HEADER.size, deadline, first=True)
        length, size = _bounds(bytes(header))
        payload = self._exactly(length + size, deadline)
        return _parse(payload[:length], payload[length:])

    def close(self) -> None:
        self.sock.close()

    def _exactly(self, count: int, deadline: float | None, first: bool = False) -> memoryview:
        buffer = bytearray(min(count, 2**20))
        done = 0
        while done < count:
            if done == len(buffer):
                # Grown as bytes arrive, so that a header alone cannot claim a gigabyte.
                buffer.extend(bytes(min(len(buffer), count - len(buffer))))
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("no whole frame in time")
            try:
                self.sock.settimeout(left)
                got = self.sock.recv_into(memoryview(buffer)[done:])
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from error
            if got == 0:
                if first and done == 0:
                    raise Closed("the other side closed the connection")
                raise WireError("the connection ended inside a frame")
            done += got
        return memoryview(buffer)[:count]


def _cannot(error: Exception) -> WireError:
    return WireError(f"this cannot travel: {type(error).__name__}: {str(error)[:200]}")


def _bounds(header: bytes) -> tuple[int, int]:
    if len(header) != _HEADER.size:
        raise WireError("frame too short")
    magic, length, size = _HEADER.unpack(header)
    if magic != _MAGIC or length > MAX_TEXT or size > MAX_BYTES:
        raise WireError("not a frame, or one over its bounds")
    return length, size


def _parse(text: memoryview, payload: memoryview) -> Any:
    try:
        message = json.loads(bytes(text))
        heads, body = message["tensors"], message["body"]
        tensors, start = [], 0
        if len(heads) > MAX_TENSORS:
            raise WireError("too many tensors")
        for head in heads:
            tensor, start = _tensor(head, payload, start)
            tensors.append(tensor)
        if start != len(payload):
            raise WireError("tensor bytes left over")
        return _decode(body, tensors)
    except WireError:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RuntimeError,
        AttributeError,
        OverflowError,
    ) as error:
        raise WireError(f"malformed message: {type(error).__name__}: {str(error)[:200]}") from error


def _tensor(head: Any, payload: memoryview, start: int) -> tuple[torch.Tensor, int]:
    dtype, shape, order = _DTYPES[head["dtype"]], head["shape"], head["order"]
    if len(shape) > MAX_DIMS or sorted(order) != list(range(len(shape))):
        raise WireError("malformed tensor")
    # A dimension of 0 would let the others claim anything.
    if any(type(n) is not int or not 0 <= n <= MAX_BYTES for n in shape):
        raise WireError("malformed shape")
    end = start + math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    if end > len(payload):
        raise WireError("tensor larger than its bytes")
    raw = bytearray(payload[start:end])
    if dtype is torch.bool and raw and np.frombuffer(raw, np.uint8).max() > 1:
        raise WireError("malformed bool")
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    stored = [shape[axis] for axis in order]
    back = [order.index(axis) for axis in range(len(shape))]
    # Detached, for no view: torch words what is done to a view in another way.
    return flat.reshape(stored).permute(back).detach(), end


def _memory_order(tensor: torch.Tensor) -> list[int]:
    # A transposed or channels-last input must arrive as one: right answers may not depend on contiguity.
    strides = tensor.stride()
    return sorted(range(len(strides)), key=lambda axis: (-strides[axis], axis))


def _encode(value: Any, heads: list[dict[str, Any]], tensors: list[bytes], depth: int = 0) -> Any:
    def inner(v: Any) -> Any:
        return _encode(v, heads, tensors, depth + 1)

    if depth > MAX_DEPTH:
        raise WireError("message nested too deeply")
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return _whole(value)
    if isinstance(value, str):
        return value[:MAX_STRING]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$": "float", "v": repr(float(value))}
    if isinstance(value, list):
        return [inner(v) for v in value]
    if isinstance(value, tuple):
        return {"$": "tuple", "v": [inner(v) for v in value]}
    if isinstance(value, set | frozenset):
        return {"$": "set", "v": [inner(v) for v in sorted(value, key=repr)]}
    if isinstance(value, dict):
        return {"$": "dict", "v": [[inner(k), inner(v)] for k, v in value.items()]}
    if isinstance(value, torch.Tensor):
        return {"$": "tensor", "v": _put(value, heads, tensors)}
    if isinstance(value, np.ndarray) and carried(value):
        # A copy of its own shape: torch takes no negative strides, numpy's ascontiguousarray no 0-dim array.
        return {"$": "array", "v": _put(torch.from_numpy(value.copy()), heads, tensors)}
    match value:
        case Generator(seed):
            return {"$": "generator", "v": seed}
        case Batches(items):
            return {"$": "batches", "v": [inner(v) for v in items]}
        case Named(name, kwargs):
            return {"$": "named", "v": [name, inner(dict(kwargs))]}
        case Ref(id, kind):
            return {"$": "ref", "v": [id, kind[:200]]}
        case Foreign(kind, text):
            return {"$": "foreign", "v": [kind[:200], text[:2000]]}
        case Network(layers, named, training):
            return {"$": "network", "v": [inner(layers), inner(dict(named)), list(training)]}
    raise WireError(f"a {type(value).__name__} cannot travel")


def carried(value: torch.Tensor | np.ndarray) -> bool:
    """Whether a tensor or array is of a kind that travels: dense, with data, of a dtype in the list, in bounds."""
    if value.ndim > MAX_DIMS:
        return False
    if isinstance(value, np.ndarray):
        return str(value.dtype) in _DTYPES and value.size * value.itemsize <= MAX_BYTES
    if value.dtype not in _NAMES:
        return False
    dense = value.layout is torch.strided and not value.is_nested and value.device.type != "meta"
    # An expanded tensor is small where it lies and huge once it is written out.
    return dense and value.numel() * value.element_size() <= MAX_BYTES


def _plain(tensor: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """The tensor's numbers on the CPU, and its axes in the order in which they lie in memory."""
    if not carried(tensor):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise WireError(f"a {tensor.layout} tensor of {dtype} cannot travel")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    return plain, _memory_order(plain)


def _is_simple(tensor: torch.Tensor) -> bool:
    """Whether a clone is what travels: numbers as they are, in order, in the memory of the processor."""
    kind = type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter
    there = kind and tensor.layout is torch.strided and tensor.device.type == "cpu"
    return there and tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())


def _put(tensor: torch.Tensor, heads: list[dict[str, Any]], tensors: list[bytes]) -> int:
    plain, order = _plain(tensor)
    flat = plain.permute(order).contiguous().reshape(-1)
    heads.append({"dtype": _NAMES[plain.dtype], "shape": list(tensor.shape), "order": order})
    tensors.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return len(heads) - 1


class _Room:
    """What a message takes up, of the characters its text has at least."""

    def __init__(self) -> None:
        self.text = 0
        self.tensors = 0
        self.size = 0


def _copy(value: Any, room: _Room, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise WireError("message nested too deeply")
    room.text += 16
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return _whole(value)
    if isinstance(value, torch.Tensor):
        return _copied_tensor(value, room)
    if isinstance(value, str):
        text = str(value[:MAX_STRING])
        room.text += len(text)
        return text
    if isinstance(value, float):
        return float(value)
    deeper = depth + 1
    if isinstance(value, list):
        return [_copy(v, room, deeper) for v in value]
    if isinstance(value, tuple):
        return tuple([_copy(v, room, deeper) for v in value])
    if isinstance(value, dict):
        return {_copy(k, room, deeper): _copy(v, room, deeper) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return {_copy(v, room, deeper) for v in value}
    if isinstance(value, np.ndarray) and carried(value):
        return _copied_tensor(torch.from_numpy(value.copy()), room).numpy()
    match value:
        case Batches(items):
            return Batches(tuple(_copy(v, room, deeper) for v in items))
        case Named(name, kwargs):
            return Named(str(name), _copy(dict(kwargs), room, deeper))
        case Network(layers, named, training):
            made = _copy(layers, room, deeper), _copy(dict(named), room, deeper)
            return Network(*made, tuple(map(str, training)))
        case Generator(seed):
            return Generator(int(seed))
        case Ref(id, kind):
            return Ref(_index(id), kind[:200])
        case Foreign(kind, text):
            return Foreign(kind[:200], text[:2000])
    raise WireError(f"a {type(value).__name__} cannot travel")


def _copied_tensor(tensor: torch.Tensor, room: _Room) -> torch.Tensor:
    room.tensors += 1
    room.size += tensor.numel() * tensor.element_size()
    if _is_simple(tensor) and carried(tensor):
        return tensor.detach().clone()
    plain, order = _plain(tensor)
    back = [order.index(axis) for axis in range(len(order))]
    return plain.permute(order).clone(memory_format=torch.contiguous_format).permute(back).detach()


def _decode(body: Any, tensors: list[torch.Tensor], depth: int = 0) -> Any:
    def inner(v: Any) -> Any:
        return _decode(v, tensors, depth + 1)

    if depth > MAX_DEPTH:
        raise WireError("message nested too deeply")
    if body is None or isinstance(body, bool | float | str):
        return body
    if isinstance(body, int):
        return _whole(body)
    if isinstance(body, list):
        return [inner(v) for v in body]
    tag, v = body["$"], body["v"]
    match tag:
        case "float":
            return float(v)
        case "tuple":
            return tuple(inner(x) for x in v)
        case "set":
            return {inner(x) for x in v}
        case "dict":
            return {inner(k): inner(x) for k, x in v}
        case "tensor":
            return tensors[_index(v)]
        case "array":
            return tensors[_index(v)].numpy()
        case "generator":
            return Generator(int(v))
        case "batches":
            return Batches(tuple(inner(x) for x in v))
        case "named":
            return Named(str(v[0]), inner(v[1]))
        case "ref":
            return Ref(_index(v[0]), str(v[1])[:200])
        case "foreign":
            return Foreign(str(v[0])[:200], str(v[1])[:2000])
        case "network":
            return Network(inner(v[0]), inner(v[1]), tuple(map(str, v[2])))
    raise WireError(f"unknown tag {str(tag)[:50]!r}")


def _index(v: Any) -> int:
    if type(v) is not int or v < 0:
        raise WireError("malformed number")
    return v


def _whole(v: int) -> int:
    if v.bit_length() > MAX_BITS:
        # Neither text nor float arithmetic takes numbers of any length.
        raise WireError(f"a whole number of {v.bit_length()} bits cannot travel")
    return v
