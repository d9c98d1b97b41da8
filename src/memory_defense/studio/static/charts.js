// Pictures of one play: faces, probabilities, attention, reconstructions.

import { draw, make, percent, picture } from "./dom.js";

const HEIGHT = 24;

/** More classes than this are not all shown: the most probable are, and the right one. */
const MOST_CLASSES = 20;

function verdict(right) {
  const [sign, word, kind] = right ? ["✓", "right", "pass"] : ["✗", "wrong", "fail"];
  return make("span", { class: `verdict ${kind}` }, make("span", { "aria-hidden": "true" }, `${sign} `), word);
}

function flag(look) {
  if (look.flagged === null) return null;
  const said = look.flagged ? "⚑ flagged as suspicious" : "not flagged";
  return make("span", { class: look.flagged ? "badge flagged" : "badge" }, `${said} by ${look.flag_score}`);
}

/** What is proven of this image, and what the gate for the attack's epsilon makes of it. */
function proof(look) {
  if (!look.proof) return null;
  const { norm, radius, accepted } = look.proof;
  const within = `${norm === "linf" ? "L-inf" : "L2"} ${radius.toFixed(3)}`;
  const said = radius > 0 ? `proven within ${within}` : "nothing proven";
  const gate = accepted === null ? "" : accepted ? ", accepted by the gate" : ", ⚑ flagged by the gate";
  return make("span", { class: accepted === false ? "badge flagged" : "badge" }, said + gate);
}

function face(kind, title, look, label, names) {
  return make(
    "figure",
    {},
    picture(look.picture, title),
    make(
      "figcaption",
      {},
      make("span", { class: `line ${kind}` }, title),
      make("b", {}, names[look.answer]),
      make("span", { class: "small" }, percent(look.probabilities[look.answer])),
      verdict(look.answer === label),
      flag(look),
      proof(look),
    ),
  );
}

function change(source, title, text) {
  return make("figure", {}, picture(source, title), make("figcaption", {}, make("span", { class: "line" }, title), make("span", { class: "small" }, text)));
}

/** Clean image, perturbation twice, adversarial image. */
export function faces(played, names) {
  const levels = (255 * played.linf).toFixed(1).replace(".0", "");
  return make(
    "div",
    { class: "faces" },
    face("clean", "clean image", played.clean, played.label, names),
    face("attacked", "attacked image", played.adversarial, played.label, names),
    change(played.magnified, `change, ${played.magnification} times as strong`, `largest ${levels}/255, length ${played.l2.toFixed(2)}`),
    change(played.signs, "direction of the change", "blue: darker, red: brighter"),
  );
}

function bar(kind, share) {
  const fill = make("span", { class: `fill ${kind}` });
  fill.style.width = `${100 * share}%`;
  return make("span", { class: "track", "aria-hidden": "true" }, fill);
}

/** What a slot and the selector are, where a reader meets them first. */
export function meaning() {
  const entry = (word, text) => [make("dt", {}, word), make("dd", {}, text)];
  return make(
    "section",
    { class: "card wide", id: "meaning" },
    make("h3", {}, "How this model answers"),
    make(
      "dl",
      { class: "words" },
      entry("Selector", "a small classifier, which first guesses the class of the image."),
      entry("Slot", "the part of the memory that belongs to one class. The selector's guess opens one slot, and the image is redrawn from the patterns stored there."),
      entry("Answer", "a second classifier names the redrawn image. If an attack fools the selector, the wrong slot opens, and the image is redrawn as the wrong class."),
    ),
  );
}

/** Two bars for each class, clean above attacked. */
export function probabilities(title, clean, attacked, label, names, note = "") {
  const highest = attacked.indexOf(Math.max(...attacked));
  const share = (place) => Math.max(clean[place], attacked[place]);
  const most = names.map((_, place) => place).sort((one, other) => share(other) - share(one)).slice(0, MOST_CLASSES);
  const shown = names.map((_, place) => place).filter((place) => most.includes(place) || place === label);
  const left = names.length - shown.length;
  const row = (place) => {
    const name = names[place];
    const kinds = [place === label && "truth", place === highest && "chosen"].filter(Boolean).join(" ");
    return make(
      "tr",
      { class: kinds || null },
      make("th", { scope: "row" }, name, place === label ? make("span", { class: "badge" }, "right") : null),
      make("td", { class: "bars" }, bar("clean", clean[place]), bar("attacked", attacked[place])),
      make("td", { class: "number" }, percent(clean[place])),
      make("td", { class: "number" }, percent(attacked[place])),
    );
  };
  const head = ["class", "", "clean", "attacked"].map((text) => make("th", { scope: "col", class: text || null }, text));
  return make(
    "section",
    { class: "card" },
    make("h3", {}, title),
    note && make("p", { class: "note" }, note),
    left > 0 && make("p", { class: "note" }, `The other ${left} classes are less probable than these, before and after.`),
    make(
      "table",
      { class: "probabilities" },
      make("caption", { class: "hidden" }, title),
      make("thead", {}, make("tr", {}, head)),
      make("tbody", {}, shown.map(row)),
    ),
  );
}

function strip(kind, weights, count) {
  const largest = Math.max(...weights, 1e-12);
  const width = weights.length / count;
  const bands = Array.from({ length: count }, (_, slot) =>
    draw("rect", { class: slot % 2 ? "band odd" : "band", x: slot * width, width, y: 0, height: HEIGHT }),
  );
  const bars = weights.map((weight, item) => {
    const height = (weight / largest) * HEIGHT;
    return draw("rect", { class: kind, x: item + 0.1, width: 0.8, y: HEIGHT - height, height });
  });
  const box = `0 0 ${weights.length} ${HEIGHT}`;
  return draw("svg", { class: "strip", viewBox: box, preserveAspectRatio: "none", "aria-hidden": "true" }, bands, bars);
}

function strongest(look, names) {
  const size = look.attention.length / names.length;
  const used = look.attention.filter((weight) => weight > 0).length;
  const item = look.attention.indexOf(Math.max(...look.attention));
  return `slot of ${names[look.slot]}: ${used} of its ${size} items are used, the strongest at ${percent(look.attention[item])}`;
}

/** The weights with which the memory was read, item by item, grouped by slot. */
export function attention(played, names) {
  const { clean, adversarial } = played;
  const line = (kind, word, look) => [
    make("p", { class: "strip-name" }, make("span", { class: `key ${kind}` }), `${word}, ${strongest(look, names)}`),
    strip(kind, look.attention, names.length),
  ];
  const chosen = [clean.slot, adversarial.slot];
  const labels = names.map((name, slot) => make("li", { class: chosen.includes(slot) ? "chosen" : null }, name));
  return make(
    "section",
    { class: "card wide" },
    make("h3", {}, `Which of the ${clean.attention.length} items in the memory are used`),
    make("p", { class: "note" }, "An item is one stored pattern. Each bar is one item: the taller the bar, the more the item contributes to the redrawn image."),
    line("clean", "Clean", clean),
    line("attacked", "Attacked", adversarial),
    make("ol", { class: "strip-labels", "aria-hidden": "true" }, labels),
  );
}

/** What each slot makes of the adversarial image, or of the clean one; without a slot, the best item of each class. */
export function slots(played, names, group) {
  const list = make("ol", { class: "slots" });
  const chooses = played.clean.slot !== null;
  const title = chooses ? "What each slot redraws" : "The stored item of each class that fits best";
  const about = chooses
    ? "The image redrawn from each slot; only the slot that the selector opens is used for the answer. Error: mean squared difference between the redrawn image and the image."
    : "Error: mean squared difference between the item and the image.";
  const show = (kind) => {
    const look = played[kind];
    const best = Math.min(...look.slots.map((slot) => slot.error));
    list.replaceChildren(
      ...look.slots.map((slot, place) =>
        make(
          "li",
          { class: place === (look.slot ?? look.answer) ? "slot chosen" : "slot" },
          picture(slot.picture, chooses ? `redrawn from the slot of ${names[place]}` : `best item of ${names[place]}`),
          make("span", { class: "slot-name" }, names[place]),
          make("span", { class: "small" }, `error ${slot.error.toFixed(3)}`),
          place === (look.slot ?? look.answer) ? make("span", { class: "badge" }, chooses ? "opened" : "answer") : null,
          slot.error === best ? make("span", { class: "badge" }, "closest") : null,
        ),
      ),
    );
  };
  const button = (kind, word) => {
    const id = `${group}-${kind}`;
    const change = () => show(kind);
    const input = make("input", { type: "radio", name: group, id, checked: kind === "adversarial", onchange: change });
    return [input, make("label", { for: id }, word)];
  };
  show("adversarial");
  return make(
    "section",
    { class: "card wide" },
    make("h3", {}, title),
    make("p", { class: "note" }, about),
    make(
      "fieldset",
      { class: "segments" },
      make("legend", { class: "hidden" }, "Which image"),
      button("adversarial", "attacked image"),
      button("clean", "clean image"),
    ),
    list,
  );
}
