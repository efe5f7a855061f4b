"""Which arm a user is in: a salted hash, nothing stored, the same answer everywhere.

``SHA-256("<salt>:<user>")`` gives two independent numbers in [0, 1), of 53 bits each: bytes 0–7
place the user on the ramp, bytes 8–15 among the arms. ``SHA-256("group/<group>:<user>")`` places
the user in the exclusive group. A user takes part if the place in the group lies in the
experiment's slice and the place on the ramp below ``exposed``; the arm depends on neither. So a
growing ramp adds users and moves none, experiments of a group with disjoint slices share no user,
and experiments with different salts are independent.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from coterie.data.ids import Ids, as_id_series
from coterie.errors import ConfigError
from coterie.experiment.settings import Experiment

OUTSIDE = -1
"""Instead of an arm's place: the user takes no part."""

DROPPED_BITS = 11  # of 64: what is left fits a float64 exactly


def places_of(experiment: Experiment, users: Ids) -> NDArray[np.int64]:
    """Each user's arm as its place in ``experiment.arm_names``, or ``OUTSIDE``.

    Parameters
    ----------
    experiment
        Its salt, weights, group and ramp; its period plays no part.
    users
        Ids ``[U]``, integers or strings; 12 and ``"12"`` are the same user.

    Returns
    -------
    numpy.ndarray
        int64 ``[U]``.
    """
    names = [name.encode() for name in as_id_series(users).cast(str).to_list()]
    ramp, place = _uniform(f"{experiment.seasoning}:", names)
    inside = ramp < experiment.exposed
    if experiment.group is not None:
        within, _ = _uniform(f"group/{experiment.group.name}:", names)
        low, high = experiment.group.slice
        inside &= (low <= within) & (within < high)
    edges = np.cumsum(experiment.shares)[:-1]  # the last arm takes what is left
    arms = np.searchsorted(edges, place, side="right")
    return np.where(inside, arms, OUTSIDE).astype(np.int64)


def arm_of(experiment: Experiment, user: str | int) -> str | None:
    """The arm of one user, or None: :func:`places_of` for one."""
    place = int(places_of(experiment, [user])[0])
    return None if place == OUTSIDE else experiment.arm_names[place]


def _uniform(
    prefix: str, users: Sequence[bytes]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two independent numbers in [0, 1) per user, float64 ``[U]`` each."""
    start = prefix.encode()
    digests = b"".join([hashlib.sha256(start + user).digest()[:16] for user in users])
    bits = np.frombuffer(digests, dtype=">u8").reshape(-1, 2) >> np.uint64(DROPPED_BITS)
    ramp, place = bits.T.astype(np.float64) / 2.0 ** (64 - DROPPED_BITS)
    return ramp, place


class Roster:
    """Several experiments that may run at once.

    Raises
    ------
    ConfigError
        Two have one name or one salt, or slices of one group overlap.
    """

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self.experiments = tuple(experiments)
        for at, one in enumerate(self.experiments):
            for other in self.experiments[:at]:
                _check_together(other, one)

    def arms_of(self, user: str | int, at: datetime) -> dict[str, str]:
        """Experiment → arm, of those that run at the time and in which the user takes part."""
        running = [one for one in self.experiments if one.start <= at < one.end]
        found = {one.name: arm_of(one, user) for one in running}
        return {name: arm for name, arm in found.items() if arm is not None}


def _check_together(one: Experiment, other: Experiment) -> None:
    if one.name == other.name:
        raise ConfigError(f"Two experiments are called {one.name!r}; each needs its own name.")
    if one.seasoning == other.seasoning:
        raise ConfigError(
            f"{one.name!r} and {other.name!r} have one salt, {one.seasoning!r}: their arms would "
            "hold the same users. Give each its own."
        )
    if one.group is None or other.group is None or one.group.name != other.group.name:
        return
    low, high = (
        max(one.group.slice[0], other.group.slice[0]),
        min(one.group.slice[1], other.group.slice[1]),
    )
    if low < high and one.start < other.end and other.start < one.end:
        raise ConfigError(
            f"{one.name!r} and {other.name!r} overlap in group {one.group.name!r}: both have the "
            f"users from {low:g} to {high:g}. Give them slices that do not, or periods that do not."
        )
