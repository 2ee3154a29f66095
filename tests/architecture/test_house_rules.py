"""House rules that the linters do not know, checked on the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "app"
FILES = sorted(path.relative_to(APP) for path in APP.rglob("*.py"))
MONEY = [
    path
    for path in FILES
    if path.parts[0] in {"core", "ledger", "settlement", "accounts", "pricing", "timelines", "what_if"}
]


def tree_of(path: Path) -> ast.Module:
    return ast.parse((APP / path).read_text(encoding="utf-8"))


def floats(tree: ast.AST) -> Iterator[int]:
    """Lines that name ``float``, write a float, or divide with ``/``."""
    for node in ast.walk(tree):
        named = isinstance(node, ast.Name) and node.id == "float"
        written = isinstance(node, ast.Constant) and isinstance(node.value, float)
        divided = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
        if named or written or divided:
            yield getattr(node, "lineno", 0)


def calls(tree: ast.AST, *names: str) -> Iterator[int]:
    """Lines that call a method or function with one of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in names:
                yield node.lineno


def transactions(tree: ast.AST) -> Iterator[ast.AsyncWith]:
    """The blocks that a transaction of the database spans."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncWith):
            for item in node.items:
                called = item.context_expr.func if isinstance(item.context_expr, ast.Call) else None
                if isinstance(called, ast.Attribute) and called.attr in {"transaction", "reading"}:
                    yield node


@pytest.mark.parametrize("path", MONEY, ids=str)
def test_no_float_where_money_and_time_are_counted(path: Path) -> None:
    assert list(floats(tree_of(path))) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] != "db"], ids=str)
def test_nothing_but_the_database_package_begins_or_ends_a_transaction(path: Path) -> None:
    assert list(calls(tree_of(path), "commit", "rollback", "begin", "connect", "create_async_engine")) == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_call_to_the_provider_inside_a_transaction(path: Path) -> None:
    for block in transactions(tree_of(path)):
        for node in ast.walk(block):
            if isinstance(node, ast.Attribute):
                assert "gabber" not in ast.unparse(node).lower(), f"line {node.lineno}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] not in {"ports", "demo", "db", "simulator"}], ids=str)
def test_nobody_asks_what_time_it_is_but_the_clock(path: Path) -> None:
    named = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    asked = {"time.time", "time.time_ns", "time.monotonic", "datetime.now", "datetime.utcnow", "date.today", "func.now"}
    assert not named & asked


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (lambda tree: list(floats(tree)), "rate = amount / 60"),
        (lambda tree: list(floats(tree)), "rate = float(text)"),
        (lambda tree: list(calls(tree, "commit")), "async def f(c):\n    await c.commit()"),
        (lambda tree: list(transactions(tree)), "async def f(d):\n    async with d.transaction() as t:\n        pass"),
    ],
)
def test_the_rules_can_be_broken(rule: object, code: str) -> None:
    assert callable(rule)
    assert rule(ast.parse(code))
