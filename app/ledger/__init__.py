"""The ledger: accounts, grants, holds, and the entries that only grow.

Every change goes through a :class:`~app.ledger.book.Book`: one account, locked, changed by the rules of
:mod:`app.core.ledger`, written at once. Entries carry a MAC each, chained per account.
"""
