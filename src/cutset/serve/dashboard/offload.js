// What crosses the cut of an offload.

import { Rate, byId, bytes, fill, make, percent, say, whole } from "./draw.js";

const traffic = new Rate(2);
const readings = []; // [time, parts] of the last ten seconds

export function offload(event) {
  byId("offload").hidden = false;
  say("passed", event.verified ? whole(event.checks_passed_total) : "not checked");
  say("failed", whole(event.checks_failed_total));
  byId("failed-line").classList.toggle("bad", event.checks_failed_total > 0);
  say("bytes", `${bytes(traffic.add(event.time, event.bytes_up_total + event.bytes_down_total))}/s`);
  say("up", bytes(event.bytes_up_total));
  say("down", bytes(event.bytes_down_total));
  say("calls", whole(event.calls_total));
  say("rows", whole(event.rows_total));
  byId("pads-tile").hidden = !event.pads;
  if (event.pads) {
    const { ready, made_total, used_total, inline_total, waited_s_total } = event.pads;
    say("pads", whole(ready));
    say("pads-note", `${whole(used_total)} used; ${whole(made_total)} made ahead, ${whole(inline_total)} inline; ` +
      `waited ${waited_s_total.toFixed(1)} s for some`);
  }
  parts(event);
  fill("accelerators",
    event.accelerators.map((one) => [one.address, one.role, one.device,
      whole(one.resent_total), whole(one.redialled_total)]), [3, 4]);
}

function parts(event) {
  readings.push([event.time, event.parts]);
  while (readings.length > 2 && event.time - readings[0][0] > 10) readings.shift();
  const before = readings[0][1];
  const names = Object.keys(event.parts);
  const lately = names.map((name) => Math.max(0, event.parts[name] - (before[name] ?? 0)));
  const sum = lately.reduce((a, b) => a + b, 0);
  const shares = lately.map((seconds) => (sum ? seconds / sum : 0));
  byId("parts-bar").replaceChildren(...names.map((name, i) => {
    const piece = make("span", { class: `k${i % 10}`, title: `${name} ${percent(shares[i], 1)}` });
    piece.style.flex = `${shares[i]} 0 0`;
    return piece;
  }));
  fill("parts", names.map((name, i) =>
    [withChip(name, i), percent(shares[i], 1), event.parts[name].toFixed(2)]), [1, 2]);
}

function withChip(name, i) {
  const cell = make("span", {}, make("span", { class: `chip k${i % 10}`, "aria-hidden": "true" }), name);
  return cell;
}
