"""Titles found by the words that someone types; ids, where there is no title.

The texts stand in the order of popularity, so whatever matches comes out in that order. Scanning
a million titles takes about 0.1 s of one core and holds no other thread up.
"""

import numpy as np
import polars as pl

# letters that Unicode does not take apart, as most people type them
LETTERS = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ð": "d", "đ": "d", "þ": "th", "ł": "l",
           "ı": "i", "ħ": "h", "ς": "σ"}  # fmt: skip


class TitleSearch:
    """What a catalogue is searched in.

    Parameters
    ----------
    ids
        External ids, ``[I]``; they stand for titles that there are not.
    titles
        As many; None where there is none.
    counts
        Popularity, ``[I]``; more popular items come first.
    """

    def __init__(self, ids: list[int | str], titles: list[str | None], counts: np.ndarray) -> None:
        self._order = np.argsort(-counts, kind="stable")
        texts = [title or str(id_) for title, id_ in zip(titles, ids, strict=True)]
        # in order before they are folded, so that they lie in memory as they are read
        self._texts = _folded(pl.Series(texts, dtype=pl.String).gather(self._order))

    def find(self, query: str, limit: int) -> np.ndarray:
        """Indices of items in whose title all words of the query stand, int64, at most ``limit``.

        Items that have every word at the beginning of one of theirs come before those with a word
        inside; the more popular ones come first. Case, accents and punctuation do not matter. An
        empty query finds the most popular items.
        """
        words = _folded(pl.Series([query]))[0].split()
        if not words:
            return self._order[: 0 if query.strip() else limit]
        words.sort(key=len, reverse=True)  # long ones leave least to look at
        places, texts = np.arange(len(self._texts)), self._texts
        for word in words:
            has = texts.str.contains(word, literal=True)
            places, texts = places[has.to_numpy()], texts.filter(has)
        begins = np.ones(len(texts), dtype=bool)
        for word in words:
            begins &= texts.str.contains(f" {word}", literal=True).to_numpy()
        first = np.concatenate([places[begins][:limit], places[~begins][:limit]])[:limit]
        found: np.ndarray = self._order[first]
        return found


def _folded(texts: pl.Series) -> pl.Series:
    """Lower case, without accents; a space before each word and nothing else between words."""
    plain = texts.str.to_lowercase().str.normalize("NFKD").str.replace_all(r"\p{M}", "")
    plain = plain.str.replace_many(LETTERS)
    return " " + plain.str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()
