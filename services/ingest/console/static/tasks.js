// The list of tasks: select all on the page, and how many are selected. What is selected survives live updates.
(() => {
  "use strict";
  const boxes = () => [...document.querySelectorAll("#rows input[name=id]")];
  const show = () => {
    const all = boxes(), count = all.filter((box) => box.checked).length;
    const header = document.querySelector("[data-selects]"), told = document.querySelector("[data-selected]");
    if (header) { header.checked = count > 0 && count === all.length; header.indeterminate = count > 0 && count < all.length; }
    if (!told) return;
    const text = document.querySelector("#many [name=all]").checked ? "Of this search:" : `${count} selected:`;
    if (told.textContent !== text) told.textContent = text;
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-selects]")) for (const box of boxes()) box.checked = event.target.checked;
    show();
  });
  document.addEventListener("htmx:after:swap", show);
  window.addEventListener("pageshow", show);
})();
