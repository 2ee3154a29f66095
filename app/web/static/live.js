// Keeps the user's own pages up to date. Without it, or without a stream, a page is what it was when it was loaded.
//
// The stream tells that something has changed, and what. What the page shows of it is made where all of the page is
// made: it is asked for again, and the parts that are marked are put in the place of those that are there.
(() => {
  "use strict";

  const main = document.querySelector("main[data-live]");
  if (!main || !window.EventSource) return;

  const LONGEST_WAIT = 60000;
  const SAID_EVERY = 10000;
  const status = document.getElementById("live-status");
  let shown = main.dataset.live;
  let source = null;
  let failures = 0;
  let waiting = null;
  let ended = false;
  let refreshing = false;
  let again = false;
  let said = figures();
  let saidAt = 0;
  let saying = null;

  // A page that nobody sees needs no stream, and a browser has few connections to spare for one host.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("online", () => {
    disconnect();
    connect();
  });
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", connect);

  function connect() {
    if (source || ended || document.hidden) return;
    clearTimeout(waiting);
    source = new EventSource(`/portal/live?since=${encodeURIComponent(shown)}`);
    source.addEventListener("open", () => {
      failures = 0;
      main.dataset.stream = "open";
    });
    source.addEventListener("state", (event) => {
      if (event.lastEventId !== shown) refresh();
    });
    source.addEventListener("end", (event) => {
      ended = !JSON.parse(event.data).reconnect;
      disconnect();
      if (!ended) later();
    });
    source.addEventListener("error", () => {
      main.dataset.stream = "cut";
      // Else the browser comes again by itself.
      if (source && source.readyState === EventSource.CLOSED) {
        disconnect();
        later();
      }
    });
  }

  function disconnect() {
    clearTimeout(waiting);
    if (source) source.close();
    source = null;
    main.dataset.stream = ended ? "ended" : "closed";
  }

  // Each time after twice the wait, and never all at once.
  function later() {
    const wait = Math.min(LONGEST_WAIT, 1000 * 2 ** failures);
    failures += 1;
    waiting = setTimeout(connect, wait / 2 + (Math.random() * wait) / 2);
  }

  async function refresh() {
    if (refreshing) {
      again = true;
      return;
    }
    refreshing = true;
    let worked = false;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.ok) {
        replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
        worked = true;
      }
    } catch {
      // As below.
    }
    refreshing = false;
    if (!worked) {
      // It still shows what it showed, and so it says when it comes again.
      disconnect();
      if (!ended) later();
    } else if (again) {
      again = false;
      refresh();
    }
  }

  function replace(page) {
    const fresh = page.querySelector("main[data-live]");
    if (!fresh) return;
    shown = main.dataset.live = fresh.dataset.live;
    for (const part of main.querySelectorAll("[data-part]")) {
      const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
      if (!other || other.innerHTML === part.innerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      part.replaceChildren(...document.adoptNode(other).childNodes);
      if (focused) part.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
    sayWhatIsNew();
  }

  function figures() {
    return Array.from(main.querySelectorAll("[data-say]"), (part) => part.dataset.say).join(". ");
  }

  // Who listens instead of looking hears the figures when they have changed, and not more often than is of use.
  function sayWhatIsNew() {
    if (saying || figures() === said) return;
    saying = setTimeout(
      () => {
        saying = null;
        saidAt = Date.now();
        said = figures();
        status.textContent = said;
      },
      Math.max(0, saidAt + SAID_EVERY - Date.now()),
    );
  }

  // What is left of a running session shrinks by itself: no event says so each second.
  const counted = new WeakMap();

  function span(seconds) {
    const parts = [];
    for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      const count = Math.floor(seconds / size);
      if (count) parts.push(`${count} ${name}`);
      seconds -= count * size;
    }
    if (seconds || !parts.length) parts.push(`${seconds} s`);
    return parts.join(" ");
  }

  setInterval(() => {
    for (const part of main.querySelectorAll("[data-still-left]")) {
      if (!counted.has(part)) counted.set(part, performance.now() + 1000 * Number(part.dataset.stillLeft));
      const left = Math.max(0, Math.floor((counted.get(part) - performance.now()) / 1000));
      part.textContent = part.dataset.words.replace("{}", span(left));
    }
  }, 1000);

  connect();
})();
