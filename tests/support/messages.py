"""What the program may say of something that goes wrong, read from its code."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "asyncimport"

# What carries a reason, and the position of the reason among its arguments.
CARRIERS = {
    "Held": 1,
    "Ignored": 2,
    "Notice": 0,
    "PlanProblem": 1,
    "SessionFinding": 3,
    "TableIssue": 2,
    "TooLarge": 0,
    "Unreadable": 0,
    "Withheld": 1,
    "_complain": 0,
    "_error": 1,
    "_notice": 0,
    "_say": 0,
    "_wrong": 1,
}
# Constants that are reasons, and no advice, say what something is or does.
SUBJECTS = re.compile(r"(?:it|its|the|no|an?|another|changed|XNAT)\b.* .* .* ")
# Modules whose constants are reasons of files and sessions.
WITH_CONSTANTS = ("journal/", "pipeline/", "routing/", "xnat/resource")
# Functions that return a reason have one of these in their name.
REASONS = re.compile(r"conflict|doubt|problem|reason|surplus|unasked|_why_|_lost_|replaced_since|find_elsewhere|_near$")


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def texts(node: ast.expr | None, names: dict[str, list[ast.expr]], *, depth: int = 0) -> Iterator[str]:
    """Yield the texts that an expression may be; what differs in them is `…`."""
    match node:
        case ast.Constant(value=str(text)):
            yield re.sub(r"\{\w*\}", "…", text)
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.IfExp(body=first, orelse=second) | ast.BinOp(left=first, op=ast.Add(), right=second):
            if isinstance(node, ast.BinOp):
                for left in list(texts(first, names)) or ["…"]:
                    yield from (left + right for right in list(texts(second, names)) or ["…"])
            else:
                yield from texts(first, names, depth=depth)
                yield from texts(second, names, depth=depth)
        case ast.BoolOp(values=parts):
            for part in parts:
                yield from texts(part, names, depth=depth)
        case ast.Call(func=ast.Attribute(value=inner, attr="format" | "removesuffix")):
            yield from texts(inner, names, depth=depth)
        case ast.Name(id=name) | ast.Attribute(attr=name) if depth < 3:
            for value in names.get(name, ()):
                yield from texts(value, names, depth=depth + 1)


def assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Yield names with what is assigned to them."""
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                yield from (
                    (target.id, value)
                    for target, value in zip(targets, values, strict=False)
                    if isinstance(target, ast.Name)
                )
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def by_name(pairs: Iterable[tuple[str, ast.expr]]) -> dict[str, list[ast.expr]]:
    """Group what is assigned by name."""
    found: dict[str, list[ast.expr]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions of a module, also those in classes and functions."""
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def called(node: ast.Call) -> str:
    """Return the name of what is called."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def reason_in(node: ast.AST, errors: set[str], function: str) -> ast.expr | None:
    """Return what a node gives as a reason, if it gives one, in a function of this name."""
    match node:
        case ast.Call(args=arguments):
            position = 0 if called(node) in errors else CARRIERS.get(called(node), len(arguments))
            return arguments[position] if position < len(arguments) else None
        case ast.Assign(targets=[ast.Name(id="reason")], value=value):
            return value
        case ast.Return(value=returned) if function and REASONS.search(function):
            return returned
    return None


@cache
def messages() -> dict[str, str]:
    """Return each message of two words or more with the module that says it; the test server's are not among them."""
    trees = {
        file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text("utf-8"))
        for file in sorted(PACKAGE.rglob("*.py"))
        if "testserver" not in file.parts
    }
    errors, before = {"AsyncimportError"}, 0
    while before < len(errors):
        before = len(errors)
        errors |= {
            node.name
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and any(isinstance(base, ast.Name) and base.id in errors for base in node.bases)
        }
    shared = by_name(pair for tree in trees.values() for pair in assigned(tree.body))
    found: dict[str, str] = {}
    for module, tree in trees.items():
        constants = shared | by_name(assigned(tree.body))
        for _, value in assigned(tree.body) if module.startswith(WITH_CONSTANTS) else ():
            for text in texts(value, {}):
                if SUBJECTS.match(text):
                    found[text] = module
        for scope in [tree, *functions(tree)]:
            names = constants if scope is tree else constants | by_name(assigned(ast.walk(scope)))
            for node in ast.walk(scope):
                reason = reason_in(node, errors, scope.name if isinstance(scope, FUNCTIONS) else "")
                for text in texts(reason, names):
                    # What begins with another reason adds advice to it.
                    if len(re.findall(r"[\w'-]{2,}", text)) > 1 and not re.match(
                        r"…+[;,] …* ?\W*(?:then|run|`|…)", text
                    ):
                        found.setdefault(" ".join(text.split()), module)
    return found
