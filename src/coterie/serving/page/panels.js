// What opens below a title: why it is recommended, and what is like it.

import { el, named, percent } from "./dom.js";

const label = (row, prefix = "") =>
  named({ item: row[`${prefix}item_id`], title: row[`${prefix}title`] });

/** What the score of one item rests on, from the server's explanation. */
export function why(facts) {
  const measured = !facts.skipped; // a baseline has scores of its own unit, and no neighbours
  const largest = Math.max(...facts.contributions.map((row) => Math.abs(row.contribution)), 1e-12);
  const near = facts.item_neighbours;
  return el("div", { class: "why" },
    el("h4", {}, "What its score rests on"),
    el("ul", { class: "bars" }, ...facts.contributions.map((row) => {
      const bar = el("span", { class: row.contribution > 0 ? "bar" : "bar against", "aria-hidden": "true" });
      bar.style.width = `${(100 * Math.abs(row.contribution)) / largest}%`;
      return el("li", {}, el("span", {}, label(row, "history_")), bar,
        el("span", { class: "note" }, effect(row.contribution, measured)));
    })),
    el("h4", {}, "Kindred users"),
    measured ? null : el("p", { class: "note" }, facts.skipped),
    facts.neighbours.length === 0 ? null : el("ul", { class: "people" },
      ...facts.neighbours.map((row) => neighbour(row, facts))),
    near.length === 0 ? null : el("p", {}, "Near you, and have it: ",
      near.map((row) => `user ${row.user_id}`).join(", "), "."),
    measured ? el("p", { class: "note" }, "Help: how far a training step on that user serves you, as a share of what a step on your own titles would.") : null,
    ...facts.warnings.filter((text) => !facts.skipped || !text.includes(facts.skipped))
      .map((text) => el("p", { class: "note" }, text)),
    el("details", {}, el("summary", {}, "In words"), el("p", {}, facts.sentence)));
}

function effect(contribution, probability) {
  if (!probability) return `${contribution < 0 ? "" : "+"}${contribution.toPrecision(2)}`.replace("-", "−");
  const change = Math.expm1(-contribution);
  return `${percent(Math.abs(change))} ${change > 0 ? "more" : "less"} likely without it`;
}

function neighbour(row, facts) {
  const most = facts.carriers.find((carrier) => carrier.rank === row.rank);
  const shares = row.n_shared === 1 ? "shares one title with you" : `shares ${row.n_shared || "no"} titles with you`;
  return el("li", {}, el("strong", {}, `User ${row.user_id}`), ` ${shares}; help ${percent(row.help)}`,
    most ? `, most of it through ${label(most)}` : "");
}

const COMPARED = {
  anchors: "where their users' tastes lie",
  decoder: "whom they are predicted for",
  factors: "their factors",
  weights: "the weight that the one gives to the other",
};

/** Items like one; `add` is told one that is wanted, `picked` whether it is there already. */
export function similar(facts, { add, picked }) {
  return el("div", { class: "similar" },
    el("h4", {}, "Similar titles"),
    facts.items.length ? null : el("p", { class: "note" }, "None."),
    el("ul", { class: "plain" }, ...facts.items.map((item) =>
      el("li", {}, el("span", {}, named(item)), picked(item)
        ? el("span", { class: "note" }, "picked")
        : el("button", { type: "button", class: "small", "aria-label": `Add ${named(item)}`, on: { click: () => add(item) } }, "Add")))),
    el("p", { class: "note" }, `Compared by ${COMPARED[facts.source] ?? facts.source}.`));
}
