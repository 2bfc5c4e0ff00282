// Zooms a Gantt chart along its time: the wheel around the mouse, dragging moves, a double click shows all again.
(() => {
  const chart = document.querySelector("svg"), axis = document.getElementById("axis");
  const left = +chart.dataset.left, right = +chart.dataset.right, length = +chart.dataset.length;
  const letter = +chart.dataset.letter, unit = axis.dataset.unit, scale = unit === "s" ? 1 : 1e3;
  const bars = [...document.querySelectorAll("#bars rect")].map((bar) => ({
    bar, text: bar.nextElementSibling, a: +bar.dataset.a, b: +bar.dataset.b,
  }));
  let from = 0, to = length, waiting = false;
  const place = (t) => left + (right - left) * (t - from) / (to - from);

  function draw() {
    waiting = false;
    for (const { bar, text, a, b } of bars) {
      const seen = b >= from && a <= to;
      bar.setAttribute("visibility", seen ? "visible" : "hidden");
      const x = place(a), width = Math.max(place(b) - x, 1), first = Math.max(x, left), last = Math.min(x + width, right);
      if (seen) { bar.setAttribute("x", x); bar.setAttribute("width", width); text.setAttribute("x", (first + last) / 2); }
      text.setAttribute("visibility", seen && last - first > letter * text.textContent.length + 4 ? "visible" : "hidden");
    }
    ticks();
  }

  function ticks() {
    const raw = (to - from) / 10, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw * (1 - 1e-9));
    const digits = Math.max(0, -Math.floor(Math.log10(step * scale) + 1e-9));
    const { top, foot } = axis.dataset, parts = [];
    for (let k = Math.ceil(from / step - 1e-9); k * step <= to * (1 + 1e-9); k++) {
      const x = place(k * step);
      parts.push(`<line class="rule" x1="${x}" x2="${x}" y1="${top}" y2="${foot}"/>`,
        `<text class="faint middle" x="${x}" y="${+foot + 16}">${(k * step * scale).toFixed(digits)}</text>`);
    }
    axis.innerHTML = parts.join("");
  }

  function show(begin, end) {
    const wide = Math.min(Math.max(end - begin, length * 1e-4), length);
    from = Math.min(Math.max(begin, 0), length - wide);
    to = from + wide;
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }

  chart.addEventListener("wheel", (event) => {
    event.preventDefault();
    const share = Math.min(Math.max((event.offsetX - left) / (right - left), 0), 1), at = from + share * (to - from);
    const wide = (to - from) * Math.exp(event.deltaY * 0.0015);
    show(at - share * wide, at + (1 - share) * wide);
  }, { passive: false });
  let held = null;
  chart.addEventListener("pointerdown", (event) => { held = { x: event.clientX, from, to }; });
  window.addEventListener("pointerup", () => { held = null; });
  window.addEventListener("pointermove", (event) => {
    if (!held) return;
    const by = (held.x - event.clientX) * (held.to - held.from) / (right - left);
    show(held.from + by, held.to + by);
  });
  chart.addEventListener("dblclick", () => show(0, length));
})();
