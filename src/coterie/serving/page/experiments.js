// The page of experiments: who saw what, and what follows from it.

import { admitted, ask, complain } from "./api.js";
import { announce, byId, el, percent, table, whole } from "./dom.js";
import { forest, overTime } from "./intervals.js";

const COLOURS = 4;
const WIDEST = 680; // pixels of a plot

const count = (value) => (value === null ? "–" : whole.format(value));
const SIGNED = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 2, signDisplay: "exceptZero" });
const change = (value) => (value === null ? "–" : SIGNED.format(value).replace("-", "−"));
const mean = (value) => (value === null ? "–" : value.toPrecision(4));
const chance = (value) => (value === null ? "–" : value < 0.0001 ? "< 0.0001" : value.toPrecision(2));
const interval = ({ lift, low, high }) => (lift === null
  ? "–" : low === null && high === null ? "no limits" : `${low === null ? "no limit" : change(low)} to ${high === null ? "no limit" : change(high)}`);
const moment = (text) => `${text.slice(0, 10)} ${text.slice(11, 16)} UTC`;

const STATES = { before: "Not begun", running: "Running", over: "Over" };

function state({ running, end }) {
  return running ? "running" : Date.parse(end) <= Date.now() ? "over" : "before";
}

/** A plot that is drawn again when its room changes. */
function plot(draw) {
  const box = el("div", { class: "plot" });
  let width = 0;
  new ResizeObserver(() => {
    const room = Math.min(box.clientWidth, WIDEST);
    if (!room || room === width) return;
    width = room;
    box.replaceChildren(...[draw(room)].filter((one) => one !== null));
  }).observe(box);
  return box;
}

function shown(facts, found) {
  const title = `experiment-${facts.name}`;
  const now = state(facts);
  return el("section", { class: "experiment", "aria-labelledby": title },
    el("h2", { id: title }, facts.name, el("span", { class: `badge ${now}` }, STATES[now])),
    el("p", {}, `${moment(new Date(facts.start).toISOString())} to ${moment(new Date(facts.end).toISOString())}; ` +
      `${percent(facts.exposed)} of the users take part; ${facts.primary} decides.`),
    ...(found instanceof Error
      ? [armsTable(facts.arms), el("p", { class: "warning" }, found.message)]
      : outcome(facts, found)));
}

const armsTable = (arms) => table("Arms", ["arm", "share", "model", "version"],
  arms.map((arm) => [arm.name, percent(arm.share), arm.model, arm.version]));

function outcome(facts, found) {
  const mismatch = found.sample_ratio_mismatch;
  const arms = found.arms.slice(1).map(({ name }) => name);
  const armClass = (arm) => `arm-${arms.indexOf(arm) % COLOURS}`;
  return [
    mismatch.warning === null ? null : el("p", { class: "warning" }, el("strong", {}, "Warning: "), mismatch.warning),
    table("Who has seen what so far", ["arm", "share", "users", "impressions", "clicks", "model", "version"],
      found.arms.map((arm) => [arm.name, percent(arm.share), count(arm.users), count(arm.impressions), count(arm.clicks), arm.model, arm.version])),
    mismatch.p_value === null ? null : el("p", { class: "note" },
      `Test of a sample ratio mismatch: p = ${chance(mismatch.p_value)}.`),
    el("h3", {}, "Metrics"),
    ...metrics(facts, found, armClass),
    el("h3", {}, "Over time"),
    ...time(facts, found, arms, armClass),
    el("p", { class: "note" }, `Computed at ${moment(new Date(found.computed_at).toISOString())}.`),
  ].filter((part) => part !== null);
}

function metrics(facts, found, armClass) {
  if (found.results.length === 0) return [el("p", { class: "note" }, "Nothing to compare yet.")];
  const primary = found.results.filter(({ metric }) => metric === facts.primary);
  return [
    ...primary.map(({ sentence }) => el("p", {}, el("strong", {}, sentence))),
    plot((width) => forest(found.results, armClass, width)),
    table("Against the control", ["metric", "arm", "control", "arm's mean", "lift", "interval", "p"],
      found.results.map((one) => [one.metric, one.arm, mean(one.control_mean), mean(one.mean), change(one.lift), interval(one), chance(one.p_value)])),
    el("details", {}, el("summary", {}, "Every verdict in words"),
      el("ul", { class: "plain-text" }, ...found.results.map(({ sentence }) => el("li", {}, sentence)))),
  ];
}

function time(facts, found, arms, armClass) {
  const names = [...new Set(found.days.flatMap(({ results }) => results.map(({ metric }) => metric)))];
  if (names.length === 0) return [el("p", { class: "note" }, "No day has enough users yet.")];
  const chosen = el("select", { id: `metric-of-${facts.name}` }, ...names.map((name) =>
    el("option", { value: name, selected: name === facts.primary }, name)));
  const body = el("div", {});
  const draw = () => {
    const metric = chosen.value;
    const rows = found.days.flatMap(({ date, users, results }) => results.filter((one) => one.metric === metric)
      .map((one) => [date, one.arm, count(users[one.arm] ?? null), change(one.lift), interval(one)]));
    body.replaceChildren(
      el("p", { class: "key-line" }, ...arms.map((arm) =>
        el("span", { class: armClass(arm) }, el("span", { class: "swatch", "aria-hidden": "true" }), `${arm} against ${found.arms[0].name}`))),
      plot((width) => overTime(found.days, metric, arms, armClass, width)
        ?? el("p", { class: "note" }, "No day has an interval yet.")),
      el("details", {}, el("summary", {}, "The same numbers as a table"),
        table(`${metric} by day, as of the end of each`, ["day", "arm", "users", "lift", "interval"], rows)));
  };
  chosen.addEventListener("change", draw);
  draw();
  return [el("p", {}, el("label", { for: chosen.id }, "Metric"), chosen), body];
}

async function load() {
  const { experiments } = await ask("v1/experiments");
  admitted();
  complain(null);
  if (experiments.length === 0) {
    byId("experiments").replaceChildren(el("p", {}, "This server runs no experiment. One begins with ",
      el("code", {}, "coterie serve MODEL --arm NAME=MODEL --experiment FILE"), "."));
    return;
  }
  const box = byId("experiments");
  for (const [at, facts] of experiments.entries()) { // the server works out one at a time, and few may wait
    const found = await ask(`v1/experiments/${encodeURIComponent(facts.name)}`).catch((error) => error);
    if (at < box.children.length) box.children[at].replaceWith(shown(facts, found));
    else box.append(shown(facts, found));
  }
  while (box.children.length > experiments.length) box.lastChild.remove();
}

let loading = null;

/** Load, unless that is going on. */
function refresh() {
  loading ??= load().finally(() => { loading = null; });
  return loading;
}

byId("refresh").addEventListener("click", () =>
  refresh().then(() => announce("The figures are fresh."), complain));
refresh().catch(complain);
