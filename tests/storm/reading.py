"""Reads the facts of a storm: the truth from the simulated provider, the rest from the database and the API."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, TypeVar

import httpx
import psycopg
from psycopg.rows import dict_row

from app.core.ids import Kind, public_id
from app.core.lossless_json import loads
from tests.simulation.auditor import read_value
from tests.simulation.charging import Pull
from tests.storm.checks import instant_us, seconds
from tests.storm.customers import OWN
from tests.storm.facts import Beat, Call, Stored, Truth
from tests.storm.weather import PULL_LIES

AT_ONCE: Final = 4

SESSIONS: Final = """
select s.account_id, s.id, s.persona, s.provider_session_id, s.state, s.time_limit, s.authorized, s.charged,
  coalesce(s.leakage, 0) as leakage, s.charge_from, r.name as card,
  (extract(epoch from s.requested_at) * 1000000)::bigint as requested_at,
  (select why from session_steps t where t.account_id = s.account_id and t.session_id = s.id
    order by n desc limit 1) as why,
  exists (select from holds h where h.account_id = s.account_id and h.session_id = s.id and h.state = 'active')
    as hold_active,
  (select coalesce(array_agg((extract(epoch from t.received_at) * 1000000)::bigint order by t.received_at), '{}')
    from ticks t where t.account_id = s.account_id and t.session_id = s.id) as heartbeats,
  (select count(*) from entries e where e.account_id = s.account_id and e.session_id = s.id and e.kind = 'charge')
    as charge_entries,
  (select coalesce(sum(amount), 0)::bigint from entries e
    where e.account_id = s.account_id and e.session_id = s.id) as entries_sum
from sessions s join rate_cards r on r.id = s.rate_card_id order by s.requested_at, s.id
"""
NOT_YET: Final = """
select count(*) from sessions s left join holds h on h.account_id = s.account_id and h.session_id = s.id
where s.state not in ('settled', 'failed', 'review') or h.state = 'active'
"""
GRANTED: Final = "select coalesce(sum(amount), 0)::bigint from entries where kind = 'grant'"

_T = TypeVar("_T")
_R = TypeVar("_R")


class Provider:
    """The simulated provider's control calls."""

    def __init__(self, client: httpx.AsyncClient, url: str, key: str) -> None:
        self._client = client
        self._url = url
        self._key = key

    async def get(self, path: str) -> Any:
        answer = await self._client.get(f"{self._url}{path}", headers={"x-api-key": self._key}, timeout=30)
        answer.raise_for_status()
        return json.loads(answer.content, parse_float=Decimal)

    async def set_faults(self, faults: dict[str, str]) -> None:
        answer = await self._client.put(
            f"{self._url}/sim/faults",
            content="{" + ", ".join(f'"{name}": {value}' for name, value in faults.items()) + "}",
            headers={"x-api-key": self._key},
        )
        answer.raise_for_status()

    async def struck(self) -> dict[str, int]:
        return dict((await self.get("/sim/faults"))["struck"])

    async def calls(self) -> list[dict[str, Any]]:
        """All that it was asked, in the order of coming."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.get(f"/sim/calls?first={len(found)}")
            found += page["data"]
            if len(found) >= page["total"]:
                return found
            if not page["data"]:
                raise RuntimeError("the provider has forgotten calls")

    async def until_quiet(self, patience_s: int) -> None:
        """Wait until every agent has left and no heartbeat is on its way."""
        started = [call["session_id"] for call in await self.calls() if call["operation"] == "start"]
        for session in filter(None, started):
            for _ in range(patience_s * 4):
                told = await self.get(f"/sim/sessions/{session}")
                if told["quiet"] and not told["agent_alive"]:
                    break
                await asyncio.sleep(0.25)
            else:
                raise RuntimeError(f"{session} does not come to rest")

    async def truths(self, calls: Sequence[dict[str, Any]]) -> list[Truth]:
        spoilt = {call["session_id"] for call in calls if call["fault"] in PULL_LIES}
        started = [call["session_id"] for call in calls if call["operation"] == "start" and call["session_id"]]

        async def read(session: str) -> Truth:
            return _truth(await self.get(f"/sim/sessions/{session}"), spoilt=session in spoilt)

        return await _all(started, read)


def calls_of(records: Iterable[dict[str, Any]]) -> list[Call]:
    """The provider's records of what it was asked."""
    return [
        Call(
            at=instant_us(record["at"]),
            operation=record["operation"],
            session=record["session_id"],
            fault=record["fault"],
            ours=not (record["persona"] or "").startswith(OWN),
        )
        for record in records
    ]


def _truth(told: dict[str, Any], *, spoilt: bool) -> Truth:
    connected_at = instant_us(told["connected_at"])
    said = []
    for value in told["talk"]:
        start = connected_at + seconds(value["from_s"])
        if value["type"] in {"user", "agent"}:
            said.append((value["type"], start, start + seconds(value["seconds"])))
    return Truth(
        id=told["session_id"],
        persona=told["persona"],
        connected_at=connected_at,
        left_at=instant_us(told["agent_leaves_at"]),
        said=tuple(said),
        beats=tuple(
            Beat(
                due_at=instant_us(beat["due_at"]),
                sent_at=None if beat["sent_at"] is None else instant_us(beat["sent_at"]),
                done_at=None if beat["done_at"] is None else instant_us(beat["done_at"]),
                status=beat["status"],
                fault=beat["fault"],
            )
            for beat in told["heartbeats"]
        ),
        spoilt=spoilt,
    )


def ask(url: str, statement: str) -> int:
    """The one number that a query gives."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return int(row[0])


async def stored_sessions(url: str, client: httpx.AsyncClient, base: str) -> list[Stored]:
    """All sessions that our side has, with charge and evidence as the API shows them."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        rows = connection.execute(SESSIONS.encode()).fetchall()

    async def read(row: dict[str, Any]) -> Stored:
        session = Stored(
            id=public_id(Kind.SESSION, row["account_id"], row["id"]),
            persona=row["persona"],
            provider_id=row["provider_session_id"],
            **{name: row[name] for name in _SAME},
            heartbeats=tuple(row["heartbeats"]),
        )
        if session.state != "settled":
            return session
        charge: Any = loads(await _read(client, f"{base}/v1/sessions/{session.id}/charge"))
        snapshots: Any = loads(await _read(client, f"{base}/v1/sessions/{session.id}/snapshots?limit=500"))
        return replace(session, charge=charge, pulls=[_pull(snapshot) for snapshot in snapshots["data"]])

    return await _all(rows, read)


_SAME: Final = (
    "state", "why", "requested_at", "time_limit", "authorized", "charged", "leakage", "charge_from", "card",
    "hold_active", "charge_entries", "entries_sum",
)  # fmt: skip


async def _read(client: httpx.AsyncClient, url: str) -> bytes:
    for _ in range(3):
        with suppress(httpx.TransportError):
            return (await client.get(url, timeout=30)).raise_for_status().content
    raise RuntimeError(f"{url} cannot be read")


def _pull(snapshot: dict[str, Any]) -> Pull:
    return Pull(
        requested_at=instant_us(snapshot["requested_at"]),
        received_at=instant_us(snapshot["received_at"]),
        values=tuple(read_value(value) for value in snapshot["values"]),
    )


async def _all(items: Sequence[_T], read: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Each item read, in order, a few at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(item: _T) -> _R:
        async with places:
            return await read(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
