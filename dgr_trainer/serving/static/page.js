"use strict";
// The page of dgr serve. All texts of passages, queries and identifiers enter the page as text nodes, never as HTML.

const SHOWN_IDENTIFIERS = 5;
const SHOWN_DIFFERENCES = 12;
const VIEW_NAMES = { title: "title", substring: "text", pseudo_query: "pseudo-query", docid: "docid" };
const byId = (id) => document.getElementById(id);

let info = null;
let running = null;

function element(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

function number(value, sign) {
  const digits = Math.abs(value) < 10 ? 2 : 1;
  const text = Math.abs(value).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const minus = value < 0 && Number(value.toFixed(digits)) !== 0 ? "\u2212" : "";
  return (minus || (sign ? "+" : "")) + text;
}

function ordinal(value) {
  const ending = value % 100 > 10 && value % 100 < 14 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[value % 10] || "th";
  return value + ending;
}

function say(text, isProblem) {
  byId("status").textContent = text;
  byId("status").classList.toggle("problem", Boolean(isProblem));
}

// Requests

class Problem extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function ask(path, body, signal) {
  const headers = {};
  const token = sessionStorage.getItem("token");
  if (token) headers.authorization = "Bearer " + token;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new Problem(response.status, answer.error || "The server failed.", response.headers.get("retry-after"));
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function untilReady(signal) {
  for (;;) {
    const health = await (await fetch("healthz", { signal })).json();
    if (health.ready) return;
    const failing = Object.values(health.systems).some((state) => state !== "loading");
    say(failing ? "The model does not answer; trying again \u2026" : "The model is being loaded \u2026", failing);
    await pause(1);
  }
}

async function start() {
  try {
    await untilReady();
    info = await ask("info");
  } catch (error) {
    if (error.status === 401) askForToken(sessionStorage.getItem("token") ? "The token is wrong." : "");
    else say(error.message || "The server does not answer.", true);
    return;
  }
  byId("access").hidden = true;
  byId("query").maxLength = info.limits.max_query_length;
  for (const option of [...byId("k").options]) if (Number(option.value) > info.limits.max_k) option.remove();
  document.body.classList.toggle("beside", info.systems.length > 1);
  document.title = info.systems.map((system) => system.name).join(" \u00b7 ") + " \u2013 dgr serve";
  byId("examples").replaceChildren(...info.systems.flatMap((system) => system.examples).map((text) => new Option(text, text)));
  const views = [...new Set(info.systems.flatMap((system) => system.views))];
  byId("legend").replaceChildren(...views.map((view) => element("li", view, VIEW_NAMES[view] || view)));
  byId("legend").hidden = views.length === 0;
  say("");
  fromAddress();
}

function askForToken(problem) {
  byId("access").hidden = false;
  say(problem, true);
  byId("token").focus();
}

// The query stands in the fragment of the address, which a browser does not send to any server.
function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.get("q") === null) return;
  byId("query").value = given.get("q");
  if ([...byId("k").options].some((option) => option.value === given.get("k"))) byId("k").value = given.get("k");
  search();
}

async function search() {
  const query = byId("query").value;
  if (!info || !query.trim()) return;
  if (running) running.abort();
  const mine = (running = new AbortController());
  const body = { queries: [query], k: Number(byId("k").value), identifiers: null, marked: true };
  say("Searching \u2026");
  try {
    const began = performance.now();
    const answers = await Promise.all(
      info.systems.map((system) => ask("search", { ...body, system: system.name }, mine.signal)),
    );
    show(answers);
    const counts = answers.map((answer) => answer.results[0].hits.length);
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    const words = counts.map((count) => (count === 1 ? "1 passage" : count + " passages"));
    const found = words.length > 1 && words[0] === words[1] ? words[0] + " each" : words.join(" and ");
    say(found + " in " + seconds + " s");
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) askForToken("The token is wrong.");
    else say(error.message, true);
  } finally {
    if (running === mine) running = null;
  }
}

// Results

function show(answers) {
  const ranks = answers.map(
    (answer) => new Map(answer.results[0].hits.map((hit, position) => [hit.passage_id, position + 1])),
  );
  byId("results").replaceChildren(
    ...answers.map((answer, number) => {
      const system = info.systems[number];
      const { hits, note } = answer.results[0];
      const section = element("section", "");
      section.setAttribute("aria-label", "Results of " + system.name);
      if (answers.length > 1) section.append(element("h2", "", system.name, " ", element("small", "", system.kind)));
      if (note || !hits.length) section.append(element("p", "about", note || "No passage was found."));
      const list = element("ol", "hits");
      const others = answers.length > 1 ? { name: info.systems[1 - number].name, ranks: ranks[1 - number] } : null;
      hits.forEach((hit, position) => list.append(hitCard(hit, position, hits, others)));
      section.append(list);
      return section;
    }),
  );
}

function hitCard(hit, position, hits, others) {
  const card = element("li", "hit");
  const heading = element("h3", "");
  const title = hit.title === null || hit.title === "" ? null : hit.title;
  heading.append(...(title && hit.marked ? pieces(hit.marked.title, hit) : [title || hit.passage_id]));
  const head = element("div", "head", element("span", "rank", position + 1 + "."), heading);
  head.append(element("span", "score", number(hit.score)));
  card.append(head);
  const about = title && title !== hit.passage_id ? [hit.passage_id] : [];
  if (others) {
    const rank = others.ranks.get(hit.passage_id);
    about.push(rank ? ordinal(rank) + " in " + others.name : "not found by " + others.name);
  }
  if (about.length) card.append(element("p", "about", about.join(" \u00b7 ")));
  if (hit.text) card.append(element("p", "text", ...(hit.marked ? pieces(hit.marked.text, hit) : [hit.text])));
  if (hit.marked && hit.marked.pseudo_queries.length) {
    const asked = hit.marked.pseudo_queries.map((query) => element("li", "", ...pieces(query, hit)));
    card.append(element("ul", "asked", ...asked));
  }
  if (hit.identifiers.length) card.append(...identifierBars(hit, card));
  if (position + 1 < hits.length && hit.identifiers.length) card.append(comparison(hit, hits[position + 1]));
  return card;
}

function largest(hit) {
  return Math.max(...hit.identifiers.map((one) => Math.abs(one.score)), 1e-9);
}

// A piece of text has the colour of the identifier that earned the most there.
function pieces(parts, hit) {
  const most = largest(hit);
  return parts.map((part, position) => {
    if (!part.identifiers.length) return document.createTextNode(part.text);
    const best = part.identifiers.reduce((a, b) => (hit.identifiers[b].score > hit.identifiers[a].score ? b : a));
    const mark = element("mark", hit.identifiers[best].view, part.text);
    mark.style.setProperty("--earned", (Math.abs(hit.identifiers[best].score) / most).toFixed(3));
    mark.title = part.identifiers
      .map((one) => hit.identifiers[one])
      .map((one) => number(one.score, true) + " " + (VIEW_NAMES[one.view] || one.view) + ": " + one.text)
      .join("\n");
    mark.classList.toggle("follows", position > 0 && parts[position - 1].identifiers.length > 0);
    mark.classList.toggle("followed", position + 1 < parts.length && parts[position + 1].identifiers.length > 0);
    mark.dataset.of = " " + part.identifiers.join(" ") + " ";
    return mark;
  });
}

function identifierBars(hit, card) {
  const most = largest(hit);
  const rows = hit.identifiers.map((one, position) => {
    const bar = element("span", "");
    bar.style.width = (100 * Math.abs(one.score)) / most + "%";
    const name = element("span", "name", one.text);
    const row = element("li", one.view, name, element("span", "count", one.count.toLocaleString("en") + "\u00d7"));
    const track = element("span", "bar", bar);
    track.setAttribute("aria-hidden", "true");
    row.append(track, element("span", "value", number(one.score)));
    row.tabIndex = 0;
    row.title = one.text + "\n" + (VIEW_NAMES[one.view] || one.view) + ", " + one.count + " times in the corpus";
    row.setAttribute(
      "aria-label",
      (VIEW_NAMES[one.view] || one.view) + ": " + one.text + ", adds " + number(one.score) + ", " + one.count + " times in the corpus",
    );
    const light = (isLit) =>
      card.querySelectorAll('mark[data-of~="' + position + '"]').forEach((mark) => mark.classList.toggle("lit", isLit));
    row.addEventListener("mouseenter", () => light(true));
    row.addEventListener("mouseleave", () => light(false));
    row.addEventListener("focus", () => light(true));
    row.addEventListener("blur", () => light(false));
    return row;
  });
  const made = [element("ul", "bars", ...rows.slice(0, SHOWN_IDENTIFIERS))];
  made[0].setAttribute("aria-label", "Identifiers that the score is made of");
  const rest = rows.slice(SHOWN_IDENTIFIERS);
  if (rest.length) {
    const sum = hit.identifiers.slice(SHOWN_IDENTIFIERS).reduce((total, one) => total + one.score, 0);
    const summary = element("summary", "", rest.length + " more identifiers, " + number(sum) + " together");
    made.push(element("details", "more", summary, element("ul", "bars", ...rest)));
  }
  return made;
}

function comparison(hit, next) {
  const details = element("details", "why", element("summary", "", "Why above the next one?"));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(...differences(hit, next));
  });
  return details;
}

function differences(hit, next) {
  const rows = new Map();
  [hit, next].forEach((one, side) => {
    for (const { view, text, score } of one.identifiers) {
      const key = view + "\n" + text;
      if (!rows.has(key)) rows.set(key, { view, text, scores: [0, 0] });
      rows.get(key).scores[side] += score;
    }
  });
  const difference = (row) => row.scores[0] - row.scores[1];
  const ranked = [...rows.values()].sort((a, b) => Math.abs(difference(b)) - Math.abs(difference(a)));
  const shown = ranked.slice(0, SHOWN_DIFFERENCES);
  const rest = ranked.slice(SHOWN_DIFFERENCES);
  if (rest.length) {
    const sums = [0, 1].map((side) => rest.reduce((total, row) => total + row.scores[side], 0));
    shown.push({ view: "", text: rest.length + " others", scores: sums });
  }
  const line = (row, tag) => {
    const change = difference(row);
    const cells = row.scores.map((score) => element("td", "", score === 0 ? "\u2013" : number(score)));
    const last = element("td", change < 0 ? "minus" : "plus", number(change, true));
    const name = element("th", row.view, row.text);
    name.scope = "row";
    return element(tag, "", name, ...cells, last);
  };
  const head = element("tr", "");
  for (const text of ["identifier", "here", "next", "difference"]) {
    const cell = element("th", "", text);
    cell.scope = "col";
    head.append(cell);
  }
  const table = element("table", "difference", element("thead", "", head), element("tbody", "", ...shown.map((row) => line(row, "tr"))));
  const total = { view: "", text: "score", scores: [hit.score, next.score] };
  table.append(element("tfoot", "", line(total, "tr")));
  const gap = hit.score - next.score;
  const reason = ranked.find((row) => difference(row) > 0);
  const most = reason ? ", most of all by \u201c" + reason.text + "\u201d (" + number(difference(reason), true) + ")" : "";
  const sentence = gap === 0 ? "Both have the same score." : number(gap) + " above \u201c" + (next.title || next.passage_id) + "\u201d" + most + ".";
  return [element("p", "sentence", sentence), table];
}

// Events

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = byId("query").value;
  if (!query.trim()) return;
  const address = "#" + new URLSearchParams({ q: query, k: byId("k").value });
  if (location.hash !== address) history.pushState(null, "", address);
  search();
});
byId("k").addEventListener("change", () => byId("search").requestSubmit());
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  start();
});
window.addEventListener("popstate", fromAddress);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    byId("query").focus();
  }
});
start();
