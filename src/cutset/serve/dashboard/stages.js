// A language model over several machines: who runs which layers, what is on its way, and what hops take.

import { Rate, byId, bytes, fill, make, percent, rate, say, whole } from "./draw.js";

const busy = new Map(); // machine → what share of the time it computes
const steps = new Map();

const counted = (rates, name, time, total) => {
  if (!rates.has(name)) rates.set(name, new Rate(4));
  return rates.get(name).add(time, total);
};
const ms = (seconds) => `${(seconds * 1000).toFixed(seconds < 0.0995 ? 1 : 0)} ms`;
const range = ([first, last]) => (first === last ? `layer ${first}` : `layers ${first}–${last}`);

export function stages(event) {
  byId("stages").hidden = false;
  const used = event.stages.filter((one) => one.layers);
  say("stages-state", event.ready ? `plan ${event.plan} is in use:` : "not ready, no plan stands:");
  byId("stages-state").classList.toggle("bad", !event.ready);
  say("stages-why", event.why);
  say("stages-used", whole(used.length));
  say("stages-there", `${whole(event.stages.filter((one) => one.live).length)} of ${whole(event.stages.length)} machines are there`);
  say("in-flight", whole(event.in_flight));
  say("in-flight-note", `of at most ${whole(event.most_in_flight)}`);
  say("failovers", whole(event.failovers_total));
  say("stage-blocks", whole(event.blocks_used));
  say("stage-blocks-note", `of ${whole(event.blocks)} in use, each on every stage`);
  byId("stages-bar").replaceChildren(...used.map((one, i) => {
    const [first, last] = one.layers;
    const piece = make("span", { class: `k${i % 8}`, title: `${one.worker}: ${range(one.layers)}` });
    piece.style.flex = `${last - first + 1} 0 0`;
    return piece;
  }));
  fill("stage-rows", event.stages.map((one, i) => {
    const share = counted(busy, one.worker, event.time, one.busy_s_total);
    const pace = counted(steps, one.worker, event.time, one.steps_total);
    const state = !one.live ? `away: ${one.why}` : one.layers ? "runs" : one.spare ? "spare" : "waits";
    return [
      make("span", {}, make("span", { class: one.layers ? `chip k${i % 8}` : "chip", "aria-hidden": "true" }), one.worker),
      make("span", one.live ? {} : { class: "bad" }, state),
      one.layers ? range(one.layers) : "–",
      one.layers ? bytes(one.weight_bytes) : "–",
      one.layers ? bytes(one.kv_bytes) : "–",
      one.layers ? percent(Math.min(share, 1)) : "–",
      one.layers ? rate(pace) : "–",
      one.trip_s === null ? "–" : ms(one.trip_s),
    ];
  }), [3, 4, 5, 6, 7]);
  fill("stage-hops", event.hops.map((hop) => [
    `${hop.source} → ${hop.target}`,
    hop.steps_total ? bytes(hop.step_bytes) : "–",
    hop.steps_total ? ms(hop.seconds) : "–",
    hop.bandwidth === null ? "–" : `${bytes(hop.bandwidth)}/s`,
    bytes(hop.bytes_total)]), [1, 2, 3, 4], "none while no plan stands");
}
