import numpy as np

from coterie.data.titles import GENRES, THEMES, genre_names, theme_names, titles


def test_titles_are_distinct_even_when_the_words_are_used_up() -> None:
    genre = np.arange(40_000) % 2
    made = titles(genre, np.random.default_rng(0))
    assert len(set(made)) == 40_000
    assert any(title.endswith(", Part 3") for title in made)
    assert made[0].count(" ") == 2, "the first are short: The <adjective> <noun>"


def test_the_noun_fits_the_genre() -> None:
    genre = np.repeat(np.arange(len(GENRES)), 20)
    words = [set(nouns.split()) for nouns in GENRES.values()]
    for title, number in zip(titles(genre, np.random.default_rng(1)), genre, strict=True):
        assert title.split()[2] in words[number]


def test_every_genre_has_eight_nouns_of_its_own() -> None:
    nouns = [noun for words in GENRES.values() for noun in words.split()]
    assert len(nouns) == len(set(nouns)) == 8 * len(GENRES)


def test_names_are_distinct_and_numbered_where_the_list_ends() -> None:
    assert genre_names(2) == ["Adventure", "Comedy"]
    assert genre_names(18)[16:] == ["Genre 17", "Genre 18"]
    assert len(set(theme_names(100))) == 100
    assert theme_names(1) == THEMES[:1] == ["Chess"]
