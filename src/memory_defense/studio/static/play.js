// The tab Play: one defense, one image, one attack, again after every change.

import { newest, post } from "./api.js";
import { attention, faces, probabilities, slots } from "./charts.js";
import { byId, make } from "./dom.js";
import { classes, request, state } from "./state.js";

const latest = newest(140);

export function refreshPlay(tell) {
  const asked = request();
  if (!asked) {
    if (state.described) forget();
    return;
  }
  byId("play").setAttribute("aria-busy", "true");
  latest(async (signal) => {
    try {
      const played = await post("/api/play", { run: state.run, ...asked }, signal);
      signal.throwIfAborted(); // a newer question may have come while this answer was read
      show(played);
      tell(played.sentence, played.fooled ? "fail" : "pass");
    } catch (error) {
      if (error.name === "AbortError") throw error;
      byId("play").replaceChildren();
      tell(error.message, "trouble");
    }
    byId("play").removeAttribute("aria-busy");
  });
}

/** Without an image there is nothing to show; what is shown or still under way belongs to another one. */
function forget() {
  latest(async () => {});
  byId("play").replaceChildren();
  byId("play").removeAttribute("aria-busy");
}

function show(played) {
  const names = classes();
  const { clean, adversarial, label } = played;
  const sources = {
    dataset: `Its class, ${names[label]}, is the dataset's.`,
    you: `Its class, ${names[label]}, is your choice.`,
    defense: `Its class is taken to be ${names[label]}, what the defense answers to the clean image.`,
  };
  const effort = `The attack asked the model ${played.forward} times about this image, in ${played.seconds.toFixed(2)} s.`;
  const parts = [
    make("section", { class: "card wide" }, faces(played, names)),
    make("p", { class: "note wide" }, [sources[played.label_source], effort, ...played.notes].join(" ")),
  ];
  if (clean.selector) {
    parts.push(probabilities("The selector's probabilities", clean.selector, adversarial.selector, label, names));
  }
  const answer = clean.slot !== null ? "The answer, behind the slot" : "The answer";
  parts.push(probabilities(answer, clean.probabilities, adversarial.probabilities, label, names));
  if (clean.attention) parts.push(attention(played, names));
  if (clean.slots) parts.push(slots(played, names, "slots-play"));
  byId("play").replaceChildren(make("div", { class: "parts" }, parts));
}
