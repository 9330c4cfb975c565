"""Prints what the official Python clients see at fake clouds, as JSON.

Usage: clouds.py BEDROCK_URL MANTLE_URL VERTEX_URL
"""

import json
import sys
import urllib.request

import anthropic

bedrock_url, mantle_url, vertex_url = sys.argv[1:]
MESSAGES = [{"role": "user", "content": "Hi"}]


def control(url, path, body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request).read()


def invoke(retries=0, **more):
    more = more or {"aws_access_key": "AKID", "aws_secret_key": "secret"}
    return anthropic.AnthropicBedrock(
        base_url=bedrock_url, aws_region="us-east-1", max_retries=retries, **more)


def mantle(retries=0, **more):
    more = more or {"aws_access_key": "AKID", "aws_secret_key": "secret"}
    return anthropic.AnthropicBedrockMantle(
        base_url=mantle_url + "/anthropic", aws_region="us-east-1", max_retries=retries, **more)


def vertex(retries=0, token="ya29.valid"):
    return anthropic.AnthropicVertex(
        base_url=vertex_url + "/v1", project_id="project", region="global",
        access_token=token, max_retries=retries)


def create(client, model, **more):
    return client.messages.create(model=model, max_tokens=32, messages=MESSAGES, **more)


def message(url, client, model):
    control(url, "/fake/replies", "Hello there")
    answer = create(client, model)
    return {
        "id": answer.id[:9],
        "text": answer.content[0].text,
        "model": answer.model,
        "stop": answer.stop_reason,
        "usage": [answer.usage.input_tokens, answer.usage.output_tokens],
    }


def stream(url, client, model):
    control(url, "/fake/replies", "Hello there")
    with client.messages.stream(model=model, max_tokens=32, messages=MESSAGES) as events:
        kinds = [event.type for event in events]
        answer = events.get_final_message()
    kinds = [kind for kind in kinds if kind not in ("ping", "text")]
    return {"kinds": kinds, "text": answer.content[0].text, "stop": answer.stop_reason}


def failure(call):
    try:
        call()
    except anthropic.APIStatusError as error:
        return {"status": error.status_code, "message": str(error)}
    except Exception as error:
        return {"status": None, "message": type(error).__name__}
    return "no error"


def broken(url, client, model, fault):
    """What a client sees of a stream with a fault after four tokens."""
    control(url, "/fake/faults", {"after_tokens": 4, **fault})

    def call():
        for _ in create(client, model, stream=True):
            pass

    return failure(call)


def retried(url, client, model):
    control(url, "/fake/faults", {"fault": "rate_limited_bare"})
    return create(client, model).stop_reason


def seen(url, client, model):
    return {
        "message": message(url, client(), model),
        "stream": stream(url, client(), model),
        "retried": retried(url, client(retries=1), model),
        "throttled": broken(url, client(), model, {"fault": "rate_limited_bare"}),
        "unavailable": broken(url, client(), model, {"fault": "unavailable"}),
        "overloaded": broken(url, client(), model, {"fault": "overloaded"}),
        "invalid": failure(lambda: create(client(), model, extra_body={"top_k": 3})),
        "broken_stream": broken(url, client(), model, {"fault": "error_mid_stream"}),
    }


def beta(client, model, beta):
    call = client.beta.messages.create
    return failure(lambda: call(model=model, max_tokens=32, messages=MESSAGES, betas=[beta]))


PROFILE = "us.anthropic.claude-opus-5-5"
ARN = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc"
throttled = {"fault": "frame", "how": "exception", "name": "throttlingException", "message": "Slow."}
control(bedrock_url, "/fake/credentials", {"expired": "AKIDOLD"})
control(vertex_url, "/fake/credentials", {"expired": "ya29.old"})
print(json.dumps({
    "invoke": {
        **seen(bedrock_url, invoke, PROFILE),
        "arn": message(bedrock_url, invoke(), ARN)["model"],
        "bearer": message(bedrock_url, invoke(api_key="bearer"), PROFILE)["text"],
        "bad_bearer": failure(lambda: create(invoke(api_key="other"), PROFILE)),
        "bad_secret": failure(lambda: create(
            invoke(aws_access_key="AKID", aws_secret_key="wrong"), PROFILE)),
        "expired": failure(lambda: create(
            invoke(aws_access_key="AKIDOLD", aws_secret_key="secret"), PROFILE)),
        "session": create(invoke(aws_access_key="ASIA", aws_secret_key="secret",
                                 aws_session_token="session/+="), PROFILE).stop_reason,
        "bare": failure(lambda: create(invoke(), "anthropic.claude-opus-5-5")),
        "beta": beta(invoke(), PROFILE, "skills-2025-10-02"),
        "exception": broken(bedrock_url, invoke(), PROFILE, throttled),
        "bad_checksum": broken(bedrock_url, invoke(), PROFILE, {"fault": "frame", "how": "bad_checksum"}),
        "untyped": broken(bedrock_url, invoke(), PROFILE, {"fault": "frame", "how": "untyped"}),
    },
    "messages": {
        **seen(mantle_url, mantle, "anthropic.claude-opus-5-5"),
        "count": mantle().messages.count_tokens(
            model="anthropic.claude-opus-5-5", messages=MESSAGES).input_tokens,
        "bearer": message(mantle_url, mantle(api_key="bearer"), "anthropic.claude-opus-5-5")["text"],
        "profile": failure(lambda: create(mantle(), PROFILE)),
    },
    "vertex": {
        **seen(vertex_url, vertex, "claude-opus-5-5"),
        "count": vertex().messages.count_tokens(
            model="claude-opus-5-5", messages=MESSAGES).input_tokens,
        "expired": failure(lambda: create(vertex(token="ya29.old"), "claude-opus-5-5")),
        "beta": beta(vertex(), "claude-opus-5-5", "skills-2025-10-02"),
        "unknown": failure(lambda: create(vertex(), "claude-opus-9")),
    },
}))
