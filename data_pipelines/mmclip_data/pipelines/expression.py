"""Conditions such as `width >= 200 and similarity > 0.3`: read by Python's own parser, worked out here, never run.

Only what stands in this file exists: names of fields, numbers, texts, comparisons, `and`, `or`, `not`, arithmetic of
numbers, and five functions.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from mmclip.errors import UserError

MAX_LENGTH = 10_000
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "len": (1, len),
    "abs": (1, lambda value: abs(_number(value))),
    "lower": (1, lambda text: _text(text).lower()),
    "startswith": (2, lambda text, start: _text(text).startswith(_text(start))),
    "matches": (2, lambda text, pattern: re.search(_text(pattern), _text(text)) is not None),
}
Lookup = Callable[[str], Any]


class MissingFieldError(Exception):
    """A sample that lacks a field which the condition asks for."""


class Condition:
    """A parsed condition.

    Raises:
        UserError: it is not one.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_LENGTH:
            raise UserError(f"where: {len(text)} characters, at most {MAX_LENGTH}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
            raise UserError(
                f"where={text!r}: not an expression{where}; expected one such as 'width >= 200 and similarity > 0.3'"
            ) from error
        self.fields = frozenset(self._fields(self._tree))

    def holds(self, lookup: Lookup) -> bool:
        """Whether it holds, with fields as `lookup` gives them.

        Raises:
            MissingFieldError: raised by `lookup`, and passed on.
            TypeError, ValueError, ZeroDivisionError: the values do not fit the condition.
        """
        return bool(_value(self._tree, lookup))

    def _fields(self, tree: ast.expr) -> set[str]:
        """The names of fields; everything else is checked on the way."""
        if isinstance(tree, ast.Constant) and isinstance(tree.value, str | int | float | bool | None):
            return set()
        if isinstance(tree, ast.Name):
            return {tree.id}
        if isinstance(tree, ast.Attribute) and _is_path(tree):
            return {ast.unparse(tree)}
        return {name for part in self._parts(tree) for name in self._fields(part)}

    def _parts(self, tree: ast.expr) -> list[ast.expr]:
        if isinstance(tree, ast.BoolOp):
            return tree.values
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not | ast.USub):
            return [tree.operand]
        if isinstance(tree, ast.BinOp) and type(tree.op) in ARITHMETIC:
            return [tree.left, tree.right]
        if isinstance(tree, ast.Compare) and all(type(op) in COMPARISONS or _asks_for_none(tree) for op in tree.ops):
            return [tree.left, *tree.comparators]
        if isinstance(tree, ast.Tuple | ast.List | ast.Set):
            return tree.elts
        if isinstance(tree, ast.Call) and _is_known(tree):
            return tree.args
        raise UserError(
            f"where={self.text!r}: {ast.unparse(tree)!r} is not understood; expected fields, numbers, texts, comparisons, "
            f"and, or, not, + - * / // %, 'is None', and {', '.join(f'{name}()' for name in FUNCTIONS)}"
        )


def _is_path(tree: ast.expr) -> bool:
    """`meta.score`, the field of a table within a table."""
    return isinstance(tree, ast.Name) or (isinstance(tree, ast.Attribute) and _is_path(tree.value))


def _is_known(call: ast.Call) -> bool:
    """Whether it calls one of `FUNCTIONS` with as many arguments as that takes."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return name in FUNCTIONS and not call.keywords and len(call.args) == FUNCTIONS[name][0]


def _asks_for_none(tree: ast.Compare) -> bool:
    """`field is None` and `field is not None`: the only question to a field that may be missing."""
    right = tree.comparators[0]
    return (
        len(tree.ops) == 1
        and isinstance(tree.ops[0], ast.Is | ast.IsNot)
        and isinstance(right, ast.Constant)
        and right.value is None
    )


def _value(tree: ast.expr, lookup: Lookup) -> Any:
    match tree:
        case ast.Constant():
            return tree.value
        case ast.Name():
            return lookup(tree.id)
        case ast.Attribute():
            return lookup(ast.unparse(tree))
        case ast.BoolOp(op=ast.And()):
            return all(_value(part, lookup) for part in tree.values)
        case ast.BoolOp():
            return any(_value(part, lookup) for part in tree.values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(tree.operand, lookup)
        case ast.UnaryOp():
            return -_number(_value(tree.operand, lookup))
        case ast.BinOp():
            return ARITHMETIC[type(tree.op)](_number(_value(tree.left, lookup)), _number(_value(tree.right, lookup)))
        case ast.Tuple() | ast.List() | ast.Set():
            return [_value(part, lookup) for part in tree.elts]
        case ast.Call(func=ast.Name(id=name)):
            return FUNCTIONS[name][1](*(_value(argument, lookup) for argument in tree.args))
        case ast.Compare():
            return _is_none(tree, lookup) if _asks_for_none(tree) else _compare(tree, lookup)
    raise AssertionError(ast.dump(tree))


def _is_none(tree: ast.Compare, lookup: Lookup) -> bool:
    try:
        missing = _value(tree.left, lookup) is None
    except MissingFieldError:
        missing = True
    return missing == isinstance(tree.ops[0], ast.Is)


def _compare(tree: ast.Compare, lookup: Lookup) -> bool:
    left = _value(tree.left, lookup)
    for kind, part in zip(tree.ops, tree.comparators, strict=True):
        right = _value(part, lookup)
        if not COMPARISONS[type(kind)](left, right):
            return False
        left = right
    return True


def _number(value: Any) -> Any:
    """Arithmetic of texts could fill the memory (`"a" * 10**9`)."""
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def field_of(table: Mapping[str, Any], path: str) -> Any:
    """A field of a table, `a.b` of a table within it.

    Raises:
        MissingFieldError: it is not there, or null.
    """
    value: Any = table
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        raise MissingFieldError(path)
    return value
