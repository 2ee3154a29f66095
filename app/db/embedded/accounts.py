"""Which account of the machine runs the server: PostgreSQL refuses to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.db.embedded.errors import EmbeddedPostgresError

UNPRIVILEGED: Final = ("postgres", "nobody")
"""Existing accounts that root lends the server, in order. Root can connect to it; so can others who use the account."""

MINIMAL_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
"""The server sees none of our secrets, and no PG* variable of the operator changes what it does."""

_PROBE_TIMEOUT_S: Final = 10


@dataclass(frozen=True)
class Account:
    """An account other than our own that runs the server for us. Only root can use one."""

    name: str
    uid: int
    gid: int


def account_for_new_cluster() -> Account | None:
    """The account that shall own a new cluster; ``None``: we ourselves. Raises :class:`EmbeddedPostgresError`."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        f"PostgreSQL does not run as root and the machine has none of the accounts {', '.join(UNPRIVILEGED)}: "
        "run talktime as an ordinary user, or set TALKTIME_DATABASE_URL to a server of your own"
    )


def account_of_cluster(cluster: Path) -> Account | None:
    """The account that owns an existing cluster: PostgreSQL runs as no other. ``None``: we ourselves.

    Raises :class:`EmbeddedPostgresError` if we may not run as it.
    """
    uid = cluster.stat().st_uid
    if uid == os.geteuid():
        return None
    try:
        entry = pwd.getpwuid(uid)
        name, gid = entry.pw_name, entry.pw_gid
    except KeyError:
        name, gid = str(uid), cluster.stat().st_gid
    if os.geteuid() != 0:
        raise EmbeddedPostgresError(
            f"{cluster} belongs to the account {name}: run talktime as root or as {name}, "
            "or set TALKTIME_DATA_DIR to a folder of your own"
        )
    return Account(name, uid, gid)


def run_as(account: Account | None, argv: list[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as ``account`` with a minimal environment; its output is text, stderr within stdout.

    Raises ``OSError`` if it cannot be executed and :class:`EmbeddedPostgresError` after ``timeout_s`` seconds.
    """
    try:
        return subprocess.run(  # noqa: S603 - programs and arguments are ours
            argv,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            env=MINIMAL_ENVIRONMENT,
            cwd="/",  # a working folder that the account cannot reach makes PostgreSQL's programs fail
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise EmbeddedPostgresError(f"{argv[0]} did not end within {timeout_s:g} s") from expired


def can_enter(account: Account | None, folder: Path) -> bool:
    """Whether the account can use the folder. The kernel is asked: modes alone do not tell (access lists, mounts)."""
    return (
        run_as(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], timeout_s=_PROBE_TIMEOUT_S).returncode == 0
    )
