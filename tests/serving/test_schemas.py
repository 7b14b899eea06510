import json
import re

import pytest

from tests.recommender.test_recommender import fitted, recommender  # noqa: F401

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from fastapi.testclient import TestClient  # noqa: E402

from tiger.serving.service import EdgeSettings, ServiceSettings, create_app  # noqa: E402

MISFIT = r"(timestamps|at)[:,] |filter(, character \d+)?: |body: Value error, users must be one per history"


def test_no_schema_breaks_it(recommender):  # noqa: F811
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    app = create_app(recommender, ServiceSettings(edge=EdgeSettings(allowed_hosts=("*",))))
    with TestClient(app):
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        for operation in schema.get_all_operations():
            case = operation.ok().as_strategy()

            @seed(0)
            @settings(
                max_examples=15,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
            )
            @given(case=case)
            def sound(case):
                answer = case.call()
                # That times and users fit their histories, and a filter the columns, is more than a schema says.
                misfit = answer.status_code == 422 and re.match(MISFIT, answer.json()["error"])
                case.validate_response(answer, excluded_checks=[positive_data_acceptance] if misfit else [])

            sound()


def test_the_docs_show_examples(recommender):  # noqa: F811
    with TestClient(create_app(recommender), "http://localhost") as client:
        schema = client.get("/openapi.json").json()
    for name in ("RecommendRequest", "RankRequest", "AddRequest"):
        assert schema["components"]["schemas"][name]["examples"], name
    assert "422" in schema["paths"]["/recommend"]["post"]["responses"]
    assert json.dumps(schema).count("HTTPValidationError") == 0
