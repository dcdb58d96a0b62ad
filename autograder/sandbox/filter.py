"""The system calls that a student's kernel may make: a list of what is allowed, as a program for the Linux kernel.

The list is what the seven solved notebooks and JupyterLab's kernel were seen to call, and their nearest relatives. What
is left out lets two kernels meet (keyrings, System V queues, other kinds of sockets), look into each other (ptrace,
process_vm_readv), build walls of their own (mounts, namespaces) or reach parts of Linux that no notebook needs.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any

ALLOWED = """
    accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod clock_getres clock_gettime
    clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
    flistxattr flock fork fstat fstatfs fsync ftruncate futex futex_waitv get_mempolicy get_robust_list getcpu
    getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid
    gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen
    listxattr llistxattr lseek lstat madvise mbind membarrier mincore mkdir mkdirat mlock mlock2 mmap mprotect
    mremap msync munlock munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal
    pipe pipe2 poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat renameat2 restart_syscall
    rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield select sendfile sendmmsg sendmsg sendto set_mempolicy set_robust_list
    set_tid_address setgid setgroups setitimer setpgid setpriority setresgid setresuid setrlimit setsid
    setsockopt setuid shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat
    sync_file_range sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink
    unlinkat utime utimensat utimes vfork wait4 waitid write writev
    """.split()  # noqa: SIM905 (two hundred names read better without quotes)
"""What is allowed with any arguments."""

FAMILIES = (1, 2, 10, 16)
"""Kinds of sockets: Unix, the two internets (of a network that is empty) and netlink. Others, such as a virtual
machine's own, no namespace keeps apart."""

NAMESPACES = 0x7E020000
"""The flags of clone that make a namespace of any kind."""


class NoFilter(Exception):
    """No filter can be had here; the message says why."""


def program() -> bytes:
    """The filter as the bytes of a classic BPF program. Raises :class:`NoFilter` where libseccomp is missing."""
    seccomp = _library()
    made = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in ALLOWED:
        _allow(seccomp, made, name)
    for family in FAMILIES:
        # Linux itself reads the lower half of this argument.
        made.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, family))
    made.add_rule(seccomp.ALLOW, "socketpair", seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, 1))
    made.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, NAMESPACES, 0))
    # Its flags lie in memory, where no filter can see them; libraries then fall back to clone.
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return os.read(file.fileno(), 1 << 20)


def system_call(name: str) -> int:
    """The number of a system call on this processor, or less than 0. Raises :class:`NoFilter` as :func:`program` does."""
    return int(_library().resolve_syscall(_library().Arch.NATIVE, name))


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise NoFilter(
            f"the filter of system calls needs pyseccomp and the library libseccomp ({error})"
        ) from error
    return pyseccomp


def _allow(seccomp: Any, made: Any, name: str) -> None:
    try:
        made.add_rule(seccomp.ALLOW, name)
    except (OSError, RuntimeError, ValueError):
        # This processor has no call of that name.
        if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0:
            raise
