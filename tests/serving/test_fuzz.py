"""The API under requests that schemathesis makes up from its OpenAPI, good ones and bad ones, within bounds."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from serving.running_server import listening

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package, reason="the extra serve is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="makes up requests")

pytestmark = pytest.mark.slow
OPERATIONS = [
    ("POST", "/search"),
    ("GET", "/passages/{passage_id}"),
    ("GET", "/healthz"),
    ("GET", "/info"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def schema(retriever):
    from dgr_trainer.serving.systems import RetrieverSystem

    limits = {"max_queries": 3, "max_query_length": 40, "max_k": 20, "max_ids": 5, "max_body_bytes": 20_000}
    with listening({"tiny": RetrieverSystem(retriever)}, token="s3cret", **limits) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_all_operations_are_tried(schema):
    found = {(one.ok().method.upper(), one.ok().path) for one in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *((method, path, "positive") for method, path in OPERATIONS),
        *((method, path, "negative") for method, path in OPERATIONS[:2]),  # The others take no input.
    ],
)
def test_no_request_is_answered_with_an_error_of_the_server(schema, method, path, mode):
    """Also: every status, content type and body is as the description says, and what it forbids is refused."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
    )

    operation = schema[path][method]
    has_input = path in ("/search", "/passages/{passage_id}")
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    if path == "/search":
        checks.append(negative_data_rejection)
    statuses = set()

    @settings(
        max_examples=(60 if path == "/search" else 25) if has_input else 2,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def ask(case):
        response = case.call(headers={"Authorization": "Bearer s3cret"}, timeout=30)
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    ask()
    if path == "/search":
        assert 200 in statuses if mode == "positive" else statuses & {400, 422}
