"""Verdicts that nobody made: results, messages and conversations that the kernel forges."""

from __future__ import annotations

import textwrap

from attacks import Attack

TOLD = "print('did:', *sorted(set(did)))"
ALL = ("double", "triple", "batchnorm_forward")


def _attack(name, row, did, first, **more):
    # What it does is told by a cell at the end.
    first = "did = []\n" + textwrap.dedent(first)
    return Attack(name, row, (f"did: {did}",), first, last=TOLD, **more)


ATTACKS = (
    _attack("returns_a_result", "forged execute_result", "check", """
        import autograder.learner
        def check(name, *more):
            did.append("check")
            get_ipython().display_pub.publish({"text/plain": "4.0"})
            return 4.0
        autograder.check = autograder.learner.check = check
        """, flagged=ALL, said=("never asked for a verdict",)),
    _attack("hooks_display", "forged execute_result", "hooked", """
        shell = get_ipython()
        def hook(*a, **k):
            did.append("hooked")
            shell.display_pub.publish({"text/plain": "4.0"}, metadata={})
            shell.kernel.session.send(shell.kernel.iopub_socket, "execute_result",
                {"data": {"text/plain": "4.0"}, "metadata": {}, "execution_count": 1}, parent=shell.parent_header)
        shell.displayhook.__class__.__call__ = hook
        shell.events.register("post_execute", hook)
        """),
    _attack("silences_tracebacks", "silenced showtraceback", "silenced", """
        def silent(*a, **k):
            did.append("silenced")
        shell = get_ipython()
        shell.showtraceback = shell.showsyntaxerror = shell._showtraceback = silent
        import sys
        sys.excepthook = silent
        """, double="def double(x):\n    return 1 / 0\n\n1 / 0"),
    _attack("patches_run_cell", "patched run_cell", "ran", """
        shell = type(get_ipython())
        real = shell.run_cell_async
        async def other(self, source, *a, **k):
            if "_graded_check(" in source:
                did.append("ran")
                source = k["transformed_cell"] = "4.0"
            return await real(self, source, *a, **k)
        shell.run_cell_async = other
        """, flagged=ALL, said=("never asked for a verdict",)),
    _attack("patches_do_execute", "patched do_execute", "executed", """
        kernel = get_ipython().kernel
        real = kernel.do_execute
        async def other(code, silent, *a, **k):
            if "_graded_check(" not in code:
                return await real(code, silent, *a, **k)
            did.append("executed")
            kernel.session.send(kernel.iopub_socket, "execute_result",
                {"data": {"text/plain": "4.0"}, "metadata": {}, "execution_count": 1},
                parent=kernel.get_parent(), ident=kernel._topic("execute_result"))
            return {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}
        kernel.do_execute = other
        """, flagged=ALL, said=("never asked for a verdict",)),
    _attack("transforms_trees", "AST transformers", "visited", """
        import ast
        class Drop(ast.NodeTransformer):
            def visit_Expr(self, node):
                if "_graded_check(" not in ast.unparse(node):
                    return node
                did.append("visited")
                return ast.copy_location(ast.Expr(ast.Constant(4.0)), node)
        get_ipython().ast_transformers.append(Drop())
        """, flagged=ALL, said=("never asked for a verdict",)),
    _attack("transforms_input", "input transformers", "transformed", """
        def forged(lines):
            if not any("_graded_check(" in line for line in lines):
                return lines
            did.append("transformed")
            return ["4.0\\n"]
        get_ipython().input_transformers_cleanup.append(forged)
        """, flagged=ALL, said=("never asked for a verdict",)),
    _attack("forges_messages", "forged iopub messages with the kernel's own key", "sent", """
        def double(x):
            kernel = get_ipython().kernel
            verdict = {"exercise": "double", "outcome": "correct", "points": 3.0, "max_points": 3.0,
                       "results": [], "seed": 0, "flags": [], "devices": []}
            parent = kernel.get_parent()
            assert kernel.session.key
            for kind, content in [
                ("execute_result", {"data": {"text/plain": "3.0"}, "metadata": {}, "execution_count": 1}),
                ("display_data", {"data": {"text/plain": "Correct"}, "metadata": {"coursekit": {"verdict": verdict}}}),
                ("update_display_data", {"data": {"text/plain": "3.0"}, "metadata": {}, "transient": {"display_id": "1"}}),
                ("clear_output", {"wait": False}),
                ("status", {"execution_state": "idle"}),
                ("execute_input", {"code": "3.0", "execution_count": 1}),
            ]:
                kernel.session.send(kernel.iopub_socket, kind, content, parent=parent)
            did.append("sent")
            return 99
        """),
    _attack("replies_early", "forged iopub messages with the kernel's own key", "replied", """
        def double(x):
            kernel = get_ipython().kernel
            parent, sent = kernel.get_parent(), kernel.session.send
            ident = parent["header"]["session"].encode()
            for stream in (kernel.shell_stream, kernel.control_stream):
                sent(stream, "execute_reply", {"status": "ok", "execution_count": 1, "user_expressions": {},
                     "payload": [{"source": "set_next_input", "text": "3.0"}]}, parent=parent, ident=ident)
            sent(kernel.iopub_socket, "status", {"execution_state": "idle"}, parent=parent)
            did.append("replied")
            return 99
        """),
    Attack("leaves_hooks", "atexit hooks", ("did: registered",), first="""\
import atexit, os, sys
def late():
    shell = get_ipython()
    for path in WITHIN:
        try:
            open(path, "ab").write(b"late")
        except OSError:
            pass
    shell.kernel.session.send(shell.kernel.iopub_socket, "execute_result",
        {"data": {"text/plain": "4.0"}, "metadata": {}, "execution_count": 1}, parent=shell.parent_header)
atexit.register(late)
sys.unraisablehook = sys.excepthook = lambda *a: late()
class Last:
    def __del__(self):
        late()
sys.modules["last"] = Last()
print("did: registered")"""),
    _attack("hooks_later_cells", "later-cell hooks", "after before", """
        shell = get_ipython()
        def before(info):
            did.append("before")
            shell.user_ns["double"] = lambda x: 2 * x if False else 99
        def after(result):
            did.append("after")
            result.result, result.error_in_exec = 4.0, None
            shell.user_ns["_"] = 4.0
            display(4.0)
        shell.events.register("pre_run_cell", before)
        shell.events.register("post_run_cell", after)
        """),
    _attack("speaks_a_verdict", "a hand-spoken oracle protocol", "spoken", """
        import os, socket, autograder.agent, autograder.wire as wire
        def serve(self, channel):
            request = channel.receive()
            results = [{"name": n, "says": n, "outcome": "correct", "points": 3.0, "max_points": 3.0, "tried": []}
                       for n in ("values", "negative")]
            forged = {"exercise": "double", "outcome": "correct", "points": 3.0, "max_points": 3.0,
                      "results": results, "seed": 0, "flags": [], "devices": ["cpu"]}
            for reply in ({"verdict": forged}, {"value": True, "verdict": forged}, {"done": forged}, forged):
                channel.send(reply)
            did.append("spoken")
        autograder.agent.Agent.serve = serve
        """),
    _attack("speaks_values", "a hand-spoken oracle protocol", "asked call look", """
        import os, socket, threading, autograder.agent, autograder.wire as wire
        def serve(self, channel):
            kept = None
            while True:
                request = channel.receive()
                did.extend(["asked", request["op"]])
                # What went in comes out, in each way that an equal answer might.
                reply = {"kind": "callable", "type": "function", "module": "__main__", "bases": [], "seen": [],
                         "seconds": -1.0, "printed": "", "devices": ["cpu"], "changed": [], "grads": None}
                if request["op"] == "call":
                    reply |= {"value": request["args"][0] if request["args"] else 1, "points": 3.0, "correct": True}
                channel.send(reply)
        autograder.agent.Agent.serve = serve
        """),
    _attack("speaks_noise", "a hand-spoken oracle protocol", "noise", """
        import autograder.agent, struct
        heads = iter([b"\\x80\\x04cos\\nsystem\\n", struct.pack("!4sQQ", b"crs1", 2**62, 2**62),
                      struct.pack("!4sQQ", b"crs1", 2, 0) + b"{}", b"GET / HTTP/1.0\\r\\n\\r\\n"])
        def serve(self, channel):
            channel.receive()
            did.append("noise")
            channel.sock.sendall(next(heads, b"") * 3)
        autograder.agent.Agent.serve = serve
        """, flagged=ALL),
)  # fmt: skip
