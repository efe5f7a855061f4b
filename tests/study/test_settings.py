"""What a study trains: no setting twice, shared points, and nothing that differs by accident."""

import pytest

from coterie.errors import ConfigError
from coterie.study.settings import BETA, LAMBDA, MAIN, RHO, Plan, StudyConfig


def test_default_study():
    plan = Plan(StudyConfig())
    assert tuple(plan.keys[:3]) == MAIN
    assert len(plan.keys) == 14
    assert len(plan.runs([0, 1, 2])) == 42
    assert plan.sweeps[BETA] == {
        0.01: "beta-0.01", 0.2: "masking", 0.5: "beta-0.5", 1.0: "beta-1", 5.0: "beta-5",
    }  # fmt: skip
    assert plan.sweeps[RHO] == {
        0.25: "rho-0.25", 0.5: "masking", 0.75: "rho-0.75", 1.0: "clean",
    }  # fmt: skip
    assert plan.sweeps[LAMBDA] == {
        0.0: "masking", 0.1: "lambda_a-0.1", 1.0: "pia", 8.0: "lambda_a-8",
    }  # fmt: skip


def test_no_two_settings_are_the_same():
    plan = Plan(StudyConfig())
    objectives = [setting.objective.model_dump_json() for setting in plan.settings.values()]
    assert len(set(objectives)) == len(objectives)


def test_a_point_differs_from_its_base_in_one_thing():
    plan = Plan(StudyConfig())

    def differences(key, base):
        a, b = plan[key].objective, plan[base].objective
        return {name for name in type(a).model_fields if getattr(a, name) != getattr(b, name)}

    for key, base, expected in (
        ("clean", "masking", {"keep_probability"}),
        ("pia", "masking", {"alignment"}),
        ("beta-5", "masking", {"beta"}),
        ("rho-0.25", "masking", {"keep_probability"}),
        ("lambda_a-8", "pia", {"alignment"}),
        ("pia-mean-only", "pia", {"shrink_variance"}),
        ("pia-variance-only", "pia", {"align_mean"}),
        ("pia-warm-up", "pia", {"alignment"}),
    ):
        assert differences(key, base) == expected
    assert plan["pia-warm-up"].objective.alignment.kind == "linear"
    assert plan["pia-warm-up"].lambda_a == plan["pia"].lambda_a


def test_the_base_point_is_part_of_every_sweep():
    plan = Plan(StudyConfig(lambda_a=2.0, lambdas=(0.0, 8.0), betas=(1.0,)))
    assert list(plan.sweeps[LAMBDA]) == [0.0, 2.0, 8.0]
    assert plan.sweeps[BETA] == {0.2: "masking", 1.0: "beta-1"}


def test_only_the_main_settings():
    plan = Plan(StudyConfig(betas=(), rhos=(), lambdas=(), ablation=False))
    assert tuple(plan.keys) == MAIN
    assert plan.sweeps == {BETA: {}, RHO: {}, LAMBDA: {}}


def test_seeds_differ_in_the_seed_alone():
    plan = Plan(StudyConfig(epochs=7))
    first, second = (plan.config.experiment(plan["pia"].objective, seed) for seed in (0, 1))
    assert (first.training.seed, second.training.seed) == (0, 1)
    assert first.training.epochs == 7
    assert first.model_copy(update={"training": second.training}) == second


@pytest.mark.parametrize(
    "values",
    [
        {"rho": 1.0},
        {"lambda_a": 0.0},
        {"betas": (1.0, 1.0)},
        {"rhos": (0.0,)},
        {"measured_rho": 1.0},
        {"latent_dims": 8},
    ],
)
def test_mistakes(values):
    with pytest.raises(ConfigError):
        StudyConfig.read(values)
