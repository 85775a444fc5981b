"""Bodies in JSON, read as the standard has them: what Python takes beside that, nothing here could store."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request


class JsonRequest(Request):
    """A request whose JSON holds text that can be UTF-8, and numbers that are finite."""

    async def json(self) -> Any:
        """Return the body, decoded.

        Raises:
            json.JSONDecodeError: it is no JSON; the framework answers that with the place.
        """
        try:
            found = await super().json()
            # By the encoder, which goes through all of it in C: free objects are checked by no model.
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
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
