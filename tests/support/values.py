"""What holds for the values that the services pass around, and for their numbers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest


def assert_value(value: object) -> None:
    """Nobody can change it, and it carries no dict: lists of hundreds of them are passed on.

    Its like is its equal.
    """
    assert is_dataclass(value)
    assert not isinstance(value, type)
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)
    assert not hasattr(value, "__dict__")
    assert type(value).__hash__ is not None  # what can be changed has none
    assert replace(value) == value


def on_the_wire(enum: Any, prefix: str) -> dict[str, int]:
    """The numbers of a generated enum by their names without the prefix; without UNSPECIFIED."""
    return {name.removeprefix(prefix): number for name, number in enum.items() if number}


def numbers(enum: Any) -> dict[str, int]:
    """Those of our own enum, without its zero and with its other names of one number."""
    return {name: member.value for name, member in enum.__members__.items() if member.value}
