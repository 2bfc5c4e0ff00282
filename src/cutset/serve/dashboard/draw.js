// Small pieces that every panel uses: numbers as text, elements, lines.

const SVG = "http://www.w3.org/2000/svg";
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const byId = (id) => document.getElementById(id);

/** Sets text, and leaves the page alone where it is the same: screen readers would hear it again. */
export function say(id, text) {
  const element = typeof id === "string" ? byId(id) : id;
  if (element.textContent !== String(text)) element.textContent = text;
}

export const whole = (n) => grouped.format(n);
export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)} %`;

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; n >= 1000 && at < units.length - 1; at++) n /= 1000;
  return `${at && n < 100 ? n.toFixed(1) : n.toFixed(0)} ${units[at]}`;
}

export function rate(n) {
  return n >= 100 ? whole(n) : n.toFixed(1);
}

/** An element with attributes and children; texts are never read as HTML. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function shape(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

/** Rows of cells into a table's body; the first cell of a row is its head. Cells are texts or elements. */
export function fill(id, rows, numeric = [], empty = "none") {
  const body = byId(id);
  const made = rows.map((cells) =>
    make("tr", {}, ...cells.map((cell, i) =>
      make(i ? "td" : "th", { ...(i ? {} : { scope: "row" }), ...(numeric.includes(i) ? { class: "num" } : {}) }, cell))));
  if (!made.length) made.push(make("tr", {}, make("td", { class: "empty", colspan: 9 }, empty)));
  body.replaceChildren(...made);
}

/** A line over the last values, from zero to their largest. */
export function spark(svg, values, words) {
  const most = Math.max(...values, 1e-9);
  const points = values.map((v, i) => `${(i / Math.max(values.length - 1, 1)) * 100},${(1 - v / most) * 30}`).join(" ");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-label", words);
  svg.replaceChildren(shape("polygon", { points: `0,30 ${points} 100,30` }), shape("polyline", { points }));
}

/** What a counter did in the last seconds: `add` a reading, then `a second` is its mean rate. */
export class Rate {
  constructor(seconds) {
    this.seconds = seconds;
    this.readings = [];
  }

  add(time, total) {
    const last = this.readings.at(-1);
    if (last && (time < last[0] || total < last[1])) this.readings = []; // the server has started again
    this.readings.push([time, total]);
    while (this.readings.length > 2 && time - this.readings[1][0] >= this.seconds) this.readings.shift();
    const [first, then] = this.readings[0];
    return time > first ? (total - then) / (time - first) : 0;
  }
}
