"use strict";
// Shows openapi.json as a page; what it says enters as text nodes.

function element(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

let description = {};

function resolved(schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.split("/").slice(1).reduce((place, name) => place[name], description);
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.type === "array") return "list of " + typeOf(schema.items);
  if (schema.type === "object" && schema.additionalProperties) return "object of " + typeOf(schema.additionalProperties);
  return schema.type || "any";
}

function limits(schema) {
  const all = [schema, ...(schema.anyOf || [])];
  const names = { minimum: "at least ", maximum: "at most ", minItems: "at least ", maxItems: "at most " };
  const found = all.flatMap((one) => Object.keys(names).filter((name) => name in one).map((name) => names[name] + one[name].toLocaleString("en")));
  if (schema.default !== undefined) found.push("default " + JSON.stringify(schema.default));
  const text = found.join(", ");
  return text && text[0].toUpperCase() + text.slice(1) + ".";
}

function fields(schema, seen = new Set()) {
  const object = resolved(schema);
  const made = [];
  const nested = [];
  const rows = Object.entries(object.properties || {}).map(([name, field]) => {
    const inner = [field, field.items, ...(field.anyOf || [])].filter((one) => one && (one.$ref || (one.items && one.items.$ref)));
    for (const one of inner) nested.push(one.$ref ? one : one.items);
    const note = [field.description, limits(field)].filter(Boolean).join(" ");
    const label = element("code", "", name);
    return element("tr", "", element("th", "", label), element("td", "", typeOf(field)), element("td", "", note));
  });
  if (rows.length) made.push(element("table", "", element("tbody", "", ...rows)));
  for (const one of nested) {
    if (seen.has(one.$ref)) continue;
    seen.add(one.$ref);
    made.push(element("h3", "", one.$ref.split("/").pop()), ...fields(one, seen));
  }
  return made;
}

function operation(path, method, details) {
  const made = [element("h2", "", element("code", "method", method.toUpperCase()), element("code", "", path))];
  made.push(element("p", "", details.description || details.summary || ""));
  const body = details.requestBody && details.requestBody.content["application/json"];
  if (body) {
    const example = { queries: ["who discovered penicillin"], k: 3 };
    const address = new URL(path.slice(1), location.href.replace(/docs.*$/, ""));
    const token = details.security ? " \\\n  -H 'Authorization: Bearer TOKEN'" : "";
    const command = "curl " + address + token + " \\\n  -H 'Content-Type: application/json' \\\n  -d '" + JSON.stringify(example) + "'";
    made.push(element("pre", "", command), element("h3", "", "Request"), ...fields(body.schema));
  }
  for (const [status, answer] of Object.entries(details.responses)) {
    const content = answer.content && answer.content["application/json"];
    made.push(element("h3", "", "Status " + status), element("p", "about", answer.description));
    if (status === "200" && content) made.push(...fields(content.schema));
  }
  return element("section", "", ...made);
}

async function start() {
  description = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = description.info.description;
  const sections = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, details]) => operation(path, method, details)),
  );
  document.getElementById("operations").replaceChildren(...sections);
}

start();
