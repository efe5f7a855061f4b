// The page of recommendations: what is picked, and everything that follows from it.

import { admitted, ask, complain } from "./api.js";
import { combobox } from "./combobox.js";
import { announce, byId, el, named, whole } from "./dom.js";
import { map } from "./map.js";
import { similar, why } from "./panels.js";

const LENGTH = 10; // of the list
const OPTIONS = 8; // of the type-ahead
const NEIGHBOURS = 4; // users and titles in an explanation
const KEPT = "coterie-picks";

let about = {};
let picks = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
let ranks = new Map(); // by item: its rank in the last list
let asking = new AbortController();
let here = () => {};

const same = (a, b) => `${a.item}` === `${b.item}`;
const picked = (item) => picks.some((one) => same(one, item));
const history = () => picks.map(({ item }) => item);

function add(item) {
  if (picked(item)) return;
  picks = [...picks, { item: item.item, title: item.title }];
  changed(`Added ${named(item)}.`);
}

function remove(item) {
  const place = picks.findIndex((one) => same(one, item));
  picks = picks.filter((one) => !same(one, item));
  changed(`Removed ${named(item)}.`);
  const rest = byId("picks").querySelectorAll(".remove");
  (rest[Math.min(place, rest.length - 1)] ?? byId("search")).focus();
}

function changed(said) {
  sessionStorage.setItem(KEPT, JSON.stringify(picks));
  showPicks();
  asking.abort();
  asking = new AbortController();
  refresh(said, asking.signal).catch(complain);
}

/** The list and the place on the map; the list does not wait for the map. */
async function refresh(said, signal) {
  byId("list").setAttribute("aria-busy", "true");
  const placed = place(signal);
  placed.catch(() => {});
  const answer = await ask("v1/recommend", { history: history(), k: LENGTH }, signal);
  complain(null);
  showList(answer, said);
  await placed;
}

async function place(signal) {
  const known = picks.length > 0 && about.latent && about.community !== null;
  here(known ? await ask("v1/map", { history: history() }, signal) : null);
}

function showPicks() {
  byId("none").hidden = picks.length > 0;
  byId("clear").hidden = picks.length < 2;
  byId("picks").replaceChildren(...picks.map((item) => {
    const panel = el("div", { class: "panel", hidden: true });
    return el("li", {},
      el("div", { class: "row" },
        el("span", { class: "title" }, named(item)),
        el("span", { class: "actions" }, opener("Similar", item, panel, () => similarTo(item)),
          el("button", { type: "button", class: "small remove", "aria-label": `Remove ${named(item)}`, on: { click: () => remove(item) } }, "Remove"))),
      panel);
  }));
}

function showList(answer, said) {
  const had = ranks;
  ranks = new Map(answer.items.map(({ item }, at) => [`${item}`, at + 1]));
  const focused = document.activeElement?.closest("#list > li");
  const at = focused ? [...byId("list").children].indexOf(focused) : -1;
  byId("list").replaceChildren(...answer.items.map((item, place) => entry(item, moved(had, item, place + 1))));
  byId("list").removeAttribute("aria-busy");
  byId("list-title").textContent = answer.fallback ? "Most popular" : "Recommended for you";
  byId("list-note").textContent = note(answer);
  if (at >= 0) (byId("list").children[Math.min(at, answer.items.length - 1)]?.querySelector(".add") ?? byId("search")).focus();
  const first = answer.items.length ? ` First is ${named(answer.items[0])}.` : "";
  if (said) announce(`${said} The list has ${answer.items.length} titles.${first}`);
}

function note(answer) {
  if (answer.items.length === 0) return "There is nothing left to recommend.";
  if (picks.length && answer.fallback) return "The model knows none of your titles any more, so this is what most users have.";
  return answer.fallback ? "What most users have. Pick something, and the list becomes yours." : "";
}

/** How an item moved since the last list, for eyes and for ears. */
function moved(had, { item }, rank) {
  const before = had.get(`${item}`);
  if (had.size === 0 || before === rank) return null;
  if (before === undefined) return el("span", { class: "moved" }, "new");
  const up = before > rank;
  const by = Math.abs(before - rank);
  return el("span", { class: "moved" }, el("span", { "aria-hidden": "true" }, `${up ? "▲" : "▼"} ${by}`),
    el("span", { class: "hidden" }, `${up ? "up" : "down"} ${by}`));
}

function entry(item, change) {
  const panel = el("div", { class: "panel", hidden: true });
  const explained = about.community !== null && picks.length > 0;
  return el("li", {},
    el("div", { class: "row" },
      el("span", { class: "title" }, named(item), change ? " " : null, change),
      el("span", { class: "actions" },
        explained ? opener("Why", item, panel, () => whyOf(item)) : null,
        opener("Similar", item, panel, () => similarTo(item)),
        el("button", { type: "button", class: "small add", "aria-label": `Add ${named(item)}`, on: { click: () => add(item) } }, "Add"))),
    panel);
}

/** A button that opens the panel with what it asks for, and closes it when pressed again. */
function opener(name, item, panel, content) {
  const button = el("button", { type: "button", class: "small", "aria-expanded": "false", "aria-label": `${name}: ${named(item)}` }, name);
  button.addEventListener("click", async () => {
    const open = button.getAttribute("aria-expanded") === "true";
    for (const other of button.parentElement.querySelectorAll("[aria-expanded]")) other.setAttribute("aria-expanded", "false");
    panel.hidden = open;
    if (open) return;
    button.setAttribute("aria-expanded", "true");
    panel.replaceChildren(el("p", { class: "note" }, "One moment …"));
    const shown = await content().catch((error) => {
      if (!(error instanceof Error)) throw error;
      return el("p", { class: "warning" }, error.message);
    });
    if (button.getAttribute("aria-expanded") === "true") {
      panel.replaceChildren(shown);
      announce(`${name}: ${named(item)}. ${shown.querySelector("h4")?.textContent ?? shown.textContent}.`);
    }
  });
  return button;
}

async function whyOf({ item }) {
  return why(await ask("v1/explain", { history: history(), items: [item], k: NEIGHBOURS }));
}

async function similarTo({ item }) {
  const facts = await ask(`v1/items/${encodeURIComponent(item)}/similar?k=6`);
  return similar(facts, { add, picked });
}

async function search(text, signal) {
  const limit = OPTIONS + Math.min(picks.length, OPTIONS);
  const { items } = await ask(`v1/items?${new URLSearchParams({ query: text, limit })}`, undefined, signal);
  complain(null);
  return items.filter((item) => !picked(item)).slice(0, OPTIONS);
}

function withoutMap() {
  byId("no-map").hidden = false;
  byId("no-map").replaceChildren(...(about.community === null
    ? ["There is no map, and no “Why”: both need users to compare with. Whoever runs this server turns them on with ",
      el("code", {}, "coterie serve MODEL --community DATA"), "."]
    : ["This model has no latent space, so there is no map; “Why” works."]));
}

async function start() {
  about = await ask("v1/about");
  admitted();
  byId("about").textContent = `Model ${about.model}, version ${about.version}, ${whole.format(about.items)} titles; coterie ${about.coterie}.`;
  combobox(byId("search"), byId("found"), {
    find: search,
    shown: (item) => [el("span", {}, named(item)), el("span", { class: "note" }, `${whole.format(item.users)} users`)],
    pick: add,
    fail: complain,
  });
  byId("clear").onclick = () => {
    picks = [];
    changed("Removed all.");
    byId("search").focus();
  };
  showPicks();
  await refresh("", asking.signal);
  if (about.community === null || !about.latent) withoutMap();
  else {
    here = map(await ask("v1/map"));
    await place(asking.signal);
  }
}

start().catch(complain);
