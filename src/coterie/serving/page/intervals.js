// Lifts with their intervals as pictures; the same numbers stand in tables beside them.

import { percent, svg } from "./dom.js";

const LETTER = 6.6; // pixels, about
const ROW = 40;
const MARGIN = { left: 52, right: 14, top: 10, bottom: 26 };
const SETTLED = 0.25; // share of the days whose wide first intervals do not set the scale

const given = (value) => value !== null && value !== undefined;

/** About five round values from low to high. */
function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, at) => (first + at) * step);
}

/** Low and high with zero inside and some room at the ends; null if there is no number. */
function range(values) {
  const known = values.filter(given);
  if (known.length === 0) return null;
  const low = Math.min(0, ...known);
  const high = Math.max(0, ...known);
  const room = 0.06 * (high - low || 0.1);
  return [low - room, high + room];
}

/** One row for each result: its lift and interval, against no difference. */
export function forest(results, armClass, width) {
  const domain = range(results.flatMap(({ lift, low, high }) => [lift, low, high]));
  if (!domain) return null;
  const height = results.length * ROW + MARGIN.bottom + 4;
  const [low, high] = domain;
  const x = (value) => 12 + ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (width - 24);
  const picture = frame(width, height, "Lift of each metric with its interval; the table has the numbers.");
  const bottom = height - MARGIN.bottom;
  axis(picture, spaced(ticks(low, high), x, width), (tick) => ({ x1: x(tick), x2: x(tick), y1: 4, y2: bottom }),
    (tick) => ({ x: x(tick), y: height - 8, "text-anchor": "middle" }));
  results.forEach((result, at) => {
    const y = at * ROW + 30;
    const row = svg("g", { class: armClass(result.arm) });
    row.append(svg("text", { x: 12, y: y - 12 }, shortened(`${result.metric}, ${result.arm}`, width)));
    if (!given(result.lift)) row.append(svg("text", { x: 12, y: y + 5, class: "soft" }, "nothing to conclude yet"));
    else {
      const from = x(result.low ?? low);
      const to = x(result.high ?? high);
      row.append(svg("line", { x1: from, x2: to, y1: y, y2: y, class: "interval" }));
      if (given(result.low)) row.append(svg("line", { x1: from, x2: from, y1: y - 5, y2: y + 5, class: "end" }));
      if (given(result.high)) row.append(svg("line", { x1: to, x2: to, y1: y - 5, y2: y + 5, class: "end" }));
      row.append(svg("circle", { cx: x(result.lift), cy: y, r: 5, class: "point" }));
    }
    picture.append(row);
  });
  return picture;
}

/** The lift of one metric by day: a line and the band of its intervals for each arm. */
export function overTime(days, metric, arms, armClass, width) {
  const series = arms.map((arm) => ({ arm, points: days.flatMap(({ results }, at) =>
    results.filter((one) => one.metric === metric && one.arm === arm && given(one.lift)).map((one) => ({ at, ...one }))) }));
  const settled = series.flatMap(({ points }) => points.filter(({ at }) => at >= SETTLED * (days.length - 1)));
  const domain = range(settled.flatMap(({ lift, low, high }) => [lift, low, high]));
  if (!domain) return null;
  const [low, high] = domain;
  const height = Math.round(Math.min(0.55 * width, 300));
  const inner = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
  const x = (at) => MARGIN.left + (days.length > 1 ? at / (days.length - 1) : 0.5) * inner[0];
  const y = (value) => MARGIN.top + ((high - Math.min(Math.max(value, low), high)) / (high - low)) * inner[1];
  const picture = frame(width, height, `Lift of ${metric} by day with its interval; the table has the numbers.`);
  axis(picture, ticks(low, high), (tick) => ({ x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
    (tick) => ({ x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }));
  for (const at of dated(days.length, inner[0])) {
    const anchor = at === 0 && days.length > 1 ? "start" : at === days.length - 1 && at > 0 ? "end" : "middle";
    picture.append(svg("text", { x: x(at), y: height - 6, "text-anchor": anchor, class: "soft" }, days[at].date));
  }
  for (const { arm, points } of series) {
    if (points.length) picture.append(svg("g", { class: armClass(arm) }, ...drawn(points, x, y, [low, high])));
  }
  return picture;
}

function drawn(points, x, y, [low, high]) {
  const path = (list) => list.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
  const above = points.map((one) => [one.at, one.high ?? high]);
  const below = points.map((one) => [one.at, one.low ?? low]).reverse();
  const last = points.at(-1);
  if (points.length === 1) { // a band needs two days
    const end = { x1: x(last.at), x2: x(last.at), y1: y(last.low ?? low), y2: y(last.high ?? high), class: "interval" };
    return [svg("line", end), svg("circle", { cx: x(last.at), cy: y(last.lift), r: 5, class: "point" })];
  }
  return [
    svg("path", { d: `M${path([...above, ...below])}Z`, class: "band" }),
    svg("path", { d: `M${path(points.map((one) => [one.at, one.lift]))}`, class: "mean" }),
    svg("circle", { cx: x(last.at), cy: y(last.lift), r: 5, class: "point" }),
  ];
}

const frame = (width, height, label) =>
  svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });

function axis(picture, values, line, label) {
  for (const tick of values) {
    const zero = Math.abs(tick) < 1e-12;
    picture.append(svg("line", { ...line(tick), class: zero ? "zero" : "axis" }),
      svg("text", { ...label(tick), class: "soft" }, zero ? "0" : `${tick > 0 ? "+" : ""}${percent(tick)}`));
  }
}

/** Ticks whose labels neither touch each other nor leave the picture. */
const spaced = (values, x, width) => {
  const every = Math.ceil(52 / Math.max(x(values[1]) - x(values[0]), 1));
  return values.filter((value, at) => Number.isInteger(Math.round(value / (values[1] - values[0])) / every) && x(value) > 22 && x(value) < width - 22);
};

/** Days that get their date written: the ends, and one between if there is room. */
const dated = (n, width) => [...new Set(n > 2 && width > 300 ? [0, Math.floor((n - 1) / 2), n - 1] : [0, n - 1])];

const shortened = (text, width) => {
  const most = Math.floor((width - 24) / LETTER);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
};
