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
Id = Annotated[ItemId, Field(description="The item's id.")]
Title = Annotated[str | None, Field(description="The item's title; null if it has none.")]
ModelName = Annotated[str, Field(description="The model: default, or the name of an arm.")]
Version = Annotated[
    str, Field(description="The model's version, as its manifest's SHA-256 begins.")
]
Metric = Annotated[str, Field(description="The metric's name.")]
Arm = Annotated[str, Field(description="The arm that is compared with the control.")]
Day = Annotated[date, Field(description="When it begins; days count from the experiment's start.")]
X = Annotated[float, Field(description="Place along the map's first axis.")]
Y = Annotated[float, Field(description="Place along the map's second axis.")]


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

    requests: list[RecommendRequest] = Field(min_length=1, description="At least one.")


class Item(Wire):
    """An item of a list."""

    item: Id
    score: float = Field(description="Comparable within the list only.")
    title: Title = None


class RecommendAnswer(Wire):
    """A list, and where it comes from."""

    model_config = shown(examples.RECOMMENDED)

    items: list[Item] = Field(description="Best first; fewer than k where fewer are eligible.")
    unknown: list[ItemId] = Field(description="Ids in the request that the model does not know.")
    fallback: bool = Field(description="No known item in the history: the most popular items.")
    model: ModelName
    version: Version
    experiment: str | None = Field(None, description="As in the request.")
    arm: str | None = Field(None, description="The user's arm; null if the user takes no part.")
    surface: str | None = Field(None, description="As in the request.")


class BatchAnswer(Wire):
    """The lists in the order of the requests."""

    model_config = shown(examples.BATCH)

    answers: list[RecommendAnswer] = Field(description="One for each request, in their order.")


class SimilarAnswer(Wire):
    """Items like a given one, most similar first."""

    model_config = shown(examples.SIMILAR)

    item: Id
    title: Title = None
    source: str = Field(description="What is compared: anchors, decoder, factors or weights.")
    items: list[Item] = Field(description="Most similar first.")
    model: ModelName
    version: Version


class ExplainAnswer(Wire):
    """Who helps a user, and what the scores of some items rest on."""

    model_config = shown(examples.EXPLAINED)

    user: str | None = Field(None, description="Null where a history alone was given.")
    model: ModelName
    version: Version
    history_items: int = Field(description="Known items of the history.")
    sentence: str = Field(description="The explanation in words.")
    warnings: list[str] = Field(description="What puts the explanation in doubt.")
    skipped: str = Field(description="Why there are no neighbours; empty if there are.")
    figures: dict[str, float | None] = Field(description="Figures of the neighbourhood, by name.")
    sample: dict[str, Any] = Field(description="How many users were searched, of how many.")
    neighbours: list[dict[str, Any]] = Field(description="Users who help most, best first.")
    carriers: list[dict[str, Any]] = Field(description="Items through which a neighbour helps.")
    items: list[dict[str, Any]] = Field(description="The items explained, with their scores.")
    contributions: list[dict[str, Any]] = Field(
        description="What each item of the history adds to the score of an explained item."
    )
    item_neighbours: list[dict[str, Any]] = Field(
        description="Users who raise or lower the score of an explained item."
    )
    unknown: list[dict[str, Any]] = Field(description="Ids that the model does not know.")


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

    item: Id
    title: Title = None
    users: int = Field(description="Training users who have it.")


class FoundAnswer(Wire):
    """Items in whose title the words of the query stand, or whose id the query is."""

    model_config = shown(examples.FOUND)

    items: list[FoundItem] = Field(description="The item of that id first; then by popularity.")
    model: ModelName
    version: Version


class PlaceRequest(Wire):
    """Someone to be placed on the map."""

    model_config = shown({"history": [318, 527, 2571]})

    history: Ids = Field(description="Item ids; needs no store.")


class PlacedItem(Wire):
    """Where someone stands who has this item alone."""

    item: Id
    title: Title = None
    x: X
    y: Y


class PlaceAnswer(Wire):
    """A place on the map of ``GET /v1/map``."""

    model_config = shown(examples.PLACE)

    x: X
    y: Y
    items: list[PlacedItem] = Field(description="The first 50 known items of the history.")
    unknown: list[ItemId] = Field(description="Ids that the model does not know.")
    model: ModelName
    version: Version


class MapAnswer(Wire):
    """The community on the first two principal components of its posterior means' directions."""

    model_config = shown(examples.MAP)

    users: list[tuple[float, float]] = Field(
        description="A sample of the community; in standard deviations along the first axis."
    )
    available: int = Field(description="Users of the community with a known item.")
    variance: tuple[float, float] = Field(description="Share of the variance along each axis.")
    landmarks: list[PlacedItem] = Field(description="Popular items that stand apart.")
    model: ModelName
    version: Version


class AboutAnswer(Wire):
    """What this server is, and what it can tell."""

    model_config = shown(examples.ABOUT)

    coterie: str = Field(description="The version of the software.")
    model: ModelName
    version: Version
    items: int = Field(description="Items that the default model knows.")
    community: int | None = Field(description="Users who may help; null: nothing is explained.")
    latent: bool = Field(description="Whether the default model has a latent space, so a map.")


class EventBatch(Wire):
    """Several events, acknowledged together."""

    events: list[Event] = Field(min_length=1, description="At least one; all are kept, or none.")


class EventsAnswer(Wire):
    """The events are on disk."""

    model_config = shown(examples.EVENTS)

    stored: int = Field(description="New events.")
    duplicates: int = Field(description="Events whose event_id was there already.")


class ArmFacts(Wire):
    """An arm and its model."""

    name: str = Field(description="The arm's name; the first arm is the control.")
    share: float = Field(description="Share of the experiment's users, from 0 to 1.")
    model: ModelName
    version: Version


class ExperimentFacts(Wire):
    """An experiment that requests may name."""

    name: str = Field(description="What requests and events call it.")
    start: AwareDatetime = Field(description="When it begins.")
    end: AwareDatetime = Field(description="When it ends, exclusive.")
    running: bool = Field(description="Whether it runs now, so that users have arms.")
    exposed: float = Field(description="Share of the users that take part, from 0 to 1.")
    primary: str = Field(description="The metric that decides.")
    arms: list[ArmFacts] = Field(description="The control first.")


class ExperimentsAnswer(Wire):
    """All experiments of this server."""

    model_config = shown(examples.EXPERIMENTS)

    experiments: list[ExperimentFacts] = Field(description="Those that requests may name.")


class ArmOutcome(ArmFacts):
    """An arm, its model, and what its users saw and did since they entered."""

    users: int | None = Field(description="Users who entered; null if the log cannot be used.")
    impressions: int | None = Field(description="Of these users since they entered.")
    clicks: int | None = Field(description="Of these users since they entered.")


class SampleRatioMismatch(Wire):
    """Whether the arms got the users that their shares promise."""

    p_value: float | None = Field(description="Of the chi-square test; null without users.")
    warning: str | None = Field(None, description="What puts all verdicts in doubt.")


class LiftOutcome(Wire):
    """A metric of an arm against the control; null where nothing can be concluded."""

    metric: Metric
    arm: Arm
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

    date: Day
    users: dict[str, int] = Field(description="Users who had entered, by arm.")
    results: list[LiftOutcome] = Field(description="With intervals valid at all days together.")


class ExperimentAnswer(Wire):
    """How an experiment stands."""

    model_config = shown(examples.EXPERIMENT)

    name: str = Field(description="The experiment's name.")
    computed_at: AwareDatetime = Field(description="When this was worked out.")
    arms: list[ArmOutcome] = Field(description="The control first.")
    sample_ratio_mismatch: SampleRatioMismatch = Field(
        description="Whether users divide as planned."
    )
    results: list[MetricOutcome] = Field(description="The primary metric first.")
    days: list[DayOutcome] = Field(description="From the first day to the last in the log.")


class StatusAnswer(Wire):
    """The server is well."""

    model_config = shown(examples.STATUS)

    status: str = Field(description="alive or ready")


class Problem(Wire):
    """Why a request was refused."""

    model_config = shown(examples.PROBLEM)

    detail: str = Field(description="What was expected, and what came.")
    request_id: str = Field(description="As in the answer's X-Request-ID and the server's log.")
