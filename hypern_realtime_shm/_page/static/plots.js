// Two plots of time: lines, and areas on each other. Lines differ in dashes, areas in order, so that colours are not needed.
import { element } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [600, 160];

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** The least of 1, 2, 5, 10, … that is no less. */
function above(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= value);
}

function grid() {
  return [1, 2, 3].map((quarter) => shape("line", { x1: 0, x2: WIDTH, y1: (HEIGHT * quarter) / 4, y2: (HEIGHT * quarter) / 4 }));
}

function finish(id, rows, top, shapes, entries, inWords) {
  const drawing = document.getElementById(id);
  drawing.replaceChildren(...grid(), ...shapes);
  const latest = entries.map(([, title, value]) => `${title} ${inWords(value)}`).join(", ");
  drawing.setAttribute("aria-label", `${document.getElementById(`${id}-title`).textContent}, now: ${latest}`);
  document.getElementById(`${id}-top`).textContent = `top: ${inWords(top)}`;
  document.getElementById(`${id}-from`).textContent = rows.length > 1 ? `the last ${Math.round(rows.at(-1).at - rows[0].at)} s` : "";
  document.getElementById(`${id}-legend`).replaceChildren(
    ...entries.map(([sign, title, value]) => {
      const mark = shape("svg", { viewBox: "0 0 32 14", "aria-hidden": "true" });
      mark.append(sign);
      return element("li", {}, mark, `${title} ${inWords(value)}`);
    }),
  );
}

/** Lines: rows with `at` in seconds, and series as [key, title]. */
export function plot(id, rows, series, inWords) {
  const [first, last] = [rows[0]?.at ?? 0, rows.at(-1)?.at ?? 1];
  const top = above(Math.max(1, ...rows.flatMap((row) => series.map(([key]) => row[key]))));
  const x = (row) => ((row.at - first) / (last - first || 1)) * WIDTH;
  const shapes = series.map(([key], index) =>
    shape("polyline", { class: `k${index + 1}`, points: rows.map((row) => `${x(row)},${HEIGHT - 2 - (row[key] / top) * (HEIGHT - 4)}`).join(" ") }),
  );
  const entries = series.map(([key, title], index) => [shape("polyline", { class: `k${index + 1}`, points: "0,7 32,7" }), title, rows.at(-1)?.[key] ?? 0]);
  finish(id, rows, top, shapes.reverse(), entries, inWords);
}

/** Areas on each other, up to what `whole` names. */
export function stack(id, rows, series, whole, inWords) {
  const [first, last] = [rows[0]?.at ?? 0, rows.at(-1)?.at ?? 1];
  const top = Math.max(1, rows.at(-1)?.[whole] ?? 1);
  const x = (row) => ((row.at - first) / (last - first || 1)) * WIDTH;
  let below = rows.map(() => 0);
  const shapes = series.map(([key], index) => {
    const over = rows.map((row, place) => below[place] + row[key]);
    const edge = (sums) => rows.map((row, place) => `${x(row)},${HEIGHT - (sums[place] / top) * HEIGHT}`);
    const points = [...edge(over), ...edge(below).reverse()].join(" ");
    below = over;
    return shape("polygon", { class: `k${index + 1}`, points });
  });
  const entries = series.map(([key, title], index) => [shape("rect", { class: `k${index + 1}`, width: 32, height: 14 }), title, rows.at(-1)?.[key] ?? 0]);
  finish(id, rows, top, shapes, entries, inWords);
}
