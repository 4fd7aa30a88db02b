"use strict";
// The listening test: start, trials one by one, the end with the results as a CSV. PLAN and AUDIO come before this.
const root = document.getElementById("test");
const COLUMNS = ["test_id", "listener", "trial_id", "question", "answer", "listened_in_s", "time_in_ms"];
let state = null, trials = [], players = [], answers = {}, startedAt = 0, fieldsets = [];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function key(listener) { return `listening-test ${PLAN.test_id} ${listener}`; }
function save() { try { localStorage.setItem(key(state.listener), JSON.stringify(state)); } catch (error) { /* private window */ } }
function restore(listener) {
  try { return JSON.parse(localStorage.getItem(key(listener))); } catch (error) { return null; }
}

async function source(id) {
  if (AUDIO[id]) {
    const bytes = Uint8Array.from(atob(AUDIO[id]), (letter) => letter.charCodeAt(0));
    return URL.createObjectURL(new Blob([bytes], { type: PLAN.mime }));
  }
  const path = `audio/${id}.${PLAN.extension}`;
  if (location.protocol === "file:") return path;
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return URL.createObjectURL(await response.blob());
}

function clock(seconds) {
  const whole = Math.floor(seconds || 0);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// One stimulus: a button, a slider, and how many seconds of it were heard.
class Player {
  constructor(id, name, onheard) {
    this.audio = new Audio();
    this.audio.preload = "auto";
    this.heard = 0;
    this.last = null;
    this.name = name;
    this.button = element("button", { type: "button", onclick: () => this.toggle() }, `Play${name && " " + name}`);
    this.slider = element("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0, "aria-label": `Position ${name}` });
    this.slider.addEventListener("input", () => { this.audio.currentTime = this.slider.value * (this.audio.duration || 0); });
    this.time = element("span", {}, "0:00");
    this.node = element("div", { class: "player" }, this.button, this.slider, this.time);
    this.audio.addEventListener("timeupdate", () => this.update(onheard));
    for (const event of ["play", "pause", "ended"]) this.audio.addEventListener(event, () => {
      if (event !== "play") this.update(onheard);
      this.last = event === "play" ? this.audio.currentTime : null;
      this.button.textContent = `${this.audio.paused ? "Play" : "Pause"}${this.name && " " + this.name}`;
    });
    this.audio.addEventListener("seeking", () => { this.last = null; });
    this.audio.addEventListener("error", () => alertUser("The music cannot be played. Please tell the experimenter."));
    source(id).then((url) => { this.audio.src = url; this.url = url; }, (error) => alertUser(String(error)));
  }
  toggle() {
    if (this.audio.paused) {
      for (const player of players) if (player !== this) player.audio.pause();
      this.audio.play().catch((error) => alertUser(String(error)));
    } else this.audio.pause();
  }
  update(onheard) {
    const now = this.audio.currentTime;
    if (this.last !== null && now > this.last && now - this.last < 2) this.heard += now - this.last;
    this.last = this.audio.paused ? null : now;
    if (this.audio.duration) this.slider.value = now / this.audio.duration;
    this.time.textContent = `${clock(now)} / ${clock(this.audio.duration)}`;
    onheard();
  }
  // Rounding, and the last part of a second that no event tells of, are forgiven.
  get isHeard() { return this.heard >= Math.min(PLAN.min_listened_in_s, this.audio.duration || Infinity) - 0.6; }
  seek(seconds) { this.audio.currentTime = Math.max(0, this.audio.currentTime + seconds); }
  free() { this.audio.pause(); if (this.url && this.url.startsWith("blob:")) URL.revokeObjectURL(this.url); }
}

function alertUser(text) { const node = root.querySelector("[role=alert]"); if (node) node.textContent = text; }

function show(title, ...nodes) {
  root.replaceChildren(element("h1", {}, title), ...nodes, element("p", { role: "alert" }));
  window.scrollTo(0, 0);
}

function showStart() {
  const given = new URLSearchParams(location.hash.slice(1)).get("listener") || "";
  const field = element("input", { type: "number", id: "listener", min: 1, max: PLAN.num_listeners, value: given, required: true });
  const form = element("form", { onsubmit: (event) => { event.preventDefault(); start(field.value); } },
    element("p", {}, element("label", { for: "listener" }, "Your listener number: "), field),
    element("button", { class: "primary", type: "submit" }, "Begin"));
  show(PLAN.title,
    element("p", {}, `You will hear pieces of music and answer questions about each. Please use headphones in a quiet room,
 and set a comfortable volume with the first piece; don't change it afterwards.`),
    element("p", {}, `Listen to at least ${clock(PLAN.min_listened_in_s)} of a piece, or to all of a shorter one, before you answer.
 Your answers are kept in this browser: if you close the page, open it again and go on.`),
    element("p", { class: "hint" }, `Keys: space plays and pauses, ← and → go 5 seconds back and on, 1 to 5 and y or n answer
 the marked question, a and b play the two pieces of a pair, Enter goes on.`), form);
  field.focus();
}

function start(listener) {
  if (!PLAN.listeners[listener]) { alertUser(`The number must be from 1 to ${PLAN.num_listeners}.`); return; }
  state = restore(listener) || { listener, done: 0, rows: [] };
  trials = PLAN.listeners[listener];
  next();
}

function next() {
  for (const player of players) player.free();
  players = [];
  if (state.done >= trials.length) { showEnd(); return; }
  const trial = trials[state.done];
  const isPair = Boolean(trial.pair);
  const ids = isPair ? trial.pair : [trial.audio];
  const onward = element("button", { class: "primary", type: "button", disabled: true, onclick: () => finish() }, "Next");
  const refresh = () => {
    const isHeard = players.every((player) => player.isHeard);
    for (const fieldset of fieldsets) fieldset.disabled = !isHeard;
    onward.disabled = !(isHeard && fieldsets.every((fieldset) => answers[fieldset.name]));
    mark();
  };
  answers = {};
  startedAt = performance.now();
  const questions = isPair ? [["preference", "Which of the two do you prefer?", [["a", "A"], ["b", "B"], ["equal", "no preference (0)"]]]]
    : PLAN.questions;
  fieldsets = questions.map(([name, text, options]) => element("fieldset", { name, disabled: true },
    element("legend", {}, text), ...options.map(([value, label]) => element("label", {},
      element("input", { type: "radio", name, value, onchange: () => { answers[name] = value; refresh(); } }), " ", label))));
  players = ids.map((id, number) => new Player(id, isPair ? "AB"[number] : "", refresh));
  show(`${trial.part}: ${isPair ? "pair" : "piece"} ${state.done + 1} of ${trials.length}`,
    element("progress", { max: trials.length, value: state.done, "aria-label": "Progress" }),
    element("p", { class: "prompt" }, trial.prompt), ...players.map((player) => player.node), ...fieldsets,
    element("div", { class: "row" }, element("button", { type: "button", onclick: () => download() }, "Save what is done"), onward));
  mark();
  players[0].button.focus();
}

// The first question without an answer is the one that keys answer.
function mark() {
  const open = fieldsets.find((fieldset) => !answers[fieldset.name]);
  for (const fieldset of fieldsets) fieldset.classList.toggle("current", fieldset === open && !fieldset.disabled);
}

function finish() {
  const trial = trials[state.done];
  const heard = players.map((player) => player.heard).reduce((one, other) => Math.min(one, other));
  for (const [question, answer] of Object.entries(answers))
    state.rows.push([PLAN.test_id, state.listener, trial.id, question, answer, heard.toFixed(1), Math.round(performance.now() - startedAt)]);
  state.done += 1;
  save();
  next();
}

function table() { return [COLUMNS, ...state.rows].map((row) => row.join(",")).join("\r\n") + "\r\n"; }

function download() {
  const url = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  element("a", { href: url, download: `${PLAN.test_id}-l${state.listener}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function showEnd() {
  const message = element("p", { id: "sent" }, "Please send the file of your answers to the experimenter.");
  show("Thank you!", element("progress", { max: trials.length, value: trials.length, "aria-label": "Progress" }), message,
    element("button", { class: "primary", type: "button", id: "download", onclick: () => download() }, "Save my answers (CSV)"));
  if (location.protocol === "file:") return;
  try {
    const response = await fetch("results", { method: "POST", headers: { "Content-Type": "text/csv" }, body: table() });
    if (response.ok) message.textContent = "Your answers have been sent. You can also save them.";
  } catch (error) { /* a server that takes no results: the file is there */ }
}

document.addEventListener("keydown", (event) => {
  if (!players.length || event.ctrlKey || event.metaKey || event.altKey) return;
  const playing = players.find((player) => !player.audio.paused) || players[0];
  const isPair = players.length === 2;
  const pressed = event.key.toLowerCase();
  const open = fieldsets.find((fieldset) => !answers[fieldset.name]);
  const shortcuts = { y: "yes", n: "no" };
  if (isPair) Object.assign(shortcuts, { 1: "a", 2: "b", 0: "equal" });
  if (pressed === " ") playing.toggle();
  else if (pressed === "arrowleft") playing.seek(-5);
  else if (pressed === "arrowright") playing.seek(5);
  else if (isPair && (pressed === "a" || pressed === "b")) players["ab".indexOf(pressed)].toggle();
  else if (pressed === "enter" && root.querySelector("button.primary:enabled")) root.querySelector("button.primary").click();
  else if (open && !open.disabled) {
    const input = open.querySelector(`input[value="${CSS.escape(shortcuts[pressed] || pressed)}"]`);
    if (!input) return;
    input.click();
  } else return;
  event.preventDefault();
});

showStart();
