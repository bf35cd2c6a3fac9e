// Draws openapi.json, and talks to the API. Everything goes in as text nodes: nothing that comes from the
// document, from a model or from an error is ever read as HTML.
// Addresses are relative to this page, so a proxy may put any path in front.

const api = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;
const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function headers(body) {
  const key = byId("key").value.trim();
  return { ...(body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

// ---------------------------------------------------------------- schemas

const resolve = (schema, all) => (schema.$ref ? all[schema.$ref.split("/").pop()] : schema);
const nameOf = (schema) => schema.$ref.split("/").pop();

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== "null").map(typeOf).join(" | ");
  if (schema.type === "array") return `array of ${schema.items && Object.keys(schema.items).length ? typeOf(schema.items) : "anything"}`;
  if (schema.type === "object" && schema.additionalProperties?.type) return `object of ${typeOf(schema.additionalProperties)}`;
  return (schema.type ?? "anything") + rangeOf(schema);
}

function rangeOf(schema) {
  const big = (value) => Math.abs(value) > 1e9; // the bounds of 32 and 64 bits tell a reader nothing
  const parts = [];
  if (schema.minimum !== undefined && !big(schema.minimum)) parts.push(`≥ ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) parts.push(`> ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined && !big(schema.maximum)) parts.push(`≤ ${schema.maximum}`);
  if (schema.maxLength !== undefined) parts.push(`at most ${schema.maxLength} characters`);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function refsIn(schema, found = []) {
  if (schema.$ref) found.push(nameOf(schema));
  for (const inner of [...(schema.anyOf ?? []), ...(schema.items ? [schema.items] : [])]) refsIn(inner, found);
  return found;
}

function defaultOf(name, property, schema) {
  if (schema.required?.includes(name)) return make("em", {}, "required");
  const value = property.default;
  return value === null || value === undefined ? "" : make("code", {}, JSON.stringify(value));
}

function fieldsTable(schema) {
  const names = Object.keys(schema.properties ?? {});
  const required = names.filter((name) => schema.required?.includes(name));
  const rows = [...required, ...names.filter((name) => !required.includes(name))].map((name) => {
    const property = schema.properties[name];
    return [make("code", {}, name), typeOf(property), defaultOf(name, property, schema), property.description ?? ""];
  });
  return table(["Field", "Type", "Default", ""], rows);
}

function table(headings, rows) {
  const cells = (kind, row) => make("tr", {}, ...row.map((cell) => make(kind, {}, cell)));
  return make("div", { className: "wide" }, make("table", {},
    make("thead", {}, cells("th", headings)), make("tbody", {}, ...rows.map((row) => cells("td", row)))));
}

// A body's own fields, then those of every object inside it.
function bodyTables(schema, all) {
  const tables = [], seen = new Set([nameOf(schema)]), waiting = [nameOf(schema)];
  while (waiting.length) {
    const name = waiting.shift();
    tables.push(make("h3", {}, name === nameOf(schema) ? "Body" : name), fieldsTable(all[name]));
    for (const property of Object.values(all[name].properties ?? {})) {
      for (const inner of refsIn(property)) if (!seen.has(inner)) waiting.push(inner), seen.add(inner);
    }
  }
  return tables;
}

// ---------------------------------------------------------------- endpoints

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(verb, path, body, guarded) {
  const lines = [`curl ${api(path).replace(/%7B/gi, "{").replace(/%7D/gi, "}")}`];
  if (guarded && byId("key").value) lines.push(`-H "Authorization: Bearer $DIPTYCH_API_KEY"`);
  if (body) lines.push(`-H 'Content-Type: application/json'`, `-d ${quoted(body)}`);
  else if (verb !== "get") lines[0] = lines[0].replace("curl", `curl -X ${verb.toUpperCase()}`);
  return lines.join(" \\\n  ");
}

function endpoint(verb, path, operation, all) {
  const content = operation.requestBody?.content["application/json"];
  const about = operation.description ?? operation.summary ?? "";
  const inside = make("div", { className: "inside" });
  const details = make("details", {},
    make("summary", {}, make("span", { className: "verb" }, verb.toUpperCase()), make("span", { className: "path" }, path),
      make("span", { className: "about" }, about.split(/(?<=[.:;]) /)[0])), inside);
  details.addEventListener("toggle", () => inside.childElementCount || fill(inside, verb, path, operation, content, about, all));
  return details;
}

function fill(inside, verb, path, operation, content, about, all) {
  inside.append(make("p", {}, about));
  const parameters = (operation.parameters ?? []).filter((one) => one.in !== "header");
  if (parameters.length) {
    const rows = parameters.map((one) => [make("code", {}, one.name), typeOf(one.schema), one.in, one.description ?? ""]);
    inside.append(make("h3", {}, "Parameters"), table(["Name", "Type", "In", ""], rows));
  }
  if (content) inside.append(...bodyTables(content.schema, all));
  inside.append(make("h3", {}, "Example"), ...example(verb, path, operation, content, parameters));
}

// The curl command follows what is typed into the form.
function example(verb, path, operation, content, parameters) {
  const body = content && make("textarea", { rows: 12, spellcheck: false, value: JSON.stringify(content.example ?? {}, null, 2) });
  const inputs = parameters.map((one) => make("input", { name: one.name, placeholder: one.name, required: true }));
  const command = make("pre"), result = make("pre", { className: "result", hidden: true });
  const target = () => inputs.reduce((at, input) => at.replace(`{${input.name}}`, encodeURIComponent(input.value) || `{${input.name}}`), path);
  const show = () => { command.textContent = curl(verb, target(), body?.value, Boolean(operation.security)); };
  const form = make("form", {}, ...(body ? [body] : []), make("div", { className: "row" }, ...inputs, make("button", {}, "Send")));
  form.addEventListener("input", show);
  byId("key").addEventListener("input", show);
  form.addEventListener("submit", (event) => { event.preventDefault(); call(verb, target(), body?.value, result); });
  show();
  return [command, form, result];
}

async function call(verb, path, body, result) {
  result.hidden = false;
  result.textContent = "…";
  try {
    const answer = await fetch(api(path), { method: verb.toUpperCase(), headers: headers(body), body });
    result.textContent = `${answer.status} ${answer.statusText}\n\n`;
    const json = answer.headers.get("content-type")?.startsWith("application/json");
    if (json) result.textContent += JSON.stringify(await answer.json(), null, 2);
    else for await (const text of textOf(answer)) result.textContent += text;
  } catch (error) {
    result.textContent = String(error);
  }
}

async function* textOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

// ---------------------------------------------------------------- chat

let running = null;

function chatBody() {
  const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  return {
    model: byId("model").textContent, messages: [{ role: "user", content: byId("message").value }],
    max_tokens: number("max_tokens"), temperature: number("temperature"), seed: number("seed"),
    ...(byId("stream").checked ? { stream: true, stream_options: { include_usage: true } } : {}),
  };
}

async function* eventsOf(answer) {
  let rest = "";
  for await (const text of textOf(answer)) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function chat() {
  const started = performance.now(), since = () => `${Math.round(performance.now() - started)} ms`;
  const answer = await fetch(api("v1/chat/completions"),
    { method: "POST", headers: headers(true), body: JSON.stringify(chatBody()), signal: running.signal });
  const streamed = answer.headers.get("content-type")?.startsWith("text/event-stream");
  let first = "", usage = null, reason = "";
  for await (const event of streamed ? eventsOf(answer) : [await answer.json()]) {
    if (event.error) throw new Error(`${event.error.code}: ${event.error.message}`);
    first ||= streamed ? `first token after ${since()}, ` : "";
    const choice = event.choices[0];
    byId("answer").append(choice?.delta?.content ?? choice?.message?.content ?? "");
    reason = choice?.finish_reason ?? reason;
    usage = event.usage ?? usage;
  }
  const tokens = usage ? `${usage.prompt_tokens} prompt tokens (${usage.prompt_tokens_details.cached_tokens} cached), ${usage.completion_tokens} output tokens, ` : "";
  byId("figures").textContent = `${tokens}${first}all after ${since()}, finish_reason ${reason}`;
}

async function send(event) {
  event.preventDefault();
  running = new AbortController();
  byId("send").disabled = !(byId("stop").disabled = false);
  byId("answer").textContent = byId("figures").textContent = "";
  try {
    await chat();
  } catch (error) {
    byId("figures").replaceChildren(make("span", { className: "error" }, error.name === "AbortError" ? "stopped" : error.message));
  }
  byId("send").disabled = !(byId("stop").disabled = true);
}

// ---------------------------------------------------------------- the page

async function main() {
  const spec = await (await fetch(api("openapi.json"))).json();
  const all = spec.components?.schemas ?? {};
  byId("version").textContent = spec.info.version;
  byId("summary").textContent = spec.info.summary ?? "";
  byId("base").textContent = api("v1");
  const groups = new Map();
  for (const [path, verbs] of Object.entries(spec.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      const tag = operation.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), endpoint(verb, path, operation, all)]);
      byId("model").textContent ||= operation.requestBody?.content["application/json"].example?.model ?? "";
    }
  }
  for (const [tag, endpoints] of groups) byId("endpoints").append(make("section", {}, make("h2", {}, tag), ...endpoints));
}

byId("chat").addEventListener("submit", send);
byId("stop").addEventListener("click", () => running?.abort());
main().catch((error) => byId("endpoints").append(make("p", { className: "error" }, `openapi.json could not be read: ${error.message}`)));
