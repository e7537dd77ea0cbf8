// Keeps a run's page current. Everything on the page is there without this file.
"use strict";

const MOST_LINES = 5000; // on the page, for each log; the text link has all of them
const MOST_LOGS = 4; // followed at once, because a browser opens few connections to one server

const summary = document.querySelector("[data-events]");
const followed = new Set();

if (summary) {
  const skew = Date.now() - Number(summary.dataset.now);
  setInterval(() => tick(skew), 1000);
  for (const step of document.querySelectorAll("details.step")) {
    step.addEventListener("toggle", followOpenLogs);
  }
  const events = new EventSource(summary.dataset.events);
  events.addEventListener("run", (event) => show(JSON.parse(event.data)));
  events.addEventListener("end", () => events.close());
}

// The server renders; here the parts that change are exchanged for their newest form.
let rendering = Promise.resolve();
function show(state) {
  for (const step of state.workflows.flatMap((workflow) => workflow.steps)) {
    if (step.state === "running") document.getElementById(`s${step.id}`)?.setAttribute("open", "");
  }
  rendering = rendering.then(exchange).catch(() => {});
}

async function exchange() {
  const answer = await fetch(`${location.pathname}?logs=none`);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-current]")) {
    const newer = fresh.getElementById(part.id);
    if (newer && newer.innerHTML !== part.innerHTML) part.replaceChildren(...newer.childNodes);
  }
  followOpenLogs();
}

function followOpenLogs() {
  for (const log of document.querySelectorAll("details[open] > .log[data-live]")) {
    if (followed.size < MOST_LOGS && !followed.has(log)) follow(log);
  }
}

function follow(log) {
  followed.add(log);
  const { step, next } = log.dataset;
  const events = new EventSource(`/api/v1/steps/${step}/log?from=${next}`);
  events.addEventListener("lines", (event) => append(log, JSON.parse(event.data)));
  events.addEventListener("end", () => {
    events.close();
    log.removeAttribute("data-live");
    followed.delete(log);
    followOpenLogs();
  });
}

function append(log, lines) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.parentElement.querySelector(".log-empty")?.remove();
  log.append(...lines.map((line) => lineOf(log, line)));
  while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function lineOf(log, line) {
  const { step, base } = log.dataset;
  const row = element("div", line.kind, "");
  row.id = `s${step}-${line.end}`;
  const place = element("a", "", duration(line.at - Number(base)));
  place.href = `?step=${step}&at=${line.end}#${row.id}`;
  place.title = new Date(line.at).toISOString();
  const text = element("span", "", line.spans ? "" : line.text);
  for (const span of line.spans ?? []) text.append(element("span", span.style, span.text));
  row.append(place, text);
  return row;
}

function element(name, style, text) {
  const made = document.createElement(name);
  if (style) made.className = style;
  made.textContent = text;
  return made;
}

function tick(skew) {
  for (const time of document.querySelectorAll("[data-since]")) {
    time.textContent = duration(Date.now() - skew - Number(time.dataset.since));
  }
}

// As the server writes them.
function duration(millis) {
  const seconds = Math.max(0, Math.floor(millis / 1000));
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 10) return `${(Math.max(0, millis) / 1000).toFixed(1)}s`;
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds / 60) % 60)}m`;
}

// A page opened on a log that is still growing begins at its end.
if (!location.hash) {
  for (const log of document.querySelectorAll(".log[data-live]")) log.scrollTop = log.scrollHeight;
}
followOpenLogs();
