"""Every error that coterie raises on purpose.

CoterieError
├── ConfigError          a setting is unknown, out of range, or contradicts another
├── DataError            an input file, row, column or identifier is not what it should be
│   └── DownloadError    a public data set could not be fetched or its checksum differs
├── StorageError         a file or folder could not be written, or exists already
├── NotFittedError       the object needs training first
├── ArtifactError        a saved model, data set or checkpoint is damaged or of another version
├── MissingExtraError    an optional dependency is not installed
├── ServerError          a server that was asked did not answer, or refused
└── DivergenceError      training produced NaN or Inf

Each message says what was expected, what came instead, and what to do. ``exit_code`` is what the
command line returns: 2 for the user's mistake, 1 otherwise.
"""

from typing import ClassVar, Self


class CoterieError(Exception):
    """Base of all errors raised by coterie."""

    exit_code: ClassVar[int] = 2


class ConfigError(CoterieError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(CoterieError, ValueError):
    """An input file, row, column or identifier is not what it should be."""


class DownloadError(DataError):
    """A public data set could not be fetched, or its checksum differs."""


class StorageError(CoterieError, OSError):
    """A file or folder could not be written, or exists already."""


class NotFittedError(CoterieError, RuntimeError):
    """The object needs training before this call."""


class ArtifactError(CoterieError, ValueError):
    """A saved model, data set or checkpoint is damaged, edited, or of another version."""


class MissingExtraError(CoterieError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class ServerError(CoterieError, ConnectionError):
    """A server that was asked did not answer, or refused; the message says what it said."""


class DivergenceError(CoterieError, ArithmeticError):
    """Training produced NaN or Inf; the message names the step and the term."""

    exit_code: ClassVar[int] = 1

    @classmethod
    def of_scores(cls, bad: int, rows: int) -> Self:
        """Scores of ``bad`` of some rows hold NaN, which has no rank."""
        return cls(
            f"{bad} of {rows} rows of scores hold NaN; the model has diverged or its input is not "
            "finite."
        )
