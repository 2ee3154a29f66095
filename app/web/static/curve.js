// The curve of a balance with axes and values under the pointer, in place of the plain one that is there already.
(() => {
  "use strict";

  const figure = document.querySelector("[data-curve]");
  if (!figure || !window.uPlot) return;
  const plain = figure.querySelector("svg");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
  const two = (value) => String(value).padStart(2, "0");
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const mark = (seconds, step) => {
    const at = new Date(seconds * 1000);
    const day = `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
    return step >= 86400 ? day : `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
  };
  let plot = null;

  const draw = (points) => {
    if (plot) plot.destroy();
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const options = {
      width: figure.clientWidth,
      height: 220,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.05 : 1] } },
      series: [
        { label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
        {
          label: "Balance",
          stroke: colour("--accent"),
          width: 2,
          fill: colour("--soft"),
          points: { show: false },
          paths: uPlot.paths.stepped({ align: 1 }),
          value: (_, value) => (value === null ? "–" : number.format(value)),
        },
      ],
      axes: [{ ...axis, values: (_, ticks, _axis, _space, step) => ticks.map((tick) => mark(tick, step)) }, { ...axis, size: 70, values: (_, ticks) => ticks.map((tick) => number.format(tick)) }],
    };
    plot = new uPlot(options, points, figure);
    figure.insertBefore(plot.root, plain);
    plot.root.setAttribute("aria-hidden", "true"); // the words below say it
    plain.hidden = true;
    plain.style.display = "none";
  };

  fetch(figure.dataset.curve, { credentials: "same-origin" })
    .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(answer.status))))
    .then((points) => {
      draw(points);
      new ResizeObserver(() => plot.setSize({ width: figure.clientWidth, height: 220 })).observe(figure);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(points));
    })
    .catch(() => {}); // the plain curve stays
})();
