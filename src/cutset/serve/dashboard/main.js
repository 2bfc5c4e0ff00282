// Reads the server's events and hands each to its panel.

import { byId, say } from "./draw.js";
import { engine, model } from "./engine.js";
import { offload } from "./offload.js";
import { stages } from "./stages.js";
import { graph, layers, links, picture, plan, sources, spans, stream } from "./stream.js";

const panels = { model, engine, stages, offload, stream, sources, graph, plan, spans, layers, links, picture };
let paused = false;
let waiting = {}; // the last event of each kind while the page stands still

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", paused);
  state(paused ? "paused" : "live", paused ? "" : "live");
  if (!paused) {
    const missed = Object.values(waiting);
    waiting = {};
    missed.forEach(show);
  }
});

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("cutset-key", byId("key").value);
  byId("login").hidden = true;
  follow();
});

function state(text, kind) {
  say("state", text);
  byId("state").className = kind;
}

function show(event) {
  if (paused) waiting[event.type] = event;
  else panels[event.type]?.(event);
}

/** Reads events until the server ends them. False if it wants a key. (EventSource can't send one.) */
async function read() {
  const key = sessionStorage.getItem("cutset-key");
  const answer = await fetch(new URL("../events", import.meta.url), { headers: key ? { authorization: `Bearer ${key}` } : {}, cache: "no-store" });
  if (answer.status === 401) return false;
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  state(paused ? "paused" : "live", paused ? "" : "live");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return true;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) if (piece.startsWith("data: ")) show(JSON.parse(piece.slice(6)));
  }
}

async function follow() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 10_000)) {
    try {
      if (!(await read())) {
        sessionStorage.removeItem("cutset-key");
        state("an API key is needed", "lost");
        byId("login").hidden = false;
        byId("key").focus();
        return;
      }
      pause = 500;
      state("the server has ended; trying again", "lost");
    } catch (error) {
      state("no connection; trying again", "lost");
    }
    await new Promise((go) => setTimeout(go, pause));
  }
}

follow();
