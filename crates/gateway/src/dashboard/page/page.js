"use strict";
const WORDS = { good: "good", warning: "warning", bad: "problem" };
const CLASSES = [["success", "answered"], ["rate_limited", "429"], ["overloaded", "529"], ["failed", "other failures"]];
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

/** Creates an element. Texts become text nodes, so that nothing is read as HTML. */
function element(name, attributes, ...children) {
  const isSvg = ["svg", "path", "line", "rect", "title"].includes(name);
  const made = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null && child !== false));
  return made;
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const amount = (number) => (Math.abs(number) < 10000 ? whole : compact).format(number);
const percent = (share) => `${whole.format(100 * share)} %`;

function duration(seconds) {
  if (seconds > 0 && seconds < 1) return "less than 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function money(usd) {
  if (usd === 0) return "$0";
  return usd < 0.01 ? "< $0.01" : `$${usd.toFixed(2)}`;
}

/** Replaces the children, and keeps the focus on the element with the same key. */
function fill(parent, children) {
  const key = parent.contains(document.activeElement) && document.activeElement.dataset.key;
  const top = parent.scrollTop;
  parent.replaceChildren(...children);
  parent.scrollTop = top;
  if (key) {
    const same = [...parent.querySelectorAll("[data-key]")].find((child) => child.dataset.key === key);
    if (same) same.focus({ preventScroll: true });
  }
}

function rate(name, value, more) {
  return element("div", null, element("dt", null, name), element("dd", null, value, more && element("small", null, ` ${more}`)));
}

function showRates(state) {
  const rates = state.rates;
  const looked = rates.cache_hits + rates.cache_misses;
  const waiting = state.scopes.flatMap((scope) => scope.queues).reduce((sum, queue) => sum + queue.queued, 0);
  fill($("rates"), [
    rate("Requests a minute", amount(rates.requests)),
    rate("429 a minute", amount(rates.rate_limited)),
    rate("529 a minute", amount(rates.overloaded)),
    rate("Other failures", amount(rates.failed)),
    rate("Sent again", amount(rates.retries)),
    rate("Not sent", amount(rates.refused)),
    rate("Waiting", amount(waiting)),
    rate("In flight", amount(state.scopes.reduce((sum, scope) => sum + scope.in_flight, 0))),
    rate("Input tokens", amount(rates.input_tokens), rates.cache_read_tokens ? `+ ${amount(rates.cache_read_tokens)} cached` : ""),
    rate("Output tokens", amount(rates.output_tokens)),
    rate("Cost a minute", money(rates.usd), "list price"),
    rate("Cache hits", looked ? percent(rates.cache_hits / looked) : "–"),
  ]);
}

/** A line of the shares over ten minutes. The dashed line is the limit. */
function trend(points) {
  const top = Math.max(1.05, ...points);
  const x = (index) => 100 - (points.length - 1 - index) * (100 / 60);
  const y = (share) => 30 - 28 * (share / top);
  const path = points.map((share, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(share).toFixed(1)}`).join("");
  const most = Math.max(0, ...points);
  const label = `Use over ${duration(10 * (points.length - 1))}, at most ${percent(most)}`;
  return element("svg", { class: "trend", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label },
    element("line", { x1: 0, x2: 100, y1: y(1), y2: y(1) }), element("path", { d: path }));
}

function when(limit) {
  const seconds = limit.forecast.seconds;
  switch (limit.forecast.kind) {
    case "full": return ["at the limit now", "now"];
    case "in": return [`full in about ${duration(seconds)}`, seconds <= 3600 ? "soon" : ""];
    case "steady": return ["does not fill at this pace", ""];
    default: return ["too early for a forecast", ""];
  }
}

function showLimit(limit) {
  const [words, urgency] = when(limit);
  const width = Math.min(100, 100 * limit.share).toFixed(1);
  const grade = limit.forecast.kind === "full" ? "full" : limit.share > 0.8 ? "high" : "";
  const used = `${amount(limit.used)} of ${amount(limit.limit)} ${limit.unit}`;
  return element("div", { class: limit.binds ? "limit binds" : "limit" },
    element("div", { class: "name" }, limit.dimension, limit.binds && " ", limit.binds && element("span", { class: "badge" }, "binds first")),
    element("div", { class: "bar", role: "meter", "aria-label": `Use of ${limit.dimension}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(width), "aria-valuetext": `${percent(limit.share)}, ${used}` },
      element("i", { class: grade, style: `width: ${width}%` }), element("b", null, percent(limit.share))),
    element("div", { class: "trend-box" }, trend(limit.trend)),
    element("div", { class: "facts" },
      element("div", { class: `when ${urgency}` }, words),
      element("div", { class: "amount" }, `${used}, ${amount(limit.left)} left now${limit.learned ? "" : ", configured"}`)));
}

function showScopes(state) {
  fill($("scopes"), state.scopes.length ? state.scopes.map((scope) => element("div", { class: "scope" },
    element("h3", null, scope.name, " ", scope.paused > 0 && element("span", { class: "badge" }, `paused for ${duration(scope.paused)}`)),
    ...(scope.limits.length ? scope.limits.map(showLimit) : [element("p", { class: "none" }, "No limit is known yet. The headers of the first response name them.")])))
    : [element("p", { class: "none" }, "No requests yet. Limits are shown with the first one.")]);
}

function table(head, rows) {
  return element("table", null,
    element("thead", null, element("tr", null, ...head.map(([text, kind]) => element("th", { class: kind, scope: "col" }, text)))),
    element("tbody", null, ...rows.map((row) => element("tr", null, ...row.map((cell, index) => element("td", { class: head[index][1] }, cell))))));
}

function showQueue(state) {
  const rows = state.scopes.flatMap((scope) => scope.queues.filter((queue) => queue.queued > 0)
    .map((queue) => [scope.name, queue.priority, whole.format(queue.queued), duration(queue.wait)]));
  fill($("queue"), [rows.length
    ? table([["Limits of"], ["Priority"], ["Waiting", "number"], ["Estimated wait", "number"]], rows)
    : element("p", { class: "none" }, "No request waits.")]);
}

function showModels(state) {
  const rows = state.models.map((model) => [model.asked,
    model.served === "" ? "– not sent" : model.served === model.asked ? "itself" : `⇢ ${model.served} stands in`, whole.format(model.calls)]);
  fill($("models"), [rows.length
    ? table([["Asked for"], ["Answers"], ["Calls", "number"]], rows)
    : element("p", { class: "none" }, "No calls in the last minute.")]);
}

function showCircuits(state) {
  const marks = { closed: "✓ closed", probing: "▲ probing", open: "✖ open" };
  const rows = state.circuits.map((circuit) => [circuit.name, marks[circuit.state]]);
  fill($("circuits"), [rows.length
    ? table([["Circuit of"], ["State"]], rows)
    : element("p", { class: "none" }, "✓ All circuits are closed. None has opened since the start.")]);
}

/** Shapes that tell the classes apart without colour: full, narrow, hollow, and a line. */
function block(name, x, y, width, height) {
  const inset = { success: 0, rate_limited: 0.18, overloaded: 0.3, failed: 0.4 }[name] * width;
  return element("rect", { class: name, x: (x + inset).toFixed(2), y: y.toFixed(2), width: (width - 2 * inset).toFixed(2), height: height.toFixed(2) });
}

function showResponses(state) {
  const sums = state.responses.map((point) => CLASSES.reduce((sum, [name]) => sum + point[name], 0));
  const most = Math.max(1, ...sums);
  const blocks = [];
  const total = { success: 0, rate_limited: 0, overloaded: 0, failed: 0 };
  state.responses.forEach((point, index) => {
    let y = 60;
    const x = 300 - (state.responses.length - index) * (300 / 61);
    for (const [name] of CLASSES) {
      total[name] += point[name];
      const height = 58 * (point[name] / most);
      y -= height;
      if (height > 0) blocks.push(block(name, x, y, 4.4, height));
    }
  });
  const words = CLASSES.map(([name, label]) => `${amount(total[name])} ${label}`);
  fill($("responses"), [
    element("svg", { class: "chart", viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img", "aria-label": `In the last ten minutes: ${words.join(", ")}` }, ...blocks),
    element("div", { class: "key" }, ...CLASSES.map(([name], index) => element("span", null,
      element("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, block(name, 0, 0, 10, 10)), words[index]))),
  ]);
}

async function copy(event) {
  const button = event.currentTarget;
  try {
    await navigator.clipboard.writeText(button.dataset.id);
    button.textContent = "copied";
  } catch {
    button.textContent = button.dataset.id;
  }
}

function showIncidents(state) {
  const items = state.incidents.map((incident) => {
    const item = element("li", { "data-level": incident.level },
      element("span", { class: "mark", role: "img", "aria-label": WORDS[incident.level] }),
      element("span", { class: "ago" }, `${duration(incident.ago)} ago`),
      element("span", { class: "text" }, incident.text, incident.count > 1 && ` (${whole.format(incident.count)} times)`));
    if (incident.request_id) {
      const id = incident.request_id;
      const button = element("button", { type: "button", title: `Copy ${id}`, "data-id": id, "data-key": `${id} ${incident.text}` }, id);
      button.addEventListener("click", copy);
      item.append(button);
    }
    return item;
  });
  fill($("incidents"), items.length ? items : [element("li", { class: "none", "data-level": "good" }, element("span", { class: "mark" }), "", "None since the start.")]);
}

function show(state) {
  $("verdict").dataset.level = state.verdict.level;
  // An unchanged text is not set again, so that it is not read aloud again.
  if ($("verdict-text").textContent !== state.verdict.text) $("verdict-text").textContent = state.verdict.text;
  document.title = `${{ good: "✓", warning: "▲", bad: "✖" }[state.verdict.level]} tower-claude`;
  $("plan").hidden = !state.has_plan;
  $("uptime").textContent = `up for ${duration(state.uptime)}`;
  showRates(state);
  showScopes(state);
  showResponses(state);
  showQueue(state);
  showModels(state);
  showCircuits(state);
  showIncidents(state);
}

let isPaused = false;
let last = null;
let lastAt = 0;

function showConnection(lost) {
  const text = lost ? (lastAt ? `connection lost, figures are ${duration((Date.now() - lastAt) / 1000)} old` : "no connection")
    : isPaused ? "paused" : "live";
  $("connection").className = lost ? "lost" : "";
  if ($("connection").textContent !== text) $("connection").textContent = text;
}

$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  $("pause").textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused && last) show(last);
  showConnection(Date.now() - lastAt > 8000);
});

const events = new EventSource("/dashboard/events");
events.onmessage = (event) => {
  if (!event.data) return;
  last = JSON.parse(event.data);
  lastAt = Date.now();
  if (!isPaused) show(last);
  showConnection(false);
};
events.onerror = () => showConnection(true);
setInterval(() => { if (Date.now() - lastAt > 8000) showConnection(true); }, 1000);
