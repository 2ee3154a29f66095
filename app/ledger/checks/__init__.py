"""What must hold of everything that is stored, as SQL: each check selects the rows that break it.

Every statement gives ``account_id``, ``row`` (which row) and ``detail`` (what is wrong), and none if all is well.
docs/invariants.md says of each where the code asserts it.
"""

from typing import Final

from app.ledger.checks.accounts import ACCOUNTS
from app.ledger.checks.entries import ENTRIES
from app.ledger.checks.grants import GRANTS
from app.ledger.checks.holds import HOLDS
from app.ledger.checks.protection import PROTECTION
from app.ledger.checks.sessions import SESSIONS
from app.ledger.checks.top_ups import TOP_UPS

CHECKS: Final = (*ENTRIES, *ACCOUNTS, *GRANTS, *HOLDS, *SESSIONS, *TOP_UPS, *PROTECTION)
