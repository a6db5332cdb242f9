"""What every table of a configuration has in common: frozen, no unknown keys; and the kinds of numbers in them."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Table(BaseModel):
    """Base of every table: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrownTable(Table):
    """A table with keys that came later, which stand in what is written and hashed only where they are given.

    So digests of older configurations stay what they were, their run folders go on, and former releases read them.
    """

    later_keys: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        for key in self.later_keys:
            if getattr(self, key) == type(self).model_fields[key].default:
                tree.pop(key, None)
        return tree
