"""What the server publishes about itself is valid, by a validator that is not ours."""

import json
import urllib.request

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator


def document(address):
    with urllib.request.urlopen(f"http://{address}/openapi.json", timeout=30) as response:
        assert response.headers.get_content_type() == "application/json"
        return json.load(response)


def test_the_document_is_valid_openapi_3_1(address):
    published = document(address)
    assert published["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(published).iter_errors()] == []


def test_an_answer_is_what_the_document_says(address):
    published = document(address)
    for path, query in (("/api/processes", ""), ("/api/processes/instances", "?pageSize=1"), ("/api/server-info", "")):
        with urllib.request.urlopen(f"http://{address}{path}{query}", timeout=30) as response:
            answer = json.load(response)
        described = published["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        schema = {"components": published["components"], **described}
        assert [error.message for error in Draft202012Validator(schema).iter_errors(answer)] == [], path


def test_the_validator_finds_faults(address):
    published = document(address)
    published["paths"]["/api/processes"]["get"]["responses"] = {"200": {"content": {}}}
    assert list(OpenAPIV31SpecValidator(published).iter_errors()) != []
