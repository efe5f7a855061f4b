"""Column names in one place: what we write, and the usual names that we recognise in others' data.

A name is compared without case, underscores, dots, hyphens and spaces: ``userId``, ``user_id`` and
``User ID`` are one name.
"""

import re
from collections.abc import Mapping, Sequence

from coterie.errors import DataError

USER = "user_id"
ITEM = "item_id"
RATING = "rating"
TIMESTAMP = "timestamp"
ROLES = (USER, ITEM, RATING, TIMESTAMP)

# Within a role the earlier name wins where a table has several.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    USER: (
        "userid", "user", "uid", "users", "customerid", "customer", "visitorid", "memberid",
        "accountid", "profileid", "reviewerid", "personid", "sessionid", "useridx", "u",
    ),
    ITEM: (
        "itemid", "item", "iid", "sid", "items", "movieid", "movie", "songid", "song", "trackid",
        "artistid", "productid", "product", "parentasin", "asin", "bookid", "isbn", "contentid",
        "titleid", "businessid", "venueid", "locationid", "gameid", "appid", "animeid", "jokeid",
        "recipeid", "itemidx", "i",
    ),
    RATING: (
        "rating", "ratings", "weight", "score", "value", "stars", "overall", "plays", "playcount",
        "listencount", "count", "r",
    ),
    TIMESTAMP: (
        "timestamp", "ts", "time", "unixtime", "unixreviewtime", "datetime", "date", "createdat",
        "eventtime", "ratedat", "t",
    ),
}  # fmt: skip

_RECBOLE_FIELD = re.compile(r"(.+):(?:token|float|token_seq|float_seq)")


def find_roles(columns: Sequence[str], wanted: Mapping[str, str | None]) -> dict[str, str]:
    """Which column plays which role: role → column; optional roles may be absent.

    Parameters
    ----------
    columns
        The columns that are there, in order.
    wanted
        Role → the name the user gave, or None for the usual names. A missing role is not sought.

    Raises
    ------
    DataError
        A named column is not there, or no column looks like users or items.
    """
    plain = {_plain(column): column for column in reversed(columns)}
    roles: dict[str, str] = {}
    for role, name in wanted.items():
        if name is not None:
            if name not in columns:
                raise DataError(
                    f"There is no column {name!r} (asked for as {role}); "
                    f"the columns are: {_listed(columns)}."
                )
            roles[role] = name
            continue
        found = next((plain[usual] for usual in USUAL_NAMES[role] if usual in plain), None)
        if found is not None:
            roles[role] = found
        elif role in (USER, ITEM):
            raise DataError(
                f"No column looks like {role}; the columns are: {_listed(columns)}. "
                f"Say which one it is (option {role.removesuffix('_id')!r})."
            )
    _check_distinct(roles)
    return roles


def positional_roles(columns: Sequence[str], *, third_is_time: bool) -> dict[str, str]:
    """Role → column of a table without header: user, item, then rating and timestamp.

    Raises
    ------
    DataError
        There are fewer than two columns.
    """
    if len(columns) < 2:
        raise DataError(
            f"Expected at least two columns (user, item), got {len(columns)}; "
            "say which separator stands between them (option 'separator')."
        )
    order = (USER, ITEM, TIMESTAMP) if third_is_time and len(columns) == 3 else ROLES
    return dict(zip(order, columns, strict=False))


def strip_recbole_types(columns: Sequence[str]) -> list[str]:
    """``user_id:token`` → ``user_id`` where every column carries a RecBole type; else unchanged."""
    matches = [_RECBOLE_FIELD.fullmatch(column) for column in columns]
    if not all(matches):
        return list(columns)
    return [match.group(1) for match in matches if match]


def looks_like_header(cells: Sequence[str]) -> bool:
    """Whether one of the cells is a usual column name or carries a RecBole type."""
    usual = {name for names in USUAL_NAMES.values() for name in names if len(name) > 1}
    return any(_plain(cell) in usual or _RECBOLE_FIELD.fullmatch(cell) for cell in cells)


def _plain(name: str) -> str:
    return re.sub(r"[\s_.\-]", "", name).lower()


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(column) for column in columns[:30])
    return shown + (f" and {len(columns) - 30} more" if len(columns) > 30 else "") or "none"


def _check_distinct(roles: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for role, column in roles.items():
        if column in seen:
            raise DataError(f"Column {column!r} cannot be both {seen[column]} and {role}.")
        seen[column] = role
