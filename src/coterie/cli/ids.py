"""Ids on the command line."""

from pathlib import Path

from coterie.errors import DataError


def read_ids(given: list[str] | None) -> list[str] | None:
    """The ids on the command line; ``@FILE`` stands for the lines of a file."""
    if given is None:
        return None
    ids: list[str] = []
    for text in given:
        if not text.startswith("@"):
            ids.append(text)
            continue
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DataError(f"The ids in {text[1:]} cannot be read: {why}.") from error
        ids.extend(line.strip() for line in lines if line.strip())
    return ids
