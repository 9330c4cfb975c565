// Prints what the official TypeScript clients see at fake clouds, as JSON.
//
// Usage: clouds.mjs BEDROCK_URL MANTLE_URL VERTEX_URL

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The SDKs are installed in a folder of their own, which NODE_PATH names.
const require = createRequire(pathToFileURL(process.env.NODE_PATH + "/"));
const { AnthropicBedrock, AnthropicBedrockMantle } = require("@anthropic-ai/bedrock-sdk");
const { AnthropicVertex } = require("@anthropic-ai/vertex-sdk");
const { OAuth2Client } = require("google-auth-library");

const [bedrockUrl, mantleUrl, vertexUrl] = process.argv.slice(2);
const messages = [{ role: "user", content: "Hi" }];

async function control(url, path, body) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
  await response.text();
}

const keys = { awsAccessKey: "AKID", awsSecretKey: "secret" };
const invoke = (maxRetries = 0, more = keys) =>
  new AnthropicBedrock({ baseURL: bedrockUrl, awsRegion: "us-east-1", maxRetries, ...more });
const mantleKeys = { awsAccessKey: "AKID", awsSecretAccessKey: "secret" };
const mantle = (maxRetries = 0, more = mantleKeys) =>
  new AnthropicBedrockMantle({
    baseURL: mantleUrl + "/anthropic", awsRegion: "us-east-1", maxRetries, ...more,
  });
const vertex = (maxRetries = 0, token = "ya29.valid") => {
  const authClient = new OAuth2Client();
  authClient.setCredentials({ access_token: token, expiry_date: Date.now() + 3_600_000 });
  return new AnthropicVertex({
    baseURL: vertexUrl + "/v1", projectId: "project", region: "global", authClient, maxRetries,
  });
};

const create = (client, model, more) =>
  client.messages.create({ model, max_tokens: 32, messages, ...more });

async function message(url, client, model) {
  await control(url, "/fake/replies", "Hello there");
  const answer = await create(client, model);
  return {
    id: answer.id.slice(0, 9),
    text: answer.content[0].text,
    model: answer.model,
    stop: answer.stop_reason,
    usage: [answer.usage.input_tokens, answer.usage.output_tokens],
  };
}

async function stream(url, client, model) {
  await control(url, "/fake/replies", "Hello there");
  const events = client.messages.stream({ model, max_tokens: 32, messages });
  const kinds = [];
  for await (const event of events) if (event.type !== "ping") kinds.push(event.type);
  const answer = await events.finalMessage();
  return { kinds, text: answer.content[0].text, stop: answer.stop_reason };
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    const status = error.status ?? (error.error ? 200 : null);
    return { status, message: `${error.message} ${JSON.stringify(error.error ?? null)}` };
  }
  return "no error";
}

// What a client sees of a stream with a fault after four tokens.
async function broken(url, client, model, fault) {
  await control(url, "/fake/faults", { after_tokens: 4, ...fault });
  return failure(async () => {
    for await (const _ of await create(client, model, { stream: true }));
  });
}

async function retried(url, client, model) {
  await control(url, "/fake/faults", { fault: "rate_limited_bare" });
  return (await create(client, model)).stop_reason;
}

const seen = async (url, client, model) => ({
  message: await message(url, client(), model),
  stream: await stream(url, client(), model),
  retried: await retried(url, client(1), model),
  throttled: await broken(url, client(), model, { fault: "rate_limited_bare" }),
  unavailable: await broken(url, client(), model, { fault: "unavailable" }),
  overloaded: await broken(url, client(), model, { fault: "overloaded" }),
  invalid: await failure(() => create(client(), model, { top_k: 3 })),
  broken_stream: await broken(url, client(), model, { fault: "error_mid_stream" }),
});

const beta = (client, model, name) =>
  failure(() => client.beta.messages.create({ model, max_tokens: 32, messages, betas: [name] }));

const profile = "us.anthropic.claude-opus-5-5";
const arn = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc";
const plain = "anthropic.claude-opus-5-5";
const throttled = {
  fault: "frame", how: "exception", name: "throttlingException", message: "Slow.",
};
await control(bedrockUrl, "/fake/credentials", { expired: "AKIDOLD" });
await control(vertexUrl, "/fake/credentials", { expired: "ya29.old" });
const frame = (how) => ({ fault: "frame", how });
const counted = async (client, model) =>
  (await client.messages.countTokens({ model, messages })).input_tokens;

console.log(JSON.stringify({
  invoke: {
    ...(await seen(bedrockUrl, invoke, profile)),
    arn: (await message(bedrockUrl, invoke(), arn)).model,
    bearer: (await message(bedrockUrl, invoke(0, { apiKey: "bearer" }), profile)).text,
    bad_bearer: await failure(() => create(invoke(0, { apiKey: "other" }), profile)),
    bad_secret: await failure(() => create(invoke(0, { ...keys, awsSecretKey: "wrong" }), profile)),
    expired: await failure(() => create(invoke(0, { ...keys, awsAccessKey: "AKIDOLD" }), profile)),
    session: (await create(invoke(0, {
      awsAccessKey: "ASIA", awsSecretKey: "secret", awsSessionToken: "session/+=",
    }), profile)).stop_reason,
    bare: await failure(() => create(invoke(), plain)),
    beta: await beta(invoke(), profile, "skills-2025-10-02"),
    exception: await broken(bedrockUrl, invoke(), profile, throttled),
    bad_checksum: await broken(bedrockUrl, invoke(), profile, frame("bad_checksum")),
    untyped: await broken(bedrockUrl, invoke(), profile, frame("untyped")),
  },
  messages: {
    ...(await seen(mantleUrl, mantle, plain)),
    count: await counted(mantle(), plain),
    bearer: (await message(mantleUrl, mantle(0, { apiKey: "bearer" }), plain)).text,
    profile: await failure(() => create(mantle(), profile)),
  },
  vertex: {
    ...(await seen(vertexUrl, vertex, "claude-opus-5-5")),
    count: await counted(vertex(), "claude-opus-5-5"),
    expired: await failure(() => create(vertex(0, "ya29.old"), "claude-opus-5-5")),
    beta: await beta(vertex(), "claude-opus-5-5", "skills-2025-10-02"),
    unknown: await failure(() => create(vertex(), "claude-opus-9")),
  },
}));
