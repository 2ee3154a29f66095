"""Signing in and out."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from starlette.responses import RedirectResponse, Response

from app.access.sign_ins import SignIns
from app.errors import UNAUTHORIZED, Problem
from app.http.access import MAX_CREDENTIALS
from app.http.rate_limits import Meter, address_of, too_many
from app.web.forms import Form, read_form
from app.web.site import ADMIN, SIGN_IN, Page, Visit, local_path

LINK: Final = SIGN_IN + "/link"

Result = TypeVar("Result")
Counted = Sequence[tuple[Meter, str, str]]


class SignInPages:
    """``failures``: how often an address may be wrong; ``guesses``: how often the password of a name may be."""

    def __init__(self, sign_ins: SignIns, failures: Meter, guesses: Meter) -> None:
        self._sign_ins = sign_ins
        self._failures = failures
        self._guesses = guesses

    def pages(self) -> list[Page]:
        return [
            Page(SIGN_IN, self._ask, scope=None),
            Page(SIGN_IN, self._sign_in, "POST", scope=None),
            Page(LINK, self._show_link, scope=None),
            Page(LINK, self._use_link, "POST", scope=None),
            Page(ADMIN + "/sign-out", self._sign_out, "POST", scope=None),
        ]

    async def _ask(self, visit: Visit) -> Response:
        back, expired = local_path(visit.asked("next")), visit.asked("expired")
        return visit.page("sign_in.html", back=back, name="", problem=None, expired=expired)

    async def _sign_in(self, visit: Visit) -> Response:
        form = await read_form(visit.request)
        back = local_path(form.one("next"))
        name = form.one("name").strip()
        try:
            token = await self._within_limits(visit, form, name)
        except Problem as problem:
            if problem.status >= 500:
                raise
            page = visit.page("sign_in.html", problem.status, back=back, name=name, problem=problem, expired="")
            page.headers.update(problem.headers)
            return page
        response = RedirectResponse(back, 303)
        visit.site.sign_in(response, token)
        return response

    async def _within_limits(self, visit: Visit, form: Form, name: str) -> str:
        """The token of the session that was opened."""
        counted = [self._by_address(visit)]
        if name and not form.one("key"):
            counted.append((self._guesses, name, "too many attempts with this name"))
        return await _counted(counted, lambda: self._open(visit, form, name))

    def _by_address(self, visit: Visit) -> tuple[Meter, str, str]:
        return self._failures, address_of(visit.request), "too many attempts from this address"

    # A link is looked at by whatever it is sent through, so looking does not use it up: a person's click does.

    async def _show_link(self, visit: Visit) -> Response:
        token = visit.asked("token")
        try:
            name = await _counted([self._by_address(visit)], lambda: self._sign_ins.whom_link_signs_in(token))
        except Problem as problem:
            return _refused(visit, problem)
        return visit.page("sign_in_link.html", name=name, token=token, problem=None)

    async def _use_link(self, visit: Visit) -> Response:
        token = (await read_form(visit.request)).one("token")
        try:
            opened = await _counted([self._by_address(visit)], lambda: self._sign_ins.by_link(token, visit.actor))
        except Problem as problem:
            return _refused(visit, problem)
        response = RedirectResponse(ADMIN, 303)
        visit.site.sign_in(response, opened)
        return response

    async def _open(self, visit: Visit, form: Form, name: str) -> str:
        key, password = form.one("key").strip(), form.one("password")
        if key:
            if len(key) > MAX_CREDENTIALS or not key.isascii():
                raise Problem(UNAUTHORIZED, "this key is not valid")
            return await self._sign_ins.by_key(key, visit.actor)
        if name and password:
            return await self._sign_ins.by_password(name, password, visit.actor)
        raise Problem(UNAUTHORIZED, "give an admin key, or a name and its password")

    async def _sign_out(self, visit: Visit) -> Response:
        await visit.form()
        await self._sign_ins.end(visit.token)
        response = RedirectResponse(SIGN_IN, 303)
        visit.site.sign_out(response)
        return response


async def _counted(counted: Counted, work: Callable[[], Awaitable[Result]]) -> Result:
    """Do ``work``, unless it failed too often before; only what fails is counted."""
    for meter, whose, detail in counted:
        taken = meter.look(whose)
        if taken is not None and taken.wait:
            raise too_many(taken, detail)
    try:
        return await work()
    except Problem:
        for meter, whose, _ in counted:
            meter.take(whose)
        raise


def _refused(visit: Visit, problem: Problem) -> Response:
    if problem.status >= 500:
        raise problem
    page = visit.page("sign_in_link.html", problem.status, name="", token="", problem=problem)
    page.headers.update(problem.headers)
    return page
