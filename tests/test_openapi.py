"""The API against its own description: whatever a client sends, an answer that was promised."""

import contextlib

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from feastrain.serving.api import create_app
from feastrain.settings import Settings
from planner_facts import LEVELS, evidence, served

forecaster, _, history = served(LEVELS)
app = create_app(forecaster, history, Settings(), evidence=evidence(forecaster, history))
app.router.lifespan_context = lambda _: contextlib.nullcontext()  # or the first request ends it
schema = from_asgi("/openapi.json", app)
MEANING = [positive_data_acceptance]
"""A well-formed body may ask for what there is not: a past without a forecast, a feature unread."""


@schema.parametrize()
@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_an_answer_is_as_the_description_says(case: schemathesis.Case) -> None:
    """No request ends in 500; status, content type and body are those of the OpenAPI document."""
    case.call_and_validate(excluded_checks=MEANING if case.method == "POST" else [])
