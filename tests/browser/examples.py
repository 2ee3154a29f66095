"""An address of each page that can be looked at. A page without an example fails the tests that look at all of them."""

from collections.abc import Callable, Mapping
from typing import Final

from tests.support.furnished import Furnished

EXAMPLES: Final[Mapping[str, Callable[[Furnished], str]]] = {
    "/admin": lambda _: "/admin",
    "/admin/figures": lambda _: "/admin/figures",
    "/admin/sign-in": lambda _: "/admin/sign-in",
}
PIECES: Final = frozenset({"/admin/figures"})
"""Parts of pages, which nobody looks at by themselves."""
