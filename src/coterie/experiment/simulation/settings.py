"""How many people come, how often, and how they click."""

from pydantic import Field, PositiveInt

from coterie.config import HIGHEST_SEED, Config


class SimulateOptions(Config):
    """People, their visits and their clicks; how hard the server is driven."""

    users: PositiveInt = Field(
        5_000, description="People, who repeat the tastes of the data's users."
    )
    visits: float = Field(3.0, ge=1, le=1000, description="Visits per person, on average.")
    k: int = Field(10, ge=1, le=80, description="Items shown on a visit, at most 80.")
    position_bias: float = Field(
        1.0, ge=0, le=10, description="Place r is looked at with probability r^-position_bias."
    )
    noise: float = Field(
        0.02, ge=0, lt=1, description="Chance of a click on an item one looks at and dislikes."
    )
    concurrency: int = Field(16, ge=1, le=1000, description="People who come at the same time.")
    seed: int = Field(0, ge=0, le=HIGHEST_SEED, description="Determines everything that is drawn.")
