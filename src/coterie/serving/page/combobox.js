// Type-ahead: the combobox with a listbox of WAI-ARIA's authoring practices. The first option is
// chosen by Enter, arrows move, Escape closes the list and then empties the field.

import { announce, el } from "./dom.js";

const PAUSE = 80; // milliseconds of no typing, before the server is asked

/**
 * @param input, list  The field and its listbox.
 * @param find         Text and AbortSignal to a promise of options.
 * @param shown        Option to its nodes.
 * @param pick         Told the option that was chosen.
 * @param fail         Told an error of `find`.
 */
export function combobox(input, list, { find, shown, pick, fail }) {
  let options = [];
  let active = -1;
  let timer = 0;
  let asking = new AbortController();

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    activate(-1);
  }

  function activate(place) {
    active = place;
    [...list.children].forEach((row, at) => row.setAttribute("aria-selected", `${at === place}`));
    if (place < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", list.children[place].id);
      list.children[place].scrollIntoView({ block: "nearest" });
    }
  }

  function choose(place) {
    const option = options[place];
    forget();
    input.value = "";
    close();
    pick(option);
  }

  function forget() {
    clearTimeout(timer);
    asking.abort();
    asking = new AbortController();
    options = [];
  }

  function open(found) {
    options = found;
    list.replaceChildren(...found.map((option, at) =>
      el("li", {
        id: `${list.id}-${at}`, role: "option", "aria-selected": "false",
        on: { pointerdown: (event) => event.preventDefault(), click: () => choose(at) },
      }, ...shown(option))));
    if (found.length === 0) list.append(el("li", { class: "empty", role: "presentation" }, "No title has these words."));
    list.hidden = false;
    input.setAttribute("aria-expanded", `${found.length > 0}`);
    if (found.length) activate(0);
    announce(found.length ? `${found.length} found, use the arrow keys.` : "No title has these words.");
  }

  async function look() {
    const { signal } = asking;
    try {
      const found = await find(input.value, signal);
      if (!signal.aborted) open(found);
    } catch (error) {
      fail(error);
    }
  }

  input.addEventListener("input", () => {
    forget();
    if (input.value.trim()) timer = setTimeout(look, PAUSE);
    else close();
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const last = options.length - 1;
    const moves = { ArrowDown: active < last ? active + 1 : 0, ArrowUp: active > 0 ? active - 1 : last };
    if (event.key in moves && last >= 0) {
      event.preventDefault();
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
      activate(moves[event.key]);
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      choose(active);
    } else if (event.key === "Escape") {
      if (list.hidden) {
        forget();
        input.value = "";
      }
      close();
    }
  });
}
