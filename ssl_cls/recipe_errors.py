"""The validator's errors in plain words: paths as a recipe writes them, one sentence each, did you mean."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ssl_cls.yaml_document import KeyPath

_UNKNOWN_KEY = "unexpected_keyword_argument"
_VALUE_SAYS_NOTHING = {_UNKNOWN_KEY, "missing", "value_error", "too_long", "union_tag_not_found"}
_PLAIN_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys",
    "string_too_short": "must not be empty",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "has {actual_length} entries where {max_length} are allowed",
    "missing": "missing",
}


def explain(errors: Sequence[Mapping[str, Any]], schema: type, data: Any) -> list[tuple[KeyPath, str]]:
    """Each wrong path of `data` with one sentence, in the order of `errors` (as pydantic lists them).

    The alternatives of one value (a number, or `auto`) become one sentence. A ValueError of a spec whose
    message begins with a field's name is reported at that field.
    """
    found: dict[KeyPath, list[str]] = {}
    got: dict[KeyPath, str] = {}
    for error in errors:
        loc = error["loc"][:-1] if error["type"] == _UNKNOWN_KEY else error["loc"]
        path, message = _message(error, *_locate(schema, loc, data))
        found.setdefault(path, []).append(message)
        if error["type"] not in _VALUE_SAYS_NOTHING:
            value = error["input"]["name"] if error["type"] == "union_tag_invalid" else error["input"]
            got[path] = f" (got {_brief(value)})"
    return [(path, _sentence(messages, got.get(path, ""))) for path, messages in found.items()]


def _message(error: Mapping[str, Any], path: KeyPath, kinds: Sequence[Any]) -> tuple[KeyPath, str]:
    context = error.get("ctx", {})
    match error["type"]:
        case "unexpected_keyword_argument":
            key, known = error["loc"][-1], list(_annotations(kinds))
            return (*path, key), "unknown key" + (_near(key, known) or f"; the keys here are {', '.join(known)}")
        case "missing" if path and isinstance(path[-1], int):
            return path[:-1], f"is too short: entry {path[-1]}, counted from 0, is missing"
        case "union_tag_not_found":
            return (*path, "name"), f"missing; it is one of {', '.join(_names(kinds))}"
        case "union_tag_invalid":
            return (*path, "name"), _one_of(_names(kinds), context["tag"])
        case "literal_error":
            return path, _one_of(re.findall(r"'([^']*)'", context["expected"]), error["input"])
        case "value_error":
            sentence = str(context["error"])
            first, _, rest = sentence.partition(" ")
            return ((*path, first), rest) if first in _annotations(kinds) else (path, sentence)
        case "dataclass_type":
            return path, f"must be a mapping, with keys such as {', '.join(list(_annotations(kinds))[:4])}"
        case kind if kind in _PLAIN_WORDS:
            numbers = {key: str(value).removesuffix(".0") for key, value in context.items()}
            return path, _PLAIN_WORDS[kind].format(**numbers)
        case _:
            return path, str(error["msg"]).replace("Input should", "must")


def _locate(schema: type, loc: Sequence[str | int], data: Any) -> tuple[KeyPath, list[Any]]:
    """The path in the recipe that a validator's location means, and the types that may stand there.

    A location also names the arm of a union that was tried, which nobody wrote: method, simclr, temperature.
    """
    path: KeyPath = ()
    kinds: list[Any] = [schema]
    for part in loc:
        if isinstance(data, dict) and len(names := _names(kinds)) > 1 and part in names:
            kinds = [spec for spec in kinds if vars(spec)["name"] == part]
            continue
        if isinstance(data, list) and isinstance(part, int):
            entries = next((get_args(kind) for kind in kinds if get_origin(kind) is tuple), (Any, ...))
            kinds = _alternatives(entries[0] if entries[-1] is ... else entries[part])
            data = data[part] if part < len(data) else None
        elif isinstance(data, dict):
            kinds = _alternatives(_annotations(kinds).get(str(part), Any))
            data = data.get(part)
        else:
            break
        path = (*path, part)
    return path, kinds


def _alternatives(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without their constraints and without None."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for arm in get_args(annotation) for kind in _alternatives(arm)]
    return [] if annotation is NoneType else [annotation]


def _annotations(kinds: Sequence[Any]) -> dict[str, Any]:
    """The fields of the spec among `kinds`, with their annotations; {} if there is none."""
    return {
        field.name: get_type_hints(kind, include_extras=True)[field.name]
        for kind in kinds
        if is_dataclass(kind)
        for field in fields(kind)
    }


def _names(kinds: Sequence[Any]) -> list[str]:
    """What chooses between the specs of a tagged union: the `name` of each."""
    return [vars(kind)["name"] for kind in kinds if is_dataclass(kind) and "name" in vars(kind)]


def _one_of(allowed: Sequence[str], written: object) -> str:
    return f"must be {'one of ' * (len(allowed) > 1)}{', '.join(allowed)}{_near(written, allowed)}"


def _near(written: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(written), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _sentence(alternatives: Sequence[str], got: str) -> str:
    first, semicolon, hint = alternatives[0].partition("; ")
    others = [message.removeprefix("must be ") for message in alternatives[1:]]
    return " or ".join([first, *others]) + got + semicolon + hint


def _brief(value: Any) -> str:
    """A value as YAML shows it, cut to a line's length."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"
