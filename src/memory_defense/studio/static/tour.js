// Four steps for somebody who sees the studio for the first time. It opens once, and again with the button Tour.

import { byId } from "./dom.js";
import { shownTab, showTab } from "./tabs.js";

const KEPT = "memdef-studio-tour";

/** Where each step looks: a tab, and the first of these elements that is there. */
const STEPS = [
  {
    title: "A picture, and the same after an attack",
    text: "Below is a picture, and next to it the same picture after an attack. They look almost the same. If the attack worked, the model gives a wrong answer to the second one. The coloured sentence describes what happened.",
    at: ["told"],
  },
  {
    title: "The part that was attacked",
    text: "The model answers in two stages, selector and slot; this box explains them. In the charts below, blue bars belong to the clean picture and orange bars to the attacked picture.",
    at: ["meaning", "told"],
  },
  {
    title: "Try it yourself",
    text: "Move the slider to let the attack change more or less of the picture. Under Image, choose another picture, or upload or draw one. Under Attack, choose another method. The result is computed again at once.",
    at: ["setup"],
  },
  {
    title: "Flags, comparisons, records",
    text: "The box Model says when a picture is flagged as suspicious. The tab Compare attacks one picture on two models. The tab Records shows the results of 'memdef evaluate', also for your own classifiers.",
    at: ["tabs"],
  },
];

let step = 0;

export function startTour() {
  byId("tour-start").addEventListener("click", () => open(true));
  byId("tour-next").addEventListener("click", () => (step === STEPS.length - 1 ? close() : move(step + 1)));
  byId("tour-back").addEventListener("click", () => move(step - 1));
  byId("tour-close").addEventListener("click", close);
  byId("tour").addEventListener("keydown", (event) => event.key === "Escape" && close());
  if (!remembered()) open(false); // the page keeps the focus: nobody asked for the tour
}

function open(asked) {
  byId("tour").hidden = false;
  step = 0;
  fill();
  if (asked) look();
}

function move(to) {
  step = to;
  fill();
  look();
}

function close() {
  leaveTour();
  byId("tour-start").focus();
}

/** Close the tour and leave the focus where it is: its steps are about the first tab. */
export function leaveTour() {
  byId("tour").hidden = true;
  delete document.body.dataset.tour;
  remember();
}

function fill() {
  const { title, text } = STEPS[step];
  byId("tour-title").textContent = `${step + 1} of ${STEPS.length}: ${title}`;
  byId("tour-text").textContent = text;
  byId("tour-back").hidden = step === 0;
  byId("tour-next").textContent = step === STEPS.length - 1 ? "Done" : "Next";
  document.body.dataset.tour = String(step + 1);
}

/** Bring what a step is about onto the screen and its text to whoever listens. */
function look() {
  if (shownTab() !== "play") showTab("play");
  const found = STEPS[step].at.map(byId).find((one) => one && one.offsetParent);
  found?.scrollIntoView({ block: "start" });
  byId("tour-title").focus({ preventScroll: true });
}

function remembered() {
  try {
    return localStorage.getItem(KEPT) === "seen";
  } catch {
    return false; // a browser that keeps nothing
  }
}

function remember() {
  try {
    localStorage.setItem(KEPT, "seen");
  } catch {
    // it opens again next time
  }
}
