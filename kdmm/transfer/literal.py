"""Reading the config text of a checkpoint without running it."""

import ast
from collections.abc import Collection
from typing import Any

from kdmm.errors import ConfigError


class Unread(str):
    """Source text of a value that only running it would give."""


def read_literals(text: str, names: Collection[str]) -> dict[str, Any]:
    """The assignments to ``names`` in a config text: literals, and ``dict(...)`` of literals.

    What is no literal becomes `Unread`; a dotted name (a class) becomes its text.

    Raises:
        ConfigError: If the text is no Python.
    """
    try:
        found = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name in names:
                    found[name] = _value(node.value)
        return found
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f'the config in the checkpoint is no Python text ({error}): give --source-config'
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Attribute):  # a class that MMEngine wrote as module.Class
        return ast.unparse(node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Unread(ast.unparse(node))


def _call(node: ast.Call) -> Any:
    """``dict(a=1)``, or ``dict({'a': 1})`` as MMEngine writes keys that are no identifiers."""
    named = all(keyword.arg for keyword in node.keywords)
    if not (isinstance(node.func, ast.Name) and node.func.id == 'dict' and named):
        return Unread(ast.unparse(node))
    start = [_value(item) for item in node.args]
    if start and not (len(start) == 1 and isinstance(start[0], dict)):
        return Unread(ast.unparse(node))
    given = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    return {**(start[0] if start else {}), **given}
