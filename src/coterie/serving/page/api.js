// Asking the server, with a key where it wants one.

import { byId } from "./dom.js";

const NAME = "coterie-key";
const secured = document.documentElement.dataset.secured === "yes";
let entering = null;

/** An answer that is a refusal; the message is the server's. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The answer as an object: GET without a body, else POST. `signal` gives it up. */
export async function ask(path, body, signal) {
  for (;;) {
    if (secured && !sessionStorage.getItem(NAME)) await entered("");
    const headers = {};
    const key = sessionStorage.getItem(NAME);
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      signal,
    });
    const answer = parsed(await response.text());
    if (response.ok) return answer;
    if (response.status !== 401) throw new Refused(response.status, answer.detail);
    if (sessionStorage.getItem(NAME) === key) sessionStorage.removeItem(NAME);
    await entered(key ? "The server does not accept this key." : "");
  }
}

// Ids beyond 2^53 would be rounded as numbers; the server knows them as text too.
function parsed(text) {
  try {
    return JSON.parse(text.replace(/("(?:(?:history_)?item|(?:history_)?item_id|user_id)":)(-?\d{16,})/g, '$1"$2"'));
  } catch {
    return { detail: "The answer is not what it should be. Is there a proxy in between?" };
  }
}

/** Resolves when a key has been typed; all that wait share one form. */
function entered(why) {
  entering ??= new Promise((resolve) => {
    const form = byId("key");
    const input = byId("key-input");
    const problem = (text) => {
      byId("key-error").textContent = text;
      byId("key-error").hidden = !text;
    };
    problem(why);
    form.hidden = false;
    byId("content").hidden = byId("forget").hidden = true;
    input.focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!/^[\x21-\x7e]+$/.test(key)) { // what a header holds
        problem("This is no key: a key has only letters a to z, digits and ASCII signs, and no spaces.");
        return;
      }
      sessionStorage.setItem(NAME, key);
      input.value = "";
      form.hidden = true;
      entering = null;
      resolve();
    };
  });
  return entering;
}

/** Show the page once the server has answered. */
export function admitted() {
  byId("content").hidden = false;
  byId("forget").hidden = !secured;
  byId("forget").onclick = () => {
    sessionStorage.clear();
    location.reload();
  };
}

/** Show what went wrong, or nothing; requests that were given up are no problem. */
export function complain(error) {
  if (error?.name === "AbortError") return;
  const box = byId("problem");
  byId("content").hidden = false;
  box.hidden = !error;
  box.textContent = error
    ? error instanceof Refused ? error.message : "The server does not answer. Is it running?"
    : "";
  if (error && !(error instanceof Refused) && !(error instanceof TypeError)) throw error;
}
