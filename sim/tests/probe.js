"use strict";
// Looks at a page once it is laid out and tells the page around it what is wrong with it, as JSON.
const wrong = [];
const say = (text) => { if (wrong.length < 40) wrong.push(text); };
addEventListener("error", (event) => say(`error: ${event.message}`));
addEventListener("securitypolicyviolation", (event) => say(`refused: ${event.blockedURI}`));

// `rgb(1, 2, 3)` and `color(srgb 0.1 0.2 0.3)` as three numbers up to 255, and the share that covers.
const channels = (colour) => {
  const numbers = (colour.match(/-?[\d.]+(e-?\d+)?/g) ?? []).map(Number);
  const scale = colour.startsWith("color(") ? 255 : 1;
  return [numbers.slice(0, 3).map((value) => value * scale), numbers[3] ?? 1];
};
const luminance = (rgb) => {
  const linear = rgb.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const contrast = (one, other) => {
  const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [rgb, alpha] = channels(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return rgb;
  }
  return [255, 255, 255];
};
const short = (element) => `${element.tagName} "${element.textContent.trim().slice(0, 40)}"`;
const ownText = (element) =>
  [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim() !== "");

function texts() {
  let seen = 0;
  for (const element of document.body.querySelectorAll("*")) {
    if (["SCRIPT", "STYLE"].includes(element.tagName) || !ownText(element)) continue;
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (box.width === 0 || style.visibility === "hidden") continue;
    seen += 1;
    const isDrawn = element instanceof SVGElement;
    const colour = channels(isDrawn ? style.fill : style.color)[0];
    const ratio = contrast(colour, behind(isDrawn ? element.closest("svg").parentElement : element));
    if (ratio < 4.5) say(`contrast ${ratio.toFixed(2)}: ${short(element)}`);
    if (isDrawn) continue;
    if (element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1) {
      say(`cut: ${short(element)}: ${element.scrollWidth} of ${element.clientWidth}`);
    }
    // What is wider than the page may only be where it can be scrolled to.
    const isBeside = box.left < -1 || box.right > document.documentElement.clientWidth + 1;
    if (isBeside && !element.closest(".scroll, .skip")) say(`beside the page: ${short(element)}`);
  }
  return seen;
}

function drawings() {
  const plots = [...document.querySelectorAll("svg.plot")];
  for (const plot of plots) {
    const name = plot.getAttribute("aria-label");
    const size = plot.getBoundingClientRect();
    if (size.width < 200 || size.height < 90) say(`size ${size.width} x ${size.height}: ${name}`);
    if (!name) say("a drawing without words");
    const view = plot.viewBox.baseVal;
    const boxes = [...plot.querySelectorAll("text")].map((text) => [text, text.getBBox()])
      .filter(([text]) => text.textContent.trim() !== "");
    for (const [text, box] of boxes) {
      const isIn = box.x >= view.x - 0.5 && box.y >= view.y - 0.5
        && box.x + box.width <= view.x + view.width + 0.5 && box.y + box.height <= view.y + view.height + 0.5;
      if (!isIn) say(`outside of its drawing: ${short(text)} in ${name}`);
    }
    // The lines of a font are higher than its letters.
    boxes.forEach(([text, a], at) => {
      for (const [other, b] of boxes.slice(at + 1)) {
        const across = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
        const down = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
        if (across > 1 && down > 4) say(`on one another: ${short(text)} and ${short(other)} in ${name}`);
      }
    });
    const marks = [...plot.querySelectorAll("path")].filter((path) => path.getTotalLength() > 0);
    if (marks.length === 0) say(`empty: ${name}`);
  }
  return plots.length;
}

function links() {
  for (const link of document.querySelectorAll("a")) {
    const target = link.getAttribute("href");
    if (!target.startsWith("#") || !document.getElementById(target.slice(1))) say(`leads nowhere: ${target}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) say("an id is there twice");
  for (const region of document.querySelectorAll(".scroll")) {
    if (region.scrollWidth > region.clientWidth && region.tabIndex !== 0) say("scrolls, but not by keyboard");
  }
}

function sorting() {
  for (const table of document.querySelectorAll("table")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = head.querySelector("button");
      if (!button || head.getAttribute("aria-sort") !== "none") {
        say(`cannot be sorted by ${short(head)}`);
        continue;
      }
      const column = head.cellIndex;
      const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column])
        .filter((cell) => cell.dataset.by !== undefined).map((cell) => Number(cell.dataset.by));
      for (const [word, sign] of [["ascending", 1], ["descending", -1]]) {
        button.click();
        const found = values();
        const isSorted = found.every((value, at) => at === 0 || sign * (value - found[at - 1]) >= 0);
        const sorted = table.querySelectorAll(`[aria-sort="${word}"]`);
        if (!isSorted || sorted.length !== 1 || sorted[0] !== head) say(`not ${word} by ${short(head)}`);
      }
      head.setAttribute("aria-sort", "none");
    }
  }
  return document.querySelectorAll("table").length;
}

addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const found = {
    width: innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    texts: texts(),
    drawings: drawings(),
  };
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) say(`the page is ${page.scrollWidth} wide`);
  links();
  found.tables = sorting();
  parent.postMessage(JSON.stringify({ ...found, wrong }), "*");
});
