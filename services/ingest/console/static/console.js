// What every page does with JavaScript: local times, keys, and what an attribute asks for. No page needs it to be read.
(() => {
  "use strict";
  const root = "/console";
  document.documentElement.classList.add("js");

  // Times in the viewer's zone without the day or the year that it is, and how far off they are; UTC stays in the tooltip.
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const absolutes = [clock, { ...clock, day: "numeric", month: "short" },
    { ...clock, day: "numeric", month: "short", year: "numeric" }].map((parts) => new Intl.DateTimeFormat(undefined, parts));
  const written = (at) => {
    const now = new Date();
    const far = at.getFullYear() !== now.getFullYear() ? 2 : at.toDateString() !== now.toDateString() ? 1 : 0;
    return absolutes[far].format(at);
  };
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
  const steps = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [Infinity, "day", 86400]];
  const off = (at) => {
    const seconds = (at - Date.now()) / 1000;
    const [, unit, size] = steps.find(([below]) => Math.abs(seconds) < below);
    return relative.format(Math.round(seconds / size), unit);
  };
  const localize = (within) => {
    for (const element of within.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (isNaN(at)) continue;
      const text = `${written(at)} (${off(at)})`;
      if (element.textContent !== text) element.textContent = text;
    }
  };
  // On a phone a row is a card, in which each cell says its column: console.css.
  const label = () => {
    for (const table of document.querySelectorAll(".table table")) {
      const names = [...table.querySelectorAll("thead tr > *")].map((cell) => cell.textContent.trim());
      for (const row of table.querySelectorAll("tbody tr")) {
        [...row.cells].forEach((cell, column) => { if (cell.colSpan === 1) cell.dataset.label = names[column] ?? ""; });
      }
    }
  };
  label();

  localize(document);
  setInterval(() => { if (!document.hidden) localize(document); }, 1000);
  document.addEventListener("htmx:after:swap", () => { localize(document); label(); });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copies]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copies);
    await navigator.clipboard.writeText(source.textContent);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  });

  // Keys: see the dialog in base.html.
  const places = { o: "", t: "/tasks", s: "/schedules", h: "/targets", d: "/dead-letters" };
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea, [contenteditable]")) return;
    const last = before;
    before = event.key;
    if (last === "g" && event.key in places) location.href = root + places[event.key];
    else if (event.key === "?") document.getElementById("help").showModal();
    else if (event.key === "/") {
      const box = document.querySelector("input[type=search]");
      if (box) { event.preventDefault(); box.focus(); box.select(); }
    } else if ("jkx".includes(event.key)) step(event.key);
  });
  const step = (key) => {
    const rows = [...document.querySelectorAll("[data-row]")];
    const here = rows.findIndex((row) => row.contains(document.activeElement));
    if (key === "x") rows[here]?.querySelector("input[type=checkbox]")?.click();
    else rows[here + (key === "j" ? 1 : -1)]?.querySelector("a")?.focus();
  };
})();
