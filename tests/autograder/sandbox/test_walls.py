"""The walls hold, and a missing one is noticed."""

import contextlib
import glob
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from autograder.sandbox import SANDBOX, cgroup, fork, machine, provisioner, selftest, walls, watch
from autograder.sandbox.fork import Forked, NoFork, warm
from autograder.sandbox.kernel import ORACLE, environment, scratch
from autograder.sandbox.provisioner import SandboxProvisioner
from autograder.sandbox.walls import Limits

pytestmark = pytest.mark.skipif(
    bool(machine.trouble()) and not os.environ.get("CI"), reason=machine.trouble()
)
ROOT = os.geteuid() == 0


def fallen(**changed):
    return {wall.keeps for wall in selftest.tried(**changed) if wall.reached}


@pytest.mark.parametrize("forked", [False, True], ids=["direct", "forked"])
def test_every_wall_holds(forked):
    assert machine.trouble() == ""
    assert fallen(forked=forked) == set()


def without(argument, values=0):
    """Bubblewrap's command line without an argument and so many values of it."""

    def command(kernel):
        made = walls.command(kernel)
        while argument in made[: made.index("--")]:
            at = made.index(argument)
            del made[at : at + 1 + values]
        return made

    return command


def with_bound(*patterns):
    """With folders of the machine itself in their places."""

    def command(kernel):
        made = walls.command(kernel)
        at = made.index("--chdir")
        paths = [path for pattern in patterns for path in glob.glob(pattern)]
        return made[:at] + [part for path in paths for part in ("--bind", path, path)] + made[at:]

    return command


@pytest.mark.parametrize(
    ("command", "fell"),
    [
        (without("--unshare-net"), {"the network"}),
        (without("--unshare-pid"), {"the grader's processes"}),
        (with_bound("/dev/shm"), {"shared memory"}),
        (with_bound(str(Path(walls.__file__).parents[2])), {"the catalogue", "the oracle", "the solutions"}),
        (with_bound(f"{tempfile.gettempdir()}/{selftest.OUTSIDE}*"), {"the gradebook", "other submissions"}),
        (with_bound("/etc"), {"the system's files"}),
    ],
    ids=["network", "processes", "shared memory", "course", "temporary files", "etc"],
)
def test_a_wall_that_is_taken_away_is_missed(monkeypatch, command, fell):
    monkeypatch.setattr(selftest, "command", command)
    assert fell <= fallen()


def test_sockets_without_a_path_are_kept_out_twice(monkeypatch):
    assert "sockets without a path" not in fallen(landlock=False)
    monkeypatch.setattr(selftest, "command", without("--unshare-net"))
    assert "sockets without a path" in fallen(landlock=False)


@pytest.mark.parametrize("forked", [False, True], ids=["direct", "forked"])
def test_without_the_filter_system_calls_get_through(forked):
    assert {"keyrings", "32-bit system calls", "rights"} <= fallen(program=b"", forked=forked)


@pytest.mark.skipif(not ROOT, reason="only root can give a kernel to another user")
@pytest.mark.parametrize("forked", [False, True], ids=["direct", "forked"])
def test_a_kernel_of_root_is_missed(forked):
    assert "rights" in fallen(user=0, forked=forked)


@pytest.mark.parametrize(
    ("kind", "value", "fell"),
    [
        ("memory", 2**40, "memory"),
        ("file", 2**40, "the size of a file"),
        ("processes", 4096, "the number of processes"),
    ],
)
def test_a_limit_that_is_not_set_is_missed(kind, value, fell):
    small = Limits(memory=2**30, file=2**20, processes=64)
    assert fallen(small=small, limits=replace(small, **{kind: value})) == {fell}


@pytest.fixture(params=[True, False], ids=["warm", "cold"])
def is_warm(request):
    return request.param


@pytest.fixture
def kernel(request, monkeypatch, is_warm):
    for name, value in getattr(request, "param", {}).items():
        monkeypatch.setattr(*name, value)
    with started(is_warm) as one:
        yield one


@contextlib.contextmanager
def started(is_warm):
    with scratch() as place:
        manager = KernelManager()
        provisioner = {"provisioner_name": SANDBOX, "config": {"warm": is_warm}}
        manager.kernel_spec.metadata["kernel_provisioner"] = provisioner
        manager.transport, manager.ip = "ipc", str(place / "io" / "k")
        manager.connection_file = str(place / "kernel.json")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        manager.start_kernel(env=environment(place, place / ORACLE / "s"), **silent)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            assert isinstance(manager.provisioner.process, Forked) == is_warm
            yield manager, client, place
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def run(client, code):
    said = []
    reply = client.execute_interactive(
        code, timeout=60, output_hook=lambda m: said.append(str(m["content"].get("text", "")))
    )
    return reply["content"]["status"], "".join(said)


def test_a_kernel_behind_walls_is_a_kernel(kernel):
    _, client, _ = kernel
    code = "import torch, os\nopen('own', 'w').write('x')\nprint(torch.ones(2).sum().item(), os.listdir())"
    assert run(client, code) == ("ok", "2.0 ['own']\n")
    assert run(client, "import autograder.catalog")[0] == "error"
    loaders = "from torch.utils.data import DataLoader\nprint(len(list(DataLoader(range(4), num_workers=2))))"
    assert run(client, loaders) == ("ok", "4\n")


def test_an_interrupt_reaches_the_cell_and_leaves_the_kernel(kernel):
    manager, client, _ = kernel
    run(client, "kept = 5")
    # A kernel that stops on an error drops what arrives just after it.
    endless = client.execute("while True: pass", stop_on_error=False)
    time.sleep(1)
    manager.interrupt_kernel()
    while client.get_shell_msg(timeout=60)["parent_header"]["msg_id"] != endless:
        pass
    assert run(client, "print(kept)") == ("ok", "5\n")


def test_what_a_kernel_has_started_ends_with_it(kernel):
    manager, client, place = kernel
    mark = place.name
    detached = f"import subprocess\nsubprocess.Popen(['setsid', 'sh', '-c', 'sleep 1000; : {mark}'])"
    assert run(client, detached)[0] == "ok"
    assert mark in running()
    manager.shutdown_kernel(now=True)
    deadline = time.monotonic() + 10
    while mark in running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert mark not in running()


MEET = """
import os, socket, pathlib
mark = {mark!r}
sock = socket.socket(socket.AF_UNIX)
sock.bind("\\0" + mark); sock.listen()
for folder in ("/tmp", "/dev/shm", ".", "/dev/pts"):
    try: pathlib.Path(folder, mark).write_text("x")
    except OSError: pass
primary, secondary = os.openpty()
"""
SEEN = """
import os, socket, pathlib
def met(mark, place, pid):
    yield from (f for f in ("/tmp", "/dev/shm", ".") if pathlib.Path(f, mark).exists())
    if len(os.listdir("/dev/pts")) > 1: yield "/dev/pts"
    if pathlib.Path(place).exists(): yield place
    if len([p for p in os.listdir("/proc") if p.isdecimal()]) > 3: yield "/proc"
    try:
        socket.socket(socket.AF_UNIX).connect("\\0" + mark)
        yield "a socket"
    except OSError: pass
print(*met({mark!r}, {place!r}, {pid}))
"""


def meeting():
    """What one forked kernel sees of another one that runs beside it."""
    with started(True) as (_, one, place), started(True) as (manager, other, _):
        mark = secrets.token_hex(8)
        assert run(one, MEET.format(mark=mark))[0] == "ok"
        done, seen = run(other, SEEN.format(mark=mark, place=str(place), pid=manager.provisioner.process.pid))
        assert done == "ok"
        return seen.replace(str(place), "its place").strip()


def test_two_kernels_of_one_warm_process_do_not_meet():
    assert meeting() == ""


@pytest.mark.skipif(not ROOT, reason="without its own mounts a kernel of an ordinary user does not start")
def test_a_namespace_that_two_kernels_share_is_missed(monkeypatch):
    monkeypatch.setattr(walls, "landlock_here", lambda: False)
    monkeypatch.setattr("autograder.sandbox.provisioner.landlock_here", lambda: False)
    monkeypatch.setattr(walls, "OWN", tuple(name for name in walls.OWN if name != "net"))
    assert meeting() == "a socket"


def test_global_random_numbers_are_a_kernels_own():
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item())"
    with started(True) as (_, one, _), started(True) as (_, other, _):
        drawn = run(one, code)[1].split(), run(other, code)[1].split()
    assert all(mine != theirs for mine, theirs in zip(*drawn, strict=True))


def test_nothing_of_a_grader_lies_in_what_kernels_come_from(monkeypatch):
    """Of its environment, its folders and its memory."""
    monkeypatch.setenv("SOME_TOKEN", secret := secrets.token_hex(16))
    with started(True) as (_, client, _):
        code = f"import os, gc; print({secret[:16]!r} + {secret[16:]!r} in str(dict(os.environ)), os.listdir('/work') if os.path.exists('/work') else '')"
        assert run(client, code)[0] == "ok"
        pid = warm()._process.pid
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert secret.encode() not in environ
    assert b"OPENBLAS_NUM_THREADS=1" in environ


def test_without_a_warm_process_a_kernel_is_started_directly(monkeypatch, caplog):
    def none(data=()):
        raise NoFork("there is none here")

    monkeypatch.setattr(provisioner, "warm", none)
    with scratch() as place:
        manager = KernelManager()
        manager.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": SANDBOX}
        manager.transport, manager.ip = "ipc", str(place / "io" / "k")
        manager.connection_file = str(place / "kernel.json")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        manager.start_kernel(env=environment(place, place / ORACLE / "s"), **silent)
        assert isinstance(manager.provisioner.process, subprocess.Popen)
        manager.shutdown_kernel(now=True)
    assert "there is none here" in caplog.text


def test_a_warm_process_starts_while_others_work():
    """In a thread, which has its own."""
    made = []

    def used():
        fork.warm_up()
        (ahead,) = fork._known().values()
        fork.warm_up()
        made.extend([ahead, warm()])
        ahead.end()

    thread = threading.Thread(target=used)
    thread.start()
    thread.join(120)
    assert made[0] is made[1]


def test_a_warm_process_that_cannot_be_had_is_asked_for_once(monkeypatch):
    monkeypatch.setattr(fork, "warm_command", lambda *given: ["sh", "-c", "echo no such thing here >&2"])
    said = []

    def used():
        fork.warm_up()
        for _ in range(2):
            with pytest.raises(NoFork, match="no such thing here") as why:
                warm()
            said.append(why)
        fork.warm_up()

    thread = threading.Thread(target=used)
    thread.start()
    thread.join(60)
    assert len(said) == 2


def test_a_warm_process_that_is_gone_is_started_anew():
    first = warm()
    first._process.kill()
    first._process.wait()
    with started(True):
        assert warm() is not first


SMALL = {(SandboxProvisioner, "limits"): Limits(memory=1400 * 2**20, disk=100 * 2**20)}
NO_GROUP = {(cgroup, "made"): lambda limits: None}
HOGS = {
    "several": "import os\nfor _ in range(6): os.fork()\nx = bytearray(200 * 2**20)\nimport time; time.sleep(60)",
    "shared": "import mmap\nm = mmap.mmap(-1, 1800 * 2**20)\nfor _ in range(1800): m.write(b'x' * 2**20)\nimport time; time.sleep(60)",
}
HIDDEN = "import ctypes\nctypes.CDLL(None).prctl(15, b'\\xff\\xfe', 0, 0, 0)\n"
"""A name of its process that is no text."""


@pytest.mark.parametrize("kernel", [SMALL, SMALL | NO_GROUP], ids=["group", "watched"], indirect=True)
@pytest.mark.parametrize("hog", HOGS)
@pytest.mark.parametrize("hidden", ["", HIDDEN], ids=["", "hidden"])
def test_a_hog_is_stopped_and_told_why(kernel, hog, hidden):
    manager, client, _ = kernel
    client.execute(hidden + HOGS[hog])
    deadline = time.monotonic() + 30
    while manager.provisioner.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert manager.provisioner.process.poll() is not None
    assert manager.provisioner.reached == "took more than 1.4 GiB of memory"


def test_a_watch_that_fails_stops_the_kernel(kernel, monkeypatch):
    manager, *_ = kernel
    monkeypatch.setattr(watch, "memory_of", lambda pid: 1 / 0)
    manager.provisioner.process.wait(10)
    assert manager.provisioner.reached == "could not be watched any more"


@pytest.mark.parametrize("kernel", [SMALL], ids=[""], indirect=True)
def test_files_have_bounded_room_and_are_gone_with_the_kernel(kernel):
    _, client, place = kernel
    code = "for n in range(60): open(f'{n}', 'wb').write(b'x' * 5 * 2**20)"
    assert run(client, code)[0] == "error"
    assert run(client, "open('/tmp/more', 'wb').write(b'x' * 60 * 2**20)")[0] == "error"
    assert run(client, f"open({str(place / 'io' / 'x')!r}, 'w')")[0] == "error"
    assert not list((place / "work").iterdir())
    assert {path.is_socket() for path in (place / "io").iterdir()} == {True}


def test_a_group_is_left_to_nobody(kernel):
    manager, *_ = kernel
    manager.shutdown_kernel(now=True)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/coursekit-{os.getpid()}-*"))


def running():
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) != os.getpid():
            try:
                found.append((place / "cmdline").read_text())
            except OSError:
                continue
    return "\n".join(found)


def test_the_trial_is_kept_and_made_anew_on_another_machine(monkeypatch, tmp_path):
    trials = []

    def tried(forked):
        trials.append(forked)
        return [selftest.Held("the network", "")]

    monkeypatch.setattr(selftest, "tried", tried)
    path = tmp_path / "exams" / "02_batchnorm.walls.json"
    for _ in range(2):
        selftest.recorded(path, forked=True)
    assert trials == [True]
    assert json.loads(path.read_text())["held"] == ["the network"]
    selftest.recorded(path, forked=False)
    assert trials == [True, False]
    for spoilt in ("", "[]", "{", '{"machine": 3}'):
        path.write_text(spoilt)
        selftest.recorded(path, forked=True)
    assert len(trials) == 6


def test_where_a_wall_does_not_hold_nothing_is_graded(monkeypatch, tmp_path):
    fell = [selftest.Held("the network", "1.1.1.1 was reached")]
    monkeypatch.setattr(selftest, "tried", lambda forked: fell)
    with pytest.raises(selftest.Fallen, match=r"nothing was graded.*the network: 1\.1\.1\.1 was reached"):
        selftest.recorded(tmp_path / "x.walls.json", forked=True)
    assert not list(tmp_path.iterdir())


# -- elsewhere -----------------------------------------------------------------------------------------------

SELFTEST = [*("-c", "from autograder.cli import main; main()"), "sandbox", "--selftest"]
PACKAGES = os.pathsep.join(path for path in sys.path if path)
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "env"]
WITHOUT_GROUPS = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh"]


def everybodys_python():
    """An interpreter of this version that an ordinary user may run, with what this one imports; or None."""
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{own}", f"/usr/local/bin/{own}"):
        command = [*AS_NOBODY, python, "-c", "import torch, autograder"]
        with contextlib.suppress(OSError):
            if subprocess.run(command, env=bare(), cwd="/", capture_output=True).returncode == 0:
                return python
    return None


def bare():
    return {"HOME": "/tmp", "PATH": "/usr/bin:/bin", "PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"}


def selftest_under(*command):
    ended = subprocess.run([*command, *SELFTEST], env=bare(), cwd="/", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("held") > 40
    assert "FELL" not in ended.stdout


@pytest.mark.skipif(not ROOT, reason="this is an ordinary user already")
def test_every_wall_holds_for_an_ordinary_user():
    python = everybodys_python()
    if python is None:
        pytest.skip("no ordinary user can run a Python of this version here")
    selftest_under(*AS_NOBODY, python)


@pytest.mark.skipif(not ROOT, reason="only root can hide them")
def test_every_wall_holds_where_there_are_no_control_groups():
    selftest_under(*WITHOUT_GROUPS, sys.executable)
