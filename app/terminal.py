"""What commands print for people: a charge bucket by bucket, a user's credits, a period's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

from rich.console import Console, JustifyMethod
from rich.progress import MofNCompleteColumn, Progress, TaskID
from rich.table import Table
from rich.text import Text

REASONS: Final = {
    "open_segment": "the last silence is still open: it counts once it is over",
    "after_time_limit": "after the session's time limit",
    "beyond_elapsed": "more timeline than time has passed",
    "unknown_type": "a type without a price",
    "after_last_proof": "after the last proof of life: nobody was there any more, for all we know",
    "no_proof_of_life": "between two proofs of life too far apart",
    "before_charge_start": "before charging starts",
    "silence_cap": "silence past its billable length",
    "short_session": "the whole session is exempt: it was too short",
    "included": "included time",
}
"""Why time is not billed, in words."""

ANOMALIES: Final = {
    "alive_beyond_timeline": "a heartbeat came for a time that the timeline does not reach",
    "bad_segment": "the timeline has a segment without a usable duration",
    "timeline_longer_than_elapsed": "the timeline is longer than the time since the start",
    "timeline_shrank": "the timeline lost speech that an earlier pull had",
    "unknown_segment_type": "the timeline has a segment of a type that we do not know",
    "unwitnessed_speech": "there is speech without a heartbeat near it",
}


def show_charge(console: Console, document: dict[str, Any]) -> None:
    """Print an explanation: the buckets, the lines, the proof of life, the pieces."""
    state = "" if document.get("final", True) else " so far"
    console.print(f"[bold]{document['amount']} credits[/bold]{state}", highlight=False)
    if Decimal(document["beyond_authorization"]):
        console.print(f"{document['beyond_authorization']} more were not authorised at the start and are not charged.")
    uncovered = Decimal(document.get("leakage") or 0) - Decimal(document["beyond_authorization"])
    if uncovered:
        console.print(f"{uncovered} of it were written off or found no credits, and are not charged.", highlight=False)
    console.print(
        f"Timeline of {_s(document['timeline_s'])} from {document['origin']['at']} ({document['origin']['quality']}), "
        f"rate card {document['rate_card']['name']}.\n",
        highlight=False,
    )
    console.print(_buckets(document))
    console.print(_lines(document))
    console.print(_proof(document))
    for anomaly in document["anomalies"]:
        console.print(f"[yellow]{anomaly}[/yellow]: {ANOMALIES.get(anomaly, '')}")
    for outage in document.get("own_outages", []):
        console.print(
            f"[yellow]own_outage[/yellow]: we received no heartbeats from {_s(outage['from_s'])} to"
            f" {_s(outage['to_s'])}."
        )
    console.print(_pieces(document))


def _buckets(document: dict[str, Any]) -> Table:
    table = Table("Bucket", "Seconds", "Why", title="Where the time went", title_justify="left")
    table.columns[1].justify = "right"
    names = {
        "user_s": ("user speaks", "billed at the full rate"),
        "agent_s": ("agent speaks", "billed at the full rate"),
        "silence_s": ("silence", "billed at the full rate, proven by life on both sides"),
        "reduced_rate_s": ("silence", "billed at the reduced rate"),
    }
    for key, (name, why) in names.items():
        if document["billed"][key]:
            table.add_row(name, _s(document["billed"][key]), why)
    for reason, time in document["not_billed"].items():
        table.add_row(reason, _s(time), f"not billed: {REASONS.get(reason, reason)}")
    table.add_section()
    table.add_row("billed", _s(document["billed"]["total_s"]), "")
    table.add_row("all", _s(document["timeline_s"]), "")
    return table


def _lines(document: dict[str, Any]) -> Table:
    table = Table("Line", "Seconds", "Credits a minute", "Credits", title="How it was priced", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in document["lines"]:
        name = line["type"] + (f" ({line['of']})" if "of" in line else "")
        seconds = _s(line["seconds"]) if "seconds" in line else ""
        table.add_row(name, seconds, line.get("rate_per_minute", ""), line["amount"])
    return table


def _proof(document: dict[str, Any]) -> str:
    stretches = ", ".join(f"{_s(start)} to {_s(end)}" for start, end in document["envelopes"])
    return f"Proven alive: {stretches}.\n"


def _pieces(document: dict[str, Any]) -> Table:
    table = Table("From", "To", "Type", "Billed", title="Second by second", title_justify="left")
    for column in table.columns[:2]:
        column.justify = "right"
    for piece in document["pieces"]:
        billed = f"x {piece['factor']}" if piece["billed"] else f"no: {piece['reason']}"
        if piece.get("own_outage"):
            billed += ", own_outage"
        table.add_row(_s(piece["from_s"]), _s(piece["to_s"]), piece["type"], billed)
    return table


def _s(value: Any) -> str:
    return f"{value} s"


def show_findings(console: Console, findings: list[dict[str, Any]]) -> None:
    """Print what does not hold, row by row, or that all of it does."""
    if not findings:
        console.print("Everything that was checked adds up.")
        return
    _print(console, f"{len(findings)} findings")
    for finding in findings:
        told = f"{finding['check']}: {finding['detail']}\n  account {finding['account_id']}\n  row {finding['row']}"
        _print(console, told)


def _print(console: Console, text: str) -> None:
    """Print ``text`` as it is, in lines as long as they are: what is copied out of it is whole."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_replay(console: Console, charges: list[dict[str, Any]]) -> None:
    """Print what came of each version of a session's charge, and where one came out otherwise."""
    if not charges:
        console.print("Nothing was charged: there is nothing to replay.")
        return
    table = Table("Version", "Engine", "Credits", "Made again", title_justify="left")
    for charge in charges:
        made = "identical" if charge["identical"] else "DIFFERENT"
        table.add_row(str(charge["version"]), charge["engine_version"], charge["amount"], made)
    console.print(table, markup=False)
    _show_differences(console, charges)


def show_replays(console: Console, document: dict[str, Any]) -> None:
    """Print how many charges came out the same, and of the others what differs."""
    charges, sessions = document["charges"], document["sessions"]
    console.print(f"{charges} charges of {sessions} settled sessions were made again from their stored inputs.")
    if not document["different"]:
        console.print("All of them came out identical, byte for byte.")
        return
    console.print(f"{document['different']} came out otherwise" + (", the first:" if document["cut_off"] else ":"))
    _show_differences(console, document["differing_charges"])


def _show_differences(console: Console, charges: list[dict[str, Any]]) -> None:
    for charge in charges:
        if charge["differences"]:
            _print(console, f"{charge['session_id']}, version {charge['version']}")
            table = Table()
            for name in ("what", "stored", "made again"):
                table.add_column(name, overflow="fold")  # a digest that is cut short says nothing
            for item in charge["differences"]:
                table.add_row(Text(item["what"]), Text(item["stored"]), Text(item["replayed"]))
            console.print(table, markup=False)


@contextmanager
def told_progress(console: Console, *, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of thing that is read, told by calls with the kind, how many are done, and of how many."""
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not shown) as bars:
        known: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what)
            bars.update(known[what], completed=done, total=total)

        yield tell


def show_grant(console: Console, document: dict[str, Any], *, new: bool) -> None:
    """Print what was granted, or that it was granted before."""
    what = f"{document['amount']} {document['kind']} credits for {document['user_id']}"
    when = "" if document["state"] == "active" else f", effective {document['effective_at']}"
    told = "Granted" if new else "Granted before, by the same reference"
    _print(console, f"{told}: {what}{when}.\n{document['id']}")


def show_bulk(console: Console, document: dict[str, Any]) -> None:
    """What came of the rows of a file, or would: all of them if nothing was done, else those that were refused."""
    shown = [row for row in document["rows"] if document["dry_run"] or row["outcome"] == "refused"]
    if shown:
        table = Table()
        for name in ("line", "user", "reference", "amount", "outcome", "why"):
            table.add_column(name, overflow="fold", justify="right" if name in {"line", "amount"} else "left")
        for row in shown:
            cells = (str(row["line"]), row["user_id"], row["reference"], row["amount"], row["outcome"])
            table.add_row(*map(Text, cells), Text(row["detail"] or ""))
        console.print(table, markup=False)
    totals = document["totals"]
    _print(console, "Nothing was changed. This would come of it:" if document["dry_run"] else "Done:")
    _print(
        console,
        f"{totals['rows']} rows, {totals['granted']} granted ({totals['amount']} credits), {totals['repeated']} granted"
        f" before, {totals['refused']} refused",
    )


def show_key(console: Console, document: dict[str, Any]) -> None:
    """Print what a key may do and until when."""
    until = _end_of(document) or "never expires"
    told = f"{document['name']}: {', '.join(document['scopes'])}; {until}.\n{document['id']}"
    _print(console, told)


def show_keys(console: Console, document: dict[str, Any]) -> None:
    """Print a page of keys, and how to see more."""
    table = Table()
    table.add_column("Key", no_wrap=True)  # an id in pieces cannot be given to another command
    for name in ("Name", "Scopes", "Made at", "Last used at", "Ends"):
        table.add_column(name, overflow="fold")
    for key in document["data"]:
        used = key["last_used_at"]
        table.add_row(
            key["id"],
            key["name"],
            "\n".join(key["scopes"]),
            key["created_at"][:19] + "Z",
            "never" if used is None else used[:19] + "Z",
            _end_of(key) or "never",
        )
    console.print(table, markup=False)
    if document["next_cursor"] is not None:
        told = f"There are older keys: --limit shows more of them, --cursor {document['next_cursor']} the next."
        _print(console, told)


def show_checked(console: Console, documents: Sequence[dict[str, Any]]) -> None:
    """Print what was checked, a line each."""
    for one in documents:
        if one["fault"] is not None:
            _print(console, f"NOT so: {one['what']}: {one['fault']}")
        elif one["left_out"] is not None:
            _print(console, f"left out: {one['what']}: {one['left_out']}")
        else:
            _print(console, f"holds: {one['what']}")


def show_admins(console: Console, documents: Sequence[dict[str, Any]]) -> None:
    """Print admin accounts."""
    if not documents:
        _print(console, "There is no admin account yet: talktime admins create NAME makes one.")
        return
    table = Table()
    for name in ("Name", "Role", "Made at", "Closed at"):
        table.add_column(name, overflow="fold")
    for admin in documents:
        made, closed = (admin[name] and admin[name][:19] + "Z" for name in ("created_at", "disabled_at"))
        table.add_row(*(Text(cell or "") for cell in (admin["name"], admin["role"], made, closed)))
    console.print(table, markup=False)


def _end_of(key: dict[str, Any]) -> str | None:
    if key["revoked_at"] is not None:
        return f"revoked {key['revoked_at'][:19]}Z"
    return None if key["expires_at"] is None else f"expires {key['expires_at'][:19]}Z"


BALANCE: Final = {
    "balance": "balance",
    "held": "held by sessions",
    "credit_limit": "credit limit",
    "available": "available",
    "accrued": "accrued so far",
    "talk_time_s": "talk time",
}


def show_balance(console: Console, document: dict[str, Any]) -> None:
    """Print a balance; what is not known of the past is left out."""
    title = Text(f"{document['user_id']}, {document['as_of']}")  # no mark-up of the user's
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, words in BALANCE.items():
        if document[name] is not None:
            table.add_row(words, _s(document[name]) if name.endswith("_s") else document[name])
    expiring = document["expiring_next"]
    if expiring is not None:
        table.add_row("expires next", f"{expiring['amount']} at {expiring['at']}")
    console.print(table, markup=False)


TOLD_OF_ENTRIES: Final[dict[str, JustifyMethod]] = {
    "No.": "right",
    "Booked at": "left",
    "Kind": "left",
    "Amount": "right",
    "Balance": "right",
    "About": "left",
}


def show_statement(console: Console, document: dict[str, Any]) -> None:
    """Print a page of a statement, what its entries are about, and whether there is more."""
    table = Table()
    for name, justify in TOLD_OF_ENTRIES.items():
        table.add_column(name, justify=justify, overflow="fold")  # what is cut short is another amount
    for entry in document["data"]:
        about = [entry[name] for name in ("reason", "reference") if entry[name] is not None]
        table.add_row(
            str(entry["seq"]),
            entry["created_at"][:19] + "Z",
            entry["kind"],
            entry["amount"],
            entry["balance_after"],
            "\n".join(about),
        )
    console.print(table, markup=False)
    for entry in document["data"]:
        for name in ("session_id", "grant_id"):
            if entry[name] is not None:
                _print(console, f"No. {entry['seq']}: {entry[name]}")
    if document["next_cursor"] is not None:
        console.print("There are older entries: --limit shows more of them, --csv all.")


def show_roll_forward(console: Console, document: dict[str, Any]) -> None:
    """Print a period's credits, and what they are worth at the grants' cost basis."""
    start = document["after"] or "the beginning"
    until = document["before"] or f"{document['as_of']} (now)"
    rows = document["rows"]
    for title, suffix in (("Credits", ""), ("Value", "_value"), ("Without cost basis", "_without_cost_basis")):
        table = Table(title=f"{title}, from {start} until {until}", title_justify="left")
        table.add_column(overflow="fold")
        for row in rows:
            table.add_column(row["kind"], justify="right", overflow="fold")  # an amount that is cut short is another
        for name in ("opening", "issued", "consumed", "expired", "voided", "corrections", "closing"):
            if name == "closing":
                table.add_section()
            table.add_row(name, *(row[name + suffix] for row in rows))
        console.print(table)


def show_simulation(console: Console, document: dict[str, Any]) -> None:
    """Print what a period's sessions would have cost by another card, whom that hurts, and what is left of it."""
    result = document["result"]
    until = f"{document['after']} until {document['before']}"
    name = Text(f"{document['rate_card']['name']}, over what was settled from {until}")  # no mark-up of the card's
    table = _amounts(name, "", "Sessions", "Before", "After", "Difference")
    table.add_row("compared", *_row_of(result))
    if result["written_off"]["sessions"]:
        table.add_row("written off, in no sum", *_row_of(result["written_off"]))
    console.print(table, markup=False)
    console.print(f"Users are charged {result['charged']} for the compared ones now.", highlight=False)
    for why, words in NOT_RATED.items():
        if result["not_rated"][why]:
            console.print(f"{result['not_rated'][why]} sessions are left out: {words}.", highlight=False)
    changes = _amounts("How the charges of sessions change", "Change", "Sessions", "Difference")
    for bucket in result["distribution"]:
        changes.add_row(_change_of(bucket), str(bucket["sessions"]), bucket["difference"])
    console.print(changes, markup=False)
    users = result["users"]
    console.print(
        f"Of {users['total']} users {users['higher']} would pay more, {users['lower']} less, {users['unchanged']} the "
        "same.",
        highlight=False,
    )
    for title, rows in (("Hurt most", result["users_paying_more"]), ("Gain most", result["users_paying_less"])):
        if rows:
            named = _amounts(title, "User", "Sessions", "Before", "After", "Difference")
            for row in rows:
                named.add_row(Text(row["user_id"]), *_row_of(row))
            console.print(named, markup=False)
    for words, change in (("rises", result["largest_rise"]), ("falls", result["largest_fall"])):
        if change is not None:
            told = f"The charge that {words} most, from {change['before']} to {change['after']}: {change['session_id']}"
            _print(console, told)
    if result["margin"] is not None:
        _show_margin(console, result["margin"])


NOT_RATED: Final = {
    "no_charge": "no charge of them is stored",
    "unknown_engine": "this version lacks the engine that made their charge",
    "unreadable": "what their charge rests on cannot be read",
}


def _show_margin(console: Console, margin: dict[str, Any]) -> None:
    table = _amounts("Margin", "", "Before", "After")
    table.add_row("charged less cost", margin["before"], margin["after"])
    losses = (str(margin["sessions_at_a_loss_before"]), str(margin["sessions_at_a_loss_after"]))
    table.add_row("sessions at a loss", *losses)
    console.print(table, markup=False)
    console.print(f"The provider takes {margin['cost']}, for what was written off as well.", highlight=False)


def _amounts(title: str | Text, *columns: str) -> Table:
    """A table of amounts behind one column of words."""
    table = Table(title=title, title_justify="left")
    for n, name in enumerate(columns):
        table.add_column(name, justify="right" if n else "left", overflow="fold")
    return table


def _row_of(found: dict[str, Any]) -> tuple[str, str, str, str]:
    return str(found["sessions"]), found["before"], found["after"], found["difference"]


def _change_of(bucket: dict[str, Any]) -> str:
    start, end = bucket["from_percent"], bucket["to_percent"]
    match bucket["direction"]:
        case "unchanged":
            return "unchanged"
        case "free_before":
            return "free before"
        case "lower":
            return f"{start} % to under {end} %"
        case _:
            return f"over {start} %" if end is None else f"over {start} % to {end} %"
