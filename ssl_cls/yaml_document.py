"""YAML and `key.path=value` overrides into plain data that remembers where each value was written.

The part of YAML 1.2's core schema that a recipe needs: `1e-3` is a number, `no` is text. What can surprise or
attack a reader (repeated keys, anchors, aliases, tags, deep nesting) is a problem with a line, never a value.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

KeyPath = tuple[str | int, ...]
MAX_DEPTH = 16

_PLAIN_SCALARS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?[0-9]+\Z"),
    "float": re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
}


class Problem(NamedTuple):
    """One thing that is wrong. `place` is "recipes/x.yaml:7" or "override 2"."""

    place: str
    path: KeyPath
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, dotted(self.path), self.message) if part)


def dotted(path: KeyPath) -> str:
    """("views", 0, "count") -> "views.0.count"; keys that would garble a terminal are escaped."""
    return ".".join(str(part) if str(part).isprintable() else ascii(part) for part in path)


class Document:
    """A mapping read from text, open to overrides. Nothing raises: what is wrong is in `problems`."""

    def __init__(self, text: str, place: Callable[[int], str]) -> None:
        """`place` turns a 1-based line into what problems there are reported at."""
        self.data: Any = None
        self.places: dict[KeyPath, str] = {(): place(1)}
        self.problems: list[Problem] = []
        node = self._compose(text, place, ())
        if node is not None:
            self.data = self._build(node, place, ())
        if not isinstance(self.data, dict) and not self.problems:
            self._report(place(1), (), "must be a mapping of keys, such as `name: my_run`")

    def place(self, path: KeyPath) -> str:
        """Where `path` was written or, if it was not, the nearest key around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def override(self, place: str, text: str) -> None:
        """Set one `key.path=value`; the value is YAML; in a list, the key is a position from 0."""
        written, equals, value = text.partition("=")
        parts = tuple(written.strip().split("."))
        if not equals or not all(parts) or len(parts) > MAX_DEPTH:
            self._report(place, (), f"{text[:80]!r} is not of the form key.path=value")
            return
        known = len(self.problems)
        node = self._compose(value, lambda line: place, parts)
        if node is None:
            if len(self.problems) == known:
                self._report(place, parts, "no value after the equals sign (write null for none)")
        elif isinstance(self.data, dict):
            try:
                parent, path = self._reach(parts, place)
            except LookupError as error:
                self._report(place, parts, str(error))
                return
            for old in [old for old in self.places if old[: len(path)] == path]:
                del self.places[old]
            parent[path[-1]] = self._build(node, lambda line: place, path)

    def _reach(self, parts: tuple[str, ...], place: str) -> tuple[Any, KeyPath]:
        """What holds the last of `parts`, made if missing, and the whole path with positions as numbers."""
        here: Any = self.data
        path: KeyPath = ()
        for depth, part in enumerate(parts):
            if isinstance(here, list) and part not in map(str, range(len(here))):
                raise LookupError(f"{dotted(path)} has {len(here)} entries, counted from 0, and no {part!r}")
            if not isinstance(here, list | dict):
                raise LookupError(f"{dotted(path)} is a single value, with nothing inside it")
            key = int(part) if isinstance(here, list) else part
            path = (*path, key)
            if depth == len(parts) - 1:
                break
            if isinstance(here, dict) and here.get(part) is None:
                if parts[depth + 1].isdecimal():
                    raise LookupError(f"{dotted(path)} has no entries to change: write it out in the recipe first")
                here[part] = {}
                self.places[path] = place
            here = here[key]
        return here, path

    def _compose(self, text: str, place: Callable[[int], str], path: KeyPath) -> yaml.Node | None:
        """The node tree; None if the text is empty or, with a problem reported, not acceptable."""
        try:
            return _Loader(text).get_single_node()
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._report(place(line), path, f"YAML does not allow the character U+{error.character:04X}")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = error.problem or error.context or "not YAML"
            if "'\\t'" in message:
                message = "a tab; YAML is indented with spaces"
            self._report(place(mark.line + 1 if mark else 1), path, message)
        return None

    def _build(self, node: yaml.Node, place: Callable[[int], str], path: KeyPath) -> Any:
        self.places[path] = place(node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(child, place, (*path, number)) for number, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        mapping: dict[str, Any] = {}
        for key_node, child in node.value:
            line = place(key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(line, path, "a key must be a single word, not a list or a mapping")
                continue
            inner = (*path, key_node.value)
            if key_node.value in mapping:
                self._report(line, inner, f"written twice (first at {self.places[inner]})")
                continue
            mapping[key_node.value] = self._build(child, place, inner)
            self.places[inner] = line
        return mapping

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if len(text) <= 20:
                return int(text)
            case "float" if math.isfinite(float(text)):
                return float(text)
            case "int" | "float":
                self._report(self.places[path], path, "the number is too large")
            case _ if "\0" not in text and not re.search("[\ud800-\udfff]", text):
                return text
            case _:
                self._report(self.places[path], path, "the text has characters that no file can hold")
        return None

    def _report(self, place: str, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(place, path, message))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's table of plain scalars, filled below)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        refused = None
        if getattr(event, "anchor", None) is not None:
            refused = "anchors (&) and aliases (*) are not read in recipes; write the value out"
        elif getattr(event, "tag", None) is not None:
            refused = f"tags are not read in recipes (got {event.tag})"
        elif self.depth >= MAX_DEPTH:
            refused = f"nested more than {MAX_DEPTH} deep"
        if refused:
            raise yaml.composer.ComposerError(None, None, refused, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Quotes every text that this loader, or a YAML 1.1 loader, would take for something else."""


for _tag, _pattern in _PLAIN_SCALARS.items():
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
