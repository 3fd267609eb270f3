"use strict";
(() => {
  const bar = document.querySelector("[data-filters]");
  if (!bar) return;
  const rows = [...document.querySelectorAll("[data-sample]")];
  const status = bar.querySelector("[data-status]");
  const show = (button) => {
    const kind = button.dataset.show;
    let shown = 0;
    for (const row of rows) {
      row.hidden = kind !== "all" && !row.dataset.sample.split(" ").includes(kind);
      shown += row.hidden ? 0 : 1;
    }
    for (const other of bar.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    status.textContent = `${shown} of ${rows.length} rows shown`;
  };
  bar.addEventListener("click", (event) => {
    if (event.target.dataset.show) show(event.target);
  });
  bar.hidden = false;
})();
