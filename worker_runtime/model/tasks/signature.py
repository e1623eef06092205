"""Checks a call's arguments against a task's annotations, when the job is enqueued.

The annotations become msgspec Structs once per task: one array-like Struct per number of
positional arguments, one per set of keywords that calls have used, and one with every parameter by
name for all other calls. A check is then one C call, and its result is what the task receives.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from worker_runtime.errors import ConfigurationError, InvalidArguments
from worker_runtime.model.values.annotations import Hold, hold_of
from worker_runtime.model.values.copying import Arguments, private_arguments

# From Python callers these arrive as themselves; from a wire, `str` stands for them.
_NATIVE_TYPES = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)

# Different sets of keywords for which the quick check is kept; a caller may send any number.
_CALLS_KNOWN = 64

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# Immutable, and nothing but the type to check: a value of just this type is the argument.
_SCALARS = (str, int, float, bool, bytes, type(None))


class _Shape(msgspec.Struct, frozen=True):
    """How calls of one form are checked. `scalars`: the types of the arguments, where a call whose
    arguments have just these needs no more than a look at them. `is_shared`: what the check makes
    of arguments may still be the caller's."""

    struct: type[msgspec.Struct]
    scalars: tuple[type, ...] | None
    is_shared: bool

    @classmethod
    def of(cls, struct: type[msgspec.Struct], kinds: Iterable[Any]) -> _Shape:
        kinds = tuple(kinds)
        scalars = kinds if all(kind in _SCALARS for kind in kinds) else None
        return cls(struct, scalars, any(hold_of(kind) is Hold.SHARED for kind in kinds))


class Signature:
    """What arguments a task takes, its context parameter left out.

    `bind` raises InvalidArguments, naming the argument, the problem and what is allowed. Parameters
    whose annotation msgspec cannot express (or that cannot be resolved) accept anything.
    `returns` is the type of the result, for whoever decodes a stored one. `takes_mutable`: a call
    may hold what the function could change.
    """

    def __init__(self, fn: Callable[..., Any], context_type: type | None = None) -> None:
        signature = inspect.signature(fn)
        parameters = list(signature.parameters.values())
        self.returns: Any = _returns(fn, signature)
        hints = _resolve(fn, parameters)
        self.context_name: str | None = _context_parameter(parameters, hints, context_type)
        self.context_index = next(
            (
                i
                for i, p in enumerate(parameters)
                if p.name == self.context_name and p.kind in _POSITIONAL
            ),
            None,
        )
        parameters = [p for p in parameters if p.name != self.context_name]

        self.types: dict[str, Any] = {p.name: _checkable(hints[p.name]) for p in parameters}
        self.takes_mutable = any(hold_of(kind) is not Hold.FIXED for kind in self.types.values())
        self._positional = [p.name for p in parameters if p.kind in _POSITIONAL]
        self._positional_only = {p.name for p in parameters if p.kind is p.POSITIONAL_ONLY}
        self._by_keyword = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD} | {
            p.name for p in parameters if p.kind is p.KEYWORD_ONLY
        }
        self._required = [
            p.name
            for p in parameters
            if p.default is p.empty
            and p.kind
            not in (
                p.VAR_POSITIONAL,
                p.VAR_KEYWORD,
            )
        ]
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self.nothing_required = not self._required
        self._required_keyword_only = [n for n in self._required if n not in self._positional]
        self._positional_required = len(self._required) - len(self._required_keyword_only)
        self._by_arity: dict[int, _Shape] = {}
        self._by_name = self._named_struct()
        self._by_names: dict[tuple[str, ...], _Shape] = {}

    @property
    def positional(self) -> list[str]:
        """The parameters that a call may give by position, in their order."""
        return list(self._positional)

    @property
    def required(self) -> list[str]:
        """The parameters that a call must give."""
        return list(self._required)

    @functools.cached_property
    def keeps_json(self) -> bool:
        """Whether `bind` leaves everything that comes from JSON as it is: no annotation wants
        another type."""
        return all(_is_json(hint) for hint in self.types.values())

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, *, wire: bool = False
    ) -> Arguments:
        """The checked arguments, values converted to the annotated types, and copies of whatever
        data the caller could still change.

        `wire=True` for arguments decoded from JSON or MessagePack, where text may stand for a
        date, a UUID, a Decimal or bytes; nobody else has those, and they are not copied.
        """
        if not kwargs:
            shape = self._by_arity.get(len(args)) or self._arity_shape(len(args))
            if shape is not None:
                if shape.scalars == tuple(map(type, args)):
                    return args, None
                values = msgspec.structs.astuple(self._convert(args, shape.struct, wire))
                return (values, None) if wire or not shape.is_shared else private_arguments(values)
        elif not args:
            shape = self._by_names.get(tuple(kwargs))
            if shape is not None:
                if shape.scalars == tuple(map(type, kwargs.values())):
                    return (), dict(kwargs)
                values = msgspec.structs.astuple(self._convert(kwargs, shape.struct, wire))
                named = dict(zip(kwargs, values, strict=True))
                return ((), named) if wire or not shape.is_shared else private_arguments((), named)
        bound = self._bind_named(args, kwargs or {}, wire)
        return bound if wire else private_arguments(*bound)

    def with_context(
        self, context: object, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with the context put where the function wants it."""
        if self.context_name is None:
            return args, kwargs or {}
        index = self.context_index
        if index is not None and index <= len(args):
            return (*args[:index], context, *args[index:]), kwargs or {}
        return args, {**(kwargs or {}), self.context_name: context}

    def canonical(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> dict[str | int, Any]:
        """Bound arguments by name, or by place where they have none: however a call is written,
        positionally or by keyword, this is the same."""
        names = self._positional[: len(args)]
        found: dict[str | int, Any] = {
            i if name in self._positional_only else name: args[i] for i, name in enumerate(names)
        }
        found.update(enumerate(args[len(names) :], start=len(names)))
        found.update(kwargs or {})
        return found

    def _bind_named(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], wire: bool
    ) -> Arguments:
        self._check_names(args, kwargs)
        given: dict[str, Any] = dict(zip(self._positional, args, strict=False))
        extra = {k: v for k, v in kwargs.items() if k not in self._by_keyword}
        given.update((k, v) for k, v in kwargs.items() if k in self._by_keyword)
        if self._rest is not None:
            given[self._rest] = args[len(self._positional) :]
        if self._extra is not None:
            given[self._extra] = extra
        checked = self._convert(given, self._by_name, wire)
        values = {name: getattr(checked, f"p{i}") for i, name in enumerate(self.types)}
        by_position = min(len(args), len(self._positional))
        bound = tuple(values[name] for name in self._positional[:by_position])
        if self._rest is not None:
            bound += tuple(values[self._rest])
        named = {k: values[k] for k in kwargs if k in self._by_keyword}
        if self._extra is not None:
            named.update(values[self._extra])
        if not args and self._rest is None is self._extra and len(self._by_names) < _CALLS_KNOWN:
            kinds = [self.types[name] for name in kwargs]
            self._by_names[tuple(kwargs)] = _Shape.of(self._struct_of(kwargs), kinds)
        return bound, named or None

    def _check_names(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if len(args) > len(self._positional) and self._rest is None:
            raise InvalidArguments(
                f"takes at most {len(self._positional)} positional arguments, {len(args)} given"
            )
        by_position = set(self._positional[: len(args)])
        for name in kwargs:
            if not isinstance(name, str):
                raise InvalidArguments(f"argument names must be text, not {name!r}")
            if name in by_position and name not in self._positional_only:
                raise InvalidArguments(f"argument `{name}` is given twice")
            if name == self.context_name:
                raise InvalidArguments(f"argument `{name}` is the context, which nobody passes")
            if name not in self._by_keyword and self._extra is None:
                allowed = ", ".join(sorted(self._by_keyword)) or "none"
                raise InvalidArguments(
                    f"unknown argument `{name[:64]}`; arguments by name: {allowed}"
                )
        missing = [
            n
            for n in self._required
            if n not in by_position and (n not in kwargs or n in self._positional_only)
        ]
        if missing:
            raise InvalidArguments(f"missing argument `{missing[0]}`")

    def _convert(self, given: Any, struct: type[msgspec.Struct], wire: bool) -> msgspec.Struct:
        try:
            return msgspec.convert(given, struct, builtin_types=() if wire else _NATIVE_TYPES)
        except msgspec.ValidationError as error:
            raise InvalidArguments(self._explain(str(error))) from None
        except Exception as error:  # an argument's own hook or property may raise anything
            kind = type(error).__name__
            raise InvalidArguments(f"the arguments cannot be checked: {kind}") from None

    def _explain(self, message: str) -> str:
        """msgspec's sentence, its `$[0].x` or `$.name.x` path turned into an argument's name."""
        found = re.search(r" - at `\$(?:\[(\d+)\]|\.(\w+))(.*)`$", message)
        if found is None:
            return message
        name = self._positional[int(found[1])] if found[1] else found[2]
        problem = message[: found.start()]
        return f"argument `{name}{found[3]}`: {problem[:1].lower()}{problem[1:]}"

    def _arity_shape(self, count: int) -> _Shape | None:
        """The shape of calls with `count` arguments, all by position; None where that is not a
        call that fits, or one with a rest of arguments."""
        if self._required_keyword_only or not (
            self._positional_required <= count <= len(self._positional)
        ):
            return None
        kinds = [self.types[name] for name in self._positional[:count]]
        fields = [(f"p{i}", kind) for i, kind in enumerate(kinds)]
        struct = msgspec.defstruct("Arguments", fields, array_like=True, gc=False)
        shape = self._by_arity[count] = _Shape.of(struct, kinds)
        return shape

    def _struct_of(self, names: Iterable[str]) -> type[msgspec.Struct]:
        """A Struct for calls that give just `names`, by keyword and in this order."""
        fields: list[Any] = [
            (f"p{i}", self.types[name], msgspec.field(name=name)) for i, name in enumerate(names)
        ]
        return msgspec.defstruct("Arguments", fields, gc=False)

    def _named_struct(self) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for i, (name, kind) in enumerate(self.types.items()):
            if name == self._rest:
                kind = tuple[kind, ...]  # type: ignore[valid-type]
            elif name == self._extra:
                kind = dict[str, kind]  # type: ignore[valid-type]
            fields.append((f"p{i}", kind, msgspec.field(default=None, name=name)))
        return msgspec.defstruct("Arguments", fields, gc=False)


def _resolve(fn: Callable[..., Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """Each parameter's annotation, strings evaluated; `Any` where there is none or it fails.

    One by one, because `typing.get_type_hints` gives up on all when one name is missing, which is
    usual for names imported under TYPE_CHECKING.
    """
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner)
    if not hasattr(inner, "__globals__"):  # an object that can be called
        inner = type(inner).__call__
    scope = getattr(inner, "__globals__", {})
    return {p.name: _resolve_one(p, scope) for p in parameters}


def _returns(fn: Callable[..., Any], signature: inspect.Signature) -> Any:
    """The annotation of what `fn` returns; `Any` where msgspec cannot express it."""
    scope = getattr(inspect.unwrap(fn), "__globals__", {})
    kind = inspect.Parameter.POSITIONAL_ONLY
    result = inspect.Parameter("result", kind, annotation=signature.return_annotation)
    return _checkable(_resolve_one(result, scope))


def _resolve_one(parameter: inspect.Parameter, scope: dict[str, Any]) -> Any:
    hint = parameter.annotation
    if hint is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: hint})
    try:
        return typing.get_type_hints(holder, scope, include_extras=True)[parameter.name]
    except Exception:  # whatever a broken annotation raises, the parameter stays usable
        return hint


def _context_parameter(
    parameters: list[inspect.Parameter], hints: dict[str, Any], context_type: type | None
) -> str | None:
    """The parameter annotated with the context type, else a first parameter called `ctx`."""
    if context_type is None:
        return None
    for p in parameters:
        hint = hints[p.name]
        is_named = isinstance(hint, str) and hint.rpartition(".")[2] == context_type.__name__
        if hint is context_type or is_named:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise ConfigurationError(f"*{p.name} cannot be the context parameter")
            return p.name
    if parameters and parameters[0].name == "ctx" and parameters[0].kind in _POSITIONAL:
        return "ctx"
    return None


def _checkable(hint: Any) -> Any:
    """`hint`, or `Any` where msgspec cannot express it."""
    if isinstance(hint, str | typing.TypeVar):
        return Any
    try:
        probe = msgspec.defstruct("Probe", [("value", hint)])
        msgspec.convert({}, probe)
    except msgspec.ValidationError:
        return hint  # the type is understood; only the value is missing
    except Exception:
        return Any
    return hint


_JSON_TYPES = (Any, object, str, int, bool, None, type(None), list, dict)


def _is_json(hint: Any) -> bool:
    """Whether what JSON has for `hint` is it already. A float is not: JSON may say 1 for 1.0."""
    if typing.get_origin(hint) in (list, dict, typing.Union, types.UnionType):
        return all(_is_json(part) for part in typing.get_args(hint))
    return any(hint is kind for kind in _JSON_TYPES)
