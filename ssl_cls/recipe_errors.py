"""The validator's errors in a person's words: the path as it is written in a recipe, a plain sentence, did you mean."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ssl_cls.yaml_document import KeyPath

_PLAIN = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys",
    "string_too_short": "must not be empty",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be greater than {gt}",
    "less_than": "must be less than {lt}",
    "too_long": "has {actual_length} entries, {max_length} are allowed",
}


def explain(errors: Sequence[Mapping[str, Any]], schema: type, data: Any) -> list[tuple[KeyPath, str]]:
    """Each wrong path of `data` with one sentence, in the order of `errors` (pydantic's `ValidationError.errors()`).

    The alternatives of one value (a number, or `auto`) become one sentence. A `ValueError` of a spec whose message
    begins with a field's name is reported at that field.
    """
    messages: dict[KeyPath, list[tuple[str, Any]]] = {}
    for error in errors:
        path, kinds = _locate(schema, error["loc"], data)
        path, message = _message(error, path, kinds, schema, data)
        shown = error["type"] not in (
            "missing",
            "unexpected_keyword_argument",
            "value_error",
            "too_long",
            "union_tag_not_found",
        )
        got = error.get("ctx", {}).get("tag", error["input"])
        messages.setdefault(path, []).append((message, f" (got {_brief(got)})" if shown else ""))
    return [
        (path, _either([message for message, _ in found]) + found[0][1]) for path, found in messages.items()
    ]


def _message(
    error: Mapping[str, Any], path: KeyPath, kinds: list[Any], schema: type, data: Any
) -> tuple[KeyPath, str]:
    context = error.get("ctx", {})
    match error["type"]:
        case "unexpected_keyword_argument":
            known = list(_fields(_locate(schema, path[:-1], data)[1]))
            return path, "unknown key" + (
                _suggestion(path[-1], known) or f"; the keys here are {', '.join(known)}"
            )
        case "missing" if path and isinstance(path[-1], int):
            return path[:-1], f"is too short: entry {path[-1]} is missing"
        case "missing":
            return path, "missing"
        case "union_tag_invalid":
            names = _names(kinds)
            return (*path, "name"), f"must be one of {', '.join(names)}{_suggestion(context['tag'], names)}"
        case "union_tag_not_found":
            return (*path, "name"), f"missing; it is one of {', '.join(_names(kinds))}"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            return (
                path,
                f"must be {'one of ' * (len(allowed) > 1)}{', '.join(allowed)}{_suggestion(error['input'], allowed)}",
            )
        case "value_error":
            first, _, rest = str(context["error"]).partition(" ")
            return ((*path, first), rest) if first in _fields(kinds) else (path, str(context["error"]))
        case "dataclass_type":
            return path, f"must be a mapping with some of the keys {', '.join(_fields(kinds))}"
        case kind if kind in _PLAIN:
            return path, _PLAIN[kind].format(
                **{
                    name: f"{value:g}" if isinstance(value, float) else value
                    for name, value in context.items()
                }
            )
        case _:
            return path, str(error["msg"]).replace("Input should", "must")


def _locate(schema: type, loc: Sequence[str | int], data: Any) -> tuple[KeyPath, list[Any]]:
    """The path in the recipe that a validator's location means, and what may stand there.

    A location also names the arm of a union that was tried, which nobody wrote: "method", "simclr", "temperature".
    """
    path: list[str | int] = []
    kinds: list[Any] = [schema]
    for part in loc:
        specs = [kind for kind in kinds if is_dataclass(kind)]
        if len(specs) > 1 and part in _names(specs):
            kinds = [spec for spec in specs if vars(spec)["name"] == part]
            continue
        if isinstance(data, list) and isinstance(part, int):
            entries = next((get_args(kind) for kind in kinds if get_origin(kind) is tuple), (Any, ...))
            kinds = _alternatives(entries[0] if entries[-1] is ... else entries[part])
            data = data[part] if part < len(data) else None
        elif isinstance(data, dict):
            kinds = _alternatives(_fields(specs).get(str(part), Any))
            data = data.get(part)
        else:
            break
        path.append(part)
    return tuple(path), kinds


def _alternatives(annotation: Any) -> list[Any]:
    """What an annotation allows, without its constraints and without None."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for arm in get_args(annotation) for kind in _alternatives(arm)]
    return [] if annotation is NoneType else [annotation]


def _fields(kinds: Sequence[Any]) -> dict[str, Any]:
    """Field names and annotations of the one spec among `kinds`; of several, only what chooses between them."""
    specs = [kind for kind in kinds if is_dataclass(kind)]
    if len(specs) > 1:
        return {"name": Literal[*_names(specs)]}
    fields: dict[str, Any] = {
        name: hint
        for spec in specs
        for name, hint in get_type_hints(spec, include_extras=True).items()
        if name in spec.__dataclass_fields__
    }
    return fields


def _names(specs: Sequence[Any]) -> list[str]:
    """The `name` that each spec of a tagged union answers to."""
    return [vars(spec)["name"] for spec in specs if is_dataclass(spec)]


def _suggestion(written: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(written), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _either(messages: Sequence[str]) -> str:
    return " or ".join([messages[0], *(message.removeprefix("must be ") for message in messages[1:])])


def _brief(value: Any) -> str:
    """A value as YAML would show it, cut to a line's length."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"
