"""Becomes postgres: run as a script between the fork and the exec, so that the server never outlives its parent.

A function between fork and exec in the parent's own memory (``preexec_fn``) can hang once the parent has threads. This
process has one thread, may read what only root can read, and stays the same direct child when it becomes postgres.

Arguments: the parent's pid; the account's uid and gid, or ``-`` twice; the program and its arguments.
"""

import ctypes
import os
import signal
import sys
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1


def main(argv: list[str]) -> NoReturn:
    parent, uid, gid, *command = argv
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After the change of account, which clears it. SIGQUIT is PostgreSQL's immediate shutdown: over within seconds
        # whatever the disk does, where SIGINT's fast shutdown first writes a checkpoint. The next start recovers as
        # after any crash.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
        if os.getppid() != int(parent):
            sys.exit("the parent died before it could be watched")
    # Python ignores it, and exec hands that on.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 - the parent names the program


if __name__ == "__main__":
    main(sys.argv[1:])
