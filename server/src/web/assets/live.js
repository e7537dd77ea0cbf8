// Keeps a run's page and a log current. Everything on the pages is there without this file.
"use strict";

const MOST_LOGS = 4; // followed at once, because a browser opens few connections to one server
const AT_ONCE = 500; // lines that are fetched when one scrolls to an end of what is here
const NEAR = 600; // pixels from the end at which more is fetched

const summary = document.querySelector("[data-events]");
const page = document.querySelector("[data-log]");
const followed = new Set();

if (summary) {
  const skew = Date.now() - Number(summary.dataset.now);
  setInterval(() => tick(skew), 1000);
  for (const step of document.querySelectorAll("details.step")) {
    step.addEventListener("toggle", followOpenLogs);
  }
  const events = new EventSource(summary.dataset.events);
  events.addEventListener("run", (event) => show(JSON.parse(event.data)));
  events.addEventListener("deployments", () => refresh());
  events.addEventListener("end", () => events.close());
}

// The server renders; here the parts that change are exchanged for their newest form.
let rendering = Promise.resolve();
function show(state) {
  for (const step of state.workflows.flatMap((workflow) => workflow.steps)) {
    if (step.state === "running") document.querySelector(`#s${step.id}:not([data-quiet])`)?.setAttribute("open", "");
  }
  refresh();
}

function refresh() {
  rendering = rendering.then(exchange).catch(() => {});
}

async function exchange() {
  const address = new URL(location.pathname + (page ? "" : location.search), location.origin);
  address.searchParams.set(...(page ? ["line", "1"] : ["logs", "none"]));
  const answer = await fetch(address);
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
  return listen(log, log.dataset.next, (lines) => append(log, lines), () => {
    followed.delete(log);
    followOpenLogs();
  });
}

function listen(log, from, heard, ended) {
  const events = new EventSource(`/api/v1/steps/${log.dataset.step}/log?from=${from}`);
  events.addEventListener("lines", (event) => heard(JSON.parse(event.data)));
  events.addEventListener("end", () => {
    events.close();
    log.removeAttribute("data-live");
    ended();
  });
  return events;
}

function append(log, lines) {
  const most = Number(log.dataset.most);
  const atEnd = isAtEnd(log);
  const said = log.parentElement.querySelector(".log-head > span");
  if (said) said.textContent = `Up to line ${lines.at(-1).line.toLocaleString("en")}`;
  log.parentElement.querySelector(".log-empty")?.remove();
  log.append(...lines.slice(-most).map((line) => lineOf(log, line)));
  while (log.childElementCount > most) log.firstElementChild.remove();
  if (atEnd) toEnd(log);
}

// Lines that were never on the screen have a height by guess only; the second look knows it.
function toEnd(log) {
  log.scrollTop = log.scrollHeight;
  requestAnimationFrame(() => (log.scrollTop = log.scrollHeight));
}

function isAtEnd(log) {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

function lineOf(log, line) {
  const row = element("div", line.stream + (line.section ? " section" : ""), "");
  const number = element("a", "", String(line.line));
  number.href = `${log.dataset.all}?line=${line.line}#L${line.line}`;
  if (page) row.id = `L${line.line}`;
  const time = element("time", "", duration(line.at - Number(log.dataset.base)));
  time.title = new Date(line.at).toISOString();
  const text = element("span", "", line.spans ? "" : line.text);
  for (const span of line.spans ?? []) text.append(element("span", span.style, span.text));
  row.append(number, time, text);
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
  if (seconds < 10) return `${(Math.floor(Math.max(0, millis) / 100) / 10).toFixed(1)}s`;
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds / 60) % 60)}m`;
}

// The page of one log: a window of bounded size that moves over a log of any length.
function watchWindow() {
  const log = page.querySelector(".log");
  const follows = page.querySelector("[data-follow]");
  const { step, query } = log.dataset;
  const search = query ? `&q=${query}` : "";
  const most = Number(log.dataset.most);
  let total = Number(log.dataset.total);
  let stream = null;
  let busy = false;

  const first = () => numberOf(log.firstElementChild, 1);
  const last = () => numberOf(log.lastElementChild, 0);
  const ask = async (place) => {
    const answer = await fetch(`/api/v1/steps/${step}/lines?${place}&limit=${AT_ONCE}${search}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const found = await answer.json();
    count(found.total);
    return found.lines.map((line) => lineOf(log, line));
  };
  const count = (now) => {
    total = Math.max(total, now);
    const said = page.querySelector("[data-total]");
    if (said) said.textContent = `of ${total.toLocaleString("en")}`;
  };
  const alone = async (work) => {
    if (busy) return;
    busy = true;
    await work().catch(() => {});
    busy = false;
  };

  // What is on the screen stays where it is while lines come and go around it.
  const keep = (change) => {
    const edge = log.getBoundingClientRect().top;
    const anchor = [...log.children].find((row) => row.getBoundingClientRect().bottom > edge);
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (anchor?.isConnected) log.scrollTop += anchor.getBoundingClientRect().top - before;
  };
  const earlier = () => alone(async () => {
    if (first() <= 1) return;
    const rows = await ask(`before=${first()}`);
    pause();
    keep(() => {
      log.prepend(...rows);
      while (log.childElementCount > most) log.lastElementChild.remove();
    });
  });
  const later = () => alone(async () => {
    if (last() < total) {
      const rows = await ask(`after=${last()}`);
      keep(() => {
        log.append(...rows);
        while (log.childElementCount > most) log.firstElementChild.remove();
      });
    }
    if (last() >= total && isAtEnd(log)) resume();
  });

  const resume = () => {
    if (stream || !log.hasAttribute("data-live")) return;
    follows?.classList.add("on");
    stream = listen(log, last(), (lines) => {
      append(log, lines);
      count(last());
    }, () => pause());
  };
  // Nobody reads what is below the screen, so nothing is fetched for it.
  const pause = () => {
    stream?.close();
    stream = null;
    follows?.classList.remove("on");
  };

  log.addEventListener("scroll", () => {
    if (log.scrollTop < NEAR) earlier();
    if (stream && !isAtEnd(log) && log.scrollTop < seen) pause();
    if (!stream && log.scrollHeight - log.scrollTop - log.clientHeight < NEAR) later();
    seen = log.scrollTop;
  }, { passive: true });
  let seen = log.scrollTop;

  follows?.addEventListener("click", (event) => {
    event.preventDefault();
    alone(async () => {
      pause();
      log.replaceChildren(...await ask(""));
      toEnd(log);
      resume();
    });
  });

  const here = log.querySelector(".here") ?? document.getElementById(location.hash.slice(1));
  if (here && log.contains(here)) {
    const inside = here.getBoundingClientRect().top - log.getBoundingClientRect().top;
    log.scrollTop += inside - log.clientHeight / 2;
    scrollTo(0, 0);
  }
  else toEnd(log);
  seen = log.scrollTop;
  for (const more of page.querySelectorAll(".more")) more.remove();
  if (!here && last() >= total) resume();
  matches();
}

function numberOf(row, otherwise) {
  return Number(row?.firstElementChild?.textContent ?? otherwise);
}

// "3 of 120", for whoever went to a match.
async function matches() {
  const said = page.querySelector("[data-count]");
  if (!said) return;
  const { step } = page.querySelector(".log").dataset;
  const answer = await fetch(`/api/v1/steps/${step}/search?q=${said.dataset.query}`);
  if (!answer.ok) return;
  const { matches, next } = await answer.json();
  const at = matches.findIndex((match) => match.line === Number(said.dataset.found));
  if (at >= 0) said.textContent = `${at + 1} of ${matches.length}${next ? "+" : ""}`;
}

document.addEventListener("keydown", (event) => {
  if (!page || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  const link = { n: "[rel=next]", N: "[rel=prev]", G: "[data-follow]" }[event.key];
  if (link) page.querySelector(link)?.click();
  if (event.key === "/") {
    event.preventDefault();
    page.querySelector("input[type=search]").select();
  }
});

if (page) {
  watchWindow();
} else {
  // A page opened on a log begins at its end.
  for (const log of document.querySelectorAll(".log")) toEnd(log);
  // What a link leads to is opened.
  const reveal = () => {
    let part = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    for (; part; part = part.parentElement) if (part.matches("details")) part.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
}
for (const step of document.querySelectorAll("details.step")) {
  step.addEventListener("toggle", () => {
    const log = step.querySelector(".log");
    if (step.open && log) toEnd(log);
  });
}
followOpenLogs();
