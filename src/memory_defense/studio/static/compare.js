// The tab Compare: two defenses on one image.

import { newest, post } from "./api.js";
import { faces, probabilities } from "./charts.js";
import { byId, make, offer } from "./dom.js";
import { alike, classes, request, runOf, state } from "./state.js";

const latest = newest(140);

export function startCompare(changed) {
  byId("other").addEventListener("change", changed);
}

/** Offer the runs that take the same images. */
export function offerOthers() {
  const run = runOf(state.run);
  const others = state.shelf.runs.filter((one) => !one.fault && alike(one, run) && one.name !== run.name);
  offer(byId("other"), others.map((one) => [one.name, one.name]));
}

export function refreshCompare(tell) {
  const asked = request();
  const other = byId("other").value;
  if (!asked) {
    if (state.described) forget();
    return;
  }
  if (!other) {
    byId("compare").replaceChildren();
    tell("There is no second model for these images to compare with; train one with 'memdef train'.", "trouble");
    return;
  }
  byId("compare").setAttribute("aria-busy", "true");
  latest(async (signal) => {
    try {
      const compared = await post("/api/compare", { runs: [state.run, other], ...asked }, signal);
      signal.throwIfAborted(); // a newer question may have come while this answer was read
      show(compared);
      const fallen = compared.plays.filter((played) => played.fooled).length;
      tell(compared.sentence, fallen ? "fail" : "pass");
    } catch (error) {
      if (error.name === "AbortError") throw error;
      byId("compare").replaceChildren();
      tell(error.message, "trouble");
    }
    byId("compare").removeAttribute("aria-busy");
  });
}

/** Without an image there is nothing to show; what is shown or still under way belongs to another one. */
function forget() {
  latest(async () => {});
  byId("compare").replaceChildren();
  byId("compare").removeAttribute("aria-busy");
}

function show(compared) {
  const names = classes();
  const columns = compared.plays.map((played, place) => column(played, compared, place, names));
  byId("compare").replaceChildren(make("div", { class: "pair" }, columns));
}

function column(played, compared, place, names) {
  const other = compared.plays[1 - place];
  const handed = compared.transfer[place];
  const { clean, adversarial, label } = played;
  return make(
    "div",
    {},
    make(
      "section",
      { class: "card" },
      make("h3", {}, played.run),
      faces(played, names),
      make("p", {}, played.sentence),
      make("p", { class: "note" }, [`For the image made against ${other.run}, it answers ${names[handed]}.`, ...played.notes].join(" ")),
    ),
    clean.selector && probabilities("1. The selector chooses a slot", clean.selector, adversarial.selector, label, names),
    probabilities(clean.slot !== null ? "2. The answer, from what the slot redraws" : "The answer", clean.probabilities, adversarial.probabilities, label, names),
  );
}
