// What each party did with the last pictures, on one clock.

import { make, shape } from "./draw.js";

const KINDS = ["compute", "encode", "decode", "send", "receive", "wait", "deliver"];
const PICTURES = 8, SECONDS = 3; // that are shown, at most
const ROW = 34, LEFT = 110, WIDTH = 1000, HEAD = 22;

export class Gantt {
  constructor(svg, legend) {
    this.svg = svg;
    this.parties = [];
    this.pictures = new Map(); // number → spans
    this.due = false;
    legend.append(...KINDS.map((kind, i) =>
      make("li", {}, make("span", { class: `chip k${i}`, "aria-hidden": "true" }), kind)));
  }

  add(picture, spans) {
    this.pictures.set(picture, (this.pictures.get(picture) ?? []).concat(spans));
    while (this.pictures.size > PICTURES) this.pictures.delete(Math.min(...this.pictures.keys()));
    if (this.due) return;
    this.due = true;
    setTimeout(() => { this.due = false; this.draw(); }, 200);
  }

  draw() {
    let all = [...this.pictures].flatMap(([picture, spans]) => spans.map((span) => [picture, ...span]));
    if (!all.length) return;
    // A picture may have been captured long before anybody could take it.
    const newest = Math.max(...all.map((span) => span[4]));
    all = all.filter(([, , kind, begin]) => begin > newest - SECONDS && kind !== "capture");
    const parties = [...new Set([...this.parties, ...all.map((span) => span[1])])];
    const start = Math.min(...all.map((span) => span[3]));
    const end = Math.max(...all.map((span) => span[4]), start + 1e-3);
    const x = (time) => LEFT + ((time - start) / (end - start)) * (WIDTH - LEFT - 10);
    const height = HEAD + parties.length * ROW + 4;
    const parts = [];
    const step = nice((end - start) / 8);
    for (let time = 0; time <= end - start; time += step) {
      const at = x(start + time);
      parts.push(shape("line", { class: "grid", x1: at, x2: at, y1: HEAD - 4, y2: height }));
      if (at < WIDTH - 70) // or it would be cut off
        parts.push(shape("text", { class: "late", x: at + 3, y: 12 }, `${+(time * 1000).toFixed(1)} ms`));
    }
    parties.forEach((party, i) => parts.push(shape("text", { x: 4, y: HEAD + i * ROW + ROW / 2 + 4 }, party.slice(0, 14))));
    for (const [picture, party, kind, begin, until] of all) {
      const kindNumber = KINDS.indexOf(kind);
      const thin = kind === "wait";
      const bar = shape("rect", {
        class: `k${Math.max(kindNumber, 0)}`, x: x(begin), width: Math.max(x(until) - x(begin), 1),
        y: HEAD + parties.indexOf(party) * ROW + (thin ? ROW / 2 - 1 : 4), height: thin ? 2 : ROW - 8, rx: 2,
        opacity: picture % 2 ? 0.6 : 1, // neighbours in time are told apart
      });
      bar.append(shape("title", {}, `picture ${picture}: ${party} ${kind} ${((until - begin) * 1000).toFixed(1)} ms`));
      parts.push(bar);
    }
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    this.svg.setAttribute("aria-label", this.words());
    this.svg.replaceChildren(...parts);
  }

  /** The last picture in words: the last of those that most parties told of, for reports come one by one. */
  words() {
    const told = ([, spans]) => new Set(spans.map(([party]) => party)).size;
    const most = Math.max(...[...this.pictures].map(told));
    const last = Math.max(...[...this.pictures].filter((one) => told(one) === most).map(([picture]) => picture));
    const sums = new Map();
    for (const [party, kind, begin, until] of this.pictures.get(last))
      if (KINDS.includes(kind) && kind !== "wait") sums.set(`${party} ${kind}`, (sums.get(`${party} ${kind}`) ?? 0) + until - begin);
    return `picture ${last}: ` + [...sums].map(([what, s]) => `${what} ${(s * 1000).toFixed(1)} ms`).join(", ");
  }
}

function nice(step) {
  const power = 10 ** Math.floor(Math.log10(Math.max(step, 1e-6)));
  return [1, 2, 5, 10].map((k) => k * power).find((one) => one >= step);
}
