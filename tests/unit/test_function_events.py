"""The events of AWS Lambda: direct ones, and those of HTTP."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.functions.aws_lambda import lambda_handler
from tests.function_requests import (
    BODY,
    BODY_BYTES,
    NO_BODY,
    REQUEST,
    TOO_LARGE,
    WRONG_METHOD,
    message_of,
    small_function,
)


@pytest.fixture(scope="module")
def function(tmp_path_factory):
    return small_function(tmp_path_factory.mktemp("adapters"))


class Context:
    """The part of Lambda's context that the handler uses."""

    def __init__(self, remaining_ms):
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self):
        return self.remaining_ms


def rest_event(method="POST", body=BODY, **fields):
    """Return an event of API Gateway's REST API, or of its HTTP API with payloads of version 1.0."""
    headers = {"Content-Type": "application/json", "Host": "id.execute-api.eu-west-1.amazonaws.com"}
    return {
        "resource": "/embed",
        "path": "/embed",
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {"resourcePath": "/embed", "httpMethod": method, "stage": "prod", "requestId": "c6af9ac6"},
        "body": body,
        "isBase64Encoded": False,
        **fields,
    }


def url_event(method="POST", body=BODY, **fields):
    """Return an event of a function URL, or of API Gateway's HTTP API with payloads of version 2.0."""
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": "/", "sourceIp": "192.0.2.1"}, "stage": "$default"},
        "isBase64Encoded": False,
        **fields,
    }
    return event if body is None else {**event, "body": body}


def balancer_event(method="POST", body=BODY, **fields):
    """Return an event of an Application Load Balancer."""
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/t/1"}},
        "httpMethod": method,
        "path": "/",
        "queryStringParameters": {},
        "headers": {"content-type": "application/json"},
        "body": body,
        "isBase64Encoded": False,
        **fields,
    }


EVENTS = [rest_event, url_event, balancer_event]


def test_direct_event_gets_the_inner_object(function):
    assert lambda_handler(function)(REQUEST, Context(3000)) == function.embed(REQUEST)


@pytest.mark.parametrize("event", [None, [], "cat", {}, {"inputs": 3, "httpMethod": "POST"}, {"key1": "value1"}])
def test_direct_event_that_is_no_request_gets_an_error_object(function, event):
    answer = lambda_handler(function)(event, Context(3000))
    assert answer == {"error": {"status": 400, "message": answer["error"]["message"]}}


@pytest.mark.parametrize("make_event", EVENTS)
def test_http_event_gets_an_answer_of_http(function, make_event):
    answer = lambda_handler(function)(make_event(), Context(3000))
    assert answer == {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": answer["body"]}
    assert json.loads(answer["body"]) == function.embed(REQUEST)
    json.dumps(answer)


@pytest.mark.parametrize("fields", [{}, {"requestContext": {}}, {"headers": {}, "requestContext": {"http": {}}}])
def test_http_event_that_is_written_by_hand_needs_no_method(function, fields):
    assert lambda_handler(function)({"body": BODY, **fields}, None)["statusCode"] == 200


@pytest.mark.parametrize("make_event", EVENTS)
def test_http_event_with_a_body_in_base64(function, make_event):
    event = make_event(body=base64.b64encode(BODY_BYTES).decode(), isBase64Encoded=True)
    assert lambda_handler(function)(event, None)["statusCode"] == 200


@pytest.mark.parametrize("make_event", EVENTS)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_http_event_of_another_method_is_405(function, make_event, method):
    answer = lambda_handler(function)(make_event(method), None)
    assert (answer["statusCode"], answer["headers"]["Allow"]) == (405, "POST")
    assert message_of(answer["body"]) == WRONG_METHOD


@pytest.mark.parametrize("make_event", EVENTS)
@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"body": None}, 400, NO_BODY),
        ({"body": ""}, 400, NO_BODY),
        ({"body": "", "isBase64Encoded": True}, 400, NO_BODY),
        ({"body": {"inputs": []}}, 400, "the body of the event should be a string"),
        (
            {"body": "=", "isBase64Encoded": True},
            400,
            "the body of the event is not base64, and isBase64Encoded is true",
        ),
        (
            {"body": "é", "isBase64Encoded": True},
            400,
            "the body of the event is not base64, and isBase64Encoded is true",
        ),
        ({"body": " " * 201}, 413, TOO_LARGE),
        ({"body": "AAAA" * 70, "isBase64Encoded": True}, 413, TOO_LARGE),
    ],
)
def test_http_event_with_a_bad_body(function, make_event, fields, status, message):
    handler = lambda_handler(function)
    answer = handler(make_event(**fields), None)
    assert answer["statusCode"] == status
    assert message_of(answer["body"]) == message
    assert handler(make_event(), None)["statusCode"] == 200


def test_load_balancer_with_lists_of_headers_gets_lists(function):
    event = balancer_event("GET", multiValueHeaders={"accept": ["*/*"]})
    del event["headers"]
    answer = lambda_handler(function)(event, None)
    assert answer["multiValueHeaders"] == {"Content-Type": ["application/json"], "Allow": ["POST"]}
    assert "headers" not in answer


@pytest.mark.parametrize("event", [REQUEST, rest_event(), url_event(), balancer_event()])
def test_event_without_time_is_504(function, event):
    handler = lambda_handler(function)
    answer = handler(event, Context(10))
    error = json.loads(answer["body"])["error"] if "body" in answer else answer["error"]
    assert error["status"] == answer.get("statusCode", 504) == 504
    assert error["message"].startswith("the time limit of 0.0 s is too short: 0 of 2 inputs were done")
    assert "error" not in handler(REQUEST, Context(10_000))


def test_event_without_a_context_has_no_deadline(function):
    assert "embeddings" in lambda_handler(function)(REQUEST, object())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
events = st.dictionaries(
    st.sampled_from(
        ["inputs", "body", "httpMethod", "requestContext", "isBase64Encoded", "headers", "multiValueHeaders", "version"]
    ),
    values | st.sampled_from(["POST", BODY, {"http": {"method": "POST"}}, {"http": 3}, ["cat"]]),
)


@given(events | values)
def test_any_event_gets_an_answer_that_json_can_hold(function, event):
    answer = lambda_handler(function)(event, None)
    assert json.loads(json.dumps(answer)) == answer
    if "statusCode" in answer:
        assert answer["statusCode"] in (200, 400, 405, 413)
        answer = json.loads(answer["body"])
    assert "embeddings" in answer or answer["error"]["status"] in (400, 405, 413)
