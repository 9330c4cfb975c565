// Prints what the official TypeScript SDK sees at a base URL, as JSON.
//
// Usage: check.mjs BASE_URL FAKE_URL, where FAKE_URL is the fake API behind it.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The SDK is installed in a folder of its own, which NODE_PATH names.
const require = createRequire(pathToFileURL(process.env.NODE_PATH + "/"));
const { default: Anthropic } = require("@anthropic-ai/sdk");

const [base, fake] = process.argv.slice(2);
const model = "claude-sonnet-5-5";
const messages = [{ role: "user", content: "Hi" }];

async function control(method, path, body) {
  const headers = { "content-type": "application/json" };
  const options = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  const response = await fetch(fake + path, options);
  return await response.text();
}

const attempts = async () => JSON.parse(await control("GET", "/fake/log"));
const client = (maxRetries = 0, apiKey = "sk-test") =>
  new Anthropic({ baseURL: base, apiKey, maxRetries });
const create = (retries, more, key) =>
  client(retries, key).messages.create({ model, max_tokens: 32, messages, ...more });

async function message() {
  await control("POST", "/fake/replies", "Hello there");
  const answer = await create();
  return {
    text: answer.content[0].text,
    model: answer.model,
    stop: answer.stop_reason,
    usage: [answer.usage.input_tokens, answer.usage.output_tokens],
    has_request_id: Boolean(answer._request_id),
  };
}

async function stream() {
  await control("POST", "/fake/replies", "Hello there");
  const events = client().messages.stream({ model, max_tokens: 32, messages });
  const kinds = [];
  for await (const event of events) kinds.push(event.type);
  const answer = await events.finalMessage();
  return { kinds, text: answer.content[0].text, stop: answer.stop_reason };
}

async function tools() {
  const use = { type: "tool_use", id: "toolu_1", name: "weather", input: { city: "Paris" } };
  await control("POST", "/fake/replies", { content: [use], stop_reason: "tool_use" });
  const schema = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ name: "weather", description: "x", input_schema: schema }];
  const answer = await create(0, { tools });
  const block = answer.content[0];
  return { type: block.type, name: block.name, input: block.input, stop: answer.stop_reason };
}

async function countTokens() {
  return (await client().messages.countTokens({ model, messages })).input_tokens;
}

async function models() {
  const ids = [];
  for await (const found of client().models.list({ limit: 1000 })) ids.push(found.id);
  return ids;
}

async function ended(batch) {
  while (batch.processing_status !== "ended") {
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client().messages.batches.retrieve(batch.id);
  }
  return batch;
}

function summary(result) {
  if (result.type === "succeeded") {
    const { content, stop_reason, usage } = result.message;
    const tokens = [usage.input_tokens, usage.output_tokens];
    return [result.type, content[0].text, stop_reason, tokens, usage.service_tier];
  }
  if (result.type === "errored") {
    const { error, request_id } = result.error;
    return [result.type, error.type, error.message, Boolean(request_id)];
  }
  return [result.type];
}

async function refused(call) {
  try {
    await call();
    return "no error";
  } catch (error) {
    return {
      class: error.constructor.name,
      status: error.status,
      type: error.error?.error?.type,
      has_request_id: Boolean(error.requestID),
    };
  }
}

async function batches() {
  const batches = client().messages.batches;
  await control("POST", "/fake/batches", { custom_id: "late", outcome: "expired" });
  const request = (custom_id, more) =>
    ({ custom_id, params: { model, max_tokens: 32, messages, ...more } });
  const requests = [request("good"), request("bad", { max_tokens: 0 }), request("late")];
  const created = await batches.create({ requests });
  const done = await ended(created);
  const results = [];
  for await (const line of await batches.results(created.id)) {
    results.push([line.custom_id, ...summary(line.result)]);
  }
  const slow = await batches.create(
    { requests: [request("a"), request("b")] },
    { headers: { "x-fake-batch-seconds": "3600" } },
  );
  const cannotDelete = await refused(() => batches.delete(slow.id));
  // Two pages.
  const listed = [];
  for await (const batch of batches.list({ limit: 1 })) listed.push(batch.id);
  const canceled = await batches.cancel(slow.id);
  const stopped = await ended(canceled);
  const deleted = [];
  for (const { id } of [created, slow]) deleted.push((await batches.delete(id)).type);
  return {
    created: [created.type, created.processing_status, created.request_counts],
    lifetime: (Date.parse(created.expires_at) - Date.parse(created.created_at)) / 1000,
    ended: [done.processing_status, done.request_counts],
    has_own_url: done.results_url === `${base}/v1/messages/batches/${done.id}/results`,
    results,
    is_listed: listed.join() === [slow.id, created.id].join(),
    canceled: [canceled.processing_status, Boolean(canceled.cancel_initiated_at)],
    stopped: [stopped.processing_status, stopped.request_counts],
    deleted,
    errors: [
      cannotDelete,
      await refused(() => batches.retrieve(created.id)),
      await refused(() => batches.results(created.id)),
      await refused(() => batches.create({ requests: [] })),
    ],
  };
}

async function error([status, kind]) {
  const body = { type: "error", error: { type: kind, message: "as injected" } };
  const fault = { fault: "custom", status, headers: {}, body, times: 40 };
  await control("POST", "/fake/faults", fault);
  try {
    // A key that is not accepted is not tried again for a while.
    await create(0, {}, `sk-test-${status}`);
    return "no error";
  } catch (error) {
    return {
      class: error.constructor.name,
      status: error.status,
      type: error.error?.error?.type,
      message: error.error?.error?.message,
      has_request_id: Boolean(error.requestID),
    };
  } finally {
    await control("DELETE", "/fake/");
  }
}

async function cancel() {
  const events = await client().messages.create(
    { model, max_tokens: 2000, messages, stream: true },
    { headers: { "x-fake-output-tokens": "2000" } },
  );
  const first = [];
  for await (const event of events) {
    first.push(event.type);
    break;
  }
  events.controller.abort();
  return first;
}

async function retries() {
  const before = (await attempts()).length;
  await control("POST", "/fake/faults", { fault: "overloaded", times: 1 });
  const answer = await create(2);
  return { stop: answer.stop_reason, attempts: (await attempts()).length - before };
}

const errors = [
  [400, "invalid_request_error"],
  [401, "authentication_error"],
  [403, "permission_error"],
  [404, "not_found_error"],
  [413, "request_too_large"],
  [500, "api_error"],
  [529, "overloaded_error"],
];
const results = {
  message: await message(),
  stream: await stream(),
  tools: await tools(),
  count_tokens: await countTokens(),
  models: await models(),
  batches: await batches(),
  errors: [],
};
for (const of of errors) results.errors.push(await error(of));
results.cancel = await cancel();
results.retries = await retries();
console.log(JSON.stringify(results));
