"""Items and users by name, short enough for a figure or a table."""

import polars as pl


def shortened(text: str, most: int) -> str:
    """The text, cut to ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def item_names(items: pl.DataFrame) -> list[str]:
    """Titles where they are known, else ids."""
    ids = items["item_id"].cast(pl.String)
    names = items["title"].fill_null(ids) if "title" in items.columns else ids
    return names.to_list()


def identified(items: pl.DataFrame) -> list[str]:
    """The ids, each before its title where that is known."""
    ids = items["item_id"].cast(pl.String).to_list()
    names = zip(ids, item_names(items), strict=True)
    return [of if of == name else f"{of} {name}" for of, name in names]
