"use strict";
(() => {
  const figure = document.getElementById("frontier");
  const tipOf = (mark) => document.getElementById("tip-" + mark.dataset.result);
  const twins = (id) => document.querySelectorAll(`.mark[data-result="${id}"], tr[data-result="${id}"]`);
  let open = null;

  const hide = () => {
    if (!open) return;
    tipOf(open).hidden = true;
    twins(open.dataset.result).forEach((twin) => twin.classList.remove("lit"));
    open = null;
  };

  const show = (mark) => {
    hide();
    open = mark;
    const tip = tipOf(mark);
    tip.hidden = false;
    twins(mark.dataset.result).forEach((twin) => twin.classList.add("lit"));
    const frame = figure.getBoundingClientRect();
    const spot = mark.querySelector(".hit").getBoundingClientRect();
    const left = spot.right - frame.left + 10;
    const fits = left + tip.offsetWidth <= frame.width;
    const other = spot.left - frame.left - tip.offsetWidth - 10;
    const side = fits ? left : Math.max(0, other >= 0 ? other : frame.width - tip.offsetWidth);
    const above = spot.top - frame.top - tip.offsetHeight - 8;
    const top = fits || other >= 0 ? spot.top - frame.top - tip.offsetHeight / 2 : above >= 0 ? above : spot.bottom - frame.top + 8;
    tip.style.left = side + "px";
    tip.style.top = Math.max(0, top) + "px";
  };

  document.querySelectorAll(".mark").forEach((mark) => {
    mark.addEventListener("mouseenter", () => show(mark));
    mark.addEventListener("mouseleave", hide);
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", hide);
    mark.addEventListener("click", () => show(mark));
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  const table = document.querySelector(".results");
  const body = table.tBodies[0];
  document.querySelectorAll("tr[data-result]").forEach((row) => {
    row.addEventListener("mouseenter", () => twins(row.dataset.result).forEach((twin) => twin.classList.add("lit")));
    row.addEventListener("mouseleave", () => twins(row.dataset.result).forEach((twin) => twin.classList.remove("lit")));
  });
  table.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const rising = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = button.dataset.sort;
      const value = (row) => {
        const raw = key === "index" ? row.dataset.result : row.cells[Number(key)].dataset.mean;
        return raw === undefined || raw === "null" ? null : Number(raw);
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);  // what is not known stays last
        return rising ? x - y : y - x;
      });
      body.append(...rows);
    });
  });

  const form = document.querySelector(".filters");
  if (form) {
    const [method, best] = [document.getElementById("method"), document.getElementById("best")];
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      let count = 0;
      [...body.rows].forEach((row) => {
        const fits = (method.value === "" || row.dataset.method === method.value) && (!best.checked || row.dataset.frontier === "true");
        row.hidden = !fits;
        count += fits;
      });
      document.getElementById("listed").textContent = `${count} of ${body.rows.length} results`;
    });
  }

  document.querySelectorAll("button[data-open]").forEach((button) => {
    button.addEventListener("click", () => {
      const all = [...document.querySelectorAll(`details[data-kind="${button.dataset.open}"]`)];
      const opening = all.some((one) => !one.open);
      all.forEach((one) => { one.open = opening; });
      button.textContent = opening ? "Hide all" : "Show all";
    });
  });
})();
