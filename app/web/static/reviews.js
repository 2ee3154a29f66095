// The queue of reviews by keys: j and k go through it, s, w and o are the buttons of the one that is chosen.
(() => {
  "use strict";

  const items = () => [...document.querySelectorAll("#queue [data-review]")];

  const choose = (item) => {
    for (const other of items()) other.removeAttribute("aria-current");
    item.setAttribute("aria-current", "true");
    item.focus();
  };

  document.addEventListener("click", (event) => {
    const item = event.target.closest("#queue [data-review]");
    if (item) choose(item);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    const all = items();
    const at = all.findIndex((item) => item.getAttribute("aria-current"));
    const step = { j: 1, k: -1 }[event.key];
    if (step !== undefined) {
      const next = all[Math.min(all.length - 1, Math.max(0, at + step))];
      if (next) next.click();
      event.preventDefault();
      return;
    }
    const button = document.querySelector(`#review [data-key="${CSS.escape(event.key)}"]`);
    if (button) {
      event.preventDefault();
      button.click();
    }
  });
})();
