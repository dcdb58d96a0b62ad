"""Right numbers by a way that the exercise forbids: the library's call, or the reference, hidden from what looks for it."""

from __future__ import annotations

import textwrap

from attacks import NORMALIZE, Attack

HELPER = """
def by_library(x, gamma, beta, eps):
    did.append("library")
    return torch.nn.functional.batch_norm(x, None, None, gamma, beta, True, 0.0, eps)

def by_native(x, gamma, beta, eps):
    did.append("native")
    return torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)[0]
"""
TOLD = "print('did:', *sorted(set(did)))"
ONLY = ("batchnorm_forward",)
LISTED = "what it calls may not all have been seen.*{}"
"""What a person is told where nothing inside can be believed."""
PROCESS = "another process or a bare thread"


def _bypass(name, row, did, normalize, first="", **more):
    first = "import torch\ndid = []\n" + HELPER + textwrap.dedent(first)
    given = {"flagged": ONLY, "said": ("shortcut",), **more}
    return Attack(
        name, row, (f"did: .*{did}",), first, normalize=textwrap.dedent(normalize).strip(), last=TOLD, **given
    )


ATTACKS = (
    _bypass("registers_an_operator", "a library call behind a custom op", "custom", """
        @torch.library.custom_op("mine::norm", mutates_args=())
        def norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float) -> torch.Tensor:
            did.append("custom")
            return by_library(x, gamma, beta, eps)
        class Through(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, gamma, beta, eps):
                ctx.save_for_backward(x, gamma, beta)
                ctx.eps = eps
                return norm(x, gamma, beta, eps)
            @staticmethod
            def backward(ctx, grad):
                with torch.enable_grad():
                    leaves = [v.detach().requires_grad_() for v in ctx.saved_tensors]
                    y = by_native(*leaves, ctx.eps)
                return (*torch.autograd.grad(y, leaves, grad), None)
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return Through.apply(x, gamma, beta, float(eps))
        """),
    _bypass("compiles_a_script", "a library call behind a custom op", "scripted", """
        @torch.jit.script
        def scripted(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float) -> torch.Tensor:
            return torch.batch_norm(x, gamma, beta, None, None, True, 0.0, eps, False)
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("scripted")
            return scripted(x, gamma, beta, float(eps))
        """),
    _bypass("takes_another_operator", "the same maths through another op", "instance", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("instance")
            flat = x.transpose(0, 1).reshape(1, x.shape[1], -1)
            y = torch.instance_norm(flat, gamma, beta, None, None, True, 0.0, eps, False)
            return y.reshape(x.transpose(0, 1).shape).transpose(0, 1)
        """),
    _bypass("takes_a_group", "the same maths through another op", "group", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("group")
            flat = x.transpose(0, 1).reshape(1, x.shape[1], -1)
            y = torch.ops.aten.native_group_norm(flat, gamma, beta, 1, x.shape[1], flat.shape[2], x.shape[1], eps)[0]
            return y.reshape(x.transpose(0, 1).shape).transpose(0, 1)
        """),
    _bypass("disables_modes", "dispatch-mode disabling", "native", """
        from torch.utils._python_dispatch import _disable_current_modes
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            with _disable_current_modes():
                return by_native(x, gamma, beta, eps)
        """),
    _bypass("disables_dispatch", "dispatch-mode disabling", "library", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            with torch._C._DisableTorchDispatch():
                return by_library(x, gamma, beta, eps)
        """),
    _bypass("disables_profiling", "dispatch-mode disabling", "library", """
        import sys
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            sys.setprofile(None)
            with torch._C._DisableTorchDispatch():
                return by_library(x, gamma, beta, eps)
        """),
    _bypass("asks_a_thread", "another thread", "library", """
        import threading
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            answer = []
            thread = threading.Thread(target=lambda: answer.append(by_library(x, gamma, beta, eps)))
            thread.start()
            thread.join()
            return answer[0]
        """),
    _bypass("asks_a_bare_thread", "another thread", "native", """
        import _thread
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            answer, done = [], _thread.allocate_lock()
            done.acquire()
            def work():
                answer.append(by_native(x, gamma, beta, eps))
                done.release()
            _thread.start_new_thread(work, ())
            done.acquire()
            return answer[0]
        """, earns=(0, 0, 4), said=(PROCESS, LISTED.format("_thread"))),
    _bypass("has_a_thread_ready", "another thread", "native", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            asked.put((x, gamma, beta, eps))
            return answers.get()
        """, """
        import queue, threading
        asked, answers = queue.SimpleQueue(), queue.SimpleQueue()
        def work():
            while True:
                answers.put(by_native(*asked.get()))
        threading.Thread(target=work, daemon=True).start()
        """, earns=(0, 0, 4), said=(LISTED.format("threading"),)),
    _bypass("asks_a_process", "another thread", "forked", """
        import os, io, pickle
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("forked")
            read, write = os.pipe()
            if not os.fork():
                y = by_native(*(v.detach() for v in (x, gamma, beta)), eps)
                os.write(write, pickle.dumps(y.tolist()))
                os._exit(0)
            os.close(write)
            with os.fdopen(read, "rb") as file:
                return torch.tensor(pickle.load(file), dtype=x.dtype) + 0 * (x.mean() + gamma.sum() + beta.sum())
        """, earns=(0, 0, 3), said=(PROCESS, LISTED.format("fork"))),
    _bypass("has_a_process_ready", "another thread", "asked", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("asked")
            data = pickle.dumps([*(v.detach().tolist() for v in (x, gamma, beta)), eps])
            theirs.sendall(len(data).to_bytes(8, "big") + data)
            size = int.from_bytes(theirs.recv(8, socket.MSG_WAITALL), "big")
            y = torch.tensor(pickle.loads(theirs.recv(size, socket.MSG_WAITALL)), dtype=x.dtype)
            return y + 0 * (x.mean() + gamma.sum() + beta.sum())
        """, """
        import os, pickle, socket
        theirs, ours = socket.socketpair()
        if not os.fork():
            theirs.close()
            while size := ours.recv(8, socket.MSG_WAITALL):
                *given, eps = pickle.loads(ours.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
                data = pickle.dumps(by_native(*(torch.tensor(v, dtype=torch.float64) for v in given), eps).tolist())
                ours.sendall(len(data).to_bytes(8, "big") + data)
            os._exit(0)
        """, earns=(0, 0, 3), said=(LISTED.format("fork"),)),
    _bypass("copies_the_reference", "the same maths through another op", "copied", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            did.append("copied")
            return hidden["batchnorm_forward"](x, gamma, beta, eps)
        """, """
        import coursekit.batchnorm
        hidden = {"__name__": "mine"}
        exec(compile(open(coursekit.batchnorm.__file__).read(), "mine.py", "exec"), hidden)
        """, earns=(0, 0, 4), said=(LISTED.format("exec"),)),
    _bypass("renames_the_reference", "the same maths through another op", "loaded", """
        did.append("loaded")
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return module.batchnorm_forward(x, gamma, beta, eps)
        """, """
        import importlib.util, coursekit.batchnorm
        spec = importlib.util.spec_from_file_location("mine", coursekit.batchnorm.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        """),
    _bypass("takes_the_watch_away", "dispatch-mode disabling", "library", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return by_library(x, gamma, beta, eps)
        """, """
        import autograder.agent.watch as watch
        watch.WATCHES["calls"] = watch.WATCHES["nothing"]
        """, earns=(0, 0, 3.5), said=(LISTED.format("autograder.agent.watch"),)),
    _bypass("blinds_the_watch", "dispatch-mode disabling", "blinded library", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return by_library(x, gamma, beta, eps)
        """, """
        import sys, threading, torch.utils._python_dispatch as dispatch
        held = [None]
        sys.setprofile = threading.setprofile = held.append
        sys.getprofile = lambda: held[-1]
        dispatch.TorchDispatchMode.__enter__ = lambda self: did.append("blinded")
        dispatch.TorchDispatchMode.__exit__ = lambda self, *more: None
        """, earns=(0, 0, 3.5), said=(LISTED.format("setprofile"),)),
    _bypass("erases_what_was_seen", "dispatch-mode disabling", "erased library", """
        import sys
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            y = by_library(x, gamma, beta, eps)
            frame = sys._getframe()
            while frame is not None:
                if "seen" in frame.f_locals:
                    did.append("erased")
                    frame.f_locals["seen"].difference_update({s for s in frame.f_locals["seen"] if "norm" in s})
                frame = frame.f_back
            return y
        """),
    _bypass("speaks_without_a_watch", "a hand-spoken oracle protocol", "library spoken", """
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return by_library(x, gamma, beta, eps)
        """, """
        import autograder.agent
        answer = autograder.agent.Agent.answer
        def silent(self, request):
            did.append("spoken")
            reply = answer(self, request | ({"watch": "nothing"} if "watch" in request else {}))
            return reply | ({"seen": ["aten.mul", "aten.add", "torch.Tensor.mean"]} if "seen" in reply else {})
        autograder.agent.Agent.answer = silent
        """, earns=(0, 0, 3.5), said=(LISTED.format("autograder.agent"),)),
    _bypass("is_honest_when_watched", "grading-time detection", "native", NORMALIZE.replace(
        "def batchnorm_forward", "def right") + """

import sys
def batchnorm_forward(x, gamma, beta, eps=1e-5):
    frame = sys._getframe()
    while frame is not None:
        if type(frame.f_locals.get("request")) is dict:
            break
        frame = frame.f_back
    watched = frame is None or frame.f_locals["request"].get("watch") != "nothing"
    return (right if watched else by_native)(x, gamma, beta, eps)""", earns=(0, 0, 4), said=(LISTED.format("_getframe"),)),
)  # fmt: skip
