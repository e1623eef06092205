"""How a field of a struct is read from the environment.

A field says in its annotation which variables set it: `Annotated[int, env("PORT", ge=0)]`. What the
decoder checks is the annotation's affair; here is which variable counts, how its text is taken, and
what a person is told who set it wrong.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.bounded import masked

_SHOWN_CHARS = 80


class _Variables(msgspec.Struct, frozen=True):
    """What `env` has put into an annotation."""

    names: tuple[str, ...]
    in_words: str | None
    spelled: Callable[[str], str] | None
    meaning: Callable[[Any], object]
    is_secret: bool


def env(
    *names: str,
    in_words: str | None = None,
    spelled: Callable[[str], str] | None = None,
    meaning: Callable[[Any], object] = repr,
    is_secret: bool = False,
    **limits: Any,
) -> msgspec.Meta:
    """For an annotation: the variables that set a field, preferred name first, and the limits of
    its value, which are those of `msgspec.Meta`.

    in_words   what a text must be, where a pattern says it to nobody
    spelled    makes of a text the one that the field knows
    meaning    two variables agree where this gives the same for both their values
    is_secret  nobody is shown the value, and no child process gets it
    """
    variables = _Variables(names, in_words, spelled, meaning, is_secret)
    return msgspec.Meta(extra={"env": variables}, **limits)


def variables_of(hint: Any) -> tuple[str, ...]:
    """The environment variables named in the annotation of a field, wherever in it they stand; none
    for a field that only code sets."""
    variables = _variables_in(hint)
    return () if variables is None else variables.names


def secrets_of(hint: Any) -> tuple[str, ...]:
    """Those of `variables_of` whose value is a secret."""
    variables = _variables_in(hint)
    return variables.names if variables is not None and variables.is_secret else ()


def read_field(source: Mapping[str, str], hint: Any) -> Any:
    """The value that the variables of a field agree on, checked; None where none of them is set, or
    there is none. Raises ConfigurationError, naming the variable and what it must be."""
    variables = _variables_in(hint)
    if variables is None:
        return None
    given = {n: source[n].strip() for n in variables.names if source.get(n, "").strip()}
    values = {name: _value(name, text, hint, variables) for name, text in given.items()}
    if len({variables.meaning(value) for value in values.values()}) > 1:
        listing = ", ".join(f"{name}={_shown(given[name], variables)}" for name in given)
        raise ConfigurationError(f"{' and '.join(given)} disagree: {listing}; set only one of them")
    return next(iter(values.values()), None)


def _variables_in(hint: Any) -> _Variables | None:
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, msgspec.Meta) and part.extra and "env" in part.extra:
            found: _Variables = part.extra["env"]
            return found
    inner = (_variables_in(argument) for argument in typing.get_args(hint))
    return next((found for found in inner if found is not None), None)


def _value(name: str, text: str, hint: Any, variables: _Variables) -> Any:
    kind = _kind_of(hint)
    value: Any = text if variables.spelled is None else variables.spelled(text)
    if isinstance(kind, msgspec.inspect.VarTupleType):
        value = [part.strip() for part in text.split(",") if part.strip()]
        if len(set(value)) < len(value):
            raise ConfigurationError(f"{name}={_shown(text, variables)}: one is named twice")
    elif isinstance(kind, msgspec.inspect.BoolType) and text.lower() in ("yes", "on", "no", "off"):
        value = text.lower() in ("yes", "on")
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        expected = _expected(kind, hint, variables)
        raise ConfigurationError(f"{name}={_shown(text, variables)}: must be {expected}") from None


def _shown(text: str, variables: _Variables) -> str:
    if variables.is_secret:
        return "***"
    return repr((masked(text) if "://" in text else text)[:_SHOWN_CHARS])


def _kind_of(hint: Any) -> msgspec.inspect.Type:
    """The type itself, without its limits and without the None that stands for unset."""
    kind = msgspec.inspect.type_info(hint)
    while isinstance(kind, msgspec.inspect.UnionType | msgspec.inspect.Metadata):
        kind = kind.types[0] if isinstance(kind, msgspec.inspect.UnionType) else kind.type
    return kind


def _expected(kind: msgspec.inspect.Type, hint: Any, variables: _Variables) -> str:
    """What a field's annotation takes, in words: an environment has nothing but text, so that the
    decoder's own `Expected int, got str` would help nobody."""
    if words := next(_words(hint), ()):
        several = isinstance(kind, msgspec.inspect.VarTupleType)
        return f"{'some' if several else 'one'} of {', '.join(words)}"
    if isinstance(kind, msgspec.inspect.BoolType):
        return "yes or no"
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return variables.in_words or "words, separated by commas"
    if isinstance(kind, msgspec.inspect.StrType):
        most = f" of at most {kind.max_length} characters" if kind.max_length else ""
        return f"{variables.in_words or 'text'}{most}"
    whole = "whole " if isinstance(kind, msgspec.inspect.IntType) else ""
    limits = (("above", "gt"), ("at least", "ge"), ("at most", "le"))
    bounds = [
        f"{word} {limit:.12g}"
        for word, name in limits
        if (limit := getattr(kind, name, None)) is not None
    ]
    return f"a {whole}number, {' and '.join(bounds)}"


def _words(hint: Any) -> Iterator[tuple[str, ...]]:
    """The words that each Literal in `hint` allows."""
    if typing.get_origin(hint) is Literal:
        yield typing.get_args(hint)
    else:
        for argument in typing.get_args(hint):
            yield from _words(argument)
