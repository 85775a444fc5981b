"""The smallest value of a type decodes as that type."""

from typing import Any

import msgspec
import pytest

from obt_agent.protocol.example import example
from obt_agent.protocol.methods import METHODS

TYPES = {type_ for method in METHODS.values() for type_ in (method.params, method.result)} - {None, dict}


@pytest.mark.parametrize("type_", sorted(TYPES, key=str), ids=lambda type_: type_.__name__)
def test_the_example_of_each_message_decodes(type_: Any) -> None:
    msgspec.json.decode(msgspec.json.encode(example(type_)), type=type_)


def test_a_type_without_an_example_is_said_to_have_none() -> None:
    with pytest.raises(TypeError, match="no example"):
        example(bytes)
