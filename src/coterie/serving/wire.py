"""What requests and answers hold, as OpenAPI shows it."""

from datetime import date
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from coterie.experiment.events import Event
from coterie.experiment.settings import Name, Verdict
from coterie.serving import examples
from coterie.serving.settings import ItemId

MOST_IDS = 10_000  # in one list of a request
Ids = Annotated[list[ItemId], Field(max_length=MOST_IDS)]


def shown(*values: dict[str, Any]) -> ConfigDict:
    """The configuration of a model of which OpenAPI shows examples."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


class Wire(BaseModel):
    """Unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecommendRequest(Wire):
    """One list for one user, known by items or by id."""

    model_config = shown(
        {"history": [318, 527, 2571], "k": 5},
        {"user": "4711", "k": 20, "experiment": "pia", "surface": "home_card"},
    )

    history: Ids | None = Field(None, description="Item ids of the user; needs no store.")
    user: ItemId | None = Field(
        None, description="Whose stored history counts if none is given, and whose arm."
    )
    k: int = Field(10, ge=1, strict=True, description="Length of the list.")
    exclude_seen: bool = Field(True, description="Leave out the items of the history.")
    allow: Ids | None = Field(None, description="Recommend only these items.")
    deny: Ids = Field([], description="Never recommend these items.")
    filter: Name | None = Field(None, description="An item filter of the server's configuration.")
    surface: Name | None = Field(None, description="Where the list is shown; it is echoed.")
    experiment: Name | None = Field(None, description="Whose arms divide the users; needs user.")

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.history is None and self.user is None:
            raise ValueError("give history or user, or both")
        if self.experiment is not None and self.user is None:
            raise ValueError("experiment needs user, who is assigned to an arm")
        return self


class BatchRequest(Wire):
    """Several lists at once; all are answered, or none."""

    requests: list[RecommendRequest] = Field(min_length=1)


class Item(Wire):
    """An item of a list."""

    item: ItemId
    score: float = Field(description="Comparable within the list only.")
    title: str | None = None


class RecommendAnswer(Wire):
    """A list, and where it comes from."""

    model_config = shown(examples.RECOMMENDED)

    items: list[Item] = Field(description="Best first; fewer than k where fewer are eligible.")
    unknown: list[ItemId] = Field(description="Ids in the request that the model does not know.")
    fallback: bool = Field(description="No known item in the history: the most popular items.")
    model: str = Field(description="The model that answered.")
    version: str = Field(description="Its version.")
    experiment: str | None = Field(None, description="As in the request.")
    arm: str | None = Field(None, description="The user's arm; null if the user takes no part.")
    surface: str | None = Field(None, description="As in the request.")


class BatchAnswer(Wire):
    """The lists in the order of the requests."""

    model_config = shown(examples.BATCH)

    answers: list[RecommendAnswer]


class SimilarAnswer(Wire):
    """Items like a given one, most similar first."""

    model_config = shown(examples.SIMILAR)

    item: ItemId
    title: str | None = None
    source: str = Field(description="What is compared: anchors, decoder, factors or weights.")
    items: list[Item]
    model: str
    version: str


class ExplainAnswer(Wire):
    """Who helps a user, and what the scores of some items rest on."""

    model_config = shown(examples.EXPLAINED)

    user: str | None = Field(None, description="Null where a history alone was given.")
    model: str
    version: str
    history_items: int
    sentence: str
    warnings: list[str]
    skipped: str = Field(description="Why there are no neighbours; empty if there are.")
    figures: dict[str, float | None]
    sample: dict[str, Any]
    neighbours: list[dict[str, Any]]
    carriers: list[dict[str, Any]]
    items: list[dict[str, Any]]
    contributions: list[dict[str, Any]]
    item_neighbours: list[dict[str, Any]]
    unknown: list[dict[str, Any]]


class ExplainRequest(Wire):
    """Anyone's history, to be explained."""

    model_config = shown({"history": [318, 527, 2571], "items": [296], "k": 3})

    history: Ids = Field(description="Item ids; needs no store.")
    user: ItemId | None = Field(None, description="Whose history it is; nobody helps themselves.")
    items: Annotated[list[ItemId], Field(max_length=50)] | None = Field(
        None, description="Items to explain; else the best."
    )
    k: int = Field(5, ge=1, strict=True, description="How many of each.")


class FoundItem(Wire):
    """An item that was searched for."""

    item: ItemId
    title: str | None = None
    users: int = Field(description="Training users who have it.")


class FoundAnswer(Wire):
    """Items in whose title the words of the query stand, or whose id the query is."""

    model_config = shown(examples.FOUND)

    items: list[FoundItem] = Field(description="The item of that id first; then by popularity.")
    model: str
    version: str


class PlaceRequest(Wire):
    """Someone to be placed on the map."""

    model_config = shown({"history": [318, 527, 2571]})

    history: Ids = Field(description="Item ids; needs no store.")


class PlacedItem(Wire):
    """Where someone stands who has this item alone."""

    item: ItemId
    title: str | None = None
    x: float
    y: float


class PlaceAnswer(Wire):
    """A place on the map of ``GET /v1/map``."""

    model_config = shown(examples.PLACE)

    x: float
    y: float
    items: list[PlacedItem] = Field(description="The first 50 known items of the history.")
    unknown: list[ItemId] = Field(description="Ids that the model does not know.")
    model: str
    version: str


class MapAnswer(Wire):
    """The community on the first two principal components of its posterior means' directions."""

    model_config = shown(examples.MAP)

    users: list[tuple[float, float]] = Field(
        description="A sample of the community; in standard deviations along the first axis."
    )
    available: int = Field(description="Users of the community with a known item.")
    variance: tuple[float, float] = Field(description="Share of the variance along each axis.")
    landmarks: list[PlacedItem] = Field(description="Popular items that stand apart.")
    model: str
    version: str


class AboutAnswer(Wire):
    """What this server is, and what it can tell."""

    model_config = shown(examples.ABOUT)

    coterie: str = Field(description="The version of the software.")
    model: str
    version: str
    items: int = Field(description="Items that the default model knows.")
    community: int | None = Field(description="Users who may help; null: nothing is explained.")
    latent: bool = Field(description="Whether the default model has a latent space, so a map.")


class EventBatch(Wire):
    """Several events, acknowledged together."""

    events: list[Event] = Field(min_length=1)


class EventsAnswer(Wire):
    """The events are on disk."""

    model_config = shown(examples.EVENTS)

    stored: int = Field(description="New events.")
    duplicates: int = Field(description="Events whose event_id was there already.")


class ArmFacts(Wire):
    """An arm and its model."""

    name: str
    share: float
    model: str
    version: str


class ExperimentFacts(Wire):
    """An experiment that requests may name."""

    name: str
    start: AwareDatetime
    end: AwareDatetime
    running: bool
    exposed: float
    primary: str
    arms: list[ArmFacts]


class ExperimentsAnswer(Wire):
    """All experiments of this server."""

    model_config = shown(examples.EXPERIMENTS)

    experiments: list[ExperimentFacts]


class ArmOutcome(ArmFacts):
    """An arm, its model, and what its users saw and did since they entered."""

    users: int | None = Field(description="Users who entered; null if the log cannot be used.")
    impressions: int | None
    clicks: int | None


class MismatchOutcome(Wire):
    """Whether the arms got the users that their shares promise."""

    p_value: float | None = Field(description="Of the chi-square test; null without users.")
    warning: str | None = Field(None, description="What puts all verdicts in doubt.")


class LiftOutcome(Wire):
    """A metric of an arm against the control; null where nothing can be concluded."""

    metric: str
    arm: str
    lift: float | None = Field(description="Relative difference: 0.02 is 2 % more.")
    low: float | None = Field(description="Lower end of the interval; null if there is none.")
    high: float | None = Field(description="Upper end of the interval; null if there is none.")


class MetricOutcome(LiftOutcome):
    """A metric of an arm, and what to make of it."""

    control_mean: float | None = Field(
        description="The metric in the control; adjusted by CUPED where there is a pre-period."
    )
    mean: float | None = Field(description="The metric in the arm, adjusted likewise.")
    p_value: float | None = Field(description="Corrected for several metrics and arms.")
    verdict: Verdict = Field(description="What may be concluded.")
    sentence: str = Field(description="The verdict in words; also why there is none yet.")


class DayOutcome(Wire):
    """The experiment as of the end of a day."""

    date: date
    users: dict[str, int] = Field(description="Users who had entered, by arm.")
    results: list[LiftOutcome] = Field(description="With intervals valid at all days together.")


class ExperimentAnswer(Wire):
    """How an experiment stands."""

    model_config = shown(examples.EXPERIMENT)

    name: str
    computed_at: AwareDatetime
    arms: list[ArmOutcome]
    mismatch: MismatchOutcome
    results: list[MetricOutcome] = Field(description="The primary metric first.")
    days: list[DayOutcome]


class StatusAnswer(Wire):
    """The server is well."""

    model_config = shown(examples.STATUS)

    status: str = Field(description="alive or ready")


class Problem(Wire):
    """Why a request was refused."""

    model_config = shown(examples.PROBLEM)

    detail: str
    request_id: str
