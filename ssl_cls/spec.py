"""`@spec`: a frozen dataclass that a recipe may contain, and the number types its fields use.

The constraints are read by `config.load`, which checks a whole recipe at once; a spec built in Python is not checked.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le, Lt

T = TypeVar("T")

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Gt(0), Lt(1)]  # of what there is: neither nothing nor all
Count = Annotated[int, Gt(0)]
Natural = Annotated[int, Ge(0)]


@dataclass_transform(frozen_default=True)
def spec(cls: type[T]) -> type[T]:
    """A frozen dataclass; in a recipe, unknown keys and lenient types (`true` for 1) are errors."""
    made: Any = dataclass(frozen=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "strict": True}
    return made  # type: ignore[no-any-return]
