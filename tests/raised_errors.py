"""Which error codes a piece of the product can answer with, read from its source.

A walk over the calls that begin in a function: every call is followed into the product, whatever
branch it stands in, and each `RequestRefused` and `Unavailable` on the way is collected. Objects are
known by the annotations of parameters, fields and results. Where one is not, every method of that
name in the product is followed: rather too much than too little. Calls in a ``try`` that takes
`RequestRefused` and raises nothing are left out.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import keyferry
from keyferry.errors import ERRORS, RequestRefused, Unavailable

UNAVAILABLE = "temporarily_unavailable"


@cache
def product() -> dict[str, list[Callable[..., Any]]]:
    """Every method of every class of the product, by its name."""
    found: dict[str, list[Callable[..., Any]]] = {}
    for info in pkgutil.walk_packages(keyferry.__path__, "keyferry."):
        module = importlib.import_module(info.name)
        for each in vars(module).values():
            if inspect.isclass(each) and each.__module__ == info.name:
                for name in vars(each):
                    method = function_of(inspect.getattr_static(each, name))
                    if method is not None:
                        found.setdefault(name, []).append(method)
    return found


def function_of(thing: Any) -> types.FunctionType | None:
    """The function of the product behind a method, a property or a bound method."""
    if isinstance(thing, classmethod | staticmethod):
        thing = thing.__func__
    if isinstance(thing, property):
        thing = thing.fget
    if inspect.ismethod(thing):
        thing = thing.__func__
    ours = isinstance(thing, types.FunctionType) and thing.__module__.startswith("keyferry.")
    return thing if ours else None


@cache
def errors_of(function: types.FunctionType) -> frozenset[str]:
    """The codes that a call of ``function`` can end in."""
    seen: set[types.FunctionType] = set()
    waiting, codes = [function], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        walk = _walk(current)
        codes |= walk.codes
        waiting += walk.calls
    return frozenset(codes)


class _Walk:
    """What one function raises by itself, and whom it calls."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.scope = dict(vars(importlib.import_module(function.__module__)))
        self.owner = _owner(function)
        self.codes: set[str] = set()
        self.calls: list[types.FunctionType] = []
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        except (OSError, SyntaxError):  # made by a decorator, as the __init__ of a dataclass
            return
        assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
        self.locals: dict[str, Any] = {}
        for argument in [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]:
            if argument.arg in ("self", "cls"):
                self.locals[argument.arg] = self.owner
            elif argument.annotation is not None:
                self.locals[argument.arg] = self._annotated(ast.unparse(argument.annotation))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._bind(node.targets[0], self._type(node.value))
        for statement in tree.body:
            self._visit(statement)

    # ---------------------------------------------------------------- what is reached

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Try) and any(map(_swallows, node.handlers)):
            for part in [*node.handlers, *node.orelse, *node.finalbody]:
                self._visit(part)
            return
        if isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Attribute):
            read = self._member(self._type(node.value), node.attr)
            if isinstance(read, property) and (function := function_of(read)):
                self.calls.append(function)
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _call(self, node: ast.Call) -> None:
        for called in self._called(node.func):
            if called is RequestRefused:
                self.codes |= self._refusals(node.args[0])
            elif called is Unavailable:
                self.codes.add(UNAVAILABLE)
            elif inspect.isclass(called):
                if called.__module__.startswith("keyferry."):
                    self.calls += _made_by(called)
            elif (function := function_of(called)) is not None:
                self.calls.append(function)
        # What is handed over may be called.
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if isinstance(argument, ast.Name | ast.Attribute):
                self.calls += filter(None, map(function_of, self._called(argument, guess=False)))

    def _refusals(self, code: ast.expr) -> set[str]:
        return {str(code.value)} if isinstance(code, ast.Constant) else {VARIABLE}

    def _called(self, node: ast.expr, *, guess: bool = True) -> Iterator[Any]:
        if isinstance(node, ast.Name):
            thing = self.locals.get(node.id, self.scope.get(node.id))
            if thing is not None:
                yield _Instance.callable(thing)
        elif isinstance(node, ast.Attribute):
            base = self._type(node.value)
            member = self._member(base, node.attr)
            if member is not None:
                yield _Instance.callable(member)
            elif guess and base is None:
                yield from product().get(node.attr, [])

    # ---------------------------------------------------------------- what things are

    def _type(self, node: ast.expr) -> Any:
        """A module, class or function itself, an `_Instance` of a class, or None: unknown."""
        if isinstance(node, ast.Name):
            return self.locals.get(node.id, self.scope.get(node.id))
        if isinstance(node, ast.Constant):
            return _Instance(type(node.value))
        if isinstance(node, ast.JoinedStr):
            return _Instance(str)
        if isinstance(node, ast.Dict | ast.DictComp):
            return _Instance(dict)
        if isinstance(node, ast.List | ast.ListComp):
            return _Instance(list)
        if isinstance(node, ast.Attribute):
            member = self._member(self._type(node.value), node.attr)
            return self._result(member.fget) if isinstance(member, property) else member
        if isinstance(node, ast.BoolOp):
            return self._type(node.values[-1])
        if isinstance(node, ast.Call):
            called = next(self._called(node.func, guess=False), None)
            if inspect.isclass(called):
                return _Instance(called)
            function = function_of(called)
            if function is not None:
                return self._result(function)
            if called is not None:
                return _Instance(object)  # of a library: nothing of ours is behind it
        return None

    def _member(self, base: Any, name: str) -> Any:
        if isinstance(base, _Instance):
            annotated = _field(base.kind, name)
            if annotated is not None:
                return annotated
            return inspect.getattr_static(base.kind, name, None)
        if inspect.isclass(base) or inspect.ismodule(base):
            return inspect.getattr_static(base, name, None)
        return None

    def _result(self, function: Any) -> Any:
        text = getattr(function, "__annotations__", {}).get("return")
        if not isinstance(text, str):
            return None
        owner = _owner(function)
        if text == "Self":
            return owner
        return _read(text, function.__module__)

    def _annotated(self, text: str) -> Any:
        return _read(text, self.function.__module__)

    def _bind(self, target: ast.expr, kind: Any) -> None:
        if isinstance(target, ast.Name) and kind is not None:
            self.locals.setdefault(target.id, kind)
        elif isinstance(target, ast.Tuple) and isinstance(kind, tuple):
            for each, member in zip(target.elts, kind, strict=False):
                self._bind(each, member)


@cache
def _walk(function: types.FunctionType) -> _Walk:
    return _Walk(function)


VARIABLE = "(not a constant)"
"""For a code that is computed: the caller of `errors_of` has to know which ones."""


class _Instance:
    def __init__(self, kind: type) -> None:
        self.kind = kind

    @staticmethod
    def callable(thing: Any) -> Any:
        """What a call of ``thing`` calls."""
        if isinstance(thing, _Instance):
            return inspect.getattr_static(thing.kind, "__call__", None)
        return thing


def _owner(function: Any) -> _Instance | None:
    name = function.__qualname__.rpartition(".")[0]
    kind = getattr(importlib.import_module(function.__module__), name, None) if name else None
    return _Instance(kind) if inspect.isclass(kind) else None


def _made_by(kind: type) -> list[types.FunctionType]:
    made = (inspect.getattr_static(kind, name, None) for name in ("__init__", "__post_init__"))
    return [each for each in map(function_of, made) if each is not None]


def _field(kind: type, name: str) -> Any:
    for base in kind.__mro__:
        annotations = vars(base).get("__annotations__")
        if isinstance(annotations, dict) and isinstance(annotations.get(name), str):
            return _read(annotations[name], base.__module__)
    return None


def _read(text: str, module: str) -> Any:
    """What an annotation says: an `_Instance`, a tuple of such, or None."""
    try:
        value = eval(text, dict(vars(importlib.import_module(module))))  # noqa: S307 -- our own source
    except NameError:
        return _Instance(object)  # imported for the type checker alone: a client of boto3
    return _known(value)


def _known(value: Any) -> Any:
    origin = typing.get_origin(value)
    if origin in (typing.Union, types.UnionType):
        kinds = [each for each in typing.get_args(value) if each is not type(None)]
        return _known(kinds[0]) if len(kinds) == 1 else None
    if origin is typing.Annotated:
        return _known(typing.get_args(value)[0])
    if origin is tuple:
        return tuple(_known(each) for each in typing.get_args(value))
    if inspect.isclass(origin):
        return _Instance(origin)
    return _Instance(value) if inspect.isclass(value) else None


def _swallows(handler: ast.ExceptHandler) -> bool:
    names = ast.unparse(handler.type) if handler.type else ""
    return "RequestRefused" in names and not any(
        isinstance(node, ast.Raise) for node in ast.walk(handler)
    )


assert UNAVAILABLE in ERRORS
