// The community as dots on two axes, popular titles as landmarks, and the visitor.

import { byId, named, percent, svg, whole } from "./dom.js";

const EDGE = 14; // pixels kept free around
const LETTER = 6.4; // pixels, about
const LONGEST = 24; // letters of a label
const KIN = 3; // landmarks that are called near

/** The map of `GET /v1/map`; `here(place)` moves the visitor, null takes it away. */
export function map(facts) {
  const frame = byId("drawing");
  let place = null;
  const draw = () => frame.replaceChildren(drawn(facts, place, frame.clientWidth || 320));
  new ResizeObserver(draw).observe(frame);
  byId("map").hidden = false;
  byId("legend").textContent = legend(facts);
  const here = (found) => {
    place = found;
    byId("near").textContent = near(facts, place);
    draw();
  };
  here(null);
  return here;
}

function legend({ users, available, variance }) {
  const some = users.length < available ? `${whole.format(users.length)} of ${whole.format(available)}` : whole.format(available);
  return `Each dot is one of ${some} users. Left–right and up–down are the two ways in which the model tells ` +
    `their tastes apart most, ${percent(variance[0] + variance[1])} of all differences: who is near here may differ in others. ` +
    "A title stands where someone would stand who picked nothing else.";
}

function near({ landmarks }, place) {
  if (!place) return "Pick a title to find your place.";
  const mine = new Set(place.items.map(({ item }) => `${item}`));
  const nearest = landmarks.filter(({ item }) => !mine.has(`${item}`))
    .sort((a, b) => Math.hypot(a.x - place.x, a.y - place.y) - Math.hypot(b.x - place.x, b.y - place.y))
    .slice(0, KIN).map(named);
  return nearest.length ? `You are here, nearest to ${nearest.join(", ")}.` : "You are here.";
}

function drawn(facts, place, width) {
  const height = Math.round(Math.min(0.8 * width, 440));
  const at = scale(facts, width, height);
  const dots = facts.users.map(([x, y]) => `M${at(x, y).map((v) => v.toFixed(1)).join(" ")}h0`).join("");
  const picture = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Map of ${facts.users.length} users. ${near(facts, place)}`,
  }, svg("path", { d: dots, class: "dots" }));
  const taken = [];
  const mine = new Set((place?.items ?? []).map(({ item }) => `${item}`));
  if (place) taken.push(...reserved(at(place.x, place.y), "You are here", width));
  for (const one of place?.items ?? []) landmark(picture, taken, one, at(one.x, one.y), width, "pick");
  for (const one of facts.landmarks) {
    if (!mine.has(`${one.item}`)) landmark(picture, taken, one, at(one.x, one.y), width, "landmark");
  }
  if (place) you(picture, at(place.x, place.y), width);
  return picture;
}

/** From the map's unit to pixels, alike along both axes; far dots stay at the edge. */
function scale({ users, landmarks }, width, height) {
  const range = (values, marks) => {
    const sorted = values.toSorted((a, b) => a - b);
    const low = sorted[Math.floor(0.01 * (sorted.length - 1))];
    const high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
    return [Math.min(low, ...marks), Math.max(high, ...marks)];
  };
  const [left, right] = range(users.map(([x]) => x), landmarks.map(({ x }) => x));
  const [bottom, top] = range(users.map(([, y]) => y), landmarks.map(({ y }) => y));
  const room = [width - 2 * EDGE, height - 2 * EDGE];
  const unit = Math.min(room[0] / Math.max(right - left, 1e-6), room[1] / Math.max(top - bottom, 1e-6));
  const within = (value, size) => Math.min(Math.max(value, EDGE / 2), size - EDGE / 2);
  return (x, y) => [
    within(width / 2 + unit * (x - (left + right) / 2), width),
    within(height / 2 - unit * (y - (bottom + top) / 2), height),
  ];
}

/** The boxes of a label beside a point, on the right and on the left, where the picture has room. */
function boxes([x, y], text, width) {
  const long = LETTER * text.length + 9;
  const sides = { top: y - 8, bottom: y + 8 };
  return [
    { ...sides, left: x - 5, right: x + long, anchor: "start" },
    { ...sides, left: x - long, right: x + 5, anchor: "end" },
  ].filter(({ left, right }) => left >= 0 && right <= width);
}

function reserved(point, text, width) {
  const [x, y] = point;
  return [...boxes(point, text, width).slice(0, 1), { left: x - 10, right: x + 10, top: y - 10, bottom: y + 10 }];
}

const free = (one, taken) => taken.every((other) =>
  one.right < other.left || one.left > other.right || one.bottom < other.top || one.top > other.bottom);

/** A small square, and its title where that covers no other. */
function landmark(picture, taken, one, [x, y], width, kind) {
  const full = named(one);
  const text = full.length > LONGEST ? `${full.slice(0, LONGEST - 1)}…` : full;
  const around = boxes([x, y], text, width).find((one) => free(one, taken));
  if (!around && kind === "landmark") return;
  picture.append(svg("rect", { x: x - 3.5, y: y - 3.5, width: 7, height: 7, class: kind }, svg("title", {}, full)));
  if (!around) return;
  taken.push(around);
  const beside = around.anchor === "start" ? x + 7 : x - 7;
  picture.append(svg("text", { x: beside, y: y + 4, "text-anchor": around.anchor, class: kind }, text));
}

function you(picture, [x, y], width) {
  const [{ anchor }] = boxes([x, y], "You are here", width);
  picture.append(
    svg("circle", { cx: x, cy: y, r: 8, class: "you" }),
    svg("text", { x: anchor === "start" ? x + 12 : x - 12, y: y + 4, "text-anchor": anchor, class: "you" }, "You are here"));
}
