// A network over several machines: picture, plan, links, layers and cuts. The Gantt chart is in gantt.js.

import { byId, bytes, fill, make, percent, rate, say, shape, whole } from "./draw.js";
import { Gantt } from "./gantt.js";

const gantt = new Gantt(byId("gantt"), byId("legend"));
let parties = [];
let nodes = [];
let owner = []; // the party of each node
let shown = null; // the picture that is shown
const changedCells = new Map(); // node → [bar, text]

export function stream(event) {
  byId("stream").hidden = false;
  parties = event.parties;
  gantt.parties = parties;
  document.title = `${event.model} – Cutset`;
  say("what", `${event.model} over ${parties.length - 1} workers`);
  const pace = event.rate ? `, ${rate(event.rate)} pictures/s` : "";
  say("stream-note", `${event.source}: ${event.size[1]}×${event.size[0]}${pace}; ` +
    (event.mode === "delta" ? "only what changed is sent" : "all of every tensor is sent"));
}

/** What went wrong at the videos and cameras; nothing where nothing did. */
export function sources(event) {
  say("sources", event.sources.map((one) => {
    const parts = [];
    if (one.lost_total) {
      const away = one.lost_total > one.reconnects_total ? "away now, " : "";
      parts.push(`${away}lost ${whole(one.lost_total)}×, back ${whole(one.reconnects_total)}×, ${rate(one.away_s_total)} s without pictures`);
    }
    if (one.bad_packets_total) parts.push(`${whole(one.bad_packets_total)} bad packets`);
    return parts.length ? `${one.name}: ${parts.join("; ")}` : "";
  }).filter(Boolean).join(" · "));
}

export function graph(event) {
  nodes = event.nodes;
  owner = [];
  layout();
}

export function plan(event) {
  owner = [];
  for (const stage of event.stages) for (const node of stage.nodes) owner[node] = stage.party;
  const shares = event.stages.map((stage) => `${stage.party} runs ${stage.nodes.length} layers`);
  say("plan", `${shares.join(", then ")}; pictures are sent as ${event.picture}. ` +
    `By ${event.scheduler || "hand"}, from picture ${whole(event.since)} on.`);
  say("why", event.why);
  const all = [...event.rejected.map(([name, ms]) => ({ name, ms }))];
  if (event.expected_ms !== null) all.unshift({ name: event.scheduler || "chosen", ms: event.expected_ms, chosen: true });
  const most = Math.max(...all.map((one) => one.ms), 1e-9);
  byId("rejected").replaceChildren(...all.map((one) => {
    const bar = make("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(one.ms / most) * 100}%`;
    const name = one.name + (one.chosen ? " (chosen)" : "");
    return make("li", one.chosen ? { class: "chosen" } : {}, make("span", {}, name), bar, make("span", {}, `${rate(one.ms)} ms`));
  }));
  layout();
}

const colour = (party) => `k${Math.max(parties.indexOf(party), 0) % 8}`;

/** The table of layers anew: when the network or the plan changes. */
function layout() {
  changedCells.clear();
  const rows = [];
  nodes.forEach((node, i) => {
    if (i && owner[i] !== owner[i - 1] && owner[i] && owner[i - 1]) {
      const text = `cut: ${owner[i - 1]} sends to ${owner[i]}` + (nodes[i - 1].cut === null ? "" : `, ${bytes(nodes[i - 1].cut)} as they are`);
      rows.push(make("tr", { class: "cut" }, make("td", { colspan: 6 }, text)));
    }
    const bar = make("i");
    const text = make("span", {}, "");
    changedCells.set(i, [bar, text]);
    bar.style.width = "0";
    const who = make("span", {}, make("span", { class: `chip ${colour(owner[i])}`, "aria-hidden": "true" }), owner[i] ?? "–");
    rows.push(make("tr", {},
      make("th", { scope: "row" }, node.name),
      make("td", {}, node.operator),
      make("td", {}, who),
      make("td", { class: "num" }, `${(node.flops / 1e6).toFixed(1)} MFLOP`),
      make("td", {}, make("span", { class: "bar none", "aria-hidden": "true" }, bar), text),
      make("td", { class: "num" }, node.cut === null ? "" : bytes(node.cut))));
  });
  byId("nodes").replaceChildren(...rows);
  const frame = byId("layers").parentElement;
  const cut = byId("nodes").querySelector(".cut");
  if (cut) frame.scrollTop = cut.offsetTop - frame.clientHeight / 2; // what a plan is about, in a long list
}

export function layers(event) {
  for (const [node, share] of Object.entries(event.changed)) {
    const cells = changedCells.get(Number(node));
    if (!cells) continue;
    cells[0].parentElement.classList.remove("none");
    cells[0].style.width = percent(share, 1).replace(" ", "");
    say(cells[1], percent(share, 1));
  }
}

export function links(event) {
  fill("links", event.hops.map((hop) => [
    `${hop.source} → ${hop.target}`,
    hop.bandwidth === null ? "?" : `${bytes(hop.bandwidth)}/s`,
    hop.latency === null ? "?" : `${(hop.latency * 1000).toFixed(1)} ms`,
    bytes(hop.nbytes), hop.kind || "–"]), [1, 2, 3]);
}

export function spans(event) {
  gantt.add(event.picture, event.spans);
}

export function picture(event) {
  shown = event;
  const image = byId("image");
  if (event.image) image.src = event.image;
  const changed = event.tiles.filter((share) => share > 0).length;
  const found = event.boxes ? counted(event.boxes) : "";
  image.alt = `picture ${event.picture} of the video; ${changed} of ${event.tiles.length} tiles changed` + (event.boxes ? `; ${found}` : "");
  const [best] = event.result;
  say("result", event.dropped ? `dropped: ${event.dropped}` : event.boxes ? found : best ? `${best[0]} ${percent(best[1])}` : "done");
  byId("with-boxes").hidden = !event.boxes;
  const pace = event.rate === null ? "" : `, ${rate(event.rate)} pictures/s`;
  say("picture-note", `picture ${whole(event.picture)}: ${rate(event.latency_ms)} ms from capture, ` +
    `${rate(event.transit_ms)} ms of it links and layers${pace}; ` +
    `${percent(changed / Math.max(event.tiles.length, 1))} of its tiles changed`);
  paint();
  outline();
}

/** "2 person, 1 dog": how many of each class, those that were found first in front. */
function counted(boxes) {
  const counts = new Map();
  for (const { label } of boxes) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].map(([label, count]) => `${whole(count)} ${label}`).join(", ") || "nothing found";
}

/** A class has the same colour in every picture. */
function hue(label) {
  let sum = 0;
  for (const letter of label) sum = (sum * 31 + letter.codePointAt(0)) % 1_000_003;
  return `b${sum % 6}`;
}

/** Boxes with their labels, over the picture. */
function outline() {
  const frame = byId("boxes");
  const [height, width] = shown?.size ?? [1, 1];
  frame.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const boxes = byId("show-boxes").checked ? shown?.boxes ?? [] : [];
  const size = Math.max(height, width) / 32;
  frame.replaceChildren(...[...boxes].reverse().flatMap(({ label, score, box: [left, top, right, bottom] }) => {
    const text = `${label} ${percent(score)}`;
    const above = top >= size * 1.3 ? top - size * 1.3 : top;
    return [
      shape("rect", { class: `frame-of ${hue(label)}`, x: left, y: top, width: right - left, height: bottom - top }),
      shape("rect", { class: `plate ${hue(label)}`, x: left, y: above, width: text.length * size * 0.66, height: size * 1.3 }),
      shape("text", { x: left + size * 0.2, y: above + size, "font-size": size }, text),
    ];
  }));
}

/** Tiles that stayed are veiled, so that what changed stands out. */
function paint() {
  const canvas = byId("tiles");
  const [rows, columns] = shown?.grid ?? [1, 1];
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.imageRendering = "pixelated";
  if (!shown || !byId("show-tiles").checked) return;
  const brush = canvas.getContext("2d");
  shown.tiles.forEach((share, i) => {
    brush.fillStyle = share ? `rgba(255, 120, 40, ${0.1 + 0.4 * Math.min(share / 100, 1)})` : "rgba(10, 14, 20, .45)";
    brush.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
}

byId("show-tiles").addEventListener("change", paint);
byId("show-boxes").addEventListener("change", outline);
