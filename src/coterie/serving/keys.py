"""API keys: who may ask. They come from the environment and are compared in constant time."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable

from coterie.errors import ConfigError

VARIABLE = "COTERIE_API_KEYS"
SHORTEST = 16
VISIBLE = re.compile(r"[\x21-\x7e]*")
SCHEME = b"bearer "


class Keys:
    """A set of keys of which only digests are kept; without any, everyone may ask."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def from_environment(cls) -> "Keys":
        """The keys in ``COTERIE_API_KEYS``, separated by commas.

        Raises
        ------
        ConfigError
            One is shorter than 16 characters or has others than visible ASCII ones, which clients
            could not send; or the variable is set and holds none.
        """
        text = os.environ.get(VARIABLE)
        if text is None:
            return cls()
        keys = [key.strip() for key in text.split(",") if key.strip()]
        if not keys or min(map(len, keys)) < SHORTEST:
            raise ConfigError(
                f"{VARIABLE} must hold keys of at least {SHORTEST} characters, separated by "
                "commas; unset it to let everyone in."
            )
        if not all(VISIBLE.fullmatch(key) for key in keys):
            raise ConfigError(
                f"{VARIABLE} must hold keys of letters, digits and punctuation of ASCII; one has a "
                "space or another character that clients cannot send."
            )
        return cls(keys)

    def admit(self, authorization: bytes | None) -> bool:
        """Whether a header ``Authorization: Bearer KEY`` holds one of the keys.

        All keys are compared, whichever fits, so that the time tells nothing.
        """
        if not self._digests:
            return True
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            return False
        given = _digest(authorization[len(SCHEME) :].strip())
        return sum([hmac.compare_digest(given, digest) for digest in self._digests]) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
