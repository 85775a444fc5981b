"""Bodies in JSON, read as the standard has them: what Python takes beside that, nothing here could store."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from fastapi import Request


class JsonRequest(Request):
    """A request whose JSON holds text that can be UTF-8, and numbers that are finite."""

    async def json(self) -> Any:
        """Return the body, decoded.

        Raises:
            json.JSONDecodeError: it is no JSON; the framework answers that with the place.
        """
        raw = await self.body()
        try:
            found = json.loads(raw.decode("utf-8-sig"), parse_float=_finite, parse_constant=_no_number)
            # Only an escape brings half of a surrogate pair into text that was UTF-8. Few bodies have one: in
            # those the encoder finds it, which goes through all of it in C.
            if b"\\ud" in raw or b"\\uD" in raw:
                json.dumps(found, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        # Half of a surrogate pair is Python's text and no other's; bytes may be no text at all.
        except UnicodeError as error:
            raise json.JSONDecodeError("A text cannot be UTF-8", "", 0) from error
        # NaN, Infinity, 1e999, thousands of digits.
        except ValueError as error:
            raise json.JSONDecodeError("A number is too large, or none", "", 0) from error
        except RecursionError as error:
            raise json.JSONDecodeError("It is nested too deep", "", 0) from error
        return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("too large")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
