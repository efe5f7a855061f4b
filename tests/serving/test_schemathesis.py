"""Requests made from OpenAPI, right and wrong ones: no fault, and every answer is as described."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from live_server import serving
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
WITH_INPUT = [
    ("/v1/recommend", "POST"),
    ("/v1/recommend/batch", "POST"),
    ("/v1/items/{item_id}/similar", "GET"),
    ("/v1/users/{user_id}/explain", "GET"),
    ("/v1/events", "POST"),
    ("/v1/items", "GET"),
    ("/v1/explain", "POST"),
    ("/v1/map", "POST"),
]
WITHOUT = [  # or with input that cannot be wrong
    (f"/{path}", "GET")
    for path in (
        "v1/experiments/{name}",
        "v1/experiments",
        "v1/about",
        "v1/map",
        "healthz",
        "readyz",
        "metrics",
    )
]


@pytest.fixture(scope="module")
def described(model, community, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "store.db"
    flags = ("--import-histories", community, "--community", community, "--no-access-log")
    with serving(model, f"sqlite:///{store}", *flags) as server:
        yield server, schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        assert [line for line in server.lines if "traceback" in line] == []


def test_every_operation_is_tried(described):
    _, schema = described
    found = {(each.ok().path, each.ok().method.upper()) for each in schema.get_all_operations()}
    assert found == {*WITH_INPUT, *WITHOUT}


RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*one, RIGHT) for one in (*WITH_INPUT, *WITHOUT)] + [(*one, WRONG) for one in WITH_INPUT],
)
def test_no_fault_and_as_described(path, method, mode, described):
    _, schema = described
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def tried(case):
        case.call_and_validate(checks=CHECKS)

    tried()
