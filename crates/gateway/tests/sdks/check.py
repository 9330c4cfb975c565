"""Prints what the official Python SDK sees at a base URL, as JSON.

Usage: check.py BASE_URL FAKE_URL, where FAKE_URL is the fake API behind it.
"""

import json
import sys
import time
import urllib.request

import anthropic

base, fake = sys.argv[1:]
MODEL = "claude-sonnet-5-5"
MESSAGES = [{"role": "user", "content": "Hi"}]


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(fake + path, data, headers, method=method)
    with urllib.request.urlopen(request) as response:
        return response.read()


def attempts():
    return json.loads(control("GET", "/fake/log"))


def client(retries=0, key="sk-test"):
    return anthropic.Anthropic(base_url=base, api_key=key, max_retries=retries)


def create(retries=0, key="sk-test", **more):
    call = client(retries, key).messages.create
    return call(model=MODEL, max_tokens=32, messages=MESSAGES, **more)


def message():
    control("POST", "/fake/replies", "Hello there")
    answer = create()
    return {
        "text": answer.content[0].text,
        "model": answer.model,
        "stop": answer.stop_reason,
        "usage": [answer.usage.input_tokens, answer.usage.output_tokens],
        "has_request_id": bool(answer._request_id),
    }


def stream():
    control("POST", "/fake/replies", "Hello there")
    call = client().messages.stream
    with call(model=MODEL, max_tokens=32, messages=MESSAGES) as events:
        kinds = [event.type for event in events]
        answer = events.get_final_message()
    return {"kinds": kinds, "text": answer.content[0].text, "stop": answer.stop_reason}


def tools():
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
    control("POST", "/fake/replies", {"content": [use], "stop_reason": "tool_use"})
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    answer = create(tools=[{"name": "weather", "description": "x", "input_schema": schema}])
    block = answer.content[0]
    return {"type": block.type, "name": block.name, "input": block.input, "stop": answer.stop_reason}


def count_tokens():
    counted = client().messages.count_tokens(model=MODEL, messages=MESSAGES)
    return counted.input_tokens


def models():
    return [model.id for model in client().models.list(limit=1000)]


def ended(batch):
    while batch.processing_status != "ended":
        time.sleep(0.05)
        batch = client().messages.batches.retrieve(batch.id)
    return batch


def summary(result):
    if result.type == "succeeded":
        message = result.message
        usage = [message.usage.input_tokens, message.usage.output_tokens]
        tier = message.usage.service_tier
        return [result.type, message.content[0].text, message.stop_reason, usage, tier]
    if result.type == "errored":
        error = result.error.error
        return [result.type, error.type, error.message, bool(result.error.request_id)]
    return [result.type]


def refused(call):
    try:
        call()
    except anthropic.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "type": error.body["error"]["type"],
            "has_request_id": bool(error.request_id),
        }
    return "no error"


def batches():
    batches = client().messages.batches
    expired = {"custom_id": "late", "outcome": "expired"}
    control("POST", "/fake/batches", expired)
    params = {"model": MODEL, "max_tokens": 32, "messages": MESSAGES}
    request = lambda name, **more: {"custom_id": name, "params": {**params, **more}}
    requests = [request("good"), request("bad", max_tokens=0), request("late")]
    created = batches.create(requests=requests)
    done = ended(created)
    results = [[line.custom_id, *summary(line.result)] for line in batches.results(created.id)]
    slow = batches.create(
        requests=[request("a"), request("b")], extra_headers={"x-fake-batch-seconds": "3600"})
    cannot_delete = refused(lambda: batches.delete(slow.id))
    # Two pages.
    is_listed = [batch.id for batch in batches.list(limit=1)] == [slow.id, created.id]
    canceled = batches.cancel(slow.id)
    stopped = ended(canceled)
    deleted = [batches.delete(batch.id) for batch in [created, slow]]
    return {
        "created": [created.type, created.processing_status, created.request_counts.to_dict()],
        "lifetime": (created.expires_at - created.created_at).total_seconds(),
        "ended": [done.processing_status, done.request_counts.to_dict()],
        "has_own_url": done.results_url == f"{base}/v1/messages/batches/{done.id}/results",
        "results": results,
        "is_listed": is_listed,
        "canceled": [canceled.processing_status, bool(canceled.cancel_initiated_at)],
        "stopped": [stopped.processing_status, stopped.request_counts.to_dict()],
        "deleted": [batch.type for batch in deleted],
        "errors": [
            cannot_delete,
            refused(lambda: batches.retrieve(created.id)),
            refused(lambda: batches.results(created.id)),
            refused(lambda: batches.create(requests=[])),
        ],
    }


def error(status, kind):
    body = {"type": "error", "error": {"type": kind, "message": "as injected"}}
    fault = {"fault": "custom", "status": status, "headers": {}, "body": body, "times": 40}
    control("POST", "/fake/faults", fault)
    try:
        # A key that is not accepted is not tried again for a while.
        create(key=f"sk-test-{status}")
    except anthropic.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "type": error.body["error"]["type"],
            "message": error.body["error"]["message"],
            "has_request_id": bool(error.request_id),
        }
    finally:
        control("DELETE", "/fake/")
    return "no error"


def cancel():
    call = client().messages.create
    events = call(model=MODEL, max_tokens=2000, messages=MESSAGES, stream=True,
                  extra_headers={"x-fake-output-tokens": "2000"})
    first = [next(iter(events)).type]
    events.close()
    return first


def retries():
    before = len(attempts())
    control("POST", "/fake/faults", {"fault": "overloaded", "times": 1})
    answer = create(retries=2)
    return {"stop": answer.stop_reason, "attempts": len(attempts()) - before}


print(json.dumps({
    "message": message(),
    "stream": stream(),
    "tools": tools(),
    "count_tokens": count_tokens(),
    "models": models(),
    "batches": batches(),
    "errors": [error(*of) for of in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ]],
    "cancel": cancel(),
    "retries": retries(),
}))
