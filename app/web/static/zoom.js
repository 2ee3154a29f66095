// A part of a session's picture is looked at closer by drawing over it.
(() => {
  "use strict";

  const place = (svg, event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const { left, width, from, to } = Object.fromEntries(Object.entries(svg.dataset).map(([name, value]) => [name, Number(value)]));
    const part = Math.min(1, Math.max(0, (x - left) / width));
    return { x: left + part * width, seconds: (from + part * (to - from)) / 1e6 };
  };

  let drawn = null;

  document.addEventListener("pointerdown", (event) => {
    const svg = event.target.closest(".picture svg");
    if (!svg || event.button !== 0 || event.pointerType !== "mouse") return;
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    mark.setAttribute("class", "selection");
    mark.setAttribute("y", "70");
    mark.setAttribute("height", String(svg.viewBox.baseVal.height - 70));
    svg.append(mark);
    drawn = { svg, mark, start: place(svg, event) };
    event.preventDefault();
  });

  document.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    const here = place(drawn.svg, event);
    drawn.mark.setAttribute("x", String(Math.min(here.x, drawn.start.x)));
    drawn.mark.setAttribute("width", String(Math.abs(here.x - drawn.start.x)));
  });

  document.addEventListener("pointerup", (event) => {
    if (!drawn) return;
    const { svg, mark, start } = drawn;
    drawn = null;
    mark.remove();
    const end = place(svg, event);
    if (Math.abs(end.x - start.x) < 6) return; // a click
    const [from, to] = [start.seconds, end.seconds].sort((one, other) => one - other).map((one) => one.toFixed(3));
    const whole = document.getElementById("picture");
    const query = `?from=${from}&to=${to}`;
    htmx.ajax("GET", whole.dataset.zoom + query, { target: "#picture", swap: "outerHTML" });
    history.pushState({}, "", whole.dataset.page + query);
  });
})();
