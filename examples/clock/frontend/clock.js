// Asks the backend for the time once a second, and lets the hands go on between two answers. The time
// shown is the backend's, in the visitor's time zone; the visitor's own clock is never looked at.
"use strict";

const POLL_MS = 1000;
const PATIENCE_MS = 3000;

const page = document.querySelector("main");
const show = Object.fromEntries(["time", "date", "state", "unix", "minute"].map((id) => [id, document.getElementById(id)]));
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

let offset = null; // backend's time minus this page's own running time, in milliseconds
let silentSince = null;

function say(text) {
  if (show.state.textContent !== text) show.state.textContent = text; // a screen reader speaks changes only
}

async function ask() {
  const sent = performance.now();
  const response = await fetch("/clock", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  const text = await response.text();
  const seconds = Number(text);
  if (!response.ok || text.trim() === "" || !Number.isFinite(seconds)) throw new Error(`status ${response.status}`);
  const took = performance.now() - sent;
  offset = seconds * 1000 + took / 2 - performance.now();
  silentSince = null;
  page.className = "answers";
  say("The backend answers");
  show.unix.textContent = `${seconds.toFixed(6)} · ${took < 1 ? "under 1" : Math.round(took)} ms`;
}

async function poll() {
  if (!document.hidden) {
    try {
      await ask();
    } catch {
      silentSince ??= performance.now();
      page.className = "silent";
      say("The backend does not answer; trying again");
      show.unix.textContent = offset === null ? "" : `silent for ${Math.round((performance.now() - silentSince) / 1000)} s; the time goes on by itself`;
    }
  }
  setTimeout(poll, POLL_MS);
}

function draw() {
  if (offset !== null) {
    const now = new Date(performance.now() + offset);
    show.time.textContent = clock.format(now);
    show.time.dateTime = now.toISOString();
    show.date.textContent = calendar.format(now);
    show.minute.style.strokeDashoffset = 60 - (now.getSeconds() + now.getMilliseconds() / 1000);
  }
  setTimeout(draw, 100);
}

poll();
draw();
