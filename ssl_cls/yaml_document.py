"""YAML and `key.path=value` overrides into plain data that remembers where each value was written.

The subset of YAML 1.2's core schema that a recipe needs: `1e-3` is a number, `no` is text, and what can surprise or
attack a reader (repeated keys, anchors, aliases, tags, merge keys, deep nesting) is a problem with a line, never a value.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

KeyPath = tuple[str | int, ...]
MAX_DEPTH = 16

_SCALARS = {
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


class Document:
    """A mapping under construction: `data`, the place of every path in it, and the problems met so far."""

    def __init__(self, text: str, place: Callable[[int], str]) -> None:
        """`place` turns a 1-based line into what a problem is reported at. Nothing is raised: see `problems`."""
        self.data: Any = None
        self.places: dict[KeyPath, str] = {(): place(1)}
        self.problems: list[Problem] = []
        node = self._compose(text, place, ())
        if node is not None:
            self.data = self._build(node, place, ())
        if not isinstance(self.data, dict) and not self.problems:
            self.problems.append(Problem(place(1), (), "must be a mapping of keys, such as `name: my_run`"))

    def place(self, path: KeyPath) -> str:
        """Where `path` was written, or, if it was not, the nearest key around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def override(self, place: str, text: str) -> None:
        """Set one `key.path=value`; the value is YAML, a whole number in the path is a position of a list."""
        written, equals, value = text.partition("=")
        parts = written.strip().split(".")
        if not equals or not all(parts):
            self.problems.append(Problem(place, (), f"{text!r} is not of the form key.path=value"))
            return
        node = self._compose(value, lambda line: place, tuple(parts))
        if node is None:
            if not any(problem.place == place for problem in self.problems):
                self.problems.append(
                    Problem(place, tuple(parts), "no value after the equals sign (null is the empty one)")
                )
            return
        if not isinstance(self.data, dict):
            return
        parent: Any = self.data
        for depth, part in enumerate(parts):
            path = _resolved(self.data, parts[: depth + 1])
            key: Any = path[-1]
            if isinstance(parent, list) and not (isinstance(key, int) and key < len(parent)):
                self.problems.append(
                    Problem(
                        place,
                        tuple(parts),
                        f"{dotted(path[:-1])} has no position {part} (it has {len(parent)})",
                    )
                )
                return
            if not isinstance(parent, (dict, list)):
                self.problems.append(
                    Problem(place, tuple(parts), f"{dotted(path[:-1])} is a single value and has no {part}")
                )
                return
            if depth == len(parts) - 1:
                for old in [known for known in self.places if known[: len(path)] == path]:
                    del self.places[old]
                parent[key] = self._build(node, lambda line: place, path)
            elif isinstance(parent, dict) and parent.get(key) is None:
                if parts[depth + 1].isdecimal():
                    self.problems.append(
                        Problem(
                            place,
                            tuple(parts),
                            f"{dotted(path)} is not written in the recipe, so it has no positions",
                        )
                    )
                    return
                parent[key] = {}
                self.places[path] = place
            parent = parent[key]

    def _compose(self, text: str, place: Callable[[int], str], path: KeyPath) -> yaml.Node | None:
        try:
            return _Loader(text).get_single_node()  # type: ignore[no-any-return]
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.problems.append(
                Problem(place(line), path, f"a character that YAML does not allow (U+{error.character:04X})")
            )
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = error.problem or error.context or "not YAML"
            if "'\\t'" in message:
                message = "a tab; YAML is indented with spaces"
            self.problems.append(Problem(place(mark.line + 1 if mark else 1), path, message))
        return None

    def _build(self, node: yaml.Node, place: Callable[[int], str], path: KeyPath) -> Any:
        self.places[path] = place(node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(child, place, (*path, position)) for position, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        mapping: dict[str, Any] = {}
        for key_node, child in node.value:
            key, here = str(key_node.value), place(key_node.start_mark.line + 1)
            inner = (*path, key)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(here, path, "a key must be a single word"))
            elif key in mapping:
                self.problems.append(Problem(here, inner, f"written twice (first at {self.places[inner]})"))
            else:
                mapping[key] = self._build(child, place, inner)
                self.places[inner] = here
        return mapping

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = str(node.value)
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if len(text) <= 20:
                return int(text)
            case "float" if math.isfinite(float(text)):
                return float(text)
            case "str":
                if "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text):
                    return text
                self.problems.append(Problem(self.places[path], path, "not text that a file can hold"))
            case _:
                self.problems.append(Problem(self.places[path], path, "a number too large for any use"))
        return None


def dotted(path: KeyPath) -> str:
    """("views", 0, "count") -> "views.0.count"; keys that would garble a terminal are escaped."""
    return ".".join(str(part) if str(part).isprintable() else ascii(part) for part in path)


def _resolved(data: Any, parts: list[str]) -> KeyPath:
    """The written parts of an override as a path into `data`: positions where there are lists."""
    path: list[str | int] = []
    for part in parts:
        path.append(int(part) if isinstance(data, list) and part.isdecimal() else part)
        data = (
            data.get(part)
            if isinstance(data, dict)
            else data[path[-1]]
            if isinstance(data, list) and path[-1] in range(len(data))
            else None
        )
    return tuple(path)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own attribute: the table of plain scalars)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
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
    """Quotes every text that this reader, or a YAML 1.1 reader, would take for something else."""

    yaml_implicit_resolvers = {
        first: list(table) for first, table in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }  # noqa: RUF012


for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
