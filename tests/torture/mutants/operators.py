"""What is changed in a source: each place where a small error can be planted, in the order of the text.

Texts (strings, docstrings), annotations, decorators, imports and the `strict` of a zip stay as they are. Everything
else that computes, decides, counts or returns is changed in every way named here.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_PAIRS = [
    ("min", "max"),
    ("amin", "amax"),
    ("minimum", "maximum"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("floor", "ceil"),
]
SWAPPED = dict(_PAIRS) | {right: left for left, right in _PAIRS}
_UNTOUCHED = {"annotation", "returns", "decorator_list", "format_spec", "type_params", "type_comment"}


@dataclass(frozen=True)
class Mutant:
    """One planted error: where it is, what kind, and the two texts."""

    file: str
    number: int  # in the file, in the order of `planted`
    line: int
    column: int
    operator: str
    function: str  # the outermost one with its class; empty in a module's own statements
    inside: bool  # in the body of that function, not in its defaults
    before: str
    after: str
    which: int = 1  # of those of this function that read the same

    @property
    def name(self) -> str:
        """File, line, column, operator and the number of its kind there: the same in every run on the same source."""
        return f"{self.file}:{self.line}:{self.column}:{self.operator}:{self.number}"

    @property
    def place(self) -> str:
        """Where it is, in words that an edit elsewhere in the file leaves alone."""
        again = f" ({self.which})" if self.which > 1 else ""
        return f"{self.file} {self.function}: {self.before} -> {self.after}{again}"


def mutants(file: str, source: str) -> list[Mutant]:
    """Every mutant of the source, in the order of its text."""
    found: list[Mutant] = []
    alike = Counter[tuple[str, ...]]()
    for number, change in enumerate(_changes(ast.parse(source), Scope())):
        node, scope = change.node, change.scope
        if change.operator == _ASSERTION:
            continue
        before, after = (ast.unparse(part).splitlines()[0] for part in (node, change.new))
        alike[scope.name, before, after] += 1
        which = alike[scope.name, before, after]
        place = (file, number, node.lineno, node.col_offset, change.operator)
        found.append(Mutant(*place, scope.name, scope.inside, before, after, which))
    return found


def planted(source: str, number: int) -> ast.Module:
    """The tree of the source with its mutant of this number."""
    tree = ast.parse(source)
    for this, change in enumerate(_changes(tree, Scope())):
        if this == number:
            change.put(ast.copy_location(change.new, change.node))
            return ast.fix_missing_locations(tree)
    raise IndexError(f"the source has no mutant {number}")


_ASSERTION = "assertion"
"""Of `zip(strict=True)`: that lengths agree, which they do as long as nothing else is wrong."""


class Scope(NamedTuple):
    name: str = ""
    inside: bool = False


class Change(NamedTuple):
    node: ast.expr | ast.stmt
    operator: str
    new: ast.AST
    put: Callable[[ast.AST], None]
    scope: Scope


def _changes(tree: ast.AST, scope: Scope) -> Iterator[Change]:
    for field, node, put in _children(tree):
        if _left_out(node):
            continue
        here = scope
        if isinstance(tree, ast.FunctionDef) and field == "body":
            here = Scope(scope.name, inside=True)
        asserted = isinstance(tree, ast.keyword) and tree.arg == "strict"
        for operator, new in _variants(field, node):
            yield Change(node, _ASSERTION if asserted else operator, new, put, here)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not here.inside:
            here = Scope(f"{here.name}.{node.name}".lstrip("."))
        yield from _changes(node, here)


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST, Callable[[ast.AST], None]]]:
    for field, value in ast.iter_fields(node):
        if field in _UNTOUCHED:
            continue
        if isinstance(value, list):
            yield from (
                (field, child, partial(value.__setitem__, i))
                for i, child in enumerate(value)
                if isinstance(child, ast.AST)
            )
        elif isinstance(value, ast.AST):
            yield field, value, partial(setattr, node, field)


def _left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Import | ast.ImportFrom)


def _variants(field: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if field in ("test", "ifs") and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield "condition", ast.UnaryOp(ast.Not(), node)
    yield from _of_values(node)
    yield from _of_calls(node)
    yield from _of_statements(node)


def _of_values(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                for new in COMPARISONS[type(op)]:
                    yield (
                        "compare",
                        ast.Compare(node.left, [*node.ops[:i], new(), *node.ops[i + 1 :]], node.comparators),
                    )
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC:
            yield "arithmetic", ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.BoolOp(op, values):
            yield "boolean", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield "unary", operand
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() as value):
            yield from (("constant", ast.Constant(value + step)) for step in (1, -1))
        case ast.Constant(float() as value):
            yield "constant", ast.Constant(2 * value if value else 1.0)


def _of_calls(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Call(ast.Name("abs"), [value]) | ast.Call(ast.Attribute(value, "abs"), []):
            yield "call", value
        case ast.Call(ast.Name("sorted"), [value, *_]):
            yield "call", ast.Call(ast.Name("list", ast.Load()), [value], [])
        case ast.Call(ast.Name(name), args, keywords) if name in SWAPPED:
            yield "call", ast.Call(ast.Name(SWAPPED[name], ast.Load()), args, keywords)
        case ast.Call(ast.Attribute(value, name), args, keywords) if name in SWAPPED:
            yield "call", ast.Call(ast.Attribute(value, SWAPPED[name], ast.Load()), args, keywords)


def _of_statements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Expr(ast.Call()) | ast.Raise() | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "dropped", ast.Pass()
        case ast.AugAssign(target, op, value):
            yield "dropped", ast.Pass()
            if type(op) in ARITHMETIC:
                yield "arithmetic", ast.AugAssign(target, ARITHMETIC[type(op)](), value)
        case ast.Return(value) if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            yield "dropped", ast.Return(ast.Constant(None))
        case ast.Break():
            yield "jump", ast.Continue()
        case ast.Continue():
            yield "jump", ast.Break()
