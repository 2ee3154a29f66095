"""Run all benchmarks, print them and write ``docs/performance.md``."""

import os
import platform

from benchmarks import engine, heartbeats, ledger, lists, pages
from benchmarks.figures import HEADER, Figure

TEXT = """# Performance

Ratios of both sides, measured in turn in one run on one machine, medians; `make bench` measures and writes this page
anew. Absolute figures say something about the machine only. Measured on {cores} cores, Python {python}, with load
generator, service and PostgreSQL (durable settings) on the same cores.

{table}

Each benchmark checks its own result and fails if it is wrong. What is measured:

- *Heartbeats*: `benchmarks/heartbeats.py`. Token check, body validation, arrival stamp, session binding, group commit,
  204 after the commit, in a real `talktime serve`. The other side is uvicorn with the same loop and parser.
- *Engine*: `benchmarks/engine.py`. Lossless parse, offsets, origin, envelopes, buckets, rating, pieces.
- *Ledger*: `benchmarks/ledger.py`. Each read is a transaction of its own, with as many changes of holds and lines of
  funding as entries. A ratio of 100 % says that the length of the account's history costs nothing. CSV is read in
  pages, each with its funding, and formatted; the memory is what Python allocates at most while it streams.
- *Pages*: `benchmarks/pages.py`. Each page of the admin's and the user's, read from the database and rendered, without
  the network; `python -m benchmarks.pages` prints all of them. The other side is the page that says that there is none:
  it looks up who asks, and has the same frame. No page is to cost more than ten such (a ratio of 10 %).
"""


def main() -> None:
    rows = []
    for measure in (engine.measure, heartbeats.measure, ledger.measure, pages.measure):
        measured = measure()
        for figure in [measured] if isinstance(measured, Figure) else measured:
            rows.append(figure.row())
            print(rows[-1], flush=True)
    table = "\n".join([HEADER, *rows])
    # What takes a database of a million users has a command of its own.
    _, heading, kept = lists.PAGE.read_text(encoding="utf-8").partition(lists.HEADING)
    text = TEXT.format(cores=os.cpu_count(), python=platform.python_version(), table=table)
    lists.PAGE.write_text(text + (f"\n{heading}{kept}" if heading else ""), encoding="utf-8")
    print(f"written to {lists.PAGE.name}")


if __name__ == "__main__":
    main()
