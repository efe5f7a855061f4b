"""Adam in one pass over memory: small parameters at once, item tables a chunk of rows at a time."""

import math

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from coterie.models.tables import TableGradients

BETAS, EPS = (0.9, 0.999), 1e-8  # of the moments' decay, and in the denominator
FIRST, SECOND, STEPS = "exp_avg", "exp_avg_sq", "steps"  # of each parameter


class Adam:
    """Adam (Kingma & Ba, 2015); AdamW (decoupled weight decay) where ``weight_decay`` > 0.

    The arithmetic is PyTorch's fused kernel's. What differs from ``torch.optim.AdamW`` is where the
    gradients of item tables come from: :class:`TableGradients` computes them a chunk of rows at a
    time, each chunk moves its rows of the table while it is in cache, and no gradient as large as
    the table is ever stored. Each parameter counts its own steps: those that moved it.

    Parameters
    ----------
    parameters
        All that is ever moved, by name.
    learning_rate, weight_decay
        Step size, and share of the weights times it that each step takes off.
    clip_norm
        Largest norm of all gradients together; None does not clip. Clipping needs the norm before
        the first update, so that table gradients are then stored for the step.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self._parameters = parameters
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._clip_norm = clip_norm
        self.state: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            self.state[f"{name}.{STEPS}"] = torch.zeros((), device=parameter.device)
            for moment in (FIRST, SECOND):
                self.state[f"{name}.{moment}"] = torch.zeros_like(parameter, requires_grad=False)

    @torch.no_grad()
    def step(self, gradients: TableGradients, factor: float = 1.0) -> None:
        """Move the tables of ``gradients`` by them, all else by ``grad`` (left alone if None).

        ``factor`` is what the learning rate is multiplied by in this step.
        """
        rate = self._learning_rate * factor
        names = [
            name
            for name, parameter in self._parameters.items()
            if parameter.grad is not None and parameter not in gradients
        ]
        scale = None if self._clip_norm is None else self._clip(names, gradients, self._clip_norm)
        self._update([self._slice(name, self._gradient(name, scale)) for name in names], rate)
        for name, parameter in self._parameters.items():
            if parameter in gradients:
                for start, stop, rows in gradients.chunks(parameter):
                    rows = rows if scale is None else rows * scale
                    *part, steps = self._slice(name, rows, slice(start, stop))
                    self._update([(*part, steps.clone())], rate)
                self.state[f"{name}.{STEPS}"] += 1

    def _gradient(self, name: str, scale: float | None) -> Tensor:
        gradient = self._parameters[name].grad
        assert gradient is not None
        return gradient if scale is None else gradient * scale

    def _clip(self, names: list[str], gradients: TableGradients, most: float) -> float | None:
        """The factor that brings the norm of all gradients to ``most``; None if it is below."""
        squares = [self._gradient(name, None).square().sum() for name in names]
        for table in gradients.tables:
            gradients.store(table)
            squares += [rows.square().sum() for _, _, rows in gradients.chunks(table)]
        norm = math.sqrt(float(torch.stack(squares).sum()))
        return most / norm if norm > most else None

    def _slice(self, name: str, gradient: Tensor, rows: slice = slice(None)) -> tuple[Tensor, ...]:
        """Value, gradient, both moments, and the steps so far."""
        value = self._parameters[name].detach()
        first, second, steps = (self.state[f"{name}.{kept}"] for kept in (FIRST, SECOND, STEPS))
        return value[rows], gradient, first[rows], second[rows], steps

    def _update(self, slices: list[tuple[Tensor, ...]], rate: float) -> None:
        """Move the values, in place, and count the steps up."""
        if not slices:
            return
        values, grads, first, second, steps = (list(part) for part in zip(*slices, strict=True))
        adam(
            values,
            grads,
            first,
            second,
            [],
            steps,
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=self._weight_decay,
            eps=EPS,
            maximize=False,
        )
