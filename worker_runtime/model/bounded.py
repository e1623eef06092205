"""Any value or exception as bounded bytes or text: saying it must not raise, fill memory, drive a
terminal or tell a secret."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

_FRAMES_MAX = 20
_CAUSES_MAX = 5
_LEAVES_TOLD_MAX = 20
_LEAVES_TRACED_MAX = 5
_NOTES_MAX = 10
_msgpack = msgspec.msgpack.Encoder()

# What a terminal obeys, what ends a line somewhere, what turns the order of letters round, and half
# surrogate pairs, which no stream takes.
_CONTROLS = re.compile("[\x00-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?|//")
_SECRETS = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key|auth)[^=&]*=)[^&]*", re.IGNORECASE)


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that a group is made of, groups in it taken apart too; `error` itself where it
    is none."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions[::-1])
        else:
            yield one


def error_text(error: BaseException, bytes_max: int) -> str:
    """What `error` says: its own text, the leaves of a group, its notes and what it was raised
    from, cut to `bytes_max` bytes of UTF-8; a stand-in where its text raises."""
    return cut(_words(error, bytes_max, _CAUSES_MAX), bytes_max)


def _words(error: BaseException, chars_max: int, causes_max: int) -> str:
    try:
        text = str(error)[: chars_max + 1]  # one more shows that it was cut
    except BaseException as fault:
        return f"<{type(error).__name__} whose text raises {type(fault).__name__}>"
    if isinstance(error, BaseExceptionGroup):
        text = f"{text}: {_leaves_words(error, chars_max, causes_max)}"
    for note in _notes(error):
        text += f"; note: {note[:chars_max]}"
    cause = error.__cause__
    if cause is None:
        return text
    if not causes_max:
        return f"{text}; …"
    words = _words(cause, chars_max, causes_max - 1)
    if words and words in text:  # as in `raise Other(f"...: {error}") from error`
        return text
    return f"{text}{'; ' if text else ''}from {_named(cause, words)}"


def _leaves_words(group: BaseExceptionGroup[Any], chars_max: int, causes_max: int) -> str:
    """The leaves in brackets, those that say the same once."""
    counts: dict[str, int] = {}
    length = 0
    for n, leaf in enumerate(leaves_of(group)):
        if length > chars_max or n >= _LEAVES_TOLD_MAX:
            counts["…"] = 1
            break
        words = _named(leaf, _words(leaf, chars_max, causes_max // 2))
        counts[words] = counts.get(words, 0) + 1
        length += len(words)
    if len(counts) == 1 and sum(counts.values()) == 1:
        return next(iter(counts))
    return " ".join(f"[{words}]{f' x {n}' if n > 1 else ''}" for words, n in counts.items())


def _named(error: BaseException, words: str) -> str:
    name = type(error).__name__
    return f"{name}: {words}" if words else name


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", ())  # a plain attribute, to which anything can be assigned
    listed = notes[:_NOTES_MAX] if isinstance(notes, list | tuple) else ()
    return [note for note in listed if isinstance(note, str)]


def traceback_text(error: BaseException, bytes_max: int) -> str:
    """The innermost frames of `error`'s traceback, without the exception's own text, and those of
    the leaves of a group and of what it was raised from or during; cut to fit."""
    try:
        parts = [_frames(error)]
        if isinstance(error, BaseExceptionGroup):
            for _, leaf in zip(range(_LEAVES_TRACED_MAX), leaves_of(error), strict=False):
                parts.append(f"In it {type(leaf).__name__}:\n{_frames(leaf)}")
        for _ in range(_CAUSES_MAX):
            how = "while handling" if error.__cause__ is None else "from"
            earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            if earlier is None:
                break
            parts.append(f"Raised {how} {type(earlier).__name__}:\n{_frames(earlier)}")
            error = earlier
        return cut("".join(parts), bytes_max)
    except Exception as fault:
        return f"<no traceback: {type(fault).__name__}>"


def _frames(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-_FRAMES_MAX)
    return "".join(traceback.format_list(frames))


def clean(text: str) -> str:
    """`text`, with what UTF-8 has no form for, half a surrogate pair, spelled out. What comes in is
    cleaned where it comes in, so that it can be kept, sent and shown everywhere."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def cleaned(value: Any, enc_hook: Callable[[Any], Any] | None = None) -> Any:
    """Plain data that says what `value` does, each text in it cleaned. `enc_hook` as msgspec has
    it. Raises what msgspec raises for a value that is no data."""
    return _cleaned(msgspec.to_builtins(value, enc_hook=enc_hook))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def one_line(text: str) -> str:
    """`text` as a line that nothing in it ends, with what a terminal would obey spelled out."""
    return text if text.isprintable() else _CONTROLS.sub(_spelled, text)


def set_in(text: str, indent: str) -> str:
    """`text` in its lines, each as `one_line` has it, from the second on behind `indent`."""
    if "\n" not in text:
        return one_line(text)
    return f"\n{indent}".join(map(one_line, text.rstrip("\n").split("\n")))


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def masked(url: str) -> str:
    """`url` without the user and password in it, also where it is none that can be taken apart, and
    without what its query says of secrets."""
    scheme = _SCHEME.match(url)
    head = "" if scheme is None else scheme[0]
    rest = url[len(head) :]
    is_path = head == "sqlite://" and rest.startswith("/")  # which may have an @ too
    if "@" in rest and not is_path:
        rest = f"***@{rest.rpartition('@')[2]}"
    else:
        host, colon, port = re.split("[/?#]", rest, maxsplit=1)[0].rpartition(":")
        if colon and port and not port.isdigit() and port[-1] != "]":  # a password without its host
            rest = f"{host}:***"
    return _SECRETS.sub(r"\1***", head + rest)


def cut(text: str, bytes_max: int) -> str:
    """`text` as valid UTF-8 of at most `bytes_max` bytes, an ellipsis showing where it was cut."""
    head = text[:bytes_max]
    encoded = head.encode("utf-8", "backslashreplace")
    if len(text) <= bytes_max and len(encoded) <= bytes_max:
        return encoded.decode("utf-8")
    return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "…"


class Unencodable(Exception):
    """The value has no encoding, or a larger one than is allowed."""


def encode_value(value: Any, bytes_max: int) -> bytes:
    """`value` as MessagePack, at most `bytes_max` bytes. Raises Unencodable, saying why."""
    try:
        encoded = _msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise Unencodable(f"cannot be encoded: {str(error)[:500]}") from None
    except Exception as error:  # a user type's own hook or property may raise anything
        raise Unencodable(f"cannot be encoded: {type(error).__name__}") from None
    if len(encoded) > bytes_max:
        raise Unencodable(f"takes {len(encoded)} bytes encoded, {bytes_max} are allowed")
    return encoded
