"""Harm: to the kernel, the machine, the grader and what comes afterwards."""

from __future__ import annotations

from attacks import DOUBLE, TRIPLE, Attack

DIED = r"the kernel died"
# What was printed a moment ago may go with its kernel.
BEGIN = "import time\nprint('did: begin', flush=True)\ntime.sleep(0.4)"
GONE = r"the kernel died"
STOPPED = r"had to be stopped|did not end|ran for more than|still running"


def _dies(name, row, source, *, said=(DIED,), **more):
    """Its answer to `double` is right until the harm; `triple` lies below it."""
    given = {"did": ("did: begin",), "earns": (0, 3, 0), "flagged": ("double",), "triple": TRIPLE, **more}
    return Attack(name, row, double=f"{DOUBLE}\n\n{BEGIN}\n{source}", said=said, **given)


DETACH = """\
import os, subprocess, sys
WAIT = "import os, signal, sys, time\\nfor n in range(1, 32):\\n    try:\\n        signal.signal(n, signal.SIG_IGN)\\n    except (OSError, ValueError):\\n        pass\\n" \\
       "while True:\\n    time.sleep(0.2)\\n    for path in sys.argv[2:]:\\n        try:\\n            open(path, 'ab').write(b'late')\\n        except OSError:\\n            pass"
command = [sys.executable, "-S", "-c", WAIT, LEFT, *WITHIN]
started = [subprocess.Popen(command, start_new_session=True)]
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execv(command[0], command)
    os._exit(0)
started.append(subprocess.Popen(["sh", "-c", '"$@" & "$@" & exec sleep 0', "sh", *command], start_new_session=True))
import time; time.sleep(0.3)
found = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        found += LEFT.encode() in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        pass
print("did: started", found)
"""

ATTACKS = (
    Attack("exits_by_sys", "sys.exit", double=f"{DOUBLE}\n\nimport sys\nprint('did: begin', flush=True)\nsys.exit(0)",
           did=("did: begin",), earns=(3, 0, 0)),
    Attack("exits_when_asked", "sys.exit", ("did: .*leaving",), "did = []", """\
class Leave(BaseException):
    pass
def double(x):
    import sys
    did.append("leaving")
    raise SystemExit(3) if len(did) % 2 else Leave("for good")""", TRIPLE, last="print('did:', *did)", earns=(0, 3, 0)),
    _dies("exits_at_once", "os._exit", "import os\nos._exit(0)"),
    Attack("exits_in_the_check", "os._exit", double="def double(x):\n    import os\n    os._exit(0)", triple=TRIPLE,
           earns=(0, 3, 0), flagged=("double",), said=(GONE,)),
    _dies("segfaults", "segfault", "import ctypes\nctypes.string_at(0)"),
    Attack("segfaults_in_the_check", "segfault", double="def double(x):\n    import ctypes\n    ctypes.string_at(8)",
           triple=TRIPLE, earns=(0, 3, 0), flagged=("double",), said=(GONE,)),
    _dies("takes_all_memory", "out of memory", """\
import mmap
m = mmap.mmap(-1, 2**32)
for _ in range(4000):
    m.write(b"x" * 2**20)""", said=("more than 1.5 GiB of memory",)),
    Attack("asks_for_memory", "out of memory", ("did: MemoryError RuntimeError",), """\
import torch
did = []
for big in (lambda: bytearray(2**36), lambda: torch.ones(2**36)):
    try:
        big()
    except (MemoryError, RuntimeError) as error:
        did.append(type(error).__name__)
print("did:", *did)""", DOUBLE, earns=(3, 0, 0)),
    _dies("ignores_signals", "ignored signals", """\
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    pass""", said=(STOPPED,)),
    _dies("stops_itself", "ignored signals", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", said=(STOPPED,)),
    _dies("loops_in_a_cell", "endless loop", "while True:\n    pass", said=(), earns=(3, 3, 0), flagged=()),
    Attack("loops_in_the_check", "endless loop", double="def double(x):\n    while True:\n        pass", triple=TRIPLE,
           earns=(0, 3, 0), flagged=("double",), said=("still running",)),
    Attack("loops_through_interrupts", "endless loop", double="""\
def double(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass""", triple=TRIPLE, earns=(0, 3, 0), flagged=("double",), said=("still running",)),
    _dies("kills_everything", "ignored signals", """\
import os
# Where its walls had fallen it would end everything here.
assert sum(map(str.isdigit, os.listdir("/proc"))) < 20
os.kill(os.getppid(), 9)
os.kill(-1, 9)
os._exit(1)"""),
    Attack("forks_a_bomb", "fork bomb", (r"did: forked \d\d+",), """\
import os, time
read, write = os.pipe()
end = time.monotonic() + 1
if not os.fork():
    while time.monotonic() < end:
        try:
            os.fork()
            os.write(write, b"x")
        except OSError:
            pass
    time.sleep(600)
time.sleep(1.2)
os.set_blocking(read, False)
forked = len(os.read(read, 1_000_000))
print("did: forked", forked)""", DOUBLE, earns=(3, 0, 0)),
    Attack("fills_the_disk", "disk fill", (r"did: filled .*OSError",), """\
import os
def fill(place):
    written = 0
    try:
        os.makedirs(place, exist_ok=True)
        with open(place + "/full", "wb") as file:
            while written < 2**33:
                written += file.write(bytes(2**22))
    except OSError as error:
        return written >> 20, "OSError"
    finally:
        try:
            os.remove(place + "/full")
        except OSError:
            pass
    return written >> 20, "endless"
filled = [fill(place) for place in ("/dev/shm", "../io", "../oracle", "/var/tmp")]
assert not any(kind == "endless" for _, kind in filled)
print("did: filled", *filled)""", DOUBLE, earns=(3, 0, 0)),
    Attack("floods_outputs", "output flood", ("did: flooded",), """\
print("did: flooded", flush=True)
for n in range(2000):
    print("x" * 10_000)
    if n % 50 == 0:
        display({"text/html": "y" * 100_000, "text/plain": "z" * 100_000}, raw=True)
import os
for descriptor in (1, 2):
    for _ in range(500):
        os.write(descriptor, b"x" * 10_000)""", "def double(x):\n    print('x' * 10_000_000)\n    return 2 * x", earns=(3, 0, 0)),
    Attack("leaves_processes", "processes left behind", ("did: started [3-9]",), DETACH, DOUBLE, earns=(3, 0, 0)),
    Attack("leaves_processes_when_killed", "processes left behind", double=f"{DOUBLE}\n\n{DETACH}\nimport os\nos._exit(1)",
           triple=TRIPLE, earns=(0, 3, 0), flagged=("double",), said=(DIED,)),
    Attack("spoils_its_sockets", "forged iopub messages with the kernel's own key", ("did: spoilt",), """\
import glob, json, os, socket
spoilt = 0
for path in glob.glob("../io/*"):
    for junk in (b"\\xff" * 64, bytes(100_000), b"GET / HTTP/1.0\\r\\n\\r\\n"):
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(0.2)
                sock.connect(path)
                sock.sendall(junk)
                spoilt += 1
        except OSError:
            pass
print("did: spoilt", spoilt)""", DOUBLE, earns=(3, 0, 0)),
    Attack("removes_its_sockets", "forged iopub messages with the kernel's own key", ("did: removed [1-9]",), """\
import glob, os
removed = 0
for path in glob.glob("../io/*"):
    os.remove(path)
    removed += 1
print("did: removed", removed)""", DOUBLE, earns=(3, 0, 0)),
    Attack("finds_out_that_it_is_graded", "grading-time detection", ("did: graded",), """\
import os, sys
graded = "AUTOGRADER_SOCKET" in os.environ or not os.path.exists("/etc/passwd")
print("did:", "graded" if graded else "at home")""", "def double(x):\n    return 6 if graded and x == 99 else 99"),
    Attack("plants_bombs", "time bombs", ("did: planted exploded",), """\
import os, signal, sys, threading, time
did = ["planted"]
def explode(*_):
    did.append("exploded")
    import autograder.agent, autograder.wire
    sys.setrecursionlimit(60)
    for module in (autograder.agent, autograder.wire):
        for name in list(vars(module)):
            if callable(getattr(module, name)) and not name.startswith("_"):
                setattr(module, name, lambda *a, **k: {"value": 6, "points": 3})
threading.Timer(0.3, explode).start()
signal.signal(signal.SIGUSR1, explode)""", "def double(x):\n    import time\n    time.sleep(0.5)\n    return 99",
           last="""\
import sys, time
sys.setrecursionlimit(3000)
for _ in range(100):
    if len(did) > 1: break
    time.sleep(0.1)
sys.setrecursionlimit(3000)
print("did:", *did)"""),
    Attack("shadows_modules", "shadow modules", ("did: own helpers",), """\
import helpers, torch, autograder, json
print("did: own", helpers.NAME, *(m for m in (torch, autograder, json) if hasattr(m, "SHADOW")))
assert not any(hasattr(m, "SHADOW") for m in (torch, autograder, json))""", DOUBLE, earns=(3, 0, 0),
           files={
               "helpers.py": "NAME = 'helpers'\n",
               **dict.fromkeys(("torch.py", "autograder/__init__.py", "json.py", "sqlite3.py", "nbgrader.py", "pytest.py", "socket.py"), "SHADOW = 1\nraise RuntimeError\n"),
           }, said=("bears the name of a module",)),
    Attack("customizes_the_site", "sitecustomize", (r"did: wrote \d+ of \d+",), """\
import os, site, subprocess, sys
places = [".", "/tmp", os.path.expanduser("~"), site.getusersitepackages(), *site.getsitepackages(), *sys.path, os.environ.get("IPYTHONDIR", "")]
wrote = 0
for place in places:
    for name in ("sitecustomize.py", "usercustomize.py", "evil.pth", "profile_default/startup/00.py"):
        try:
            os.makedirs(os.path.dirname(os.path.join(place, name)), exist_ok=True)
            with open(os.path.join(place, name), "w") as file:
                file.write("import os; os.environ['CUSTOMIZED'] = '1'\\n")
            wrote += 1
        except OSError:
            pass
print("did: wrote", wrote, "of", 4 * len(places))""", DOUBLE, earns=(3, 0, 0),
           files=dict.fromkeys(("sitecustomize.py", "usercustomize.py", "conftest.py"), "raise SystemExit('customized')\n")),
    Attack("decorates_feedback", "ANSI and HTML in feedback", ("did: decorated",), """\
print("did: decorated\\x1b[2J\\x1b]0;owned\\x07\\x1b[31mred")
from IPython.display import HTML, display
display(HTML("<script>alert('owned-by-html')</script>"))
display({"text/html": "<img src=x onerror=alert('owned-by-html')>", "text/plain": "<script>owned-by-text</script>",
         "application/javascript": "alert('owned-by-html')", "image/svg+xml": "<svg onload=alert('owned-by-html')/>"}, raw=True)""",
           """\
def double(x):
    print("\\x1b[31m<script>owned-by-print</script>")
    raise ValueError("\\x1b]8;;http://evil\\x07</pre><script>owned-by-error</script>\\u202e")""",
           normalize="""\
def batchnorm_forward(x, gamma, beta, eps=1e-5):
    return "</pre><script>owned-by-value</script>\\x1b[2J" """.rstrip()),
)  # fmt: skip
