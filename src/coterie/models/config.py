"""The architecture of a VAE: which encoder, which decoder, which prior, and their sizes."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from coterie.config import Config, must_be_default
from coterie.errors import ConfigError

Widths = tuple[PositiveInt, ...]
Share = Annotated[float, Field(gt=0, lt=1)]
RECVAE_EPS = 0.1  # of the layer norms in RecVAE's code


class PriorConfig(Config):
    """The prior over the latent vector."""

    kind: Literal["none", "standard-normal", "composite", "vamp", "hierarchical-vamp"] = Field(
        "standard-normal",
        description="Prior: none (point code), standard-normal, composite (RecVAE), vamp, or "
        "hierarchical-vamp (H+Vamp).",
    )
    weights: tuple[Share, Share, Share] = Field(
        (3 / 20, 3 / 4, 1 / 10),
        description="composite: weights of N(0, 1), of the snapshot and of the wide normal.",
    )
    wide_logvar: float = Field(10.0, description="composite: log-variance of the wide normal.")
    n_pseudo_inputs: PositiveInt = Field(
        1000, description="vamp, hierarchical-vamp: components of the mixture."
    )

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> Self:
        if abs(sum(self.weights) - 1) > 1e-6:
            raise ConfigError(f"The composite prior's weights must sum to 1, got {self.weights}.")
        return self

    @model_validator(mode="after")
    def _unused_settings_are_untouched(self) -> Self:
        composite, vamp = self.kind == "composite", self.kind in ("vamp", "hierarchical-vamp")
        must_be_default(self, "weights", used=composite, by="kind='composite'")
        must_be_default(self, "wide_logvar", used=composite, by="kind='composite'")
        must_be_default(self, "n_pseudo_inputs", used=vamp, by="kind='vamp' or 'hierarchical-vamp'")
        return self


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "multi-vae": {},
    "multi-dae": {"hidden_dims": (), "prior": {"kind": "none"}},
    "recvae": {
        "encoder": "densely-connected",
        "hidden_dims": (600,) * 5,
        "decoder_hidden_dims": (),
        "prior": {"kind": "composite"},
    },
    "h-vamp-gated": {
        "encoder": "gated",
        "hidden_dims": (600, 600),
        "latent_dim": 400,
        "prior": {"kind": "hierarchical-vamp"},
    },
}
"""What an architecture has in place of the defaults, which are Multi-VAE's."""


class ModelConfig(Config):
    """Architecture of a VAE: Liang et al. 2018, Shenbin et al. 2020, Kim & Suh 2019, or between.

    A field that is not given is that of the architecture ``name``.
    """

    name: Literal["multi-vae", "multi-dae", "recvae", "h-vamp-gated"] = Field(
        "multi-vae", description="The architecture that supplies what is not given."
    )
    encoder: Literal["mlp", "densely-connected", "gated"] = Field(
        "mlp",
        description="mlp (Multi-VAE), densely-connected (RecVAE) or gated (H+Vamp: hierarchical).",
    )
    hidden_dims: Widths = Field((600,), description="Widths of the encoder's hidden layers.")
    latent_dim: PositiveInt = Field(
        200, description="K, exactly the size of z; of a hierarchical z = [z1, z2], both halves."
    )
    decoder_hidden_dims: Widths | None = Field(
        None, description="Widths of the decoder's hidden layers; none: the encoder's, mirrored."
    )
    prior: PriorConfig = PriorConfig()

    @property
    def variational(self) -> bool:
        """Whether the posterior is a Gaussian, and not a point."""
        return self.prior.kind != "none"

    @property
    def hierarchical(self) -> bool:
        """Whether the code has two levels, z = [z1, z2]."""
        return self.encoder == "gated"

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Widths of the decoder's hidden layers, from the code on."""
        mirrored = self.hidden_dims[::-1]
        return mirrored if self.decoder_hidden_dims is None else self.decoder_hidden_dims

    @model_validator(mode="before")
    @classmethod
    def _fill_from_the_architecture(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = ARCHITECTURES.get(str(values.get("name", "multi-vae")), {})
        filled = {**own, **values}
        if isinstance(values.get("prior"), dict):
            filled["prior"] = {**own.get("prior", {}), **values["prior"]}
        return filled

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        prior, widths = self.prior.kind, self.hidden_dims
        if (self.name == "multi-dae") == self.variational:
            raise ConfigError(
                "multi-dae, and no other model, has a point code and no prior; got "
                f"{self.name} with prior.kind={prior!r}."
            )
        if self.hierarchical != (prior == "hierarchical-vamp"):
            raise ConfigError(
                "The gated encoder is hierarchical and needs the prior hierarchical-vamp, which "
                f"needs it; got encoder={self.encoder!r} with prior.kind={prior!r}."
            )
        if self.hierarchical and (len(widths) < 2 or self.latent_dim % 2):
            raise ConfigError(
                "The gated encoder needs at least two hidden_dims (x and z2 meet in the second) "
                f"and an even latent_dim (half z1, half z2); got {widths} and {self.latent_dim}."
            )
        if self.encoder == "densely-connected" and len(set(widths)) != 1:
            raise ConfigError(
                "The densely-connected encoder adds its hidden layers up, so that hidden_dims "
                f"must be one or more equal widths; got {widths}."
            )
        return self
