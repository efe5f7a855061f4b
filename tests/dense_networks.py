"""Every network and prior once more, on dense matrices and with torch.distributions: the oracle."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from coterie.models.vae import VAE


def weights(module: torch.nn.Module, name: str) -> Tensor:
    """A parameter by its name in the state, so that no code of the module's is used."""
    return dict(module.named_parameters())[name]


def linear(module: torch.nn.Module, name: str, x: Tensor) -> Tensor:
    prefix = f"{name}." if name else ""
    return x @ weights(module, prefix + "weight").T + weights(module, prefix + "bias")


def gated(module: torch.nn.Module, name: str, x: Tensor) -> Tensor:
    return linear(module, f"{name}.value", x) / (1 + torch.exp(-linear(module, f"{name}.gate", x)))


def gaussian_head(module: torch.nn.Module, name: str, h: Tensor) -> tuple[Tensor, Tensor]:
    mu, logvar = linear(module, f"{name}.linear", h).tensor_split(2, dim=1)
    return mu, F.hardtanh(logvar, -12, 4)


def mlp(encoder: torch.nn.Module, sums: Tensor) -> Tensor:
    """Multi-VAE's network after ``x @ table``: linear layers with tanh between."""
    h = sums + weights(encoder, "bias")
    depth = sum(name.endswith("weight") for name, _ in encoder.named_parameters())
    for layer in range(depth):
        h = linear(encoder, f"layers.{layer}", torch.tanh(h))
    return h


def layer_norm(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = h - h.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 0.1).sqrt() * scale + shift


def recvae(encoder: torch.nn.Module, sums: Tensor) -> Tensor:
    """RecVAE's after ``x @ table``, as its paper draws it: a layer sees the sum of all before."""
    depth = sum(name.startswith("norms") for name, _ in encoder.named_parameters()) // 2
    hidden: list[Tensor] = []
    for layer in range(depth):
        if layer == 0:
            h = sums + weights(encoder, "bias")
        else:
            h = linear(encoder, f"layers.{layer - 1}", hidden[-1])
            for earlier in hidden:
                h = h + earlier
        h = h / (1 + torch.exp(-h))
        norm = (weights(encoder, f"norms.{layer}.{part}") for part in ("weight", "bias"))
        hidden.append(layer_norm(h, *norm))
    return linear(encoder, "head", hidden[-1])


def upper(encoder: torch.nn.Module, sums: Tensor) -> tuple[Tensor, Tensor]:
    """H+Vamp's ``q(z2 | x)`` from the first two blocks of the first layer's sums."""
    width = sums.shape[1] // 2
    bias = weights(encoder, "bias")[: 2 * width]
    h = (sums[:, :width] + bias[:width]) * torch.sigmoid(sums[:, width:] + bias[width:])
    for layer in range(depth_of(encoder, "layers")):
        h = gated(encoder, f"layers.{layer}", h)
    return gaussian_head(encoder, "head", h)


def lower(encoder: torch.nn.Module, sums: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """H+Vamp's ``q(z1 | x, z2)`` from the last two blocks of the first layer's sums."""
    width = sums.shape[1] // 2
    bias = weights(encoder, "bias")[2 * width :]
    h = (sums[:, :width] + bias[:width]) * torch.sigmoid(sums[:, width:] + bias[width:])
    h = torch.cat([h, gated(encoder, "code_layer", z2)], 1)
    for layer in range(depth_of(encoder, "joint_layers")):
        h = gated(encoder, f"joint_layers.{layer}", h)
    return gaussian_head(encoder, "joint_head", h)


def depth_of(module: torch.nn.Module, name: str) -> int:
    found = [key for key, _ in module.named_parameters() if key.startswith(f"{name}.")]
    return len({key.split(".")[1] for key in found})


def encode(
    model: VAE, x: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Mean, log-variance (None: a point) and a draw (the mean without a generator)."""
    encoder, sums = model.encoder, x @ weights(model.encoder, "table")

    def draw(mu: Tensor, logvar: Tensor) -> Tensor:
        if generator is None:
            return mu
        return mu + (logvar / 2).exp() * torch.empty_like(mu).normal_(generator=generator)

    if model.config.encoder == "gated":
        blocks = sums.tensor_split(2, dim=1)
        mu2, logvar2 = upper(encoder, blocks[0])
        z2 = draw(mu2, logvar2)
        mu1, logvar1 = lower(encoder, blocks[1], z2)
        z1 = draw(mu1, logvar1)
        return torch.cat([mu1, mu2], 1), torch.cat([logvar1, logvar2], 1), torch.cat([z1, z2], 1)
    h = flat(model)(encoder, sums)
    if not model.config.variational:
        return torch.tanh(h), None, torch.tanh(h)
    mu, logvar = h.tensor_split(2, dim=1)
    return mu, logvar, draw(mu, logvar)


def decode(model: VAE, z: Tensor) -> Tensor:
    decoder = model.decoder
    for layer in range(depth_of(decoder, "layers")):
        if model.config.encoder == "gated":
            z = gated(decoder, f"layers.{layer}", z)
        else:
            z = torch.tanh(linear(decoder, f"layers.{layer}", z))
    return z @ weights(decoder, "table").T + weights(decoder, "bias")


def flat(model: VAE) -> Callable[[torch.nn.Module, Tensor], Tensor]:
    return mlp if model.config.encoder == "mlp" else recvae


def normal(mu: Tensor, logvar: Tensor) -> Independent:
    return Independent(Normal(mu, (logvar / 2).exp()), 1)


def vamp(mu: Tensor, logvar: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(torch.ones(len(mu))), normal(mu, logvar))


def conditional(model: VAE, z2: Tensor) -> Independent:
    """H+Vamp's ``p(z1 | z2)``."""
    prior = model.prior
    assert prior is not None
    for layer in range(depth_of(prior, "layers")):
        z2 = gated(prior, f"layers.{layer}", z2)
    return normal(*gaussian_head(prior, "head", z2))


def log_prior(model: VAE, z: Tensor, clean: Tensor) -> Tensor:
    """``log p(z)`` per user; ``clean`` is the clean input, its rows of length 1."""
    prior, settings = model.prior, model.config.prior
    assert prior is not None
    if settings.kind == "standard-normal":
        return normal(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)
    if settings.kind == "composite":
        snapshot = prior.get_submodule("snapshot")
        mu, logvar = flat(model)(snapshot, clean @ weights(snapshot, "table")).tensor_split(
            2, dim=1
        )
        zero = torch.zeros_like(mu)
        means = torch.stack([zero, mu, zero], -1)
        scales = torch.stack([zero + 1, (logvar / 2).exp(), zero + settings.wide_logvar / 2], -1)
        scales[..., 2] = scales[..., 2].exp()
        shares = Categorical(torch.tensor(settings.weights).expand(*z.shape, 3))
        mixture = MixtureSameFamily(shares, Normal(means, scales))
        found: Tensor = mixture.log_prob(z).sum(1)
        return found
    if settings.kind == "vamp":
        pseudo = weights(prior, "pseudo_inputs")
        mu, logvar = flat(model)(model.encoder, pseudo).tensor_split(2, dim=1)
        found = vamp(mu, logvar).log_prob(z)
        return found
    z1, z2 = z.tensor_split(2, dim=1)
    mixture = vamp(*upper(model.encoder, weights(prior, "vamp.pseudo_inputs")))
    return conditional(model, z2).log_prob(z1) + mixture.log_prob(z2)


def kl(model: VAE, mu: Tensor, logvar: Tensor | None, z: Tensor, clean: Tensor) -> Tensor:
    """In closed form where there is one, else at ``z``."""
    if logvar is None:
        return torch.zeros(len(mu))
    kind = model.config.prior.kind
    if kind == "standard-normal":
        prior = normal(torch.zeros_like(mu), torch.zeros_like(mu))
        return kl_divergence(normal(mu, logvar), prior)
    if kind != "hierarchical-vamp":
        return normal(mu, logvar).log_prob(z) - log_prior(model, z, clean)
    (mu1, mu2), (logvar1, logvar2) = mu.tensor_split(2, dim=1), logvar.tensor_split(2, dim=1)
    z1, z2 = z.tensor_split(2, dim=1)
    given_z2 = conditional(model, z2)
    exact = kl_divergence(normal(mu1, logvar1), given_z2)
    log_p_z2 = log_prior(model, z, clean) - given_z2.log_prob(z1)
    return exact + normal(mu2, logvar2).log_prob(z2) - log_p_z2
