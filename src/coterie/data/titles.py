"""Readable, distinct titles for invented items, made of small word lists."""

import numpy as np

GENRES = {
    "Adventure": "Expedition Summit Compass Island Caravan Raft Jungle Treasure",
    "Comedy": "Wedding Neighbour Holiday Parrot Landlord Picnic Waiter Reunion",
    "Crime": "Alibi Safe Witness Informant Ransom Detective Forgery Vault",
    "Documentary": "Archive Glacier Orchestra Reef Factory Election Harvest Railway",
    "Drama": "Letter Harbour Daughter Orchard Verdict Silence Teacher Winter",
    "Family": "Puppy Treehouse Circus Snowman Kite Grandmother Lantern Pony",
    "Fantasy": "Dragon Crown Wizard Forest Oracle Sword Kingdom Spell",
    "Horror": "Cellar Shadow Doll Graveyard Whisper Mirror Attic Swarm",
    "Music": "Encore Trumpet Choir Rehearsal Ballad Drummer Vinyl Overture",
    "Mystery": "Clue Manor Cipher Stranger Portrait Key Fog Inheritance",
    "Romance": "Kiss Balcony Promise Garden Dance Postcard Rose Proposal",
    "Science Fiction": "Android Orbit Colony Signal Starship Paradox Reactor Clone",
    "Sport": "Marathon Champion Coach Relay Penalty Derby Comeback Regatta",
    "Thriller": "Deadline Chase Hostage Courier Border Decoy Countdown Tunnel",
    "War": "Trench Armistice Convoy Bridge Medal Siege Radio Deserter",
    "Western": "Sheriff Saddle Canyon Stagecoach Outlaw Ranch Duel Prairie",
}
_THEMES = """
    Chess, Time Travel, Lighthouses, Heist, Beekeeping, Submarines, Cooking, Twins, Ghost Ships,
    Volcanoes, Typewriters, Mountaineering, Clockwork, Puppetry, Antarctica, Jazz, Archaeology,
    Falconry, Pinball, Perfume, Cartography, Balloons, Origami, Tea, Night Trains, Meteorites,
    Codebreaking, Fencing, Opera, Bicycles, Mushrooms, Tango
"""
_ADJECTIVES = """
    Silent Golden Last Hidden Broken Crimson Distant Electric Endless Forgotten Frozen Gentle
    Hollow Honest Invisible Iron Little Lonely Lost Lucky Midnight Northern Paper Quiet Restless
    Rising Sacred Scarlet Second Secret Silver Sleeping Strange Sunken Velvet Wandering Wild
    Wooden Young Burning
"""
_PLACES = """
    Lisbon Oslo Kyoto Nairobi Havana Prague Quito Dublin Tunis Hanoi Bergen Lima Naples Tbilisi
    Perth Bruges Cairo Riga Porto Seoul Dakar Vienna Cork Samoa
"""
THEMES = [" ".join(theme.split()) for theme in _THEMES.split(",")]
ADJECTIVES = _ADJECTIVES.split()
PLACES = _PLACES.split()


def genre_names(n: int) -> list[str]:
    """The first ``n`` genres; numbered ones where the list ends."""
    return _extended(list(GENRES), "Genre", n)


def theme_names(n: int) -> list[str]:
    """The first ``n`` themes; numbered ones where the list ends."""
    return _extended(THEMES, "Theme", n)


def titles(genre: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A distinct title for each item, its noun fitting its genre number (int ``[I]``).

    "The Hidden Cipher"; once those are used up "The Hidden Cipher of Oslo", then "…, Part 2".
    """
    nouns = [words.split() for words in GENRES.values()]
    n_plain = len(ADJECTIVES) * len(nouns[0])
    # Items that draw their nouns from one list are numbered 0, 1, 2 …; each number is one title.
    shared = np.asarray(genre) % len(nouns)
    order = np.argsort(shared, kind="stable")
    starts = np.searchsorted(shared[order], np.arange(len(nouns)))
    number = np.empty(len(shared), dtype=np.int64)
    number[order] = np.arange(len(shared)) - starts[shared[order]]
    shuffle = rng.permutation(n_plain)
    return [
        _title(nouns[list_], int(shuffle[n % n_plain]), n // n_plain)
        for list_, n in zip(shared.tolist(), number.tolist(), strict=True)
    ]


def _title(nouns: list[str], plain: int, again: int) -> str:
    title = f"The {ADJECTIVES[plain // len(nouns)]} {nouns[plain % len(nouns)]}"
    part, place = divmod(again, len(PLACES) + 1)
    if place:
        title += f" of {PLACES[place - 1]}"
    return f"{title}, Part {part + 1}" if part else title


def _extended(names: list[str], word: str, n: int) -> list[str]:
    return [names[i] if i < len(names) else f"{word} {i + 1}" for i in range(n)]
