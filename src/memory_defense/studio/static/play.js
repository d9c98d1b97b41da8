// The tab Play: one defense, one image, one attack, again after every change.

import { newest, post } from "./api.js";
import { attention, faces, meaning, probabilities, slots } from "./charts.js";
import { byId, make } from "./dom.js";
import { classes, request, state } from "./state.js";

const latest = newest(140);
let ready = null; // the prepared example, until it or something else was computed here

export function refreshPlay(tell) {
  const asked = request();
  if (!asked) {
    if (state.described) forget();
    return;
  }
  const example = ready;
  ready = null;
  byId("play").setAttribute("aria-busy", "true");
  latest(async (signal) => {
    try {
      const played = await post("/api/play", { run: state.run, ...asked }, signal);
      signal.throwIfAborted(); // a newer question may have come while this answer was read
      show(played, example ? [agreement(example, played)] : []);
      tell(played.sentence, played.fooled ? "fail" : "pass");
    } catch (error) {
      if (error.name === "AbortError") throw error;
      byId("play").replaceChildren();
      tell(error.message, "trouble");
    }
    byId("play").removeAttribute("aria-busy");
    byId("results").classList.remove("prepared");
  });
}

/** Without an image there is nothing to show; what is shown or still under way belongs to another one. */
function forget() {
  latest(async () => {});
  byId("play").replaceChildren();
  byId("play").removeAttribute("aria-busy");
}

/** Show what was prepared for the shipped weights until the same is computed here. */
export function showPrepared(played, tell) {
  ready = played;
  byId("results").classList.add("prepared"); // it stays clear while it is computed again
  show(played, ["This example comes with the model. It is now being computed again on this machine."]);
  tell(played.sentence, played.fooled ? "fail" : "pass");
}

function agreement(before, played) {
  const same = before.adversarial.answer === played.adversarial.answer && before.clean.answer === played.clean.answer;
  return same
    ? "This example comes with the model; computed again on this machine, it gives the same answer."
    : "This example comes with the model; computed again on this machine, it gives another answer, which is shown.";
}

function effort(played) {
  const versions = played.forward === 1 ? "1 version of this image" : `${played.forward} versions of this image`;
  return `The attack tried ${versions} on the network that it attacks, in ${played.seconds.toFixed(2)} s.`;
}

function show(played, more) {
  const names = classes();
  const { clean, adversarial, label } = played;
  const sources = {
    dataset: `The right answer is ${names[label]}, the label in the dataset.`,
    you: `The right answer is ${names[label]}, as you chose.`,
    defense: `The class of this picture is unknown, so the model's own answer, ${names[label]}, counts as right.`,
  };
  const parts = [
    make("section", { class: "card wide", id: "faces" }, faces(played, names)),
    make("p", { class: "note wide" }, [sources[played.label_source], effort(played), ...played.notes, ...more].join(" ")),
  ];
  if (clean.slot !== null) parts.push(meaning());
  if (clean.selector) {
    const note = "The selector's probability for each class; the slot of the most likely class is opened.";
    parts.push(probabilities("1. The selector chooses a slot", clean.selector, adversarial.selector, label, names, note));
  }
  const behind = clean.slot !== null;
  const answer = behind ? "2. The answer, from what the slot redraws" : "The answer";
  const note = behind ? "The second classifier's probability for each class of the redrawn image; the most likely class is the model's answer." : "";
  parts.push(probabilities(answer, clean.probabilities, adversarial.probabilities, label, names, note));
  if (clean.attention) parts.push(attention(played, names));
  if (clean.slots) parts.push(slots(played, names, "slots-play"));
  byId("play").replaceChildren(make("div", { class: "parts" }, parts));
}
