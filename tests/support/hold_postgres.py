"""A process that runs or shares the server of a data folder.

``python -m tests.support.hold_postgres DATA_DIR [own] [not-durable] [account=UID:GID:INTERPRETER]`` prints one JSON
line when the server is up and ends when its standard input does.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import psycopg

from app.db.embedded import EmbeddedPostgres
from app.db.embedded.accounts import Account, run_as


def interpreter_for(account: Account) -> str | None:
    """A Python that the account can run: root's own may be below a folder that is closed to others."""
    for interpreter in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        try:
            if run_as(account, [interpreter, "-I", "-S", "-c", "import ctypes"], timeout_s=10).returncode == 0:
                return interpreter
        except OSError:
            continue
    return None


def _become(account: str) -> None:
    """Drop root's rights once everything is imported, for the same reason."""
    uid, gid, sys.executable = account.split(":")
    assert psycopg.pq.__impl__ == "binary"
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))


def main() -> None:
    data_dir, *options = sys.argv[1:]
    for option in options:
        if option.startswith("account="):
            _become(option.removeprefix("account="))
    server = EmbeddedPostgres(Path(data_dir), durable="not-durable" not in options)
    urls = server.start() if "own" in options else server.start_or_share()
    try:
        sys.stdout.write(json.dumps({**asdict(urls), "owned": server.owned}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
