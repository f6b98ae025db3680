"use strict";
// Sorts tables by their columns; without it they are in the order of rates and rules.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const rises = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", rises ? "ascending" : "descending");
      const by = (row) => {
        const cell = row.cells[column];
        return cell.dataset.by === undefined ? cell.textContent.trim() : Number(cell.dataset.by);
      };
      const order = (a, b) => {
        const [x, y] = [by(a), by(b)];
        if (typeof x === typeof y) return typeof x === "number" ? x - y : x.localeCompare(y);
        // What is not known comes last, whichever way.
        return (typeof x === "number" ? -1 : 1) * (rises ? 1 : -1);
      };
      body.append(...[...body.rows].sort((a, b) => (rises ? order(a, b) : order(b, a))));
    });
  });
}
