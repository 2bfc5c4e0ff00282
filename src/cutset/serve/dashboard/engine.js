// The engine's panel, and the head of the page.

import { Rate, byId, fill, percent, rate, say, spark, whole } from "./draw.js";

const tokens = new Rate(2);
const history = Array(120).fill(0); // two readings a second

export function model(event) {
  document.title = `${event.name} – Cutset`;
  const how = event.staged ? "in stages" : event.mode === "local" ? "on this machine" : `mode ${event.mode}`;
  say("what", `${event.name}, ${event.backend} ${event.dtype}, ${how}`);
  say("engine-note",
    `${event.threads} thread${event.threads === 1 ? "" : "s"}; up to ${whole(event.most_running)} sequences of ${whole(event.context)} tokens; ${event.software}`);
  say("offload-note", `Mode ${event.mode}: an accelerator sees ${event.sees}.`);
  byId("engine").dataset.blockSize = event.block_size;
}

export function engine(event) {
  byId("engine").hidden = false;
  const now = tokens.add(event.time, event.generated_tokens_total);
  history.push(now);
  history.shift();
  say("rate", rate(now));
  spark(byId("rate-line"), history, `tokens a second over the last minute: now ${rate(now)}, at most ${rate(Math.max(...history))}`);
  say("running", whole(event.running));
  say("waiting", whole(event.waiting));
  say("preemptions", whole(event.preemptions_total));
  const used = event.blocks_used / event.blocks;
  say("cache", percent(used));
  byId("cache-meter").value = used;
  const size = Number(byId("engine").dataset.blockSize || 0);
  say("cache-note", `${whole(event.blocks_used)} of ${whole(event.blocks)} blocks` + (size ? ` of ${size} tokens` : ""));
  const asked = event.prefix_queries_total;
  const found = asked ? event.prefix_hits_total / asked : 0;
  say("prefix", asked ? percent(found) : "–");
  byId("prefix-meter").value = found;
  say("prefix-note", `${whole(event.prefix_hits_total)} of ${whole(asked)}`);
  say("generated", whole(event.generated_tokens_total));
  say("prompted", whole(event.prompt_tokens_total));
  say("steps", whole(event.steps_total));
  byId("engine").classList.toggle("bad", !event.alive);
  fill("requests",
    event.requests.map((one) =>
      [one.id.slice(0, 14) + "…", `${one.seconds.toFixed(1)} s`, whole(one.samples), whole(one.prompt_tokens), whole(one.tokens)]),
    [1, 2, 3, 4], "none at the moment");
}
