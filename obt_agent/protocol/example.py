"""The smallest value of a message type: golden frames and smoke test of a command that brings none. Pure."""

from __future__ import annotations

from typing import Any, Final

from msgspec import inspect

_EMPTY: Final[dict[type[inspect.Type], Any]] = {
    inspect.VarTupleType: [],
    inspect.ListType: [],
    inspect.DictType: {},
    inspect.RawType: {},
    inspect.AnyType: {},
    inspect.BoolType: False,
}


def example(type_: Any) -> Any:
    """Return the smallest JSON value that decodes as ``type_``: required fields only.

    Raises:
        TypeError: the type has none that can be made without knowing more.
    """
    return _value(inspect.type_info(type_))


def _value(type_: inspect.Type) -> Any:
    match type_:
        case inspect.StructType(fields=fields):
            value: Any = {field.encode_name: _value(field.type) for field in fields if field.required}
        # A description or a format, which changes no value.
        case inspect.Metadata(type=inner):
            value = _value(inner)
        # The first of a union: the one that is meant; null and the like come after it.
        case inspect.UnionType(types=types):
            value = _value(types[0])
        case inspect.LiteralType(values=values):
            value = values[0]
        case inspect.StrType(min_length=least):
            value = "x" * (least or 1)
        case inspect.IntType(ge=least, gt=above) | inspect.FloatType(ge=least, gt=above):
            value = least if least is not None else 0 if above is None else above + 1
        case _:
            value = _EMPTY.get(type(type_))
            if value is None:
                raise TypeError(f"no example of {type_}")
    return value
