// One window of `learn annotate`. What stands on the page is text, never markup; everything is asked
// of the server that the page came from.
"use strict";

const at = (id) => document.getElementById(id);
const columnAtFirst = new URLSearchParams(location.search).get("column");
const windowName = sessionStorage.getItem("window") || [...crypto.getRandomValues(new Uint8Array(12))]
  .map((b) => b.toString(16).padStart(2, "0")).join("");
sessionStorage.setItem("window", windowName);

let state = null; // as the server last told
let column = columnAtFirst || "";
let busy = false; // an act is under way: keys mean nothing meanwhile
let shown = ""; // what the player has
let muted = false; // by the user
let hushed = false; // by the browser, which has seen no key yet

function element(kind, text, attributes = {}) {
  const made = document.createElement(kind);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const ofClip = (kind, id) => `${kind}?clip=${encodeURIComponent(id)}`;
const percent = (share) => `${Math.round(100 * share)} %`;

// Whether a part differs from what it was made from last: the rest stays as it is.
const madeFrom = {};
function fresh(part, from) {
  const text = JSON.stringify(from);
  if (madeFrom[part] === text) return false;
  madeFrom[part] = text;
  return true;
}

function fill(part, from, items) {
  if (fresh(part, from)) at(part).replaceChildren(...items());
}

function warn(text) {
  at("alert").textContent = text;
  at("alert").hidden = !text;
}

async function ask(path, init) {
  const answer = await fetch(path, { cache: "no-store", ...init });
  const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(told.error), { told: true });
  return told;
}

const look = () => ask(`state?window=${windowName}&column=${encodeURIComponent(column)}`);

async function act(kind, more = {}) {
  if (busy || !state) return;
  busy = true;
  const before = state.clip;
  const began = performance.now();
  try {
    const told = await ask("state", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        kind, window: windowName, column,
        clip: before ? before.id : "", version: before ? before.version : 0, ...more,
      }),
    });
    warn("");
    say(kind, before, more);
    show(told);
  } catch (error) {
    warn(error.told ? error.message
      : "The server does not answer; nothing that you press is kept. Start learn annotate again.");
    if (error.told) await look().then(show).catch(() => {});
  } finally {
    busy = false;
    document.body.dataset.took = String(Math.round(performance.now() - began));
  }
}

function say(kind, clip, more) {
  const name = clip ? clip.id.split("/").pop() : "";
  at("said").textContent = {
    answer: `${name}: ${more.name}`, none: `${name}: none of these`, skip: `${name}: skipped`,
    undo: "Taken back", show: "",
  }[kind];
}

// ── what is shown ────────────────────────────────────────────────────────────────────────────────

function show(told) {
  state = told;
  column = told.column;
  document.body.dataset.acts = String(told.acts);
  at("progress").textContent =
    `${told.answered.toLocaleString("en")} of ${told.total.toLocaleString("en")} clips answered`;
  showColumns();
  showClip();
  showChoices();
  showEstimate();
  fill("counts", told.classes, () => told.classes.map(([name, count]) => {
    const line = element("li", `${name} `);
    line.append(element("span", count));
    return line;
  }));
  fill("known", told.classes.map(([name]) => name), () => told.classes
    .map(([name]) => element("option", null, { value: name })));
  fill("recent", told.recent, () => told.recent.map(small));
  fill("upcoming", told.upcoming, () => told.upcoming.map(small));
}

function showColumns() {
  at("columns").hidden = state.columns.length < 2;
  fill("columns", [state.columns, column], () => state.columns.map((name) => {
    const button = element("button", name, {
      type: "button", "aria-pressed": String(name === column),
    });
    button.addEventListener("click", () => turnTo(name));
    return button;
  }));
}

function showClip() {
  const clip = state.clip;
  at("clip").textContent = clip ? clip.id : "";
  at("was").textContent = !clip ? "" : clip.none ? "none of these" : clip.label;
  const key = clip ? clip.id : "";
  const still = at("still");
  still.hidden = !(clip && clip.picture && (!clip.media || clip.type.startsWith("audio/")));
  if (!still.hidden) still.src = ofClip("picture", clip.id);
  if (key === shown && clip) return;
  shown = key;
  const player = at("player");
  player.pause();
  player.removeAttribute("src");
  player.hidden = !(clip && clip.media);
  at("no-media").hidden = Boolean(clip && clip.media);
  at("no-media").textContent = clip ? "No media file of this clip was found below --media."
    : "Every clip has an answer. You can stop here.";
  if (clip && clip.media) {
    const piece = clip.end ? `#t=${clip.start},${clip.end}` : clip.start ? `#t=${clip.start}` : "";
    player.src = ofClip("media", clip.id) + piece;
    play();
  }
}

function play() {
  const player = at("player");
  hushed = false;
  player.muted = muted;
  player.play().catch((error) => {
    if (error.name !== "NotAllowedError") return;
    hushed = true;
    player.muted = true;
    player.play().catch(() => {});
  });
}

function showChoices() {
  const clip = state.clip;
  const choices = clip ? clip.choices : [];
  at("hint").textContent = hint(clip, choices);
  const from = [clip && clip.id, clip && clip.label, choices];
  fill("choices", from, () => choices.map(([name, share], i) => {
    const line = element("li");
    const button = element("button", null, { type: "button" });
    button.append(element("kbd", i + 1), element("span", name));
    button.append(element("span", share === null ? "" : percent(share), { class: "share" }));
    if (share !== null) {
      const bar = element("span", null, { class: "fill", "aria-hidden": "true" });
      bar.style.width = `${100 * share}%`;
      button.append(bar);
    }
    if (name === clip.label) button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => act("answer", { name }));
    line.append(button);
    return line;
  }));
}

function hint(clip, choices) {
  if (!clip) return "";
  if (!choices.length) return "Nothing is named yet: press N, type the class of this clip, press Enter.";
  if (state.fit.fault) return `No proposals: ${state.fit.fault}`;
  if (choices.every(([, share]) => share === null)) return "Proposals begin when two classes have clips.";
  const strange = clip.novelty !== null && clip.novelty > 0.95
    ? " Unlike all that is labelled so far." : "";
  return (state.fit.calibrated ? "" : "So few labels make confidences rough.") + strange;
}

function small(clip) {
  const line = element("li");
  const button = element("button", null, { type: "button", title: clip.id });
  button.append(clip.picture
    ? element("img", null, { src: ofClip("picture", clip.id), alt: "" })
    : element("span", null, { class: "blank" }));
  if (clip.label || clip.none) button.append(element("strong", clip.none ? "none of these" : clip.label));
  button.append(element("span", clip.id.split("/").pop(), { class: "id" }));
  button.addEventListener("click", () => act("show", { clip: clip.id }));
  line.append(button);
  return line;
}

// ── when to stop ─────────────────────────────────────────────────────────────────────────────────

function showEstimate() {
  const curve = state.curve;
  if (!fresh("estimate", [curve, state.fit.behind, state.fit.calibrated])) return;
  const last = curve[curve.length - 1];
  const behind = state.fit.behind ? ` ${state.fit.behind} answers are not in it yet.` : "";
  at("estimate").textContent = last
    ? `${last[0]} labelled clips. ${checked(last)}${last[1] === null ? "" : ` Mean confidence about the clips left: ${percent(last[1])}.`}${behind}`
    : "Known when two classes have clips.";
  at("advice").textContent = advice(curve);
  drawCurve(curve);
}

function checked(last) {
  if (last[2] === null) return "Every eighth clip is drawn, as a check; too few of these so far.";
  return `Of ${last[3]} that were drawn, as a check, the others tell ${percent(last[2])} ± ${Math.round(100 * state.half)}.`;
}

function advice(curve) {
  const last = curve[curve.length - 1];
  if (!last || last[1] === null || !state.fit.calibrated) return "";
  const since = last[0] - Math.max(30, Math.round(0.2 * last[0]));
  const before = curve.filter((point) => point[0] <= since && point[1] !== null).pop();
  if (!before) return "";
  const gained = 100 * (last[1] - before[1]);
  const told = `The last ${last[0] - before[0]} labels changed the confidence by ${gained >= 0 ? "+" : "−"}${Math.abs(gained).toFixed(1)} points.`;
  return Math.abs(gained) < 1 ? `${told} More labels change little: you could stop.` : told;
}

function drawCurve(curve) {
  const drawn = [];
  const svg = (kind, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    drawn.push(made);
  };
  const most = Math.max(10, ...curve.map((point) => point[0]));
  const x = (clips) => 42 + (clips / most) * 308;
  const y = (share) => 160 - share * 146;
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg("line", { class: "grid", x1: 42, x2: 350, y1: y(share), y2: y(share) });
    svg("text", { x: 36, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`);
  }
  for (const part of [0, 0.5, 1]) {
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    svg("text", { x: x(part * most), y: 178, "text-anchor": anchor },
      part === 1 ? `${most} labelled clips` : Math.round(part * most));
  }
  for (const [name, which] of [["a", 2], ["b", 1]]) {
    const points = curve.filter((point) => point[which] !== null);
    if (points.length === 1) { // a short stroke, where a line would be a dot
      const [only] = points;
      svg("path", { class: name, d: `M${x(only[0]) - 5} ${y(only[which])}h10` });
    } else if (points.length) {
      const d = points.map((point, i) => `${i ? "L" : "M"}${x(point[0])} ${y(point[which])}`).join("");
      svg("path", { class: name, d });
    }
  }
  at("curve").replaceChildren(...drawn);
}

// ── keys ─────────────────────────────────────────────────────────────────────────────────────────

async function turnTo(name) {
  if (busy) return;
  column = name;
  await refresh();
}

function choose(number) {
  const choice = state && state.clip && state.clip.choices[number];
  if (choice) act("answer", { name: choice[0] });
}

function help() {
  const open = at("help").hidden;
  at("help").hidden = !open;
  at("help-button").setAttribute("aria-expanded", String(open));
}

const KEYS = {
  0: () => state.clip && act("none"),
  Enter: () => choose(0),
  n: () => at("name").focus(),
  "/": () => at("name").focus(),
  s: () => state.clip && act("skip"),
  ArrowRight: () => state.clip && act("skip"),
  u: () => act("undo"),
  Backspace: () => act("undo"),
  " ": () => { const player = at("player"); if (player.paused) play(); else player.pause(); },
  r: () => { at("player").currentTime = state.clip ? state.clip.start : 0; play(); },
  m: () => { hushed = false; muted = !at("player").muted; at("player").muted = muted; },
  c: () => turnTo(state.columns[(state.columns.indexOf(column) + 1) % state.columns.length]),
  "?": help,
};

document.addEventListener("keydown", (event) => {
  const on = event.target;
  if (event.key === "Escape") {
    if (on instanceof HTMLElement) on.blur();
    return;
  }
  if (on instanceof HTMLInputElement || !state) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    act("undo");
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const pressed = on instanceof HTMLButtonElement && (event.key === "Enter" || event.key === " ");
  if (pressed) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (/^[1-9]$/.test(key)) {
    event.preventDefault();
    choose(Number(key) - 1);
  } else if (Object.hasOwn(KEYS, key)) {
    event.preventDefault();
    KEYS[key]();
  }
});

at("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("name").value.trim();
  if (!name || !state.clip) return;
  at("name").value = "";
  at("name").blur();
  act("answer", { name });
});
at("none").addEventListener("click", KEYS[0]);
at("skip").addEventListener("click", KEYS.s);
at("undo").addEventListener("click", KEYS.u);
at("help-button").addEventListener("click", help);
at("player").addEventListener("volumechange", () => { if (!hushed) muted = at("player").muted; });
at("player").addEventListener("timeupdate", () => {
  const clip = state && state.clip;
  if (clip && clip.end && at("player").currentTime >= clip.end) at("player").pause();
});
at("player").addEventListener("error", () => {
  if (!state || !state.clip || !at("player").getAttribute("src")) return;
  at("no-media").hidden = false;
  at("no-media").textContent = "This browser cannot play the file.";
});

async function refresh() {
  if (busy || document.hidden) return;
  try {
    const told = await look();
    if (busy) return;
    show(told);
    if (at("alert").textContent.startsWith("The server does not answer")) warn("");
  } catch (error) {
    warn(error.told ? error.message
      : "The server does not answer; nothing that you press is kept. Start learn annotate again.");
  }
}

document.addEventListener("visibilitychange", refresh);
refresh();
setInterval(refresh, 1500);
